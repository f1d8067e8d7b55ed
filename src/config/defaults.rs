//! Every default and every legal range: one const, one reason each.
//!
//! Owns the numbers and, for the README's table, their rendering. Promises: no other file of the crate repeats one of them.
//! Leaves checking to [`builder`](super::builder) and [`policies`](super::policies). Cannot fail.

use std::{ops::RangeInclusive, time::Duration};

/// The port of a URL that names none: what every Redis listens on unless told otherwise.
pub(super) const PORT: u16 = 6379;
/// The port of a Sentinel that names none.
pub(super) const SENTINEL_PORT: u16 = 26379;

/// What an API request can lend to one Redis call and still answer within a second.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_millis(500);
/// Below a millisecond timers have no meaning; beyond an hour it is a mistake of units.
pub(crate) const CALL_TIMEOUT_LEGAL: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(3600);

/// Two thousand calls per second at the default `call_timeout` with nothing answered: more callers than a healthy pod has.
pub(crate) const MAX_IN_FLIGHT: usize = 1024;
/// A million waiting callers is memory, not concurrency.
pub(super) const MAX_IN_FLIGHT_LEGAL: RangeInclusive<usize> = 1..=1_000_000;

/// One client per process is the common case; a second one wants a name of its own.
pub(crate) const NAME: &str = "redis";
/// A name is a metric label: long ones are refused.
pub(super) const NAME_LEN_LEGAL: RangeInclusive<usize> = 1..=64;

/// The longest pause that servers in good health were seen to make is under a second.
pub(crate) const DETECT_WITHIN: Duration = Duration::from_secs(1);
/// Shorter, and a busy scheduler looks like a dead peer; longer, and the kernel is quicker.
pub(super) const DETECT_WITHIN_LEGAL: RangeInclusive<Duration> =
    Duration::from_millis(20)..=Duration::from_secs(60);

/// Suspicion costs one probe, so it may come early: fifteen round trips of a network that takes 10 ms.
pub(crate) const STALL_AFTER: Duration = Duration::from_millis(150);
/// The upper end is half of the longest `detect_within`: a probe must have time to answer before the verdict.
pub(super) const STALL_AFTER_LEGAL: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(30);

/// A lost SYN is sent again after one second: what has not connected by then needs a fresh socket, not patience.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Zero would mean "never connects"; a minute is longer than any kernel waits in good health.
pub(super) const CONNECT_TIMEOUT_LEGAL: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(60);

/// Large enough for a burst of big values, small enough for a pod with 256 MiB.
pub(crate) const MAX_BUFFERED_BYTES: usize = 64 * 1024 * 1024;
/// The lower end holds one ordinary pipeline; the upper end fits in every address space.
pub(super) const MAX_BUFFERED_BYTES_LEGAL: RangeInclusive<usize> = 64 * 1024..=1024 * 1024 * 1024;

/// Databases are numbered with C's `int`.
pub(super) const DB_LEGAL: RangeInclusive<i64> = 0..=2_147_483_647;

/// Long enough to hold `BREAKER_MIN_CALLS` of a quiet service, short enough to forget yesterday's fault.
pub(crate) const BREAKER_WINDOW: Duration = Duration::from_secs(10);
pub(super) const BREAKER_WINDOW_LEGAL: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(600);
/// The window slides by a tenth at a time, so that it never forgets everything at once.
pub(crate) const BREAKER_BUCKETS: u32 = 10;
/// Fewer calls are an anecdote, not a rate.
pub(crate) const BREAKER_MIN_CALLS: u32 = 20;
pub(super) const BREAKER_MIN_CALLS_LEGAL: RangeInclusive<u32> = 1..=1_000_000;
/// Half of the calls: a server that fails fewer is worth asking.
pub(crate) const BREAKER_FAILURE_RATE: u32 = 5_000;
pub(super) const BASIS_POINTS_LEGAL: RangeInclusive<u32> = 1..=10_000;
/// Five links or dials in a row, each on its own, are no accident.
pub(crate) const BREAKER_CONSECUTIVE: u32 = 5;
pub(super) const BREAKER_CONSECUTIVE_LEGAL: RangeInclusive<u32> = 1..=1_000;
/// The first look comes soon: most outages are restarts.
pub(crate) const PROBE_GAP_FIRST: Duration = Duration::from_millis(100);
/// Recovery is noticed within the gap: with ± 50 % the p95 of what is left of one is 320 ms, and an absent server sees under four dials a
/// second. 300 ms (355) left a hundred clients behind one door too near the promised half second.
pub(crate) const PROBE_GAP_CAP: Duration = Duration::from_millis(270);
pub(super) const PROBE_GAP_LEGAL: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(60);
/// Half either way: a fleet that lost its server together must not come back together.
pub(crate) const PROBE_JITTER_PERCENT: u32 = 50;
/// A wrong password does not become right by asking often, and servers log every try.
pub(crate) const AUTH_RETRY: Duration = Duration::from_secs(1);
pub(super) const AUTH_RETRY_LEGAL: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(300);
/// A server that just came back has cold caches and a whole fleet at its door.
pub(crate) const RAMP_START: u32 = 1_000;
/// From a tenth to everything in four doublings: 200 ms.
pub(crate) const RAMP_DOUBLING: Duration = Duration::from_millis(50);
pub(super) const RAMP_DOUBLING_LEGAL: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(10);
/// An endpoint that serves probes and fails calls gets a pause that probes cannot end.
pub(crate) const FLAP_OPEN_FIRST: Duration = Duration::from_millis(500);
/// Longer than this, and users wait for us rather than for Redis. An overload that has ended is to be over within five seconds: half of one
/// until the circuit opens for the last time, this rest, a probe gap, the ramp, and one for a slow machine.
pub(crate) const FLAP_OPEN_CAP: Duration = Duration::from_secs(3);
pub(super) const FLAP_OPEN_LEGAL: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(600);

