//! What is tried again, how often and how soon; and the settings of a guard.
//!
//! Owns [`RetryPolicy`] and [`GuardSettings`]. Promises: data only; a value out of range is reported with the range, never bent into it.
//! Leaves the deciding to `layer/retry`. Cannot fail before it is checked.

use std::time::Duration;

use super::{
    BreakerPolicy, ConfigError,
    builder::{check, check_duration, range_faults},
    defaults,
    raw::Settings,
};
use crate::request::{Replay, Request};

/// What a [`RetryLayer`](crate::layer::RetryLayer) tries again, and what of a [`Client`](crate::Client)'s calls follows from a connection that
/// ended to the next one: [`ConfigBuilder::retry`](crate::ConfigBuilder::retry).
///
/// ```
/// use redis_holdfast::{Replay, RetryPolicy, layer::RetryLayer};
/// use std::time::Duration;
///
/// let policy = RetryPolicy::default()
///     .attempts(1)
///     .backoff(Duration::from_millis(2), Duration::from_millis(10))
///     .budget_basis_points(500) // One for each twenty calls that were served,
///     .floor_per_second(2) // and two a second in any case.
///     .replay(Replay::Never);
/// let layer = RetryLayer::new(policy)?;
/// # let _ = layer;
/// # Ok::<(), redis_holdfast::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    attempts: u32,
    backoff: (Duration, Duration),
    budget: u32,
    floor: u32,
    replay: Replay,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: defaults::RETRY_ATTEMPTS,
            backoff: (defaults::RETRY_BACKOFF_LEAST, defaults::RETRY_BACKOFF_MOST),
            budget: defaults::RETRY_BUDGET,
            floor: defaults::RETRY_FLOOR,
            replay: Replay::Default,
        }
    }
}

/// Setters. Nothing is checked here: whoever takes the policy reports every fault at once.
impl RetryPolicy {
    /// Further attempts after the first. Default 2; legal from 0 (none) to 10.
    #[must_use]
    pub fn attempts(mut self, further: u32) -> Self {
        self.attempts = further;
        self
    }

    /// Pause before each, drawn at random from `least` to `most`. Default 5 ms and 25 ms; legal from 0 to 10 s, `least` ≤ `most`.
    #[must_use]
    pub fn backoff(mut self, least: Duration, most: Duration) -> Self {
        self.backoff = (least, most);
        self
    }

    /// Retries that calls which were served pay for, in hundredths of a percent of them. Default 1,000 (10 %); legal from 0 to 10,000. Up to
    /// twenty are saved. Where nothing is served only [`floor_per_second`](Self::floor_per_second) is left.
    #[must_use]
    pub fn budget_basis_points(mut self, share: u32) -> Self {
        self.budget = share;
        self
    }

    /// Retries per second that need no budget. Default 1; legal from 0 to 100.
    #[must_use]
    pub fn floor_per_second(mut self, retries: u32) -> Self {
        self.floor = retries;
        self
    }

    /// What may go again though it may have run, where a request does not say. Default [`Replay::Default`].
    #[must_use]
    pub fn replay(mut self, replay: Replay) -> Self {
        self.replay = replay;
        self
    }
}

/// What the retry layer reads.
impl RetryPolicy {
    pub(crate) fn further_attempts(&self) -> u32 {
        self.attempts
    }

    pub(crate) fn gaps(&self) -> (Duration, Duration) {
        self.backoff
    }

    pub(crate) fn budget(&self) -> u32 {
        self.budget
    }

    pub(crate) fn floor(&self) -> u32 {
        self.floor
    }

    /// What is said of `request`: by its sender, else by this policy; nothing goes again where no further attempt is allowed.
    pub(crate) fn replay_of(&self, request: &Request) -> Replay {
        match self.attempts {
            0 => Replay::Never,
            _ => request.replay().unwrap_or(self.replay),
        }
    }

