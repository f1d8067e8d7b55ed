//! The status page: the fault, what each service's users got, and our breaker, as bars over time.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{
    AXIS, Bin, DARK, Drawn, FAILED, INK, LEFT, MIDDLE, OURS, PALE, PARTLY, RIGHT, SERVED, Scene,
    TENTHS, canvas, label, quiet,
};

use crate::story::{Ending, Fault, Scenario};

struct Lane {
    name: &'static str,
    bars: Vec<Bar>,
}

struct Bar {
    from: f64,
    to: f64,
    color: RGBColor,
    text: &'static str,
}

impl Scene<'_> {
    /// Draws it.
    pub fn status(&self) -> Drawn {
        let lanes = self.lanes();
        let mut svg = String::new();
        {
            let root = canvas(&mut svg, u32::try_from(lanes.len())? * LANE + AXIS)?;
            let mut chart = ChartBuilder::on(&root)
                .margin_right(RIGHT)
                .set_label_area_size(LabelAreaPosition::Left, LEFT)
                .set_label_area_size(LabelAreaPosition::Bottom, AXIS)
                .build_cartesian_2d(0.0..self.last(), 0.0..lanes.len() as f64)?;
            let mut mesh = chart.configure_mesh();
            quiet(&mut mesh);
            mesh.y_labels(0).draw()?;
            for (nth, lane) in lanes.iter().enumerate() {
                let middle = (lanes.len() - nth) as f64 - 0.5;
                let beside = chart.backend_coord(&(0.0, middle));
                root.draw(&Text::new(
                    lane.name,
                    (beside.0 - 12, beside.1),
                    label(HPos::Right),
                ))?;
                for bar in &lane.bars {
                    let corners = [(bar.from, middle + 0.36), (bar.to, middle - 0.36)];
                    chart.draw_series([Rectangle::new(corners, bar.color.filled())])?;
                    let within = chart.backend_coord(&((bar.from + bar.to) / 2.0, middle));
                    root.draw(&Text::new(
                        bar.text,
                        within,
                        label(HPos::Center).color(&bar.ink()),
                    ))?;
                }
            }
            root.present()?;
        }
        Ok(svg)
    }

    fn lanes(&self) -> Vec<Lane> {
        let mut lanes = match self.run.servfail {
            Some(servfail) => self.of_incident(self.run.seconds(servfail)),
            None => vec![self.of_fault()],
        };
        let services = self.contenders.iter().zip(&self.run.reports);
        lanes.extend(services.map(|(one, report)| Lane {
            name: one.name,
            bars: merged(&self.bins(report)),
        }));
        let refusing = self.run.refusing().into_iter();
        lanes.push(Lane {
            name: "redis-holdfast's breaker",
            bars: refusing
                .map(|(from, to)| Bar::new(from, to, OURS, "open: calls refused at once"))
                .collect(),
        });
        lanes
    }
}

impl Scene<'_> {
    fn of_incident(&self, servfail: f64) -> Vec<Lane> {
        let ((onset, heal), last) = (self.outage(), self.last());
        let rolled_back = self.story.ending == Ending::RolledBack;
        let mut lanes = vec![
            Lane {
                name: "old address range",
                bars: self.old_range(),
            },
            Lane {
                name: "DNS",
                bars: vec![
                    Bar::new(0.0, onset, PALE, OLD),
                    Bar::new(onset, servfail, DARK, "silent"),
                    Bar::new(servfail, heal, MIDDLE, "SERVFAIL"),
                    Bar::new(
                        heal,
                        last,
                        PALE,
                        if rolled_back { OLD } else { "new address" },
                    ),
                ],
            },
        ];
        if self.story.scenario == Scenario::Sentinel {
            lanes.push(Lane {
                name: "Sentinels",
                bars: vec![
                    Bar::new(0.0, onset, PALE, "healthy"),
                    Bar::new(onset, heal, DARK, "hang, are killed, start, hang"),
                    Bar::new(heal, last, PALE, "started anew"),
                ],
            });
        }
        lanes
    }

    fn of_fault(&self) -> Lane {
        let ((onset, heal), last) = (self.outage(), self.last());
        let mut bars = vec![Bar::new(0.0, onset, PALE, "healthy")];
        if self.story.fault == Fault::DeadLink {
            bars.push(Bar::new(
                onset,
                last,
                MIDDLE,
                "open connections silent, new ones served",
            ));
        } else {
            bars.push(Bar::new(onset, heal, DARK, self.story.title()));
            bars.push(Bar::new(heal, last, PALE, "served"));
        }
        Lane {
            name: "Redis",
            bars,
        }
    }

    fn old_range(&self) -> Vec<Bar> {
        let ((onset, heal), last) = (self.outage(), self.last());
        let dead = "black hole: nothing comes back, nothing is reset";
        let mut bars = vec![Bar::new(0.0, onset, PALE, "healthy")];
        if self.story.ending == Ending::RolledBack {
            bars.push(Bar::new(onset, heal, DARK, dead));
            bars.push(Bar::new(heal, last, PALE, "back"));
        } else {
            bars.push(Bar::new(onset, last, DARK, dead));
        }
        bars
    }
}

impl Bar {
    fn new(from: f64, to: f64, color: RGBColor, text: &'static str) -> Self {
        Self {
            from,
            to,
            color,
            text,
        }
    }

    /// What can be read on it.
    fn ink(&self) -> RGBColor {
        if [DARK, MIDDLE, OURS].contains(&self.color) {
            WHITE
        } else {
            INK
        }
    }
}

/// Neighbouring tenths of a second that went alike, as one bar.
fn merged(bins: &[Bin]) -> Vec<Bar> {
    let mut bars: Vec<Bar> = Vec::new();
    for (nth, bin) in bins.iter().enumerate() {
        let color = match bin.served {
            served if served == bin.due => SERVED,
            0 => FAILED,
            _ => PARTLY,
        };
        let (from, to) = (nth as f64 / TENTHS, (nth + 1) as f64 / TENTHS);
        match bars.last_mut() {
            Some(last) if last.color == color => last.to = to,
            _ => bars.push(Bar::new(from, to, color, "")),
        }
    }
    bars
}

const LANE: u32 = 38;
const OLD: &str = "old address";
