//! The primaries of a cluster, each with its circuit.
//!
//! Owns the map of slots, read in the background, and the circuits. Promises: nobody waits for the map: until it is there calls pass under no
//! circuit, and while it cannot be read the last one holds; a node keeps its circuit for as long as it serves a slot at the same
//! address; what is asked of the cluster has its deadline. Leaves routing to `redis`, refusing to the circuits. Fails never.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use redis::{
    cluster_async::ClusterConnection,
    cluster_routing::{RoutingInfo, SingleNodeRoutingInfo},
};
use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};

use super::{
    keys::{Place, place},
    probe::{Lost, Probe},
    slots::{Primary, Slots},
};
use crate::{
    Request,
    layer::{BreakerLayer, Circuit},
    task::{Kept, Owned, spawn_owned},
};

/// All that is known of a cluster.
pub(super) struct Nodes {
    connection: ClusterConnection,
    breaker: BreakerLayer,
    map: ArcSwap<Map>,
    reader: Mutex<Option<Owned>>,
    /// A reader runs.
    kept: Arc<AtomicBool>,
    pub(super) lost: Lost,
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

/// How often it is looked whether the map should be read.
const TICK: Duration = Duration::from_secs(1);
/// While no circuit is open the map is read once in so many ticks: `redis` follows what moves by itself, we must only know where it went.
const CALM: u32 = 15;
/// One node has so long to tell the map, and so many are asked in one turn: the one that `redis` draws may be the silent one.
const TOLD_WITHIN: Duration = Duration::from_millis(500);
const ASKED: usize = 3;

impl Nodes {
    pub(super) fn new(connection: ClusterConnection, breaker: BreakerLayer) -> Self {
        let map = Map {
            slots: Slots::unknown(),
            nodes: Vec::new(),
        };
        Self {
            connection,
            breaker,
            map: ArcSwap::from_pointee(map),
            reader: Mutex::new(None),
            kept: Arc::new(AtomicBool::new(false)),
            lost: Lost::default(),
        }
    }

    pub(super) fn concerned(&self, request: &Request) -> Concerned {
        let map = self.map.load();
        let circuit = |node: &Node| node.circuit.clone();
        match place(request.packed()) {
            Place::Anywhere => Concerned::Nobody,
            Place::Slot(slot) => map
                .at(slot)
                .map_or(Concerned::Nobody, |node| Concerned::One(circuit(node))),
            Place::Everywhere => Concerned::Several(map.nodes.iter().map(circuit).collect()),
            Place::Slots(slots) => {
                let owners = slots.into_iter().filter_map(|slot| map.slots.owner(slot));
                let owners: BTreeSet<usize> = owners.collect();
                let nodes = owners.into_iter().filter_map(|owner| map.nodes.get(owner));
                Concerned::Several(nodes.map(circuit).collect())
            }
        }
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
    fn adopt(self: &Arc<Self>, slots: Slots) {
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
        let nodes = nodes.collect();
        self.map.store(Arc::new(Map { slots, nodes }));
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

/// What probes need to know.
impl Nodes {
    pub(super) fn connection(&self) -> ClusterConnection {
        self.connection.clone()
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

impl Map {
    fn at(&self, slot: u16) -> Option<&Node> {
        self.nodes.get(self.slots.owner(slot)?)
    }

    fn others(&self, name: &str) -> impl Iterator<Item = &Node> {
        self.nodes
            .iter()
            .filter(move |node| *node.primary.name != *name)
    }

    fn should_be_read(&self) -> bool {
        self.nodes.is_empty() || self.nodes.iter().any(Node::is_refused)
    }
}

impl Node {
    fn is_refused(&self) -> bool {
        self.circuit.refusal().is_some()
    }
}

/// Reads the map, at once and then as often as there is need. Holds the nodes for moments only.
async fn reading(nodes: Weak<Nodes>, _kept: Kept) {
    let mut ticks = CALM;
    loop {
        let connection = match nodes.upgrade() {
            Some(nodes) if ticks >= CALM || nodes.map.load().should_be_read() => {
                Some(nodes.connection.clone())
            }
            Some(_) => None,
            None => return,
        };
        ticks += 1;
        if let Some(connection) = connection
            && let Some(slots) = read(connection).await
        {
            let Some(nodes) = nodes.upgrade() else { return };
            nodes.adopt(slots);
            ticks = 0;
        }
        // Apart from those of other processes.
        sleep(TICK.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
    }
}

async fn read(mut connection: ClusterConnection) -> Option<Slots> {
    for _ in 0..ASKED {
        let mut cmd = redis::cmd("CLUSTER");
        let anywhere = RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random);
        let told = connection.route_command(cmd.arg("SLOTS").clone(), anywhere);
        if let Ok(Ok(reply)) = timeout(TOLD_WITHIN, told).await
            && let Some(slots) = Slots::parse(&reply)
        {
            return Some(slots);
        }
    }
    None
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
