//! Every metric family: its name, kind, unit and meaning.
//!
//! Owns the names. Promises: a name here is a public contract, listed in the README; labels come from closed sets.
//! OpenTelemetry's names where there are some, `redis.holdfast.` for the rest. Prometheus has no dots: its exporter writes `_` for each,
//! `db_client_operation_duration`. Every family carries the label [`CLIENT`]. Leaves counting to `metrics`. Cannot fail.
//!
//! ```
//! use redis_holdfast::telemetry::names;
//!
//! let (_, kind, unit, _) = names::ALL.iter().find(|family| family.0 == names::DNS_ANSWER_AGE).unwrap();
//! assert_eq!((*kind, *unit), ("gauge", "seconds"));
//! ```

/// Label: the client's name, as [`ConfigBuilder::name`](crate::ConfigBuilder::name) set it. On every family.
pub const CLIENT: &str = "client";
/// Label: `ok`, or the [`ErrorKind`](crate::ErrorKind) as [`as_str`](crate::ErrorKind::as_str) has it.
pub const OUTCOME: &str = "outcome";
/// Label: why.
pub const REASON: &str = "reason";
/// Label: the breaker's new state, `closed` or `open`.
pub const TO: &str = "to";
/// Label: what a link is doing.
pub const STATE: &str = "state";
/// Label: which requests were sent again.
pub const KIND: &str = "kind";
/// Label: what a lookup came to.
pub const RESULT: &str = "result";

/// Duration of each call, refused ones included.
pub const OPERATION_DURATION: &str = "db.client.operation.duration";
/// Calls ended.
pub const CALLS: &str = "redis.holdfast.calls";
/// Calls held now.
pub const IN_FLIGHT: &str = "redis.holdfast.calls.in_flight";
/// Circuits that are open now.
pub const BREAKER_STATE: &str = "redis.holdfast.breaker.state";
/// Changes of the breaker's state.
pub const BREAKER_TRANSITIONS: &str = "redis.holdfast.breaker.transitions";
/// Links now.
pub const LINKS: &str = "redis.holdfast.links";
/// Links ended.
pub const LINK_ENDS: &str = "redis.holdfast.link.ends";
/// Connections tried.
pub const DIALS: &str = "redis.holdfast.dials";
/// Probes ended.
pub const PROBES: &str = "redis.holdfast.probes";
/// Links replaced while their endpoint lived.
pub const SWAPS: &str = "redis.holdfast.swaps";
/// Fences asked for behind an old link.
pub const FENCES: &str = "redis.holdfast.fences";
/// Requests sent again.
pub const REPLAYS: &str = "redis.holdfast.replays";
/// Reads answered in Redis' place.
pub const FALLBACKS: &str = "redis.holdfast.fallbacks";
/// Lookups ended.
pub const DNS_LOOKUPS: &str = "redis.holdfast.dns.lookups";
/// Age of the last good answer.
pub const DNS_ANSWER_AGE: &str = "redis.holdfast.dns.answer_age";
/// Addresses in use for the name.
pub const DNS_ADDRESSES: &str = "redis.holdfast.dns.addresses";
/// Questions to Sentinels ended.
pub const SENTINEL_ANSWERS: &str = "redis.holdfast.sentinel.answers";
/// Sentinels that answer now.
pub const SENTINEL_REACHABLE: &str = "redis.holdfast.sentinel.reachable";
/// Times another primary was followed.
pub const PRIMARY_CHANGES: &str = "redis.holdfast.sentinel.primary_changes";
/// How late the runtime woke the housekeeping task.
pub const SCHEDULER_LAG: &str = "redis.holdfast.scheduler.lag";

/// All families as (name, kind, unit, help), in the README's order.
pub const ALL: &[(&str, &str, &str, &str)] = &[
    (
        OPERATION_DURATION,
        "histogram",
        "seconds",
        "Duration of each call by outcome, refused ones included",
    ),
    (
        CALLS,
        "counter",
        "count",
        "Calls ended, by outcome: ok or the kind of the error",
    ),
    (IN_FLIGHT, "gauge", "count", "Calls held now"),
    (
        BREAKER_STATE,
        "gauge",
        "count",
        "Circuits open now: 0 or 1, more where several share the name",
    ),
    (
        BREAKER_TRANSITIONS,
        "counter",
        "count",
        "Changes of the breaker's state, by the new one and the reason",
    ),
    (
        LINKS,
        "gauge",
        "count",
        "Links now, by state: active, suspect, benched, draining",
    ),
    (LINK_ENDS, "counter", "count", "Links ended, by reason"),
    (
        DIALS,
        "counter",
        "count",
        "Connections tried, by outcome: ok or the kind of the error",
    ),
    (
        PROBES,
        "counter",
        "count",
        "Probes ended, by outcome: served, moved, refused, silent, failed",
    ),
    (
        SWAPS,
        "counter",
        "count",
        "Links replaced while their endpoint lived",
    ),
    (
        FENCES,
        "counter",
        "count",
        "Fences asked for behind an old link, by outcome: raised, refused, failed",
    ),
    (
        REPLAYS,
        "counter",
        "count",
        "Requests sent again, by kind: read, not_sent, overwrite",
    ),
    (
        FALLBACKS,
        "counter",
        "count",
        "Reads that failed and were answered by a fallback",
    ),
    (
        DNS_LOOKUPS,
        "counter",
        "count",
        "Lookups ended, by result: positive, negative, transient",
    ),
    (
        DNS_ANSWER_AGE,
        "gauge",
        "seconds",
        "Age of the last good answer",
    ),
    (
        DNS_ADDRESSES,
        "gauge",
        "count",
        "Addresses in use for the name",
    ),
    (
        SENTINEL_ANSWERS,
        "counter",
        "count",
        "Questions to Sentinels ended, by result: answered, unknown, silent, refused",
    ),
    (
        SENTINEL_REACHABLE,
        "gauge",
        "count",
        "Sentinels that answer now",
    ),
    (
        PRIMARY_CHANGES,
        "counter",
        "count",
        "Times another primary was followed, by reason: vote, promotion",
    ),
    (
        SCHEDULER_LAG,
        "gauge",
        "seconds",
        "How late the runtime woke the housekeeping task",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_few_and_stay_distinct_without_dots() {
        let mut names: Vec<_> = ALL
            .iter()
            .map(|family| family.0.replace('.', "_"))
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.len() <= 20);
    }

    #[test]
    fn kinds_and_units_are_known() {
        for (name, kind, unit, help) in ALL {
            assert!(["counter", "gauge", "histogram"].contains(kind), "{name}");
            assert!(["seconds", "count"].contains(unit), "{name}");
            assert!(!help.is_empty(), "{name}");
        }
    }
}
