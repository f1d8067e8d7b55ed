//! How Sentinels are asked and believed: their numbers.
//!
//! Owns [`SentinelPolicy`]. Promises: data only; a value out of range is reported with the range, never bent into it.
//! Leaves the deciding to `topology/sentinel`. Cannot fail before [`build`](super::ConfigBuilder::build).

use std::time::Duration;

use super::{builder::check_duration, defaults};

/// How Sentinels are asked, and when their word is acted upon. Of no effect for a URL that names a server itself.
///
/// ```
/// use redis_holdfast::{Config, SentinelPolicy};
/// use std::time::Duration;
///
/// let policy = SentinelPolicy::default()
///     .early_promotion(false)
///     .poll_every(Duration::from_secs(5))
///     .answer_timeout(Duration::from_millis(500));
/// let config = Config::builder("redis+sentinel://s-0,s-1,s-2/orders").sentinel(policy).build()?;
/// # Ok::<(), redis_holdfast::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SentinelPolicy {
    pub(crate) early_promotion: bool,
    pub(crate) poll_every: Duration,
    pub(crate) answer_timeout: Duration,
}

impl Default for SentinelPolicy {
    fn default() -> Self {
        Self {
            early_promotion: defaults::EARLY_PROMOTION,
            poll_every: defaults::SENTINEL_POLL,
            answer_timeout: defaults::SENTINEL_ANSWER,
        }
    }
}

/// Setters. Nothing is checked here: `build()` reports every fault at once.
impl SentinelPolicy {
    /// Whether a promoted replica is followed before the Sentinels have agreed on it. Default `true`.
    ///
    /// The Sentinel that leads a failover names the replica before it promotes it, and the others hear of the promotion most of a second
    /// later. With this on, the replica itself is asked every 50 ms, and served from as soon as four things agree: a Sentinel named it
    /// in this failover; a majority of the known Sentinels hold the old primary down; our own connection to that is dead or silent; and
    /// the replica says it is a primary, with the old one's data. Where the Sentinel that leads is silent to us every replica is asked, and
    /// that one was seen turning primary in this failover, alone of all, stands for the first. In a failover that somebody ordered (`SENTINEL FAILOVER`) the old primary
    /// lives on, and what is written to it is lost: there the first and the last of the four are enough. `false` waits for the Sentinels' agreement alone.
    #[must_use]
    pub fn early_promotion(mut self, allowed: bool) -> Self {
        self.early_promotion = allowed;
        self
    }

    /// Between questions to each Sentinel while all is well, ± 10 %. Default 1 s; legal from 200 ms to 1 min.
    ///
    /// Their events come at once and in between; the questions are the net below them.
    #[must_use]
    pub fn poll_every(mut self, gap: Duration) -> Self {
        self.poll_every = gap;
        self
    }

    /// A Sentinel that has not answered for this long is counted as not answering. Default 300 ms; legal from 50 ms to 10 s.
    #[must_use]
    pub fn answer_timeout(mut self, limit: Duration) -> Self {
        self.answer_timeout = limit;
        self
    }

    /// Every value out of its range.
    pub(crate) fn faults(&self) -> Vec<String> {
        [
            (
                "sentinel.poll_every",
                self.poll_every,
                defaults::SENTINEL_POLL_LEGAL,
            ),
            (
                "sentinel.answer_timeout",
                self.answer_timeout,
                defaults::SENTINEL_ANSWER_LEGAL,
            ),
        ]
        .into_iter()
        .filter_map(|(field, given, legal)| check_duration(field, given, &legal))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_legal_and_every_fault_is_named_at_once() {
        assert_eq!(SentinelPolicy::default().faults(), Vec::<String>::new());
        let faults = SentinelPolicy::default()
            .poll_every(Duration::ZERO)
            .answer_timeout(Duration::from_secs(11))
            .faults();
        assert_eq!(
            faults,
            [
                "sentinel.poll_every: 0ms given; legal from 200ms to 1m",
                "sentinel.answer_timeout: 11s given; legal from 50ms to 10s"
            ]
        );
    }
}
