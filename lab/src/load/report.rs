//! What a load run showed, and the questions tests ask of it.
//!
//! Owns the samples. Promises latency from the scheduled instant with nothing subtracted; the lag of the machine is
//! carried beside it and forgiven only where a question says so. Leaves limits to the tests. Pure. Next: [`Lag`].

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Kind, LagLog, Outcome};

/// One operation, as it went.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its number.
    pub seq: u64,
    /// Read or write.
    pub kind: Kind,
    /// When it was due.
    pub scheduled: Instant,
    /// When its task first ran.
    pub started: Instant,
    /// When it ended, or the run gave it up.
    pub ended: Instant,
    /// How it ended.
    pub outcome: Outcome,
}

/// Whether the measured lag of the machine is added to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lag {
    /// The limit is the limit.
    Counted,
    /// The limit is extended by the worst lag while the operation ran, or by those of its beginning and its end together.
    Forgiven,
}

/// A distribution of latencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// How many.
    pub count: usize,
    /// Half were faster.
    pub p50: Duration,
    /// 99 of 100 were faster.
    pub p99: Duration,
    /// The slowest.
    pub max: Duration,
}

/// All samples of a run, in order of schedule.
#[derive(Clone, Debug)]
pub struct Report {
    start: Instant,
    deadline: Option<Duration>,
    samples: Vec<Sample>,
    marks: Vec<(String, Instant)>,
    lag: LagLog,
}

impl Sample {
    /// From when it was due to when it ended.
    pub fn latency(&self) -> Duration {
        self.ended.duration_since(self.scheduled)
    }

    pub(super) fn lost((seq, scheduled, started): (u64, Instant, Instant), class: &str) -> Self {
        Self {
            seq,
            kind: super::drive::kind(seq),
            scheduled,
            started,
            ended: Instant::now(),
            outcome: Outcome::failed(class),
        }
    }
}

impl Report {
    pub(super) fn new(
        start: Instant,
        deadline: Option<Duration>,
        mut samples: Vec<Sample>,
        marks: Vec<(String, Instant)>,
        lag: LagLog,
    ) -> Self {
        samples.sort_by_key(|sample| sample.seq);
        Self {
            start,
            deadline,
            samples,
            marks,
            lag,
        }
    }

    /// When the first operation was due.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Every operation, in order of schedule.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// What happened when.
    pub fn marks(&self) -> &[(String, Instant)] {
        &self.marks
    }

    /// When the first mark of this label was set.
    pub fn at(&self, label: &str) -> Option<Instant> {
        let mark = self.marks.iter().find(|(name, _)| name == label);
        mark.map(|(_, at)| *at)
    }

    /// The lateness of this machine during the run.
    pub fn lag(&self) -> &LagLog {
        &self.lag
    }

    /// All operations.
    pub fn total(&self) -> usize {
        self.samples.len()
    }

    /// Those that ended well, however late.
    pub fn ok(&self) -> usize {
        self.count(|sample| sample.outcome == Outcome::Ok)
    }

    /// Those that ended with an error.
    pub fn failed(&self) -> usize {
        self.count(|sample| matches!(sample.outcome, Outcome::Failed(_)))
    }

    /// Those that got someone else's answer.
    pub fn wrong(&self) -> usize {
        self.count(|sample| sample.outcome == Outcome::Wrong)
    }

    /// Those that ended well and within the deadline, if there is one.
    pub fn served(&self) -> usize {
        self.count(|sample| self.is_served(sample))
    }

    /// Those slower than `limit`.
    pub fn over(&self, limit: Duration, lag: Lag) -> usize {
        self.count(|sample| {
            let late = sample.latency().saturating_sub(limit);
            !late.is_zero() && (lag == Lag::Counted || late > self.lag_of(sample, limit))
        })
    }

    /// How late the machine was beside an operation that may take `limit`: where it began and, once more, where its time was up. A clock that
    /// is set late and goes off late is late twice.
    fn lag_of(&self, sample: &Sample, limit: Duration) -> Duration {
        let once = self.lag.max_between(sample.scheduled, sample.ended);
        let begun = self.lag.sum_between(sample.scheduled, sample.started);
        let begun = begun.min(sample.started - sample.scheduled);
        let nearly_up = (sample.started + limit * 9 / 10).min(sample.ended);
        once.max(begun + self.lag.sum_between(nearly_up, sample.ended))
    }

    /// Most operations under way at once.
    pub fn peak_outstanding(&self) -> usize {
        self.peak().map_or(0, |(_, held)| held)
    }

