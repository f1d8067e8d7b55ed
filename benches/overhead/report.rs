//! What the cells say: medians, ratios to the bare connection round by round, and each bar held against them.
//!
//! Owns the arithmetic and the words. Promises that a ratio is taken within one round, where contenders ran one after the other on the
//! same machine, and that its spread is shown beside it. Pure. Next: [`super::measure`].

use std::fmt::Write as _;
use std::time::Duration;

use super::measure::{Cell, Contender, Shape};

/// One row: for each contender, in their order, a cell per round.
pub struct Row {
    pub shape: Shape,
    pub cells: Vec<Vec<Cell>>,
}

/// A middle, the least and the most.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

/// What must hold.
pub struct Bar {
    pub what: String,
    pub measured: f64,
    pub limit: Limit,
    /// Where the bar is known to be missed: how far, and why. It fails beyond that.
    pub excuse: Option<(f64, &'static str)>,
}

#[derive(Clone, Copy, Debug)]
pub enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

pub type Measure = fn(&Cell) -> f64;
pub const THROUGHPUT: Measure = |cell| cell.per_second;
pub const CPU: Measure = |cell| cell.cpu_micros;
pub const P50: Measure = |cell| cell.p50_micros;
pub const P99: Measure = |cell| cell.p99_micros;
pub const P999: Measure = |cell| cell.p999_micros;

impl Spread {
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        Self {
            median: values[values.len() / 2],
            least: values[0],
            most: values[values.len() - 1],
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.2} x, {:.2} to {:.2}",
            self.median, self.least, self.most
        )
    }
}

impl Row {
    pub fn new(shape: Shape, contenders: usize) -> Self {
        Self {
            shape,
            cells: vec![Vec::new(); contenders],
        }
    }

    /// One round: each contender has its turn, and each round another one is the first.
    pub async fn round(&mut self, nth: usize, contenders: &[Contender], time: Duration) {
        for turn in 0..contenders.len() {
            let next = (nth + turn) % contenders.len();
            let cell = (contenders[next].run)(self.shape, time).await;
            self.cells[next].push(cell);
        }
    }

    pub fn median(&self, contender: usize, of: Measure) -> f64 {
        Spread::of(self.cells[contender].iter().map(of)).median
    }

    /// Of one contender to another, round by round.
    pub fn ratio(&self, contender: usize, to: usize, of: Measure) -> Spread {
        let rounds = self.cells[contender].iter().zip(&self.cells[to]);
        Spread::of(rounds.map(|(one, other)| of(one) / of(other)))
    }

    /// Of one contender's to what it did in another row, round by round.
    pub fn ratio_to_row(&self, other: &Row, contender: usize, of: Measure) -> Spread {
        let rounds = self.cells[contender].iter().zip(&other.cells[contender]);
        Spread::of(rounds.map(|(one, other)| of(one) / of(other)))
    }

    /// A contender beside the first one, as one line.
    pub fn line(&self, contender: usize, name: &str) -> String {
        let median = |of| self.median(contender, of);
        let ratio = |of| self.ratio(contender, 0, of);
        let mut line = format!(
            "{:<28} {name:<22}: {:>7.0} calls/s ({}), CPU {:>7.2} us/call ({})",
            self.shape,
            median(THROUGHPUT),
            ratio(THROUGHPUT),
            median(CPU),
            ratio(CPU),
        );
        for (what, of) in [("p50", P50), ("p99", P99), ("p99.9", P999)] {
            let _ = write!(
                line,
                ", {what} {:.1} us ({:.2} x)",
                median(of),
                ratio(of).median
            );
        }
        let _ = write!(line, ", {:.3} switches/call", median(|cell| cell.switches));
        line
    }
}

impl Bar {
    pub fn new(what: impl Into<String>, measured: f64, limit: Limit) -> Self {
        Self {
            what: what.into(),
            measured,
            limit,
            excuse: None,
        }
    }

    pub fn at_most(what: impl Into<String>, measured: f64, limit: f64) -> Self {
        Self::new(what, measured, Limit::AtMost(limit))
    }

    pub fn at_least(what: impl Into<String>, measured: f64, limit: f64) -> Self {
        Self::new(what, measured, Limit::AtLeast(limit))
    }

    /// Missed, and known to be: as far as this.
    #[must_use]
    pub fn excused(mut self, to: f64, why: &'static str) -> Self {
        self.excuse = Some((to, why));
        self
    }

    fn held(&self) -> bool {
        self.limit.holds(self.measured)
    }

    /// Held, or missed no further than is known.
    fn passes(&self) -> bool {
        let known = self
            .excuse
            .is_some_and(|(to, _)| self.limit.at(to).holds(self.measured));
        self.held() || known
    }

    pub fn line(&self) -> String {
        let (word, limit) = match self.limit {
            Limit::AtMost(limit) => ("<=", limit),
            Limit::AtLeast(limit) => (">=", limit),
        };
        let mark = match (self.held(), self.excuse) {
            (true, _) => "held".to_owned(),
            (false, Some((to, why))) => format!("MISSED, known to {to}: {why}"),
            (false, None) => "MISSED".to_owned(),
        };
        format!(
            "{}: {:.2}, must be {word} {limit}: {mark}",
            self.what, self.measured
        )
    }
}

impl Limit {
    fn at(self, limit: f64) -> Self {
        match self {
            Self::AtMost(_) => Self::AtMost(limit),
            Self::AtLeast(_) => Self::AtLeast(limit),
        }
    }

    fn holds(self, measured: f64) -> bool {
        match self {
            Self::AtMost(limit) => measured <= limit,
            Self::AtLeast(limit) => measured >= limit,
        }
    }
}

/// Prints each, and says whether all hold, or are missed no further than is known.
pub fn all_pass(name: &str, bars: &[Bar]) -> bool {
    for bar in bars {
        println!("FIGURE {name} bar, {}", bar.line());
    }
    bars.iter().all(Bar::passes)
}
