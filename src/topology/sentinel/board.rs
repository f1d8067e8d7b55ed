//! Where clients and the follower of their primary leave word for each other.
//!
//! Owns [`Board`]: what each client says of its link, how the Sentinels have fared. Promises: writing never waits; the follower is woken
//! by a change and by nothing else. Leaves conclusions to [`follow`](super::follow). Cannot fail.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{
    net::dns::Lookups,
    topology::{LinkWord, Need, Tally, Witness},
};

/// The number by which a client is known here.
pub(super) type StakeId = u64;

#[derive(Default)]
pub(super) struct Board {
    inner: Mutex<Inner>,
    pub(super) news: Notify,
}

#[derive(Default)]
struct Inner {
    next: StakeId,
    stakes: BTreeMap<StakeId, Stake>,
    tally: Tally,
    lookups: Lookups,
}

/// What one client says.
#[derive(Default)]
struct Stake {
    urgent: bool,
    /// It reads from replicas.
    reads: bool,
    witness: Option<Witness>,
}

/// What all clients say of the primary of one term, taken together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Testimony {
    /// Somebody needs a fresh answer.
    pub(super) urgent: bool,
    /// Somebody reads from replicas.
    pub(super) reads: bool,
    /// A link to it works.
    pub(super) works: bool,
    /// A link to it is down or demoted, and none works.
    pub(super) down: bool,
    /// The replication id of its data.
    pub(super) lineage: Option<String>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn join(&self) -> StakeId {
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        inner.stakes.insert(id, Stake::default());
        id
    }

    pub(super) fn leave(&self, id: StakeId) {
        self.lock().stakes.remove(&id);
        self.news.notify_one();
    }

    pub(super) fn need(&self, id: StakeId, need: Need) {
        let urgent = need == Need::Urgent;
        if let Some(stake) = self.lock().stakes.get_mut(&id)
            && std::mem::replace(&mut stake.urgent, urgent) != urgent
        {
            self.news.notify_one();
        }
    }

    pub(super) fn read_replicas(&self, id: StakeId) {
        if let Some(stake) = self.lock().stakes.get_mut(&id)
            && !std::mem::replace(&mut stake.reads, true)
        {
            self.news.notify_one();
        }
    }

    pub(super) fn witness(&self, id: StakeId, witness: Witness) {
        if let Some(stake) = self.lock().stakes.get_mut(&id)
            && stake.witness.as_ref() != Some(&witness)
        {
            stake.witness = Some(witness);
            self.news.notify_one();
        }
    }

    pub(super) fn testimony(&self, term: u64) -> Testimony {
        let inner = self.lock();
        let mut all = Testimony::default();
        for stake in inner.stakes.values() {
            all.urgent |= stake.urgent;
            all.reads |= stake.reads;
            let Some(witness) = stake.witness.as_ref().filter(|at| at.term == term) else {
                continue;
            };
            match witness.link {
                LinkWord::Works => all.works = true,
                LinkWord::Down | LinkWord::Demoted => all.down = true,
            }
            if let Some(lineage) = &witness.lineage {
                all.lineage = Some(lineage.to_string());
            }
        }
        all.down &= !all.works;
        all
    }

    pub(super) fn tally(&self) -> Tally {
        self.lock().tally
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Tally)) {
        count(&mut self.lock().tally);
    }

    pub(super) fn lookups(&self) -> Lookups {
        self.lock().lookups
    }

    pub(super) fn set_lookups(&self, lookups: Lookups) {
        self.lock().lookups = lookups;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_link_that_works_outweighs_those_that_do_not_and_other_terms_say_nothing() {
        let board = Board::default();
        let (one, two) = (board.join(), board.join());
        let witness = |term, link| Witness {
            term,
            link,
            lineage: Some("aa".into()),
        };
        assert_eq!(board.testimony(1), Testimony::default());
        board.witness(one, witness(1, LinkWord::Down));
        assert!(board.testimony(1).down && !board.testimony(2).down);
        board.witness(two, witness(1, LinkWord::Works));
        let both = board.testimony(1);
        assert!(both.works && !both.down);
        assert_eq!(both.lineage.as_deref(), Some("aa"));
        board.witness(two, witness(1, LinkWord::Demoted));
        assert!(board.testimony(1).down);
        board.need(one, Need::Urgent);
        assert!(board.testimony(1).urgent);
        board.leave(one);
        assert!(!board.testimony(1).urgent);
    }
}
