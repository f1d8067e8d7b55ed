//! What pays for sending a call again that a link may have delivered.
//!
//! Owns the client's [`Budget`] and the one batch beside it. Promises: all who waited for one link that went silent or died may follow, each
//! once, without a price, as long as no other link of the last ten seconds did that; everybody else is paid for by what was served.
//! So a single dead link costs no reads, and an endpoint on which every link dies is not asked everything twice. Leaves *what* may go again
//! to [`may_repeat`](crate::request::may_repeat). Pure: time is an argument. Cannot fail.

use std::time::Duration;

use tokio::time::Instant;

use crate::{RetryPolicy, layer::retry::budget::Budget, net::link::LinkId};

/// One batch in so long. Who waits does so for less than a tenth of it, and so a batch is less than a tenth of the calls.
const APART: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Purse {
    budget: Budget,
    /// The link whose calls follow without a price, and since when.
    batch: Option<(LinkId, Instant)>,
}

impl Purse {
    pub(super) fn new(policy: &RetryPolicy) -> Self {
        Self {
            budget: Budget::new(policy),
            batch: None,
        }
    }

    /// So many calls were served.
    pub(super) fn earn(&mut self, served: u32) {
        self.budget.earn(served.into());
    }

    /// Pays for one call that follows from `link`, if it can.
    pub(super) fn pays(&mut self, link: LinkId, now: Instant) -> bool {
        if !self.has_batch(link, now) {
            return self.budget.pay(now);
        }
        if self.batch.is_none_or(|(of, _)| of != link) {
            self.batch = Some((link, now));
        }
        true
    }

    /// Whether all who waited for `link` may follow without a price.
    pub(super) fn has_batch(&self, link: LinkId, now: Instant) -> bool {
        self.batch
            .is_none_or(|(of, at)| of == link || now.saturating_duration_since(at) >= APART)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::retry::budget::RESERVE;

    #[tokio::test(start_paused = true)]
    async fn one_links_calls_follow_for_nothing_and_the_next_ones_by_the_budget() {
        let now = Instant::now();
        let mut purse = Purse::new(&RetryPolicy::default());
        let paid = |purse: &mut Purse, link, at| {
            (0..1000)
                .filter(|_| purse.pays(LinkId::of(link), at))
                .count() as u64
        };
        let other = LinkId::of(2);
        assert!(purse.has_batch(other, now));
        assert_eq!(paid(&mut purse, 1, now), 1000, "the batch");
        assert!(purse.has_batch(LinkId::of(1), now) && !purse.has_batch(other, now));
        assert_eq!(paid(&mut purse, 2, now), 1, "the floor");
        assert_eq!(
            paid(&mut purse, 1, now + APART / 2),
            1000,
            "each call asks once"
        );
        purse.earn(u32::MAX);
        let later = now + APART / 2;
        assert_eq!(
            paid(&mut purse, 3, later),
            RESERVE + 1,
            "what was saved, and the floor"
        );
        assert_eq!(paid(&mut purse, 4, now + APART), 1000, "the next batch");
        assert_eq!(paid(&mut purse, 5, now + APART), 1, "the floor");
    }
}
