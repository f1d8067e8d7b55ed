//! When the circuit opens, when it may close, and how fast traffic comes back.
//!
//! Owns the states *closed* (calls pass) and *open* (calls are refused). Promises: it opens on a verdict, on failures of distinct links
//! or dials in a row, or when too many calls in the window failed; it closes only when told that a connection was verified, and
//! after an endpoint that answers probes but fails calls has rested; after closing, admission grows from a tenth of the cap.
//! One dead link is one failure, however many calls waited on it; refusals are no outcomes at all.
//! Leaves probing to `channel`. Pure: time is an argument. Cannot fail.

use std::time::Duration;

use tokio::time::Instant;

use super::window::Window;
use crate::config::BreakerPolicy;

/// After this long without a trip, an endpoint's record of flapping is forgotten.
const FORGIVEN: Duration = Duration::from_secs(60);

/// Why a circuit opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trip {
    /// The supervisor knows that the endpoint is away; where there is none, a call waited in vain, and then the probe.
    Verdict,
    /// Links or dials failed one after the other.
    Consecutive,
    /// Too many calls of the last seconds failed, though the endpoint answers probes.
    Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { since: Instant, ramping: bool },
    Open { rest_until: Instant },
}

/// The breaker of one endpoint.
#[derive(Debug)]
pub(crate) struct Machine {
    policy: BreakerPolicy,
    state: State,
    window: Window,
    in_a_row: u32,
    flaps: u32,
    last_trip: Option<Instant>,
}

