//! When to refuse, how to probe, how to come back: the breaker's numbers.
//!
//! Owns [`BreakerPolicy`]. Promises: data only; a value out of range is reported by [`BreakerPolicy::faults`] with the range, never
//! bent into it. Leaves the deciding to the breaker's machine. Cannot fail before [`build`](super::ConfigBuilder::build).

use std::time::Duration;

use super::{
    builder::{check, check_duration},
    defaults,
};

/// When the circuit opens, how the endpoint is probed while it is, and how calls come back after it.
///
/// ```
/// use redis_holdfast::{BreakerPolicy, Config};
/// use std::time::Duration;
///
/// let ms = Duration::from_millis;
/// let policy = BreakerPolicy::default()
///     // It opens when 30 % of at least 50 calls in 20 s failed, or three connections in a row died young.
///     .window(Duration::from_secs(20))
///     .min_calls(50)
///     .failure_rate_basis_points(3_000)
///     .consecutive_failures(3)
///     // It is probed after 50 ms, then at most twice a second; where the password is wrong every five seconds.
///     .probe_gap(ms(50), ms(500))
///     .auth_retry(Duration::from_secs(5))
///     // It closes for a twentieth of the calls, twice as many each 100 ms, and stays open longer if that was too early.
///     .ramp_start_basis_points(500)
///     .ramp_doubling(ms(100))
///     .flap_open(ms(500), Duration::from_secs(5));
/// let config = Config::builder("redis://localhost").breaker(policy).build()?;
/// # Ok::<(), redis_holdfast::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    window: Duration,
    min_calls: u32,
    failure_rate: u32,
    consecutive_failures: u32,
    probe_gap: (Duration, Duration),
    auth_retry: Duration,
    ramp_start: u32,
    ramp_doubling: Duration,
    flap_open: (Duration, Duration),
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            window: defaults::BREAKER_WINDOW,
            min_calls: defaults::BREAKER_MIN_CALLS,
            failure_rate: defaults::BREAKER_FAILURE_RATE,
            consecutive_failures: defaults::BREAKER_CONSECUTIVE,
            probe_gap: (defaults::PROBE_GAP_FIRST, defaults::PROBE_GAP_CAP),
            auth_retry: defaults::AUTH_RETRY,
            ramp_start: defaults::RAMP_START,
            ramp_doubling: defaults::RAMP_DOUBLING,
            flap_open: (defaults::FLAP_OPEN_FIRST, defaults::FLAP_OPEN_CAP),
        }
    }
}

/// Setters. Nothing is checked here: `build()` reports every fault at once.
impl BreakerPolicy {
    /// How far back calls are counted, in ten buckets. Default 10 s; legal from 1 s to 10 min.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Calls within the window below which no rate is drawn. Default 20; legal from 1 to 1,000,000.
    ///
    /// A total loss at fewer calls is found by silence, not by this count.
    #[must_use]
    pub fn min_calls(mut self, calls: u32) -> Self {
        self.min_calls = calls;
        self
    }

    /// Failed calls among all within the window that open the circuit, in hundredths of a percent. Default 5,000 (50 %); legal from
    /// 1 to 10,000.
    #[must_use]
    pub fn failure_rate_basis_points(mut self, rate: u32) -> Self {
        self.failure_rate = rate;
        self
    }

    /// Links in a row that died, each within a second of its birth, that open the circuit. Default 5; legal from 1 to 1,000.
    ///
    /// A dial that fails opens the circuit by what it shows (refused, silent), not by this count.
    #[must_use]
    pub fn consecutive_failures(mut self, failures: u32) -> Self {
        self.consecutive_failures = failures;
        self
    }

    /// Gap between probes of an endpoint that is away: `first`, doubled up to `cap`, each spread by ± 50 %. Default 100 ms and 270 ms;
    /// legal from 10 ms to 60 s, `first` ≤ `cap`.
    ///
    /// Recovery is noticed no sooner than the next probe: the cap is a part of every outage.
    #[must_use]
    pub fn probe_gap(mut self, first: Duration, cap: Duration) -> Self {
        self.probe_gap = (first, cap);
        self
    }

    /// Shortest gap between tries while the server refuses our credentials; each is spread by up to + 25 %. Default 1 s; legal from 1 s to
    /// 5 min.
    #[must_use]
    pub fn auth_retry(mut self, gap: Duration) -> Self {
        self.auth_retry = gap;
        self
    }

    /// Share of `max_in_flight` admitted when the circuit closes, in hundredths of a percent. Default 1,000 (10 %); legal from 1 to
    /// 10,000 (no ramp).
    #[must_use]
    pub fn ramp_start_basis_points(mut self, share: u32) -> Self {
        self.ramp_start = share;
        self
    }

    /// Time in which that share doubles. Default 50 ms; legal from 1 ms to 10 s.
    #[must_use]
    pub fn ramp_doubling(mut self, step: Duration) -> Self {
        self.ramp_doubling = step;
        self
    }

    /// How long the circuit stays open, whatever probes say, when an endpoint that served them failed calls again: `first`, doubled up to
    /// `cap`. Default 500 ms and 3 s; legal from 10 ms to 10 min, `first` ≤ `cap`.
    #[must_use]
    pub fn flap_open(mut self, first: Duration, cap: Duration) -> Self {
        self.flap_open = (first, cap);
        self
    }
}

