//! Whether a replica may be read from, by what it and its primary say of their data.
//!
//! Owns [`Lag`]. Promises: a replica that does not have what its primary had [`MAX_LAG`] ago, that has not heard its primary for so
//! long, that is taking over a whole set of data, that is no replica, or whose data are none of ours is left out; one that has not been
//! asked yet is judged by the Sentinels alone. Leaves asking to [`candidate`](super::candidate), what the Sentinels say of replicas to
//! [`belief`](super::belief). Pure: time is an argument. Cannot fail.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::{failover::Claim, wire::Spot};

/// How far a replica may lag behind its primary and still be read from. The documentation says it.
pub(crate) const MAX_LAG: Duration = Duration::from_secs(5);
/// Offsets of the primary that are remembered: one a second, more while it is asked more often.
const MARKS: usize = 128;

#[derive(Debug, Default)]
pub(crate) struct Lag {
    /// How far the primary was, and when.
    marks: VecDeque<(Instant, u64)>,
    /// The replication ids of the primary, and of the one before it.
    lineages: [Option<String>; 2],
    claims: BTreeMap<Spot, Claim>,
}

impl Lag {
    /// The primary says how far it is.
    pub(crate) fn on_primary(&mut self, claim: &Claim, now: Instant) {
        let Some(offset) = claim.data.offset.filter(|_| claim.is_primary) else {
            return;
        };
        if self.marks.back().is_some_and(|(_, last)| offset < *last) {
            // Another set of data, that began anew.
            self.marks.clear();
        }
        if self.marks.len() >= MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back((now, offset));
    }

    /// A replica says how far it is.
    pub(crate) fn on_replica(&mut self, spot: &Spot, claim: &Claim) {
        self.claims.insert(spot.clone(), claim.clone());
    }

    /// The primary's replication id is known.
    pub(crate) fn on_lineage(&mut self, lineage: &str) {
        if self.lineages[0].as_deref() != Some(lineage) {
            self.lineages.swap(0, 1);
            self.lineages[0] = Some(lineage.to_owned());
        }
    }

    /// Another server is the primary now.
    pub(crate) fn turn(&mut self) {
        self.marks.clear();
        // What was said before the turn is of no use: a new role, a new primary to hear.
        self.claims.clear();
    }

    /// Forgets all replicas but these.
    pub(crate) fn keep(&mut self, known: impl Fn(&Spot) -> bool) {
        self.claims.retain(|spot, _| known(spot));
    }

    /// Whether nothing speaks against reading from the replica at `spot`.
    pub(crate) fn allows(&self, spot: &Spot, now: Instant) -> bool {
        let Some(claim) = self.claims.get(spot) else {
            return true;
        };
        let data = &claim.data;
        let hears = data.deaf_for.is_some_and(|deaf| deaf <= MAX_LAG);
        !claim.is_primary
            && !data.syncing
            && hears
            && self.is_ours(claim)
            && self.is_near(claim, now)
    }

    fn is_ours(&self, claim: &Claim) -> bool {
        let mut known = self.lineages.iter().flatten().peekable();
        known.peek().is_none()
            || claim.data.lineage.is_none()
            || known.any(|known| claim.data.lineage.as_ref() == Some(known))
    }

    /// Whether it has what the primary had [`MAX_LAG`] ago.
    fn is_near(&self, claim: &Claim, now: Instant) -> bool {
        let mut marks = self.marks.iter().rev();
        let due = marks.find(|(at, _)| now.saturating_duration_since(*at) >= MAX_LAG);
        due.is_none_or(|(_, offset)| claim.data.offset.is_some_and(|has| has >= *offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::sentinel::failover::Data;

    const SECOND: Duration = Duration::from_secs(1);

    fn spot() -> Spot {
        Spot::new("10.0.0.2", 6379)
    }

    fn says(is_primary: bool, offset: u64) -> Claim {
        Claim {
            is_primary,
            parent: None,
            data: Data {
                lineage: Some("ours".to_owned()),
                offset: Some(offset),
                deaf_for: Some(Duration::ZERO),
                syncing: false,
            },
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_lacks_what_its_primary_had_five_seconds_ago_is_left_out() {
        let start = Instant::now();
        let mut lag = Lag::default();
        assert!(lag.allows(&spot(), start), "nothing speaks against it");
        lag.on_replica(&spot(), &says(false, 1000));
        for second in 0..20 {
            lag.on_primary(
                &says(true, 1000 + 100 * u64::from(second)),
                start + SECOND * second,
            );
        }
        assert!(lag.allows(&spot(), start + SECOND * 5), "it had 1000 then");
        assert!(
            !lag.allows(&spot(), start + SECOND * 6),
            "it had 1100 a second later"
        );
        lag.on_replica(&spot(), &says(false, 2400));
        assert!(lag.allows(&spot(), start + SECOND * 19));
        assert!(!lag.allows(&spot(), start + SECOND * 20));
        // The primary fell silent: what it had is not forgotten.
        lag.on_replica(&spot(), &says(false, 2900));
        assert!(lag.allows(&spot(), start + SECOND * 60));
        // It began anew, with less.
        lag.on_primary(&says(true, 10), start + SECOND * 61);
        lag.on_replica(&spot(), &says(false, 10));
        assert!(lag.allows(&spot(), start + SECOND * 70));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_deaf_syncing_no_replica_or_a_stranger_is_left_out() {
        let now = Instant::now();
        let with = |change: &dyn Fn(&mut Claim)| {
            let mut lag = Lag::default();
            lag.on_lineage("ours");
            let mut claim = says(false, 7);
            change(&mut claim);
            lag.on_replica(&spot(), &claim);
            lag.allows(&spot(), now)
        };
        assert!(with(&|_| {}));
        assert!(with(&|claim| claim.data.deaf_for = Some(MAX_LAG)));
        assert!(!with(&|claim| claim.data.deaf_for = Some(MAX_LAG + SECOND)));
        assert!(!with(&|claim| claim.data.deaf_for = None));
        assert!(!with(&|claim| claim.data.syncing = true));
        assert!(!with(&|claim| claim.is_primary = true));
        assert!(!with(
            &|claim| claim.data.lineage = Some("theirs".to_owned())
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn data_of_the_primary_before_this_one_are_ours() {
        let now = Instant::now();
        let mut lag = Lag::default();
        lag.on_lineage("ours");
        lag.turn();
        lag.on_lineage("next");
        lag.on_lineage("next");
        lag.on_replica(&spot(), &says(false, 7));
        assert!(lag.allows(&spot(), now));
        lag.on_lineage("third");
        assert!(!lag.allows(&spot(), now));
    }
}