/// Two more: what does not work three times within a deadline does not work.
pub(crate) const RETRY_ATTEMPTS: u32 = 2;
pub(super) const RETRY_ATTEMPTS_LEGAL: RangeInclusive<u32> = 0..=10;
/// Long enough for a fresh connection in the same network, short enough to leave the deadline something.
pub(crate) const RETRY_BACKOFF_LEAST: Duration = Duration::from_millis(5);
pub(crate) const RETRY_BACKOFF_MOST: Duration = Duration::from_millis(25);
pub(super) const RETRY_BACKOFF_LEGAL: RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(10);
/// A tenth more load is what a server in trouble can bear.
pub(crate) const RETRY_BUDGET: u32 = 1_000;
pub(super) const RETRY_BUDGET_LEGAL: RangeInclusive<u32> = 0..=10_000;
/// So that a quiet client has a retry at all.
pub(crate) const RETRY_FLOOR: u32 = 1;
pub(super) const RETRY_FLOOR_LEGAL: RangeInclusive<u32> = 0..=100;

/// It needs four witnesses, and saves most of a second of every failover.
pub(crate) const EARLY_PROMOTION: bool = true;
/// Events come in between; a lost one is made good within this, at a cost to a Sentinel that does not show.
pub(crate) const SENTINEL_POLL: Duration = Duration::from_secs(1);
pub(super) const SENTINEL_POLL_LEGAL: RangeInclusive<Duration> =
    Duration::from_millis(200)..=Duration::from_secs(60);
/// Thirty round trips of a network that takes 10 ms, and what the promise of 600 ms without events can spare.
pub(crate) const SENTINEL_ANSWER: Duration = Duration::from_millis(300);
pub(super) const SENTINEL_ANSWER_LEGAL: RangeInclusive<Duration> =
    Duration::from_millis(50)..=Duration::from_secs(10);