/// What the breaker's machine reads.
impl BreakerPolicy {
    /// The length of one of the window's [`BUCKETS`](defaults::BREAKER_BUCKETS); the window slides by it.
    pub(crate) fn bucket(&self) -> Duration {
        self.window / defaults::BREAKER_BUCKETS
    }

    pub(crate) fn buckets(&self) -> usize {
        defaults::BREAKER_BUCKETS as usize
    }

    pub(crate) fn least_calls(&self) -> u32 {
        self.min_calls
    }

    pub(crate) fn failure_rate(&self) -> u32 {
        self.failure_rate
    }

    pub(crate) fn failures_in_a_row(&self) -> u32 {
        self.consecutive_failures
    }

    pub(crate) fn first_probe_gap(&self) -> Duration {
        self.probe_gap.0
    }

    pub(crate) fn longest_probe_gap(&self) -> Duration {
        self.probe_gap.1
    }

    pub(crate) fn probe_jitter_percent(&self) -> u32 {
        defaults::PROBE_JITTER_PERCENT
    }

    pub(crate) fn auth_gap(&self) -> Duration {
        self.auth_retry
    }

    pub(crate) fn ramp_start(&self) -> u32 {
        self.ramp_start
    }

    pub(crate) fn ramp_step(&self) -> Duration {
        self.ramp_doubling
    }

    pub(crate) fn first_flap_open(&self) -> Duration {
        self.flap_open.0
    }

    pub(crate) fn longest_flap_open(&self) -> Duration {
        self.flap_open.1
    }

    /// Every value out of its range, and every contradiction, one line each.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let basis_points = defaults::BASIS_POINTS_LEGAL;
        faults.extend(check_duration(
            "breaker.window",
            self.window,
            &defaults::BREAKER_WINDOW_LEGAL,
        ));
        faults.extend(check(
            "breaker.min_calls",
            self.min_calls,
            &defaults::BREAKER_MIN_CALLS_LEGAL,
        ));
        faults.extend(check(
            "breaker.failure_rate_basis_points",
            self.failure_rate,
            &basis_points,
        ));
        faults.extend(check(
            "breaker.consecutive_failures",
            self.consecutive_failures,
            &defaults::BREAKER_CONSECUTIVE_LEGAL,
        ));
        faults.extend(check_duration(
            "breaker.auth_retry",
            self.auth_retry,
            &defaults::AUTH_RETRY_LEGAL,
        ));
        faults.extend(check(
            "breaker.ramp_start_basis_points",
            self.ramp_start,
            &basis_points,
        ));
        faults.extend(check_duration(
            "breaker.ramp_doubling",
            self.ramp_doubling,
            &defaults::RAMP_DOUBLING_LEGAL,
        ));
        for (field, (first, cap), legal) in [
            (
                "breaker.probe_gap",
                self.probe_gap,
                defaults::PROBE_GAP_LEGAL,
            ),
            (
                "breaker.flap_open",
                self.flap_open,
                defaults::FLAP_OPEN_LEGAL,
            ),
        ] {
            faults.extend(check_duration(&format!("{field} (first)"), first, &legal));
            faults.extend(check_duration(&format!("{field} (cap)"), cap, &legal));
            if first > cap {
                faults.push(format!(
                    "{field}: first {first:?} is above cap {cap:?}; legal: first ≤ cap"
                ));
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_out_of_range_is_named_with_its_range() {
        let zero = Duration::ZERO;
        let policy = BreakerPolicy::default()
            .window(zero)
            .min_calls(0)
            .failure_rate_basis_points(10_001)
            .consecutive_failures(0)
            .probe_gap(Duration::from_secs(2), Duration::from_secs(1))
            .auth_retry(Duration::from_millis(999))
            .ramp_start_basis_points(0)
            .ramp_doubling(zero)
            .flap_open(zero, Duration::from_secs(601));
        let faults = policy.faults();
        assert_eq!(faults.len(), 10, "{faults:#?}");
        for (field, rest) in [
            ("breaker.window", "0ms given; legal from 1s to 10m"),
            ("breaker.min_calls", "0 given; legal from 1 to 1000000"),
            (
                "breaker.failure_rate_basis_points",
                "10001 given; legal from 1 to 10000",
            ),
            (
                "breaker.consecutive_failures",
                "0 given; legal from 1 to 1000",
            ),
            ("breaker.auth_retry", "999ms given; legal from 1s to 5m"),
            (
                "breaker.ramp_start_basis_points",
                "0 given; legal from 1 to 10000",
            ),
            ("breaker.ramp_doubling", "0ms given; legal from 1ms to 10s"),
            (
                "breaker.probe_gap",
                "first 2s is above cap 1s; legal: first ≤ cap",
            ),
            (
                "breaker.flap_open (first)",
                "0ms given; legal from 10ms to 10m",
            ),
            (
                "breaker.flap_open (cap)",
                "601s given; legal from 10ms to 10m",
            ),
        ] {
            assert!(
                faults.contains(&format!("{field}: {rest}")),
                "{field}: {rest} in {faults:#?}"
            );
        }
    }
}