    /// Every value out of its range, and every contradiction, one line each.
    pub(crate) fn faults(&self) -> Vec<String> {
        let (least, most) = self.backoff;
        let legal = defaults::RETRY_BACKOFF_LEGAL;
        let mut faults: Vec<_> = [
            check(
                "retry.attempts",
                self.attempts,
                &defaults::RETRY_ATTEMPTS_LEGAL,
            ),
            check_duration("retry.backoff (least)", least, &legal),
            check_duration("retry.backoff (most)", most, &legal),
            check(
                "retry.budget_basis_points",
                self.budget,
                &defaults::RETRY_BUDGET_LEGAL,
            ),
            check(
                "retry.floor_per_second",
                self.floor,
                &defaults::RETRY_FLOOR_LEGAL,
            ),
        ]
        .into_iter()
        .flatten()
        .collect();
        if least > most {
            faults.push(format!(
                "retry.backoff: least {least:?} is above most {most:?}; legal: least ≤ most"
            ));
        }
        if self.attempts > 0 && self.budget == 0 && self.floor == 0 {
            faults.push(format!(
                "retry.attempts: {} given with neither budget nor floor to pay for them; legal: 0, or one of the two",
                self.attempts
            ));
        }
        faults
    }
}

/// What a guard is told.
#[derive(Clone, Debug)]
pub(crate) struct GuardSettings {
    pub(crate) name: String,
    pub(crate) call_timeout: Duration,
    pub(crate) max_in_flight: usize,
    pub(crate) max_buffered_bytes: usize,
    pub(crate) breaker: BreakerPolicy,
    pub(crate) retry: RetryPolicy,
}

impl Default for GuardSettings {
    fn default() -> Self {
        Self {
            name: defaults::NAME.to_owned(),
            call_timeout: defaults::CALL_TIMEOUT,
            max_in_flight: defaults::MAX_IN_FLIGHT,
            max_buffered_bytes: defaults::MAX_BUFFERED_BYTES,
            breaker: BreakerPolicy::default(),
            retry: RetryPolicy::default(),
        }
    }
}

impl GuardSettings {
    /// Every fault at once.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let mut faults = range_faults(&Settings {
            name: Some(self.name.clone()),
            call_timeout: Some(self.call_timeout),
            max_in_flight: Some(self.max_in_flight),
            max_buffered_bytes: Some(self.max_buffered_bytes),
            ..Settings::default()
        });
        faults.extend(self.breaker.faults());
        faults.extend(self.retry.faults());
        if self.retry.further_attempts() > 0 && self.retry.gaps().0 >= self.call_timeout {
            faults.push(format!(
                "retry.backoff: least {:?} given with call_timeout {:?}; no attempt could follow in time",
                self.retry.gaps().0,
                self.call_timeout
            ));
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::new(faults))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn every_fault_of_a_guard_is_told_at_once_with_its_range() {
        let retry = RetryPolicy::default()
            .attempts(11)
            .backoff(11_000 * MS, 5 * MS)
            .budget_basis_points(0)
            .floor_per_second(0);
        let settings = GuardSettings {
            name: "a b".into(),
            call_timeout: Duration::ZERO,
            max_in_flight: 0,
            max_buffered_bytes: 1,
            breaker: BreakerPolicy::default().min_calls(0),
            retry,
        };
        let error = settings.check().expect_err("faults");
        let faults = error.faults();
        assert_eq!(faults.len(), 10, "{faults:#?}");
        for fault in [
            "retry.attempts: 11 given; legal from 0 to 10",
            "retry.backoff (least): 11s given; legal from 0ms to 10s",
            "retry.backoff: least 11s is above most 5ms; legal: least ≤ most",
            "retry.attempts: 11 given with neither budget nor floor to pay for them; legal: 0, or one of the two",
            "retry.backoff: least 11s given with call_timeout 0ns; no attempt could follow in time",
        ] {
            assert!(faults.contains(&fault.to_owned()), "{fault} in {faults:#?}");
        }
        assert!(GuardSettings::default().check().is_ok());
    }
}
