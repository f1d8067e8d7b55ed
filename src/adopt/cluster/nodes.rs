//! The primaries of a cluster, each with its circuit.
//!
//! Owns the map of slots, the circuits, and the connection, of which there may be another one day. Promises: nobody waits for the map: until it is there calls pass under no
//! circuit, and while it cannot be read the last one holds; a node keeps its circuit for as long as it serves a slot at the same
//! address; a
//! node that `redis` has no connection to begins in doubt. Leaves reading the map to [`reader`](super::reader), routing to `redis`, refusing to the circuits. Fails never.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use redis::{cluster::ClusterClient, cluster_async::ClusterConnection};
use tokio::{runtime::Handle, sync::Notify};

use super::{
    keys::{Place, place},
    probe::{Lost, Probe},
    reader::reading,
    slots::{Primary, Seen, Slots},
};
use crate::{
    Error, Request,
    layer::{BreakerLayer, Circuit},
    task::{Kept, Owned, spawn_owned},
    telemetry::span,
};

/// All that is known of a cluster.
pub(super) struct Nodes {
    connection: ArcSwap<ClusterConnection>,
    /// By which another is made.
    client: OnceLock<ClusterClient>,
    breaker: BreakerLayer,
    map: ArcSwap<Map>,
    reader: Mutex<Option<Owned>>,
    /// A reader runs.
    kept: Arc<AtomicBool>,
    pub(super) lost: Lost,
    /// Told where nobody was answered.
    doubted: Arc<Notify>,
}

struct Map {
    slots: Slots,
    /// In the order of the primaries.
    nodes: Vec<Node>,
}

#[derive(Clone)]
struct Node {
    primary: Primary,
    circuit: Circuit,
}

/// The circuits of the nodes that a call concerns.
pub(super) enum Concerned {
    Nobody,
    One(Circuit),
    Several(Vec<Circuit>),
}

impl Nodes {
    pub(super) fn new(connection: ClusterConnection, breaker: BreakerLayer) -> Self {
        let map = Map {
            slots: Slots::unknown(),
            nodes: Vec::new(),
        };
        Self {
            connection: ArcSwap::from_pointee(connection),
            client: OnceLock::new(),
            breaker,
            map: ArcSwap::from_pointee(map),
            reader: Mutex::new(None),
            kept: Arc::new(AtomicBool::new(false)),
            lost: Lost::default(),
            doubted: Arc::default(),
        }
    }

    /// The circuits that a call is under, or its refusal. A refusal allocates nothing.
    pub(super) fn concerned(&self, request: &Request) -> Result<Concerned, Error> {
        let map = self.map.load();
        let place = place(request.packed());
        if let Some(refusal) = map.refusal(&place) {
            return Err(refusal);
        }
        let mut concerned = Concerned::Nobody;
        map.find(&place, |node| {
            concerned.add(node.circuit.clone());
            None::<()>
        });
        Ok(concerned)
    }

    /// What a call would be refused with now.
    pub(super) fn refusal(&self, request: &Request) -> Option<Error> {
        self.map.load().refusal(&place(request.packed()))
    }

    /// The circuits by the names of their nodes, in the order of their slots.
    pub(super) fn circuits(&self) -> Vec<(String, Circuit)> {
        let map = self.map.load();
        let nodes = map.nodes.iter();
        nodes
            .map(|node| (node.primary.name.to_string(), node.circuit.clone()))
            .collect()
    }

    pub(super) fn circuit_at(&self, slot: u16) -> Option<Circuit> {
        let map = self.map.load();
        map.at(slot).map(|node| node.circuit.clone())
    }

