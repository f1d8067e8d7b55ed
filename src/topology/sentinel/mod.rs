//! A primary that Sentinels watch: found by asking all of them, followed through failovers, kept while they are away.
//!
//! Owns [`Sentinel`], a client's share of a follower, and [`Sentinels`], by which clients share one. Promises: building asks nobody and
//! waits for nothing; the last client to go takes the tasks and connections along. Leaves words to [`wire`], belief to [`belief`]
//! ([`vote`], [`generation`] and [`failover`]), connections to [`table`], [`peer`] and [`candidate`], all of it together to [`follow`].
//! Fails as the trouble of a map: kinds `no_primary`, `auth`, `protocol`, phase `discovery`.

mod asker;
mod belief;
mod board;
mod candidate;
mod failover;
mod follow;
mod generation;
mod lag;
mod names;
mod peer;
mod plan;
mod table;
mod vote;
mod wire;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::{runtime::Handle, sync::watch};

use self::{
    board::{Board, StakeId},
    follow::Follow,
    plan::{Likeness, Plan},
};
use super::{Map, Need, Node, Tally, Topology, Witness};
use crate::{
    Config,
    config::Group,
    dns::Resolve,
    net::dns::Lookups,
    task::{Owned, spawn_owned},
};

/// Lets several clients share their connections to the Sentinels.
///
/// Clients that were built with the same handle, and with the same Sentinels, name, credentials, [`SentinelPolicy`](crate::SentinelPolicy)
/// and [`DnsPolicy`](crate::dns::DnsPolicy), follow their primary together: one connection per Sentinel for all of them, over the resolver
/// and in the runtime of the first, under the first one's name. Each keeps its own connection to Redis, its caps and its circuit. Without a
/// handle every client follows on its own. Cheap to clone; clones are the same handle.
///
/// ```
/// use redis_holdfast::{Client, Sentinels};
///
/// let sentinels = Sentinels::new();
/// let client = |name: &str| {
///     let url = "redis+sentinel://s-0,s-1,s-2/orders";
///     Client::builder(url)?.name(name).sentinels(&sentinels).build()
/// };
/// let (sessions, limits) = (client("sessions")?, client("limits")?);
/// # Ok::<(), redis_holdfast::ConfigError>(())
/// ```
#[derive(Clone, Default)]
pub struct Sentinels(Arc<Mutex<Vec<Entry>>>);

/// A follower, as long as a client has it, and what it is for.
type Entry = (Likeness, Weak<Shared>);

impl Sentinels {
    /// A handle that nobody shares yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn share(&self, likeness: Likeness, make: impl FnOnce() -> Arc<Shared>) -> Arc<Shared> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, shared)| shared.strong_count() > 0);
        let found = known.iter().filter(|(known, _)| *known == likeness);
        // A follower whose runtime has ended follows no more.
        let living = found
            .filter_map(|(_, shared)| shared.upgrade())
            .find(|shared| !shared.task.is_finished());
        living.unwrap_or_else(|| {
            let made = make();
            known.push((likeness, Arc::downgrade(&made)));
            made
        })
    }
}

impl fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sentinels").finish_non_exhaustive()
    }
}

/// A follower, and where its clients meet it.
struct Shared {
    board: Arc<Board>,
    map: watch::Receiver<Arc<Map>>,
    task: Owned,
}

impl Shared {
    fn start(
        config: &Config,
        group: &Group,
        resolver: Option<Arc<dyn Resolve>>,
        runtime: &Handle,
    ) -> Arc<Self> {
        let board = Arc::new(Board::default());
        let (sender, map) = watch::channel(Arc::new(Map {
            primary: Node::unknown(),
            epoch: 0,
            term: 0,
            deposed: 0,
            doubted: false,
            replicas: [].into(),
        }));
        let plan = Plan::new(config, group, resolver, runtime);
        // Its tasks start in the runtime that the plan names, wherever it is made.
        let follow = Follow::new(plan, board.clone(), sender);
        let task = spawn_owned(runtime, follow.run());
        Arc::new(Self { board, map, task })
    }
}

/// One client's share of a follower.
pub(crate) struct Sentinel {
    shared: Arc<Shared>,
    stake: StakeId,
}

impl Sentinel {
    /// Follows the primary of `group`, with others where `sentinels` says so.
    pub(crate) fn start(
        config: &Config,
        group: &Group,
        sentinels: Option<&Sentinels>,
        resolver: Option<Arc<dyn Resolve>>,
        runtime: &Handle,
    ) -> Self {
        let make = || Shared::start(config, group, resolver, runtime);
        let shared = match sentinels {
            Some(sentinels) => sentinels.share(Likeness::of(config, group), make),
            None => make(),
        };
        let stake = shared.board.join();
        Self { shared, stake }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.shared.board.leave(self.stake);
    }
}

impl Topology for Sentinel {
    fn map(&self) -> watch::Receiver<Arc<Map>> {
        self.shared.map.clone()
    }

    fn need(&self, need: Need) {
        self.shared.board.need(self.stake, need);
    }

    fn witness(&self, witness: Witness) {
        self.shared.board.witness(self.stake, witness);
    }

    fn read_replicas(&self) {
        self.shared.board.read_replicas(self.stake);
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn tally(&self) -> Option<Tally> {
        Some(self.shared.board.tally())
    }

    fn lookups(&self) -> Lookups {
        self.shared.board.lookups()
    }
}
