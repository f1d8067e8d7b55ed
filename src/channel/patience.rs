//! What an endpoint's past teaches about its next silence.
//!
//! Owns two memories: how long a silence is normal here ([`Patience`]) and how often links may be swapped ([`Ration`]). Promises: an
//! endpoint whose silent link spoke after all is doubted later the next time, for a minute; a server on which one
//! swapped-in link after the other goes silent (`CLIENT PAUSE … WRITE`) sees a swap a second, then fewer, down to one in 30 s.
//! Leaves acting to [`supervisor`](super::supervisor). Pure: time is an argument. Cannot fail.

use std::time::Duration;

use tokio::time::Instant;

/// An acquittal is forgotten after this long.
const MEMORY: Duration = Duration::from_secs(60);
/// A silence shorter than this many round trips means nothing.
const ROUND_TRIPS: u32 = 3;
/// Acquittals stretch the silence that is tolerated up to this part of half of `detect_within` (300 ms by default).
const GROWN_PERCENT: u32 = 60;
const FIRST_GAP: Duration = Duration::from_secs(1);
const LONGEST_GAP: Duration = Duration::from_secs(30);

/// How long a silence is normal.
#[derive(Debug)]
pub(crate) struct Patience {
    configured: Duration,
    ceiling: Duration,
    round_trip: Option<Duration>,
    doublings: u32,
    since: Option<Instant>,
}

impl Patience {
    pub(crate) fn new(stall_after: Duration, detect_within: Duration) -> Self {
        Self {
            configured: stall_after,
            ceiling: detect_within / 2,
            round_trip: None,
            doublings: 0,
            since: None,
        }
    }

    /// A handshake took this long. The quickest of an endpoint counts: the others were busy.
    pub(crate) fn on_round_trip(&mut self, took: Duration) {
        self.round_trip = Some(self.round_trip.map_or(took, |known| known.min(took)));
    }

    /// A silent link spoke after all.
    pub(crate) fn on_acquittal(&mut self, now: Instant) {
        self.doublings = (self.doublings + 1).min(8);
        self.since = Some(now);
    }

    /// The silence to tolerate at `now`.
    pub(crate) fn stall_after(&mut self, now: Instant) -> Duration {
        if self
            .since
            .is_some_and(|since| now.saturating_duration_since(since) >= MEMORY)
        {
            self.since = None;
            self.doublings = 0;
        }
        let floor = self
            .round_trip
            .map_or(Duration::ZERO, |took| took * ROUND_TRIPS);
        let usual = self.configured.max(floor).min(self.ceiling);
        let grown = self.configured.saturating_mul(1 << self.doublings);
        // Grown further, it would leave a probe no time before the verdict.
        usual.max(grown.min(self.ceiling * GROWN_PERCENT / 100))
    }

    /// How long a probe may take before its silence means something.
    pub(crate) fn probe_time(&self) -> Duration {
        let least = self.ceiling * 3 / 10;
        self.round_trip
            .map_or(least, |took| least.max(took * (ROUND_TRIPS + 1)))
            .min(self.ceiling)
    }
}

/// How often links may be swapped.
#[derive(Debug)]
pub(crate) struct Ration {
    gap: Duration,
    last: Option<Instant>,
}

impl Ration {
    pub(crate) fn new() -> Self {
        Self {
            gap: FIRST_GAP,
            last: None,
        }
    }

    pub(crate) fn allows(&self, now: Instant) -> bool {
        self.last
            .is_none_or(|last| now.saturating_duration_since(last) >= self.gap)
    }

    /// A link was swapped.
    pub(crate) fn on_swap(&mut self, now: Instant) {
        let soon = self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < self.gap * 4);
        self.gap = if soon {
            (self.gap * 2).min(LONGEST_GAP)
        } else {
            FIRST_GAP
        };
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn patience_doubles_with_an_acquittal_leaves_a_probe_its_time_and_forgets_in_a_minute() {
        let now = Instant::now();
        let mut patience = Patience::new(ms(150), ms(1000));
        assert_eq!(patience.stall_after(now), ms(150));
        patience.on_acquittal(now);
        assert_eq!(patience.stall_after(now), ms(300));
        for _ in 0..100 {
            patience.on_acquittal(now);
        }
        assert_eq!(patience.stall_after(now), ms(300));
        assert_eq!(patience.stall_after(now + MEMORY), ms(150));
    }

    #[tokio::test(start_paused = true)]
    async fn a_far_server_is_given_three_of_its_quickest_round_trips() {
        let now = Instant::now();
        let mut patience = Patience::new(ms(150), ms(1000));
        patience.on_round_trip(ms(400));
        patience.on_round_trip(ms(80));
        patience.on_round_trip(ms(90));
        assert_eq!(patience.stall_after(now), ms(240));
        assert_eq!(patience.probe_time(), ms(320));
    }

    #[tokio::test(start_paused = true)]
    async fn a_swap_a_second_then_fewer_while_new_links_go_silent_too() {
        let mut ration = Ration::new();
        let start = Instant::now();
        let mut swaps = Vec::new();
        for tenth in 0..600 {
            let now = start + ms(100) * tenth;
            if ration.allows(now) {
                ration.on_swap(now);
                swaps.push(tenth / 10);
            }
        }
        assert_eq!(swaps, [0, 1, 3, 7, 15, 31]);
        let later = start + Duration::from_secs(600);
        ration.on_swap(later);
        assert!(
            ration.allows(later + ms(1000)),
            "a quiet while later the ration is whole again"
        );
    }
}