    /// Starts reading the map where nobody does. Where there is no runtime, the next call inside one starts it.
    pub(super) fn keep_reading(self: &Arc<Self>) {
        if self.kept.load(Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = Kept::claim(&self.kept) {
            *reader = Some(spawn_owned(&runtime, reading(Arc::downgrade(self), kept)));
        }
    }

    /// The map is `slots` from now on.
    pub(super) fn adopt(self: &Arc<Self>, slots: Slots) {
        let before = self.map.load();
        let known: HashMap<_, _> = before
            .nodes
            .iter()
            .map(|node| (&*node.primary.name, node))
            .collect();
        let nodes = slots.primaries().iter().map(|primary| {
            let same = known.get(&*primary.name);
            let same = same.filter(|node| node.primary == *primary);
            same.map_or_else(|| self.node(primary), |node| (*node).clone())
        });
        let nodes: Vec<Node> = nodes.collect();
        let new: Vec<Circuit> = nodes
            .iter()
            .filter(|node| !known.contains_key(&*node.primary.name))
            .map(|node| node.circuit.clone())
            .collect();
        self.map.store(Arc::new(Map { slots, nodes }));
        // Where `redis` has no connection to one, its callers would have everybody wait for a dial.
        new.iter().for_each(Circuit::doubt);
    }

    /// What another connection is made by.
    pub(super) fn set_client(&self, client: ClusterClient) {
        // The first one stays: they are of the same cluster.
        let _ = self.client.set(client);
    }

    pub(super) fn client(&self) -> Option<ClusterClient> {
        self.client.get().cloned()
    }

    /// The connection is another from now on.
    pub(super) fn renew(&self, connection: ClusterConnection) {
        self.connection.store(Arc::new(connection));
    }

    pub(super) fn tell_stuck(&self, is_renewed: bool) {
        span::cluster_stuck(self.breaker.client(), is_renewed);
    }

    fn node(self: &Arc<Self>, primary: &Primary) -> Node {
        let probe = Probe::new(Arc::downgrade(self), primary.clone());
        let doubted = probe.clone();
        let circuit = self.breaker.circuit_of(
            &primary.name,
            move || probe.clone().ask(),
            move |within| doubted.clone().doubt(within),
        );
        Node {
            primary: primary.clone(),
            circuit,
        }
    }
}

/// What probes and the reader need to know.
impl Nodes {
    /// The map should be read soon.
    pub(super) fn should_be_read(&self) -> bool {
        let map = self.map.load();
        map.nodes.is_empty() || map.nodes.iter().any(Node::is_refused)
    }

    /// So many of the primaries, drawn.
    pub(super) fn some(&self, most: usize) -> Vec<Primary> {
        let map = self.map.load();
        let drawn = fastrand::choose_multiple(map.nodes.iter(), most);
        drawn.into_iter().map(|node| node.primary.clone()).collect()
    }

    /// Nobody was answered, though a node is at home.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    pub(super) fn doubted(&self) -> Arc<Notify> {
        self.doubted.clone()
    }

    pub(super) fn connection(&self) -> ClusterConnection {
        ClusterConnection::clone(&self.connection.load())
    }

    /// A slot of the node `name`, the next at or behind `from`.
    pub(super) fn slot_of(&self, name: &str, from: u16) -> Option<u16> {
        self.map.load().slots.slot_of(name, from)
    }

    /// The address of another node, one that serves.
    pub(super) fn neighbour(&self, name: &str) -> Option<SocketAddr> {
        let map = self.map.load();
        let mut serving = map.others(name).filter(|node| !node.is_refused());
        serving.find_map(|node| node.primary.address)
    }

    /// A slot of another node: of any that serves, if there is one.
    pub(super) fn slot_beside(&self, name: &str) -> Option<u16> {
        let map = self.map.load();
        let (serving, away): (Vec<_>, Vec<_>) =
            map.others(name).partition(|node| !node.is_refused());
        let drawn = fastrand::choice(serving).or_else(|| fastrand::choice(away))?;
        map.slots.slot_of(&drawn.primary.name, fastrand::u16(..))
    }
}

impl Concerned {
    fn add(&mut self, other: Circuit) {
        *self = match std::mem::replace(self, Self::Nobody) {
            Self::Nobody => Self::One(other),
            Self::One(circuit) => Self::Several(vec![circuit, other]),
            Self::Several(mut circuits) => {
                circuits.push(other);
                Self::Several(circuits)
            }
        };
    }
}

impl Map {
    fn refusal(&self, place: &Place<'_>) -> Option<Error> {
        self.find(place, |node| node.circuit.refusal())
    }

    /// What is first found of the nodes that this concerns, each of which is looked at once.
    fn find<T>(&self, place: &Place<'_>, mut look: impl FnMut(&Node) -> Option<T>) -> Option<T> {
        match place {
            Place::Anywhere => None,
            Place::Slot(slot) => look(self.at(*slot)?),
            Place::Everywhere => self.nodes.iter().find_map(look),
            Place::Slots(keys) => {
                let mut seen = Seen::default();
                let owners = keys.slots().filter_map(|slot| self.slots.owner(slot));
                let mut new = owners.filter(|owner| seen.is_new(*owner));
                new.find_map(|owner| look(self.nodes.get(owner)?))
            }
        }
    }

    fn at(&self, slot: u16) -> Option<&Node> {
        self.nodes.get(self.slots.owner(slot)?)
    }

    fn others(&self, name: &str) -> impl Iterator<Item = &Node> {
        self.nodes
            .iter()
            .filter(move |node| *node.primary.name != *name)
    }
}

impl Node {
    fn is_refused(&self) -> bool {
        self.circuit.refusal().is_some()
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let map = self.map.load();
        let states = map
            .nodes
            .iter()
            .map(|node| (&node.primary.name, node.circuit.state()));
        f.debug_map().entries(states).finish()
    }
}
