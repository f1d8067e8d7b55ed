//! The Sentinels that are asked: those configured, and those that they know.
//!
//! Owns [`Table`], one task per Sentinel. Promises: at most [`MOST`] connections, one per Sentinel however many addresses
//! lead to it; those configured are never forgotten, those learned are once they are silent for a minute or turn out to be known
//! already. Leaves asking to [`peer`](super::peer), hosts to [`names`](super::names), belief to [`belief`](super::belief). Cannot fail.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    failover::PeerId,
    names::Names,
    peer::{self, Order, Report},
    plan::Plan,
    wire::{Other, Spot},
};
use crate::task::{Owned, spawn_owned};

/// Connections to Sentinels. More of them are known, not asked.
const MOST: usize = 5;
/// A Sentinel that only others knew, and that is silent for so long, is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

pub(super) struct Table {
    plan: Arc<Plan>,
    orders: watch::Sender<Order>,
    reporter: mpsc::Sender<(PeerId, Report)>,
    peers: BTreeMap<PeerId, Peer>,
    next: PeerId,
}

struct Peer {
    spot: Spot,
    id: Option<Arc<str>>,
    learned: bool,
    heard: Instant,
    _task: Owned,
}

impl Table {
    pub(super) fn new(plan: Arc<Plan>, reporter: mpsc::Sender<(PeerId, Report)>) -> Self {
        let order = Order {
            urgent: true,
            ..Order::default()
        };
        Self {
            plan,
            orders: watch::Sender::new(order),
            reporter,
            peers: BTreeMap::new(),
            next: 0,
        }
    }

    /// Begins to ask the Sentinel at `spot`: a configured one, or the one of this id that others know.
    pub(super) fn meet(
        &mut self,
        spot: Spot,
        names: &mut Names,
        learned: Option<Arc<str>>,
        now: Instant,
    ) -> PeerId {
        let number = self.next;
        self.next += 1;
        let orders = self.orders.subscribe();
        let task = peer::run(
            number,
            spot.clone(),
            names.found(&spot.host),
            orders,
            self.reporter.clone(),
            self.plan.clone(),
        );
        let peer = Peer {
            spot,
            learned: learned.is_some(),
            id: learned,
            heard: now,
            _task: spawn_owned(&self.plan.runtime, task),
        };
        self.peers.insert(number, peer);
        number
    }

    /// Begins to ask those of `others` that are not asked yet, while there is room. Gives their numbers.
    pub(super) fn learn(
        &mut self,
        others: Vec<Other>,
        names: &mut Names,
        now: Instant,
    ) -> Vec<PeerId> {
        let mut met = Vec::new();
        for other in others.into_iter().filter(|other| !other.down) {
            let is_known =
                |peer: &Peer| peer.id.as_ref() == Some(&other.id) || peer.spot == other.spot;
            if self.peers.len() < MOST && !self.peers.values().any(is_known) {
                met.push(self.meet(other.spot, names, Some(other.id), now));
            }
        }
        met
    }

    /// A Sentinel was heard.
    pub(super) fn heard(&mut self, number: PeerId, id: Option<&Arc<str>>, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&number) {
            peer.heard = now;
            if let Some(id) = id {
                peer.id = Some(id.clone());
            }
        }
    }

    /// Lets go of learned ones that are silent, or known under another address. Gives their numbers.
    pub(super) fn forget(&mut self, now: Instant) -> Vec<PeerId> {
        let is_double = |number: &PeerId, peer: &Peer| {
            let mut before = self.peers.range(..number);
            peer.id.is_some() && before.any(|(_, other)| other.id == peer.id)
        };
        let stale = |peer: &Peer| now.saturating_duration_since(peer.heard) > FORGOTTEN;
        let gone: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(number, peer)| peer.learned && (stale(peer) || is_double(number, peer)))
            .map(|(number, _)| *number)
            .collect();
        for number in &gone {
            self.peers.remove(number);
        }
        gone
    }

    /// Tells all of them what is wanted, if that is news.
    pub(super) fn order(&self, change: impl FnOnce(&mut Order)) {
        self.orders.send_if_modified(|order| {
            let before = *order;
            change(order);
            *order != before
        });
    }

    /// Their hosts.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.peers.values().map(|peer| &peer.spot.host)
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Handle;

    use super::*;
    use crate::{Config, config::Server};

    /// A table of these Sentinels, that has met them. Its tasks do not run before the test waits.
    fn configured(seeds: usize) -> (Table, Names, mpsc::Receiver<(PeerId, Report)>) {
        let hosts: Vec<String> = (1..=seeds).map(|nth| format!("127.0.0.{nth}")).collect();
        let config = Config::builder(&format!("redis+sentinel://{}/orders", hosts.join(",")))
            .build()
            .expect("a configuration");
        let Server::Sentinel(group) = config.server() else {
            panic!("a group");
        };
        let plan = Arc::new(Plan::new(&config, group, None, &Handle::current()));
        let (reporter, reports) = mpsc::channel(8);
        let (mut names, mut table) = (Names::new(plan.clone()), Table::new(plan.clone(), reporter));
        for (host, port) in &plan.group.seeds {
            table.meet(Spot::new(host, *port), &mut names, None, Instant::now());
        }
        (table, names, reports)
    }

    fn other(nth: usize) -> Other {
        Other {
            spot: Spot::new(&format!("127.0.1.{nth}"), 26379),
            id: format!("id of {nth}").into(),
            down: false,
        }
    }

    #[tokio::test]
    async fn five_are_asked_and_those_configured_whatever_their_number() {
        for (seeds, learned) in [(1, 4), (3, 2), (5, 0), (7, 0)] {
            let (mut table, mut names, _reports) = configured(seeds);
            let down = Other {
                down: true,
                ..other(0)
            };
            let others = [down].into_iter().chain((1..=9).map(other)).collect();
            let met = table.learn(others, &mut names, Instant::now());
            assert_eq!(met.len(), learned, "beside {seeds}");
            assert_eq!(table.hosts().count(), seeds + learned);
            let again = table.learn(vec![other(1)], &mut names, Instant::now());
            assert!(again.is_empty(), "it is known, or there is no room");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_learned_one_that_is_silent_is_forgotten_and_a_configured_one_never() {
        let (mut table, mut names, _reports) = configured(3);
        let now = Instant::now();
        let met = table.learn(vec![other(1), other(2)], &mut names, now);
        let later = now + FORGOTTEN + Duration::from_millis(1);
        table.heard(met[0], None, later);
        assert_eq!(table.forget(now + FORGOTTEN), []);
        assert_eq!(table.forget(later), [met[1]]);
        assert_eq!(table.hosts().count(), 4);
    }
}
