//! Open-loop load that remembers only what it must, for figures of memory and for more calls than one wants to keep.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_lab::load::{LagLog, LagMeter};
use redis_holdfast::redis::{self, aio::ConnectionLike};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{CALL_TIMEOUT, GRACE, class, ms, watch};

/// What a flood came to so far.
#[derive(Default)]
pub struct Tally {
    pub ok: AtomicU64,
    pub wrong: AtomicU64,
    outstanding: AtomicUsize,
    peak: Mutex<Option<(usize, Instant)>>,
    /// Refusals by their time in microseconds, the last for all beyond.
    refusals: Mutex<Vec<u32>>,
    classes: Mutex<BTreeMap<String, u64>>,
    /// When calls that were late began and ended.
    late: Mutex<Vec<(Instant, Instant)>>,
}

/// Half SET, half GET at `rate`, until `duration` is over and every call has ended.
pub async fn flood<C>(client: C, rate: u32, duration: Duration, tally: Arc<Tally>) -> LagLog
where
    C: ConnectionLike + Clone + Send + 'static,
{
    watch();
    let meter = LagMeter::start();
    let started = Instant::now();
    let (mut calls, mut seq) = (JoinSet::new(), 0_u64);
    let mut ticks = interval(ms(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while started.elapsed() < duration {
        let due = ticks.tick().await.duration_since(started);
        let so_far =
            u64::try_from(due.as_micros()).unwrap_or(u64::MAX) * u64::from(rate) / 1_000_000;
        while seq < so_far {
            calls.spawn(one(client.clone(), seq, Arc::clone(&tally)));
            seq += 1;
        }
        while calls.try_join_next().is_some() {}
    }
    while calls.join_next().await.is_some() {}
    meter.finish()
}

async fn one(mut client: impl ConnectionLike, seq: u64, tally: Arc<Tally>) {
    tally.begun();
    let key = format!("canary-flood:{}", seq / 2 % 1000);
    let begun = Instant::now();
    let ended = if seq.is_multiple_of(2) {
        let set = redis::cmd("SET").arg(&key).arg(&key).take();
        set.query_async::<String>(&mut client)
            .await
            .map(|reply| reply == "OK")
    } else {
        let get = redis::cmd("GET").arg(&key).take();
        let found = get.query_async::<Option<String>>(&mut client).await;
        found.map(|found| found.is_none_or(|found| found == key))
    };
    let took = begun.elapsed();
    tally.outstanding.fetch_sub(1, Relaxed);
    match ended {
        Ok(true) => tally.ok.fetch_add(1, Relaxed),
        Ok(false) => tally.wrong.fetch_add(1, Relaxed),
        Err(error) => tally.failed(&class(&error), took),
    };
    if took > CALL_TIMEOUT + GRACE {
        lock(&tally.late).push((begun, begun + took));
    }
}

impl Tally {
    fn failed(&self, class: &str, took: Duration) -> u64 {
        if class.starts_with("circuit_open") || class.starts_with("overloaded") {
            let mut refusals = lock(&self.refusals);
            if refusals.is_empty() {
                refusals.resize(BUCKETS + 1, 0);
            }
            let bucket = usize::try_from(took.as_micros())
                .unwrap_or(BUCKETS)
                .min(BUCKETS);
            if let Some(count) = refusals.get_mut(bucket) {
                *count += 1;
            }
        }
        let mut classes = lock(&self.classes);
        match classes.get_mut(class) {
            Some(count) => *count += 1,
            None => drop(classes.insert(class.to_owned(), 1)),
        }
        0
    }

    fn begun(&self) {
        let now = self.outstanding.fetch_add(1, Relaxed) + 1;
        let mut peak = lock(&self.peak);
        if peak.is_none_or(|(most, _)| now > most) {
            *peak = Some((now, Instant::now()));
        }
    }

    /// Most calls under way at once, the refused ones among them.
    pub fn peak(&self) -> usize {
        lock(&self.peak).map_or(0, |(most, _)| most)
    }

    /// When so many were under way for the first time.
    pub fn peak_at(&self) -> Instant {
        lock(&self.peak).map_or_else(Instant::now, |(_, at)| at)
    }

    pub fn refused(&self) -> u64 {
        lock(&self.refusals)
            .iter()
            .map(|count| u64::from(*count))
            .sum()
    }

    /// The time that 99 of 100 refusals did not exceed, from call to error.
    pub fn refusal_p99(&self) -> Duration {
        let refusals = lock(&self.refusals);
        let all: u64 = refusals.iter().map(|count| u64::from(*count)).sum();
        let mut below = 0;
        for (micros, count) in refusals.iter().enumerate() {
            below += u64::from(*count);
            if below * 100 >= all * 99 {
                return Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
            }
        }
        Duration::ZERO
    }

    /// Calls that ended after their deadline and what is allowed beside it, the machine's lag taken off.
    pub fn late(&self, lag: &LagLog) -> usize {
        let late = lock(&self.late);
        let beyond = |(begun, ended): &&(Instant, Instant)| {
            *ended - *begun > CALL_TIMEOUT + GRACE + lag.max_between(*begun, *ended)
        };
        late.iter().filter(beyond).count()
    }

    pub fn show(&self) -> String {
        format!(
            "{} ok, {} wrong, peak {}, {:?}",
            self.ok.load(Relaxed),
            self.wrong.load(Relaxed),
            self.peak(),
            lock(&self.classes)
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const BUCKETS: usize = 10_000;
