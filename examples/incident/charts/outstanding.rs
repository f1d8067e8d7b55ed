//! Requests waiting over time: what piles up in front of a Redis that is not there.

use holdfast_lab::load::Report;
use plotters::prelude::*;

use super::{AXIS, COLORS, Drawn, LEFT, OURS, RIGHT, Scene, TENTHS, canvas, label, quiet, tenths};
use plotters::style::text_anchor::HPos;

impl Scene<'_> {
    /// Draws it.
    pub fn outstanding(&self) -> Drawn {
        let piles: Vec<_> = self
            .run
            .reports
            .iter()
            .map(|report| self.waiting(report))
            .collect();
        let most = piles
            .iter()
            .flatten()
            .map(|(_, count)| *count)
            .fold(100.0, f64::max)
            * 1.5;
        let mut svg = String::new();
        {
            let root = canvas(&mut svg, HEIGHT + AXIS)?;
            let mut chart = ChartBuilder::on(&root)
                .margin_right(RIGHT)
                .margin_top(8)
                .set_label_area_size(LabelAreaPosition::Left, LEFT)
                .set_label_area_size(LabelAreaPosition::Bottom, AXIS)
                .build_cartesian_2d(0.0..self.last(), (NONE..most).log_scale())?;
            chart.draw_series(self.shade((NONE, most)))?;
            let mut mesh = chart.configure_mesh();
            quiet(&mut mesh);
            mesh.y_labels(5)
                .y_label_formatter(&|count| format!("{count:.0}"))
                .draw()?;
            for ((one, pile), color) in self.contenders.iter().zip(piles).zip(COLORS) {
                let style = color.stroke_width(if color == OURS { 3 } else { 2 });
                chart
                    .draw_series(LineSeries::new(pile, style))?
                    .label(one.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .background_style(WHITE.mix(0.9))
                .label_font(label(HPos::Left))
                .draw()?;
            root.present()?;
        }
        Ok(svg)
    }

    /// The most that waited in each tenth of a second.
    fn waiting(&self, report: &Report) -> Vec<(f64, f64)> {
        let mut steps: Vec<(f64, i32)> = Vec::with_capacity(report.total() * 2);
        for sample in report.samples() {
            steps.push((self.run.seconds(sample.scheduled), 1));
            steps.push((self.run.seconds(sample.ended), -1));
        }
        steps.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let (mut now, mut steps) = (0, steps.into_iter().peekable());
        let mut points = Vec::with_capacity(tenths(self.last()));
        for nth in 1..=tenths(self.last()) {
            let to = nth as f64 / TENTHS;
            let mut most = now;
            while let Some((_, step)) = steps.next_if(|(at, _)| *at < to) {
                now += step;
                most = most.max(now);
            }
            points.push((to, f64::from(most).max(NONE)));
        }
        points
    }
}

/// Where nobody waiting is drawn: a logarithm has no zero.
const NONE: f64 = 0.8;
const HEIGHT: u32 = 300;
