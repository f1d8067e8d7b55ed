//! Open-loop load: a constant arrival rate, whatever the client does.
//!
//! Owns the schedule, the tasks of the operations and the lag meter that runs beside them. Promises that an operation
//! is due at `start + seq / rate`, that a late one is started as soon as possible and never skipped, and that latency
//! counts from when it was due. Leaves deadlines to the client: nothing is cancelled before the end. Fails never; an
//! operation that panics is `Failed("panic")`, one that never ends is `Failed("hung")`. Next: [`Report`].

mod drive;
mod lag;
mod metronome;
mod report;

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::lag::{LagLog, LagMeter};
pub use self::report::{Lag, Latencies, Report, Sample};
use crate::task::{Owned, own};

/// What to run: so many operations per second, for so long.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    rate: u32,
    duration: Duration,
    deadline: Option<Duration>,
    drain: Duration,
}

/// One operation to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Its number, from 0.
    pub seq: u64,
    /// Even numbers write, odd ones read what the number before wrote.
    pub kind: Kind,
    /// The same for a write and the read after it, else unique.
    /// Holds the word `canary`, and so does the value: who prints it is found out.
    pub key: String,
    /// What is written; for a read, the only value it may find. Unique per pair, in time and over runs.
    pub value: String,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A GET.
    Read,
    /// A SET.
    Write,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// As it should.
    Ok,
    /// With an answer that belongs to someone else.
    Wrong,
    /// With an error of this class.
    Failed(String),
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operations started.
    pub started: u64,
    /// Ended well.
    pub ok: u64,
    /// Ended with an error.
    pub failed: u64,
    /// Ended with a wrong answer.
    pub wrong: u64,
}

/// A run under way; dropping it ends it and its operations.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    task: Owned<(Vec<Sample>, LagLog)>,
}

#[derive(Debug)]
struct Shared {
    load: Load,
    start: Instant,
    marks: Mutex<Vec<(String, Instant)>>,
    stop: AtomicBool,
    stopped: Notify,
    started: AtomicU64,
    ok: AtomicU64,
    failed: AtomicU64,
    wrong: AtomicU64,
}

impl Load {
    /// This many operations per second, for 10 s unless told otherwise.
    pub fn new(rate_per_s: u32) -> Self {
        Self {
            rate: rate_per_s.max(1),
            duration: Duration::from_secs(10),
            deadline: None,
            drain: Duration::from_secs(5),
        }
    }

    /// For how long operations arrive.
    #[must_use]
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// The budget of one operation; the report judges by it, nothing is cancelled.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// How long after the last arrival to wait for operations still under way. Default 5 s.
    #[must_use]
    pub fn drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Starts, and waits for the end.
    pub async fn run<F, Fut>(self, operation: F) -> Report
    where
        F: Fn(Op) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        self.start(operation).finish().await
    }

    /// Starts now.
    pub fn start<F, Fut>(self, operation: F) -> Running
    where
        F: Fn(Op) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        let shared = Arc::new(Shared {
            load: self,
            start: Instant::now(),
            marks: Mutex::default(),
            stop: AtomicBool::new(false),
            stopped: Notify::new(),
            started: AtomicU64::new(0),
            ok: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
        });
        let task = own(drive::drive(Arc::clone(&shared), operation));
        Running { shared, task }
    }
}

impl Running {
    /// When the first operation was due.
    pub fn started_at(&self) -> Instant {
        self.shared.start
    }

    /// Notes that something happened now, and when that was.
    pub fn mark(&self, label: impl Into<String>) -> Instant {
        let now = Instant::now();
        let mut marks = self
            .shared
            .marks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        marks.push((label.into(), now));
        now
    }

    /// Where it stands.
    pub fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            started: read(&self.shared.started),
            ok: read(&self.shared.ok),
            failed: read(&self.shared.failed),
            wrong: read(&self.shared.wrong),
        }
    }

    /// Lets no further operation arrive.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.stopped.notify_one();
    }

    /// Waits until every operation ended, or the drain time is over.
    pub async fn finish(self) -> Report {
        let Self { shared, task } = self;
        let (samples, lag) = task.join().await.unwrap_or_default();
        let marks = shared
            .marks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Report::new(shared.start, shared.load.deadline, samples, marks, lag)
    }
}

impl Counts {
    /// Started and not ended.
    pub fn outstanding(&self) -> u64 {
        self.started
            .saturating_sub(self.ok + self.failed + self.wrong)
    }
}

impl Outcome {
    /// An error of this class.
    pub fn failed(class: impl Into<String>) -> Self {
        Outcome::Failed(class.into())
    }
}

impl Op {
    /// Judges what a read found: absent is fine (the write before it may have failed), another value is wrong.
    pub fn judge(&self, found: Option<&str>) -> Outcome {
        match found {
            Some(value) if value != self.value => Outcome::Wrong,
            _ => Outcome::Ok,
        }
    }
}
