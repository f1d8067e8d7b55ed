//! The driver of a run: starts what is due, gathers what ended.
//!
//! Owns the tasks of the operations. Promises to start every operation once, in order, at its time or as soon as this
//! runtime lets it. Leaves judging to [`super::report`]. Fails never: a panic becomes a sample. Next: [`super::lag`].

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, timeout_at};

use super::metronome::Metronome;
use super::{Kind, LagLog, LagMeter, Load, Op, Outcome, Sample, Shared};

/// What has not ended yet: number, when due, when started.
type Started = HashMap<Id, (u64, Instant, Instant)>;

/// Starts every operation when it is due and gathers how each went, to the end of the drain.
pub(super) async fn drive<F, Fut>(shared: Arc<Shared>, operation: F) -> (Vec<Sample>, LagLog)
where
    F: Fn(Op) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    let meter = LagMeter::start();
    let metronome = Metronome::start(shared.start, shared.load.rate);
    let run = format!(
        "{:x}-{:x}",
        std::process::id(),
        NEXT_RUN.fetch_add(1, Ordering::Relaxed)
    );
    let Load {
        rate,
        duration,
        drain,
        ..
    } = shared.load;
    let total = duration.as_nanos() * u128::from(rate) / 1_000_000_000;
    let total = u64::try_from(total).unwrap_or(u64::MAX);
    let due = |seq: u64| {
        shared.start + Duration::from_nanos(seq.saturating_mul(1_000_000_000) / u64::from(rate))
    };
    let (mut tasks, mut open, mut samples) = (JoinSet::new(), Started::new(), Vec::new());
    let mut seq = 0;
    while seq < total && !shared.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        while seq < total && due(seq) <= now {
            let task = tasks.spawn(one(
                operation(op(seq, &run)),
                due(seq),
                seq,
                Arc::clone(&shared),
            ));
            open.insert(task.id(), (seq, due(seq), now));
            shared.started.fetch_add(1, Ordering::Relaxed);
            seq += 1;
        }
        tokio::select! {
            () = metronome.beat() => {}
            () = shared.stopped.notified() => {}
        }
        while let Some(ended) = tasks.try_join_next_with_id() {
            collect(ended, &mut open, &mut samples, &shared);
        }
    }
    let end = Instant::now() + drain;
    while let Ok(Some(ended)) = timeout_at(end, tasks.join_next_with_id()).await {
        collect(ended, &mut open, &mut samples, &shared);
    }
    for (_, left) in open {
        samples.push(Sample::lost(left, "hung"));
    }
    (samples, meter.finish())
}

/// Runs one operation; its task is spawned when due, so a late `started` is the runtime's lateness.
async fn one(
    operation: impl Future<Output = Outcome>,
    scheduled: Instant,
    seq: u64,
    shared: Arc<Shared>,
) -> Sample {
    let started = Instant::now();
    let outcome = operation.await;
    let ended = Instant::now();
    let count = match outcome {
        Outcome::Ok => &shared.ok,
        Outcome::Wrong => &shared.wrong,
        Outcome::Failed(_) => &shared.failed,
    };
    count.fetch_add(1, Ordering::Relaxed);
    Sample {
        seq,
        kind: kind(seq),
        scheduled,
        started,
        ended,
        outcome,
    }
}

fn collect(
    ended: Result<(Id, Sample), tokio::task::JoinError>,
    open: &mut Started,
    samples: &mut Vec<Sample>,
    shared: &Shared,
) {
    match ended {
        Ok((id, sample)) => {
            open.remove(&id);
            samples.push(sample);
        }
        Err(error) => {
            if let Some(left) = open.remove(&error.id()) {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                samples.push(Sample::lost(left, "panic"));
            }
        }
    }
}

fn op(seq: u64, run: &str) -> Op {
    let pair = seq / 2;
    Op {
        seq,
        kind: kind(seq),
        key: format!("canary-key:{run}:{pair}"),
        value: format!("canary-value:{run}:{pair}"),
    }
}

pub(super) fn kind(seq: u64) -> Kind {
    if seq.is_multiple_of(2) {
        Kind::Write
    } else {
        Kind::Read
    }
}

static NEXT_RUN: AtomicU64 = AtomicU64::new(0);
