//! Growing, jittered gaps between tries.
//!
//! Owns [`Backoff`]. Promises: a gap is never longer than `cap × (1 + jitter)`, never shorter than `first × (1 - jitter)`, and the
//! mean doubles from one to the next up to the cap; jitter keeps a fleet from trying in step.
//! It never sleeps: whoever asks waits. Cannot fail.

use std::time::Duration;

/// A source of gaps: `first`, doubled each time up to `cap`, each spread by ± `jitter` percent.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    cap: Duration,
    jitter_percent: u32,
    step: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, cap: Duration, jitter_percent: u32) -> Self {
        Self {
            first,
            cap,
            jitter_percent: jitter_percent.min(100),
            step: 0,
        }
    }

    /// The next gap.
    pub(crate) fn next(&mut self) -> Duration {
        let mean = self
            .first
            .saturating_mul(1_u32 << self.step.min(20))
            .min(self.cap);
        self.step = self.step.saturating_add(1);
        let spread = fastrand::u32(0..=2 * self.jitter_percent);
        mean * (100 - self.jitter_percent + spread) / 100
    }

    /// Starts again at `first`.
    pub(crate) fn reset(&mut self) {
        self.step = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_double_to_the_cap_and_stay_within_their_jitter() {
        let (first, cap) = (Duration::from_millis(100), Duration::from_millis(300));
        for _ in 0..200 {
            let mut backoff = Backoff::new(first, cap, 50);
            for mean in [100, 200, 300, 300, 300] {
                let gap = backoff.next();
                assert!(
                    gap >= Duration::from_millis(mean / 2)
                        && gap <= Duration::from_millis(mean * 3 / 2),
                    "{gap:?} around {mean} ms"
                );
            }
            backoff.reset();
            assert!(backoff.next() <= first * 3 / 2);
        }
    }

    #[test]
    fn a_long_outage_never_overflows() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30), 20);
        for _ in 0..100_000 {
            assert!(backoff.next() <= Duration::from_secs(36));
        }
    }
}
