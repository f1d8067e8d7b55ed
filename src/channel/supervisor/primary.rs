//! Another server is the primary now: the old one gets no byte more.
//!
//! Owns what a supervisor does when the *server* that is meant changes, or turns out to be none to write to. Promises: from the moment
//! it knows, no call begins on the old link, and what was written there ends at once (it may have run, and the new primary may not know
//! of it); links, attempts and doubts about the old server are forgotten; a server that is merely called something else loses no link.
//! Leaves who the primary is to [`topology`](crate::topology), roles to the handshake: a link is in service only after its server has said
//! that it is a primary. Cannot fail.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::Supervisor;
use crate::{
    Request,
    channel::{
        gate::Gate,
        keep::{Held, Retired},
        patience::{Patience, Ration},
        verdict::{Probe, Sight},
    },
    net::{
        address::Address,
        dns::Lookups,
        link::{job::Job, mailbox::Retire, owed::not_primary},
        reach::connect::{Dial, Wire},
    },
    telemetry::labels::{self, Answers, PrimaryChange},
    topology::{LinkWord, Map, Tally, Witness},
};

impl<C: Dial> Supervisor<C> {
    /// The topology has spoken, or has ended with the runtime of another client that shared it: then we make one of our own.
    pub(super) fn on_map(&mut self) {
        if self.maps.has_changed().is_err() && self.topology.is_shared() {
            self.topology = (self.survey)();
            self.maps = self.topology.map();
            self.term = 0;
            self.tally = Tally::default();
            self.lookups = Lookups::default();
        }
    }

    /// Follows the map to another server, and looks at the link where the Sentinels doubt its server.
    pub(super) fn mind_primary(&mut self, now: Instant) {
        let map = self.maps.borrow().clone();
        if **self.hub.replicas.load() != map.replicas {
            self.hub.replicas.store(Arc::new(map.replicas.clone()));
            // After it is said: whoever makes a channel meanwhile makes none that is left out here.
            if let Some(pool) = self.pool.upgrade() {
                pool.keep(&map.replicas);
            }
        }
        if self.hub.reads_replicas.load(Ordering::Relaxed) {
            self.topology.read_replicas();
        }
        if map.term != self.term && !self.is_renamed(&map) {
            self.term = map.term;
            self.turn_to(&map.primary.addresses, now);
        }
        if !map.doubted {
            self.nudged = false;
        } else if !std::mem::replace(&mut self.nudged, true) {
            self.held.iter().for_each(|held| Self::nudge(&held.wire));
        }
    }

    /// Whether `address` belongs to a server that is not the one that is meant.
    pub(super) fn is_foreign(&self, address: &Address) -> bool {
        means_another(&self.maps.borrow(), self.term, address)
    }

    /// Whether the link is left alone though the map speaks of another server than this one does.
    fn is_renamed(&self, map: &Map) -> bool {
        is_renamed(map, self.term) && self.held.is_some()
    }

    fn turn_to(&mut self, addresses: &Arc<[Address]>, now: Instant) {
        let is_meant = |held: &Held<C::Wire>| addresses.contains(held.wire.address());
        if self.held.as_ref().is_some_and(is_meant) {
            // The same server by another name: all that is known of it holds.
            return;
        }
        self.prober.rest();
        self.prober.forget();
        self.candidate = None;
        if let Some(held) = self.held.take() {
            let order = Retire::Abort(self.lost("another server is the primary now"));
            self.retire(held, order, labels::LinkState::Draining);
            self.wait(now);
        }
        self.retired.iter().for_each(Retired::abort);
        self.fallen.clear();
        self.hub.breaker().forgive(now);
        self.patience = Patience::new(self.clocks.0, self.clocks.1);
        self.ration = Ration::new();
        self.last_good = None;
        self.probe = Probe::Early;
        self.said_dial_failed = false;
        self.demoted = false;
    }

    /// Calls wait for the next link from now on.
    fn wait(&mut self, now: Instant) {
        self.gone_since = now;
        if !self.is_down {
            self.hub.gate.set(Gate::Waiting);
        }
    }

    /// A link's server said that it is no primary: the link has stopped taking calls.
    pub(super) fn on_disowned(&mut self, now: Instant) {
        let disowned = self.hub.pace.disowned();
        let is_held = |held: &Held<C::Wire>| Some(held.wire.origin().id) == disowned;
        let Some(held) = self.held.take_if(|held| is_held(held)) else {
            return;
        };
        self.candidate = None;
        self.prober.rest();
        self.trouble = Some(not_primary().at(self.hub.endpoint()));
        self.demoted = true;
        self.retire(held, Retire::Drain, labels::LinkState::Draining);
        self.probe = Probe::Silent;
        self.wait(now);
        // Who is asked at once says the same: a moment for the Sentinels.
        let targets = self.targets(crate::channel::verdict::Aim::Everywhere);
        let haste = crate::net::reach::prober::Haste::Urgent;
        self.prober.aim(targets, haste, now + DEMOTED_PAUSE);
    }

    /// Asks for a sign of life: an idle link would show its silence seconds later. Nobody is served by it.
    pub(super) fn nudge(wire: &C::Wire) {
        let (job, ping) = Job::pair(Request::from(redis::cmd("PING").set_no_response(true)));
        // Begun or not, the answer concerns nobody: what counts is that one is owed.
        if wire.submit(job).is_ok() {
            ping.forget();
        }
    }

    /// Tells the topology how the link is.
    pub(super) fn testify(&self, sight: Sight) {
        if self.term == 0 {
            return;
        }
        let link = match sight {
            _ if self.demoted && self.held.is_none() => LinkWord::Demoted,
            Sight::Fine | Sight::Suspect => LinkWord::Works,
            Sight::Unresponsive | Sight::Gone => LinkWord::Down,
        };
        let identity = self
            .held
            .as_ref()
            .and_then(|held| held.wire.origin().greeting.identity.as_ref());
        let map = self.maps.borrow();
        let term = if self.is_renamed(&map) {
            map.term
        } else {
            self.term
        };
        drop(map);
        self.topology.witness(Witness {
            term,
            link,
            lineage: identity.map(|identity| identity.replication_id.as_str().into()),
        });
    }

    /// Counts what the Sentinels have said since the last time.
    pub(super) fn count_answers(&mut self) {
        let Some(seen) = self.topology.tally() else {
            return;
        };
        let last = std::mem::replace(&mut self.tally, seen);
        let metrics = &self.hub.metrics;
        metrics.asked(Answers::Answered, seen.answered - last.answered);
        metrics.asked(Answers::Unknown, seen.unknown - last.unknown);
        metrics.asked(Answers::Silent, seen.silent - last.silent);
        metrics.asked(Answers::Refused, seen.refused - last.refused);
        metrics.primary_changed(PrimaryChange::Vote, seen.voted - last.voted);
        metrics.primary_changed(PrimaryChange::Promotion, seen.promoted - last.promoted);
        metrics.sentinels(seen.reachable);
    }
}

/// Whether what is meant since `term` may be the same server, under a name of which no address is known yet: until one is, nothing speaks
/// against its links.
fn is_renamed(map: &Map, term: u64) -> bool {
    map.term != term && map.deposed <= term && map.primary.addresses.is_empty()
}

/// Whether the map means another server than the one at `address`, which was meant in `term`.
pub(super) fn means_another(map: &Map, term: u64, address: &Address) -> bool {
    map.term > 0 && !map.primary.addresses.contains(address) && !is_renamed(map, term)
}

/// A server that has just said that it is a replica is asked again after this long, unless another is named first.
const DEMOTED_PAUSE: Duration = Duration::from_millis(50);
