//! What the client's own metrics say, by family and label.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    set_global_recorder,
};
use redis_holdfast::telemetry::names;

use super::ears::discreet;

/// A recorder that forgets nothing; clients bring it up to date once a second and when they shut down.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<HashMap<Key, Arc<AtomicU64>>>>);

static BOOK: OnceLock<Book> = OnceLock::new();

/// Listens from now on to every client of this process.
pub fn listen() {
    BOOK.get_or_init(|| {
        let book = Book::default();
        set_global_recorder(book.clone()).expect("no other recorder in this process");
        book
    });
}

/// The total of a counter family of the client `name`; an empty `label` sums them all.
pub fn counter(name: &str, family: &str, label: &str) -> u64 {
    rows(name, family, label).iter().sum()
}

/// The level of a gauge family of the client `name`; an empty `label` sums them all.
pub fn gauge(name: &str, family: &str, label: &str) -> f64 {
    rows(name, family, label)
        .into_iter()
        .map(f64::from_bits)
        .sum()
}

/// Every series that any client of this process published, with its labels.
pub fn series() -> Vec<String> {
    let book = BOOK.get().expect("`listen` comes first");
    let book = book.0.lock().unwrap_or_else(PoisonError::into_inner);
    book.keys().map(|key| format!("{key:?}")).collect()
}

/// # Panics
/// When no such series was ever published: a test must not compare against nothing.
fn rows(name: &str, family: &str, label: &str) -> Vec<u64> {
    let book = BOOK.get().expect("`listen` comes first");
    let book = book.0.lock().unwrap_or_else(PoisonError::into_inner);
    let found: Vec<u64> = book
        .iter()
        .filter(|(key, _)| {
            let is_client = key
                .labels()
                .any(|l| l.key() == names::CLIENT && l.value() == name);
            let fits = label.is_empty() || key.labels().any(|l| l.value() == label);
            key.name() == family && is_client && fits
        })
        .map(|(_, value)| value.load(Ordering::Relaxed))
        .collect();
    assert!(!found.is_empty(), "no series {family} {label} of {name}");
    found
}

impl Book {
    fn cell(&self, key: &Key) -> Arc<AtomicU64> {
        discreet(format_args!("{key:?}"));
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.entry(key.clone()).or_default().clone()
    }
}

impl Recorder for Book {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.cell(key);
        Histogram::noop()
    }
}
