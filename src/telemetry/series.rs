//! Totals and levels of our own, and how a recorder hears of them.
//!
//! Owns [`Totals`] (counters) and [`Levels`] (gauges): one atomic per value of a closed label set, its key made once.
//! Promises: adding is one relaxed atomic operation; publishing allocates nothing of ours. Leaves when to publish to
//! [`metrics`](super::metrics). Cannot fail.

use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use metrics::{Key, KeyName, Level, Metadata, Recorder, SharedString, Unit};

use super::{labels::Label, names};

pub(super) static METADATA: Metadata<'static> =
    Metadata::new("redis_holdfast", Level::INFO, Some("redis_holdfast"));

/// Labels of one set of totals, or a little more: two cache lines.
const STRIDE: usize = 16;
/// Threads that count apart; more of them share.
const THREADS: usize = 16;

/// The number of this thread, in the order in which they first asked.
fn thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Relaxed));
    NUMBER.try_with(|number| *number).unwrap_or(0)
}

/// A counter family: one total per value of its label.
pub(super) struct Totals<L> {
    /// One set of totals after the other, [`STRIDE`] apart.
    totals: Box<[AtomicU64]>,
    sets: usize,
    keys: Box<[Key]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label> Totals<L> {
    pub(super) fn new(family: &'static str, name: &Arc<str>) -> Self {
        Self::of_sets(1, family, name)
    }

    /// For what every call counts: threads count apart, so that they do not pass one cache line to and fro.
    pub(super) fn by_thread(family: &'static str, name: &Arc<str>) -> Self {
        Self::of_sets(THREADS, family, name)
    }

    fn of_sets(sets: usize, family: &'static str, name: &Arc<str>) -> Self {
        const {
            assert!(
                L::TEXT.len() <= STRIDE,
                "a label of so many values needs a longer stride"
            )
        };
        Self {
            totals: (0..sets * STRIDE).map(|_| AtomicU64::new(0)).collect(),
            sets,
            keys: keys::<L>(family, name),
            label: PhantomData,
        }
    }

    pub(super) fn add(&self, label: L, events: u64) {
        let set = if self.sets > 1 {
            thread() % self.sets
        } else {
            0
        };
        if let Some(total) = self.totals.get(set * STRIDE + label.index()) {
            total.fetch_add(events, Relaxed);
        }
    }

    fn sum(&self, index: usize) -> u64 {
        let sets = self.totals.chunks_exact(STRIDE);
        sets.filter_map(|set| set.get(index))
            .map(|total| total.load(Relaxed))
            .sum()
    }

    pub(super) fn publish(&self, recorder: &dyn Recorder) {
        for (index, key) in self.keys.iter().enumerate() {
            let counter = recorder.register_counter(key, &METADATA);
            counter.absolute(self.sum(index));
        }
    }
}

/// A level that somebody else keeps.
pub(crate) trait Gauge: Send + Sync {
    fn level(&self) -> i64;
}

/// A gauge family: one level per value of its label.
pub(super) struct Levels<L> {
    levels: Box<[AtomicI64]>,
    keys: Box<[Key]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label> Levels<L> {
    pub(super) fn new(family: &'static str, name: &Arc<str>) -> Self {
        Self {
            levels: L::TEXT.iter().map(|_| AtomicI64::new(0)).collect(),
            keys: keys::<L>(family, name),
            label: PhantomData,
        }
    }

    pub(super) fn add(&self, label: L, delta: i64) {
        if let Some(level) = self.levels.get(label.index()) {
            level.fetch_add(delta, Relaxed);
        }
    }

    pub(super) fn set(&self, label: L, value: i64) {
        if let Some(level) = self.levels.get(label.index()) {
            level.store(value, Relaxed);
        }
    }

    pub(super) fn publish(&self, recorder: &dyn Recorder) {
        for (key, level) in self.keys.iter().zip(&self.levels) {
            let gauge = recorder.register_gauge(key, &METADATA);
            // Exact up to 2⁵³; levels are counts of calls and links.
            gauge.set(level.load(Relaxed) as f64);
        }
    }
}

pub(super) fn keys<L: Label>(family: &'static str, name: &Arc<str>) -> Box<[Key]> {
    (0..L::TEXT.len())
        .map(|index| key::<L>(family, name, index))
        .collect()
}

pub(super) fn key<L: Label>(family: &'static str, name: &Arc<str>, index: usize) -> Key {
    let client = metrics::Label::new(names::CLIENT, SharedString::from(name.clone()));
    let own = L::pairs(index).into_iter();
    let own = own.map(|(key, value)| metrics::Label::new(key, value));
    Key::from_parts(
        family,
        std::iter::once(client).chain(own).collect::<Vec<_>>(),
    )
}

/// Tells `recorder` what each family means.
pub(super) fn describe_all(recorder: &dyn Recorder) {
    for &(name, kind, unit, help) in names::ALL {
        let unit = match unit {
            "seconds" => Unit::Seconds,
            _ => Unit::Count,
        };
        let (name, help) = (KeyName::from_const_str(name), SharedString::const_str(help));
        match kind {
            "counter" => recorder.describe_counter(name, Some(unit), help),
            "gauge" => recorder.describe_gauge(name, Some(unit), help),
            _ => recorder.describe_histogram(name, Some(unit), help),
        }
    }
}