    /// When most operations were under way, for the first time, and how many; `None` without any.
    pub fn peak(&self) -> Option<(Instant, usize)> {
        let mut steps: Vec<(Instant, isize)> = Vec::with_capacity(self.samples.len() * 2);
        for sample in &self.samples {
            steps.push((sample.started, 1));
            steps.push((sample.ended, -1));
        }
        // At the same instant an end comes first.
        steps.sort_unstable();
        let (mut now, mut peak) = (0, None);
        for (at, step) in steps {
            now += step;
            if peak.is_none_or(|(_, most)| now > most) {
                peak = Some((at, now));
            }
        }
        peak.map(|(at, held)| (at, usize::try_from(held).unwrap_or(0)))
    }

    /// Latency that `percent` of all operations did not exceed.
    pub fn percentile(&self, percent: f64) -> Duration {
        self.percentile_of(percent, |_| true)
    }

    /// The same, of those that `fit`.
    pub fn percentile_of(&self, percent: f64, fit: impl Fn(&Sample) -> bool) -> Duration {
        let fitting = self.samples.iter().filter(|sample| fit(sample));
        rank(&sorted(fitting), percent)
    }

    /// How long operations took by how they ended: `"ok"`, `"wrong"`, or the class of the error.
    pub fn latencies(&self) -> BTreeMap<String, Latencies> {
        let mut classes: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
        for sample in &self.samples {
            let class = match &sample.outcome {
                Outcome::Ok => "ok",
                Outcome::Wrong => "wrong",
                Outcome::Failed(class) => class,
            };
            classes.entry(class).or_default().push(sample);
        }
        let measured = classes.into_iter().map(|(class, samples)| {
            let times = sorted(samples.into_iter());
            let all = Latencies {
                count: times.len(),
                p50: rank(&times, 50.0),
                p99: rank(&times, 99.0),
                max: rank(&times, 100.0),
            };
            (class.to_owned(), all)
        });
        measured.collect()
    }

    /// Errors and wrong answers among operations due in this span.
    pub fn failed_between(&self, from: Instant, to: Instant) -> usize {
        self.count(|sample| (from..to).contains(&sample.scheduled) && sample.outcome != Outcome::Ok)
    }

    /// When the first operation due at `from` or later ended well.
    pub fn first_ok_after(&self, from: Instant) -> Option<Instant> {
        let well = |sample: &&Sample| sample.scheduled >= from && sample.outcome == Outcome::Ok;
        self.samples.iter().filter(well).map(|s| s.ended).min()
    }

    /// The earliest instant from `from` on after which every window of 100 ms serves at least `share` of its
    /// operations, well and within the deadline, to the end of the run.
    pub fn recovered_after(&self, from: Instant, share: f64) -> Option<Instant> {
        let last = self.samples.last()?.scheduled;
        let later = self.samples.partition_point(|s| s.scheduled < from);
        let tail = self.samples.get(later..)?;
        let (mut end, mut good) = (0, 0_u32);
        let mut from_here = Some(from);
        for (begin, sample) in tail.iter().enumerate() {
            if sample.scheduled + WINDOW > last {
                break;
            }
            while let Some(next) = tail.get(end)
                && next.scheduled < sample.scheduled + WINDOW
            {
                good += u32::from(self.is_served(next));
                end += 1;
            }
            let all = u32::try_from(end - begin).unwrap_or(u32::MAX);
            if f64::from(good) < share * f64::from(all) {
                // Only a window that begins later can be the first good one.
                let next = tail.get(begin + 1).map(|next| next.scheduled);
                from_here = next.filter(|next| *next + WINDOW <= last);
            }
            good -= u32::from(self.is_served(sample));
        }
        from_here.filter(|at| *at + WINDOW <= last)
    }

    fn is_served(&self, sample: &Sample) -> bool {
        sample.outcome == Outcome::Ok && self.deadline.is_none_or(|limit| sample.latency() <= limit)
    }

    fn count(&self, fits: impl Fn(&Sample) -> bool) -> usize {
        self.samples.iter().filter(|sample| fits(sample)).count()
    }
}

fn sorted<'a>(samples: impl Iterator<Item = &'a Sample>) -> Vec<Duration> {
    let mut times: Vec<Duration> = samples.map(Sample::latency).collect();
    times.sort_unstable();
    times
}

/// Nearest rank.
fn rank(times: &[Duration], percent: f64) -> Duration {
    let nth = (times.len() as f64 * percent / 100.0).ceil() as usize;
    times.get(nth.max(1) - 1).copied().unwrap_or_default()
}

const WINDOW: Duration = Duration::from_millis(100);
