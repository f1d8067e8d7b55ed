//! The permits of one client, taken and given back by threads in every order.

use std::sync::atomic::AtomicU64 as Counter;

use loom::thread;

use super::*;
use crate::sync::explore;

/// What is out, counted beside the limit's own word: loom does not see it, so it adds no order of its own.
#[derive(Default)]
struct Out {
    calls: Counter,
    bytes: Counter,
    large: Counter,
    /// Calls that were admitted, all in all.
    admitted: Counter,
}

const CALLS: u64 = 2;
const BYTES: u64 = 100;

fn limit(calls: u64) -> Limit<()> {
    let caps = Caps {
        calls: calls as usize,
        bytes: BYTES as usize,
        endpoint: defaults::NAME.into(),
    };
    let budget = Own::new(Budget::new(&caps));
    Limit { inner: (), budget }
}

/// One call of so many bytes: admitted and given back, or refused.
fn call(limit: &Limit<()>, out: &Out, bytes: u64) {
    let Ok(permit) = limit.admit(bytes as usize) else {
        return;
    };
    let counted = if permit.has_seat { 0 } else { bytes };
    let seats = u64::from(permit.has_seat);
    let before = |word: &Counter, by: u64| word.fetch_add(by, Ordering::Relaxed) + by;
    assert!(before(&out.calls, 1) <= limit.budget.max_calls, "calls");
    assert!(before(&out.bytes, counted) <= BYTES, "bytes");
    assert!(before(&out.large, seats) <= 1, "large commands");
    out.admitted.fetch_add(1, Ordering::Relaxed);
    // Another may come while this one is out.
    thread::yield_now();
    out.calls.fetch_sub(1, Ordering::Relaxed);
    out.bytes.fetch_sub(counted, Ordering::Relaxed);
    out.large.fetch_sub(seats, Ordering::Relaxed);
    drop(permit);
}

/// Calls of these sizes, each on a thread of its own; then everything is as it was, and the next is admitted.
fn calls<const N: usize>(limit: &Limit<()>, sizes: [u64; N]) -> u64 {
    let out = Arc::new(Out::default());
    let others = sizes.map(|bytes| {
        let (limit, out) = (limit.clone(), out.clone());
        thread::spawn(move || call(&limit, &out, bytes))
    });
    for other in others {
        other.join().expect("a caller");
    }
    // Exchanged, as the limit itself does: a relaxed load may see an older value.
    assert_eq!(limit.budget.held.fetch_add(0, Ordering::Relaxed), 0);
    assert!(!limit.budget.has_large.swap(false, Ordering::Relaxed));
    let all: Vec<_> = (0..limit.budget.max_calls)
        .map(|_| limit.admit(1).expect("as many as before"))
        .collect();
    assert!(limit.admit(1).is_err());
    drop(all);
    out.admitted.load(Ordering::Relaxed)
}

#[test]
fn never_more_calls_are_out_than_the_limit_and_no_place_is_lost() {
    explore("three calls for two places", || {
        assert!(calls(&limit(CALLS), [1, 1, 1]) >= CALLS);
    });
}

#[test]
fn never_more_bytes_are_out_than_their_budget_but_for_one_large_command() {
    explore("two large commands and a small one", || {
        assert!(calls(&limit(3), [BYTES + 1, BYTES + 1, 40]) >= 1);
    });
}

#[test]
fn bytes_and_places_run_out_together_and_come_back_together() {
    explore("three calls for one budget", || {
        assert!(calls(&limit(CALLS), [50, 50, 40]) >= 1);
    });
}
