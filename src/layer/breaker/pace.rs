//! How quickly an endpoint answers, where nobody measures its round trip.
//!
//! Owns the quickest served attempt of the last minute or two ([`Pace`]), and so how long a probe may be silent before that means something.
//! Promises: a server far away is given three times its own time; one that has answered nobody of late, as long as the caller waited. Leaves asking to
//! [`circuit`](super::circuit). Pure: time is an argument. Cannot fail.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::defaults;

/// What is older than one of these is forgotten within another: the endpoint may have moved.
const MEMORY: Duration = Duration::from_secs(60);
/// A silence shorter than this many round trips means nothing.
const ROUND_TRIPS: u32 = 3;
/// Nor does a shorter one than this, wherever the server stands.
pub(super) const SILENCE: Duration = defaults::STALL_AFTER;

/// How long an answer takes here.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    /// The quickest since then.
    now: Duration,
    /// And of the span before.
    before: Duration,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            now: Duration::MAX,
            before: Duration::MAX,
        }
    }

    /// An attempt was served after so long.
    pub(super) fn on_served(&mut self, took: Duration, now: Instant) {
        self.turn(now);
        self.now = self.now.min(took);
    }

    /// How long the probe may be silent once a caller has waited in vain for `waited`.
    pub(super) fn patience(&mut self, waited: Duration, now: Instant) -> Duration {
        self.turn(now);
        let quickest = self.now.min(self.before);
        let usual = if quickest == Duration::MAX {
            waited
        } else {
            quickest.saturating_mul(ROUND_TRIPS)
        };
        usual.max(SILENCE)
    }

    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age >= MEMORY {
            let is_next = age < MEMORY * 2;
            self.before = if is_next { self.now } else { Duration::MAX };
            self.now = Duration::MAX;
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn three_times_the_quickest_answer_and_never_less_than_150_ms() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for (took, patience) in [(400, 1200), (180, 540), (600, 540), (50, 150), (1, 150)] {
            pace.on_served(took * MS, now);
            assert_eq!(pace.patience(250 * MS, now), patience * MS, "{took}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_was_served_of_late_as_long_as_the_caller_waited() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!(pace.patience(500 * MS, now), 500 * MS);
        assert_eq!(pace.patience(80 * MS, now), 150 * MS);
        pace.on_served(MS, now);
        // Once a minute is enough to be remembered.
        let next = now + MEMORY;
        assert_eq!(pace.patience(500 * MS, next), 150 * MS);
        pace.on_served(200 * MS, next + MS);
        assert_eq!(pace.patience(500 * MS, next + MS), 150 * MS);
        assert_eq!(pace.patience(500 * MS, next + MEMORY), 600 * MS, "moved");
        assert_eq!(pace.patience(500 * MS, next + MEMORY * 3), 500 * MS);
    }
}
