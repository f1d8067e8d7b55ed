//! Three pictures of one timeline: who was served, how long it took, how many were waiting.
//!
//! Owns what the pictures share: size, colours, the axis of seconds, and requests gathered by tenths of a second.
//! Promises the same seconds at the same place in all of them, and colours that colour-blind readers can tell apart
//! (Okabe and Ito). Leaves words to [`super::html`]. Fails as plotters does. Next: [`status`], [`latency`],
//! [`outstanding`].

mod latency;
mod outstanding;
mod status;

use std::error::Error;

use holdfast_lab::Outcome;
use holdfast_lab::load::Report;
use plotters::chart::MeshStyle;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::contenders::Contender;
use crate::story::Story;
use crate::timeline::Recording;
use crate::verdict::{is_late, millis};

/// What there is to draw.
pub struct Scene<'a> {
    pub run: &'a Recording,
    pub contenders: &'a [Contender],
    pub story: Story,
}

/// SVG text.
pub type Drawn = Result<String, Box<dyn Error + Send + Sync>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// How the requests of one tenth of a second went.
#[derive(Clone, Copy, Default)]
struct Bin {
    due: u32,
    served: u32,
    /// The slowest of those served in time, and of the others, in ms.
    slowest_served: Option<f64>,
    slowest_failed: Option<f64>,
}

impl Scene<'_> {
    /// The last second.
    fn last(&self) -> f64 {
        self.run.seconds(self.run.end)
    }

    /// From when to when nobody could know where Redis was.
    fn outage(&self) -> (f64, f64) {
        (
            self.run.seconds(self.run.onset),
            self.run.seconds(self.run.heal),
        )
    }

    /// That time as a shaded band.
    fn shade(&self, (low, high): (f64, f64)) -> [Rectangle<(f64, f64)>; 1] {
        let (from, to) = self.outage();
        [Rectangle::new([(from, low), (to, high)], SHADE.filled())]
    }

    fn bins(&self, report: &Report) -> Vec<Bin> {
        let mut bins = vec![Bin::default(); tenths(self.last())];
        for sample in report.samples() {
            let Some(bin) = bins.get_mut(tenths(self.run.seconds(sample.scheduled))) else {
                continue;
            };
            let served = sample.outcome == Outcome::Ok && !is_late(sample);
            bin.due += 1;
            bin.served += u32::from(served);
            let slowest = if served {
                &mut bin.slowest_served
            } else {
                &mut bin.slowest_failed
            };
            *slowest = Some(millis(sample.latency()).max(slowest.unwrap_or(0.0)));
        }
        bins
    }
}

fn tenths(seconds: f64) -> usize {
    (seconds * TENTHS) as usize
}

fn canvas(svg: &mut String, height: u32) -> Result<Area<'_>, Box<dyn Error + Send + Sync>> {
    let area = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    Ok(area)
}

/// A quiet grid, and seconds below.
fn quiet<'a, 'b, Y>(mesh: &mut MeshStyle<'a, 'b, RangedCoordf64, Y, SVGBackend<'a>>)
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    mesh.disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(label(HPos::Center).color(&INK))
        .x_labels(20)
        .x_label_formatter(&|second| format!("{second:.0} s"));
}

fn label(side: HPos) -> TextStyle<'static> {
    ("sans-serif", 14)
        .into_font()
        .color(&INK)
        .pos(Pos::new(side, VPos::Center))
}

const TENTHS: f64 = 10.0;

const WIDTH: u32 = 1120;
/// Left of the first second: names and scales.
const LEFT: u32 = 236;
const RIGHT: u32 = 24;
/// Below the plot: the seconds.
const AXIS: u32 = 34;

const INK: RGBColor = RGBColor(0x22, 0x2b, 0x36);
const GRID: RGBColor = RGBColor(0xe2, 0xe6, 0xea);
const SHADE: RGBColor = RGBColor(0xf1, 0xf2, 0xf4);
const DARK: RGBColor = RGBColor(0x45, 0x4f, 0x5b);
const MIDDLE: RGBColor = RGBColor(0x79, 0x85, 0x93);
const PALE: RGBColor = RGBColor(0xdd, 0xe3, 0xe9);

pub const SERVED: RGBColor = RGBColor(0x56, 0xb4, 0xe9);
pub const PARTLY: RGBColor = RGBColor(0xf0, 0xe4, 0x42);
pub const FAILED: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
/// One per contender, ours last.
pub const COLORS: [RGBColor; 4] = [
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0xcc, 0x79, 0xa7),
    OURS,
];
const OURS: RGBColor = RGBColor(0x00, 0x72, 0xb2);
