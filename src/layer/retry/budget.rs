//! How many retries the calls that were served have paid for.
//!
//! Owns [`Budget`]. Promises: within any span, retries are at most the given share of the calls served in it, a small reserve, and the
//! floor; where nothing is served only the floor is left, so that a dead server is not asked twice; nothing is rounded away, whatever
//! the share. Leaves who may be retried to [`policy`](super::policy). Pure: time is an argument. Cannot fail.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::RetryPolicy;

/// One retry, in the unit of a share: a hundredth of a percent.
const WHOLE: u64 = 10_000;
/// The reserve: so many retries at once, however many calls were served before.
pub(crate) const RESERVE: u64 = 20;

/// Pays for retries.
#[derive(Debug)]
pub(crate) struct Budget {
    share: u64,
    saved: u64,
    floor: Option<Duration>,
    floor_used: Option<Instant>,
}

impl Budget {
    pub(crate) fn new(policy: &RetryPolicy) -> Self {
        Self {
            share: policy.budget().into(),
            saved: 0,
            floor: Duration::from_secs(1).checked_div(policy.floor()),
            floor_used: None,
        }
    }

    /// So many calls were served.
    pub(crate) fn earn(&mut self, served: u64) {
        let earned = served.saturating_mul(self.share);
        self.saved = self.saved.saturating_add(earned).min(RESERVE * WHOLE);
    }

    /// Pays for one retry, if it can.
    pub(crate) fn pay(&mut self, now: Instant) -> bool {
        if let Some(left) = self.saved.checked_sub(WHOLE) {
            self.saved = left;
            return true;
        }
        let Some(gap) = self.floor else {
            return false;
        };
        let used = self.floor_used;
        let is_due = used.is_none_or(|used| now.saturating_duration_since(used) >= gap);
        if is_due {
            self.floor_used = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn budget(share: u32, floor: u32) -> Budget {
        let policy = RetryPolicy::default()
            .budget_basis_points(share)
            .floor_per_second(floor);
        Budget::new(&policy)
    }

    fn paid(budget: &mut Budget, tries: u32, now: Instant) -> u64 {
        (0..tries).map(|_| u64::from(budget.pay(now))).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn every_share_is_what_it_says() {
        let now = Instant::now();
        for share in [1, 999, 1000, 3000, 5000, 6000, 9000, 9999, 10_000] {
            let mut budget = budget(share, 0);
            let mut retries = 0;
            for _ in 0..100_000 {
                budget.earn(1);
                retries += u64::from(budget.pay(now));
            }
            assert_eq!(retries, u64::from(share) * 10, "of 100,000 calls");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_begins_with_the_floor_and_saves_no_more_than_the_reserve() {
        let now = Instant::now();
        let mut budget = budget(1000, 1);
        assert_eq!(paid(&mut budget, 1000, now), 1, "the floor");
        assert_eq!(paid(&mut budget, 1000, now + SECOND / 2), 0);
        assert_eq!(paid(&mut budget, 1000, now + SECOND), 1);
        budget.earn(u64::MAX);
        assert_eq!(paid(&mut budget, 1000, now + SECOND), RESERVE);
        assert_eq!(paid(&mut budget, 1000, now + SECOND * 86_400), 1);
    }

    /// Random traffic against the promise, in every span of ten seconds.
    #[tokio::test(start_paused = true)]
    async fn no_ten_seconds_hold_more_retries_than_promised() {
        let start = Instant::now();
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut budget = budget(1000, 1);
            let mut events = Vec::new();
            let mut at = 0_u64;
            for _ in 0..400 {
                at += random.u64(0..200);
                let served = random.u64(0..60) * random.u64(0..2);
                budget.earn(served);
                let now = start + Duration::from_millis(at);
                events.push((at, served, paid(&mut budget, random.u32(0..40), now)));
            }
            for (from, ..) in &events {
                let span = events
                    .iter()
                    .filter(|(at, ..)| (from..&(from + 10_000)).contains(&at));
                let (served, retries) = span.fold((0, 0), |(served, retries), event| {
                    (served + event.1, retries + event.2)
                });
                let most = served / 10 + RESERVE + 11;
                assert!(retries <= most, "seed {seed}: {retries} of {served}");
            }
        }
    }
}
