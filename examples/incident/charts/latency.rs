//! Latency over time: the slowest request of each tenth of a second, one panel per service.

use holdfast_lab::load::Report;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{
    AXIS, Area, Bin, Drawn, FAILED, INK, LEFT, RIGHT, SERVED, Scene, TENTHS, canvas, label, quiet,
};
use crate::contenders::BUDGET;
use crate::verdict::millis;

impl Scene<'_> {
    /// Draws it.
    pub fn latency(&self) -> Drawn {
        let services = self.contenders.iter().zip(&self.run.reports);
        let mut svg = String::new();
        {
            let height = u32::try_from(services.len())? * PANEL;
            let root = canvas(&mut svg, height + AXIS)?;
            let mut rest = root.clone();
            for (nth, (one, report)) in services.enumerate() {
                let is_last = nth + 1 == self.contenders.len();
                let (panel, below) =
                    rest.split_vertically(if is_last { PANEL + AXIS } else { PANEL });
                self.panel(&panel, one.name, report, if is_last { AXIS } else { 0 })?;
                rest = below;
            }
            root.present()?;
        }
        Ok(svg)
    }

    fn panel(
        &self,
        panel: &Area<'_>,
        name: &str,
        report: &Report,
        axis: u32,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut chart = ChartBuilder::on(panel)
            .margin_right(RIGHT)
            .margin_top(10)
            .margin_bottom(10)
            .set_label_area_size(LabelAreaPosition::Left, LEFT)
            .set_label_area_size(LabelAreaPosition::Bottom, axis)
            .build_cartesian_2d(0.0..self.last(), (FASTEST..SLOWEST).log_scale())?;
        chart.draw_series(self.shade((FASTEST, SLOWEST)))?;
        let mut mesh = chart.configure_mesh();
        quiet(&mut mesh);
        mesh.y_labels(4)
            .y_label_formatter(&|ms| duration(*ms))
            .draw()?;
        let budget = [(0.0, millis(BUDGET)), (self.last(), millis(BUDGET))];
        chart.draw_series(DashedLineSeries::new(budget, 6, 4, INK.stroke_width(1)))?;
        let bins = self.bins(report);
        chart.draw_series(dots(&bins, |bin| bin.slowest_served, SERVED))?;
        chart.draw_series(dots(&bins, |bin| bin.slowest_failed, FAILED))?;
        let base = panel.get_base_pixel();
        let (x, y) = chart.backend_coord(&(0.0, millis(BUDGET)));
        let beside = (x - base.0 - SCALE, y - base.1);
        panel.draw(&Text::new(name.to_owned(), beside, label(HPos::Right)))?;
        Ok(())
    }
}

fn dots(
    bins: &[Bin],
    which: impl Fn(&Bin) -> Option<f64>,
    color: RGBColor,
) -> impl Iterator<Item = Circle<(f64, f64), i32>> {
    let points = bins.iter().enumerate().filter_map(move |(nth, bin)| {
        let ms = which(bin)?.clamp(FASTEST, SLOWEST);
        Some(Circle::new(
            ((nth as f64 + 0.5) / TENTHS, ms),
            2,
            color.filled(),
        ))
    });
    points.collect::<Vec<_>>().into_iter()
}

fn duration(ms: f64) -> String {
    if ms >= 1000.0 {
        format!("{:.0} s", ms / 1000.0)
    } else {
        format!("{ms} ms")
    }
}

/// The scale, in ms.
const FASTEST: f64 = 0.1;
const SLOWEST: f64 = 20_000.0;
const PANEL: u32 = 130;
/// Room for its words, between the name and the plot.
const SCALE: i32 = 64;