impl Machine {
    pub(crate) fn new(policy: BreakerPolicy, now: Instant) -> Self {
        let window = Window::new(policy.buckets(), policy.bucket(), now);
        Self {
            policy,
            state: State::Closed {
                since: now,
                ramping: false,
            },
            window,
            in_a_row: 0,
            flaps: 0,
            last_trip: None,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// So many calls were served.
    pub(crate) fn on_calls(&mut self, served: u32, now: Instant) {
        if !self.is_open() {
            self.window.record(served, 0, now);
        }
    }

    /// A call failed in a way that speaks of the endpoint. Says whether that opened the circuit.
    pub(crate) fn on_failure(&mut self, now: Instant) -> Option<Trip> {
        if self.is_open() {
            return None;
        }
        self.window.record(1, 1, now);
        let enough = self.window.calls() >= self.policy.least_calls();
        if !enough || !self.window.failed_at_least(self.policy.failure_rate()) {
            return None;
        }
        self.trip(Trip::Window, now);
        Some(Trip::Window)
    }

    /// A link died or a dial failed. Says whether that opened the circuit.
    pub(crate) fn on_link_failure(&mut self, now: Instant) -> Option<Trip> {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.is_open() || self.in_a_row < self.policy.failures_in_a_row() {
            return None;
        }
        self.trip(Trip::Consecutive, now);
        Some(Trip::Consecutive)
    }

    /// A link has served well.
    pub(crate) fn on_link_success(&mut self) {
        self.in_a_row = 0;
    }

    /// Opens the circuit.
    pub(crate) fn trip(&mut self, trip: Trip, now: Instant) {
        if self
            .last_trip
            .is_some_and(|last| now.saturating_duration_since(last) > FORGIVEN)
        {
            self.flaps = 0;
        }
        // What a verdict opened may close as soon as a connection is verified; what answers probes but fails calls must rest.
        let rest = match trip {
            Trip::Verdict | Trip::Consecutive => Duration::ZERO,
            Trip::Window => {
                let rest = self
                    .policy
                    .first_flap_open()
                    .saturating_mul(1 << self.flaps.min(16));
                self.flaps = self.flaps.saturating_add(1);
                rest.min(self.policy.longest_flap_open())
            }
        };
        self.last_trip = Some(now);
        self.state = State::Open {
            rest_until: now + rest,
        };
        self.window.clear();
    }

    /// Another server is meant from now on: what the last one did is not held against it. An open circuit stays open until the new one
    /// was verified.
    pub(crate) fn forgive(&mut self, now: Instant) {
        self.window.clear();
        self.in_a_row = 0;
        self.flaps = 0;
        if let State::Open { rest_until } = &mut self.state {
            *rest_until = now;
        }
    }

    /// When an open circuit may close at the earliest.
    pub(crate) fn rest_until(&self) -> Option<Instant> {
        match self.state {
            State::Open { rest_until } => Some(rest_until),
            State::Closed { .. } => None,
        }
    }

    /// A connection to the endpoint was verified: closes the circuit, if it has rested.
    pub(crate) fn close(&mut self, now: Instant) -> bool {
        match self.state {
            State::Open { rest_until } if now < rest_until => false,
            State::Open { .. } => {
                self.state = State::Closed {
                    since: now,
                    ramping: true,
                };
                true
            }
            State::Closed { .. } => true,
        }
    }

    /// How many calls may be in flight at `now`, of a cap of `cap`.
    pub(crate) fn admitted(&mut self, cap: usize, now: Instant) -> usize {
        let State::Closed {
            since,
            ramping: true,
        } = self.state
        else {
            return cap;
        };
        let steps = now.saturating_duration_since(since).as_millis()
            / self.policy.ramp_step().as_millis().max(1);
        let share = u128::from(self.policy.ramp_start()) << steps.min(20);
        if share >= 10_000 {
            self.state = State::Closed {
                since,
                ramping: false,
            };
            return cap;
        }
        let admitted = cap as u128 * share / 10_000;
        usize::try_from(admitted).unwrap_or(cap).max(1).min(cap)
    }

    /// Whether admission still grows.
    pub(crate) fn is_ramping(&self) -> bool {
        matches!(self.state, State::Closed { ramping: true, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn machine() -> (Machine, Instant) {
        let now = Instant::now();
        (Machine::new(BreakerPolicy::default(), now), now)
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_twenty_calls_open_it_and_fewer_do_not() {
        let (mut machine, now) = machine();
        machine.on_calls(10, now);
        for n in 0..9 {
            assert_eq!(
                machine.on_failure(now),
                None,
                "failure {n}: too few to judge"
            );
        }
        assert_eq!(machine.on_failure(now), Some(Trip::Window));
        assert!(machine.is_open());
        assert_eq!(
            machine.on_failure(now),
            None,
            "outcomes of an open circuit's stragglers count for nothing"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_death_is_one_failure_and_five_in_a_row_open_it() {
        let (mut machine, now) = machine();
        for _ in 0..4 {
            assert_eq!(machine.on_link_failure(now), None);
        }
        machine.on_link_success();
        for _ in 0..4 {
            assert_eq!(machine.on_link_failure(now), None);
        }
        assert_eq!(machine.on_link_failure(now), Some(Trip::Consecutive));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_verdict_opened_closes_at_the_first_verified_connection_whatever_the_outage() {
        for outage in [1, 10, 600, 86_400] {
            let (mut machine, now) = machine();
            machine.trip(Trip::Verdict, now);
            assert!(machine.close(now + Duration::from_secs(outage)));
        }
        let (mut machine, now) = machine();
        machine.trip(Trip::Verdict, now);
        assert!(machine.close(now));
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_flaps_rests_longer_each_time_up_to_three_seconds() {
        let (mut machine, mut now) = machine();
        for rest in [500, 1000, 2000, 3000, 3000, 3000] {
            machine.trip(Trip::Window, now);
            assert!(!machine.close(now + ms(rest) - ms(1)), "{rest}");
            now += ms(rest);
            assert!(machine.close(now), "{rest}");
        }
        now += FORGIVEN + ms(1);
        machine.trip(Trip::Window, now);
        assert!(machine.close(now + ms(500)), "forgiven");
    }

    #[tokio::test(start_paused = true)]
    async fn after_closing_admission_grows_from_a_tenth_and_is_whole_within_200_ms() {
        let (mut machine, now) = machine();
        machine.trip(Trip::Verdict, now);
        machine.close(now);
        let admitted: Vec<_> = [0, 49, 50, 100, 150, 200]
            .map(|at| machine.admitted(1024, now + ms(at)))
            .into();
        assert_eq!(admitted, [102, 102, 204, 409, 819, 1024]);
        assert!(!machine.is_ramping());
        assert_eq!(machine.admitted(1024, now), 1024, "once whole, whole");
        let (mut small, now) = self::machine();
        small.trip(Trip::Verdict, now);
        small.close(now);
        assert_eq!(small.admitted(3, now), 1, "never nobody");
    }
}
