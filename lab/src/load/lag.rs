//! Measures how late this machine wakes sleepers: what no client can be blamed for.
//!
//! Owns a sampler, as a task beside the client or as a thread outside any runtime. Promises every overshoot of a 1 ms
//! sleep with the span of time it covers. Leaves subtracting to the reader. Fails never. Next: [`super::report`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::task::{Owned, own};

/// What a meter saw.
#[derive(Clone, Debug, Default)]
pub struct LagLog {
    /// When each late sleep began and ended, and by how much it overshot.
    spans: Vec<(Instant, Instant, Duration)>,
}

/// A running meter; ends when dropped.
#[derive(Debug)]
pub struct LagMeter {
    log: Arc<Mutex<LagLog>>,
    stop: Arc<AtomicBool>,
    _task: Option<Owned>,
}

impl LagMeter {
    /// Samples from a task of the current runtime: the lag a client in this runtime has.
    pub fn start() -> Self {
        let (mut meter, log) = Self::new();
        meter._task = Some(own(async move {
            loop {
                let before = Instant::now();
                sleep(STEP).await;
                note(&log, before);
            }
        }));
        meter
    }

    /// Samples from a thread: the lag of the machine.
    pub fn thread() -> Self {
        let (meter, log) = Self::new();
        let stop = Arc::clone(&meter.stop);
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let before = Instant::now();
                thread::sleep(STEP);
                note(&log, before);
            }
        });
        meter
    }

    fn new() -> (Self, Arc<Mutex<LagLog>>) {
        let log = Arc::<Mutex<LagLog>>::default();
        let meter = Self {
            log: Arc::clone(&log),
            stop: Arc::default(),
            _task: None,
        };
        (meter, log)
    }

    /// What was seen so far.
    pub fn log(&self) -> LagLog {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Stops, and gives what was seen.
    pub fn finish(self) -> LagLog {
        self.log()
    }
}

impl Drop for LagMeter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl LagLog {
    /// The worst lateness that touched this span of time.
    pub fn max_between(&self, from: Instant, to: Instant) -> Duration {
        self.touching(from, to).max().unwrap_or_default()
    }

    fn touching(&self, from: Instant, to: Instant) -> impl Iterator<Item = Duration> {
        // Spans are in order of time: everything that ended before `from` comes first.
        let first = self.spans.partition_point(|(_, end, _)| *end < from);
        let later = self.spans.iter().skip(first);
        later
            .take_while(move |(start, _, _)| *start <= to)
            .map(|(_, _, late)| *late)
    }

    /// All lateness that touched this span of time, added up: one stall after the other.
    pub fn sum_between(&self, from: Instant, to: Instant) -> Duration {
        self.touching(from, to).sum()
    }

    /// The worst lateness of all.
    pub fn max(&self) -> Duration {
        let all = self.spans.iter().map(|(_, _, late)| *late);
        all.max().unwrap_or_default()
    }
}

fn note(log: &Mutex<LagLog>, before: Instant) {
    let now = Instant::now();
    let late = now.duration_since(before).saturating_sub(STEP);
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    if late >= WORTH_NOTING && log.spans.len() < MOST {
        log.spans.push((before, now, late));
    }
}

const STEP: Duration = Duration::from_millis(1);
/// A timer of 1 ms granularity is late by up to that all the time.
const WORTH_NOTING: Duration = Duration::from_micros(1200);
const MOST: usize = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_spans_that_touch_the_question_count() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let late = |ms| Duration::from_millis(ms);
        let log = LagLog {
            spans: vec![
                (at(0), at(10), late(9)),
                (at(20), at(23), late(2)),
                (at(40), at(90), late(49)),
            ],
        };
        assert_eq!(log.max_between(at(11), at(30)), late(2));
        assert_eq!(log.max_between(at(5), at(6)), late(9));
        assert_eq!(log.max_between(at(24), at(39)), Duration::ZERO);
        assert_eq!(log.max_between(at(0), at(100)), late(49));
        assert_eq!(log.sum_between(at(5), at(22)), late(11));
        assert_eq!(log.sum_between(at(24), at(39)), Duration::ZERO);
    }
}