/// What the README's table of defaults must say: (setting, default, legal), in the README's order.
#[cfg(test)]
pub(crate) fn table() -> Vec<(&'static str, String, String)> {
    use super::raw::{show_bytes, show_duration as time};
    use crate::dns::{DnsPolicy, Families};
    fn span<T: Copy>(legal: &RangeInclusive<T>, show: impl Fn(T) -> String) -> String {
        format!("{} … {}", show(*legal.start()), show(*legal.end()))
    }
    fn pair((first, cap): (Duration, Duration)) -> String {
        format!("{} … {}", time(first), time(cap))
    }
    let whole = |legal: RangeInclusive<u32>| span(&legal, |number| number.to_string());
    let times = |legal: RangeInclusive<Duration>| span(&legal, time);
    let calls = span(&MAX_IN_FLIGHT_LEGAL, |calls| calls.to_string());
    let name = span(&NAME_LEN_LEGAL, |letters| letters.to_string());
    let (gap, flap) = (
        (PROBE_GAP_FIRST, PROBE_GAP_CAP),
        (FLAP_OPEN_FIRST, FLAP_OPEN_CAP),
    );
    #[rustfmt::skip] // One row, one line.
    let own = [
        ("call_timeout", time(CALL_TIMEOUT), times(CALL_TIMEOUT_LEGAL)),
        ("max_in_flight", MAX_IN_FLIGHT.to_string(), calls),
        ("name", NAME.to_owned(), format!("{name} of `A-Z a-z 0-9 . _ -`")),
        ("detect_within", time(DETECT_WITHIN), times(DETECT_WITHIN_LEGAL)),
        ("stall_after", time(STALL_AFTER), times(STALL_AFTER_LEGAL)),
        ("connect_timeout", time(CONNECT_TIMEOUT), times(CONNECT_TIMEOUT_LEGAL)),
        ("max_buffered_bytes", show_bytes(MAX_BUFFERED_BYTES), span(&MAX_BUFFERED_BYTES_LEGAL, show_bytes)),
        ("read_from", "primary".to_owned(), "primary, prefer_replica, replica".to_owned()),
        ("breaker.window", time(BREAKER_WINDOW), times(BREAKER_WINDOW_LEGAL)),
        ("breaker.min_calls", BREAKER_MIN_CALLS.to_string(), whole(BREAKER_MIN_CALLS_LEGAL)),
        ("breaker.failure_rate_basis_points", BREAKER_FAILURE_RATE.to_string(), whole(BASIS_POINTS_LEGAL)),
        ("breaker.consecutive_failures", BREAKER_CONSECUTIVE.to_string(), whole(BREAKER_CONSECUTIVE_LEGAL)),
        ("breaker.probe_gap", pair(gap), times(PROBE_GAP_LEGAL)),
        ("breaker.auth_retry", time(AUTH_RETRY), times(AUTH_RETRY_LEGAL)),
        ("breaker.ramp_start_basis_points", RAMP_START.to_string(), whole(BASIS_POINTS_LEGAL)),
        ("breaker.ramp_doubling", time(RAMP_DOUBLING), times(RAMP_DOUBLING_LEGAL)),
        ("breaker.flap_open", pair(flap), times(FLAP_OPEN_LEGAL)),
    ];
    let dns =
        DnsPolicy::table().map(|(setting, default, legal)| (setting, time(default), times(legal)));
    let policy = DnsPolicy::default();
    assert_eq!(policy.clone().families(Families::Both), policy);
    let families = (
        "dns.families",
        "both".to_owned(),
        "both, IPv4 or IPv6".to_owned(),
    );
    #[rustfmt::skip] // One row, one line.
    let sentinel = [
        ("sentinel.early_promotion", EARLY_PROMOTION.to_string(), "true or false".to_owned()),
        ("sentinel.poll_every", time(SENTINEL_POLL), times(SENTINEL_POLL_LEGAL)),
        ("sentinel.answer_timeout", time(SENTINEL_ANSWER), times(SENTINEL_ANSWER_LEGAL)),
    ];
    #[rustfmt::skip] // One row, one line.
    let retry = [
        ("retry.attempts", RETRY_ATTEMPTS.to_string(), whole(RETRY_ATTEMPTS_LEGAL)),
        ("retry.backoff", pair((RETRY_BACKOFF_LEAST, RETRY_BACKOFF_MOST)), times(RETRY_BACKOFF_LEGAL)),
        ("retry.budget_basis_points", RETRY_BUDGET.to_string(), whole(RETRY_BUDGET_LEGAL)),
        ("retry.floor_per_second", RETRY_FLOOR.to_string(), whole(RETRY_FLOOR_LEGAL)),
        ("retry.replay", "default".to_owned(), "never, default or overwrite".to_owned()),
    ];
    own.into_iter()
        .chain(dns)
        .chain([families])
        .chain(sentinel)
        .chain(retry)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_legal() {
        assert!(CALL_TIMEOUT_LEGAL.contains(&CALL_TIMEOUT));
        assert!(MAX_IN_FLIGHT_LEGAL.contains(&MAX_IN_FLIGHT));
        assert!(NAME_LEN_LEGAL.contains(&NAME.len()));
        assert!(DETECT_WITHIN_LEGAL.contains(&DETECT_WITHIN));
        assert!(STALL_AFTER_LEGAL.contains(&STALL_AFTER) && STALL_AFTER <= DETECT_WITHIN / 2);
        assert!(CONNECT_TIMEOUT_LEGAL.contains(&CONNECT_TIMEOUT));
        assert!(MAX_BUFFERED_BYTES_LEGAL.contains(&MAX_BUFFERED_BYTES));
        assert_eq!(
            super::super::BreakerPolicy::default().faults(),
            Vec::<String>::new()
        );
    }

    #[test]
    fn the_table_reads_as_people_write() {
        let table = table();
        assert_eq!((table[0].0, &*table[0].1), ("call_timeout", "500ms"));
        assert_eq!(table[6].1, "64MiB");
        assert_eq!(table[12].1, "100ms … 270ms");
        assert_eq!(table[17].2, "1s … 1h");
    }
}
