//! Whether a node is there again: what closes its circuit.
//!
//! Owns [`Probe`] and [`Lost`]. Promises: the node itself has answered, over the connection that its callers will use; while it is away
//! the traffic of the others is not stopped for it; none is condemned because `redis` answers nobody. Leaves when to ask, and the time of each try, to the circuit. Cannot fail.
//!
//! Each way to ask has its trap. *By address*, where `redis` has no such connection, it dials all its first nodes anew; *for a key*, some
//! other node says `MOVED`, and it reads its map anew; and meanwhile, for as long as a dial to a node that is away may take, nobody is
//! served. So we ask *by slot*, for the node's id: where `redis` has no connection it draws another node, and that one's id is another. But
//! `redis` makes a connection that it never had, or gave up, for a `MOVED` alone. So when another has answered we [`knock`], and where somebody
//! is at home ask for a key after all. And each question to a node that is silent waits for it somewhere, so one that owes
//! an answer is knocked at first.

use std::{
    future::Future,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    Cmd, RedisResult, Value,
    cluster_async::ClusterConnection,
    cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, Slot, SlotAddr},
};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{
    knock::Knocker,
    nodes::Nodes,
    slots::{Primary, key_of},
};
use crate::{Reply, layer::breaker::is_answer};

/// Asks one node.
#[derive(Clone)]
pub(super) struct Probe {
    /// Not held: whoever keeps a circuit keeps no connection.
    nodes: Weak<Nodes>,
    primary: Primary,
    /// When it was last found to be there.
    there: Arc<Mutex<Option<Instant>>>,
    knocker: Arc<Knocker>,
    /// When it was last asked, if it has not answered since.
    owed: Arc<Mutex<Option<Instant>>>,
}

/// Who answered.
#[derive(PartialEq, Eq)]
enum Who {
    Itself,
    /// `redis` has no connection to it.
    Another,
    /// It, that it cannot serve.
    Unfit,
    Nobody,
}

/// Who was found to be there is not asked again so soon: where keys move, each call for them puts their node in doubt.
const KNOWN_FOR: Duration = Duration::from_millis(100);
/// Then it is asked again whatever a knock says: the way of `redis` may be another.
const OWED_FOR: Duration = Duration::from_secs(5);

impl Probe {
    pub(super) fn new(nodes: Weak<Nodes>, primary: Primary) -> Self {
        Self {
            nodes,
            primary,
            there: Arc::default(),
            knocker: Arc::default(),
            owed: Arc::default(),
        }
    }

    /// Whether the node, which is in doubt, is there, or nobody can say.
    ///
    /// While `redis` reads its own map nobody is answered, so a silence counts for something only where another node was answered meanwhile, or
    /// where nobody is at home either.
    pub(super) async fn doubt(self, within: Duration) -> bool {
        let found = *lock(&self.there);
        if found.is_some_and(|at| at.elapsed() < KNOWN_FOR) {
            return true;
        }
        let Some((mut connection, slot)) = self.way() else {
            return false;
        };
        let mut until = Instant::now() + within;
        // Most doubts are dispelled before.
        let soon = within / 3;
        let mut asked = pin!(self.who(&mut connection, slot));
        let mut knocked = pin!(after(soon, self.knocks()));
        let mut beside = pin!(after(soon, self.is_another_answered()));
        let (mut is_home, mut is_other) = (None, None);
        let who = loop {
            tokio::select! {
                biased;
                who = &mut asked => break who,
                is = &mut knocked, if is_home.is_none() => is_home = Some(is),
                is = &mut beside, if is_other.is_none() => {
                    is_other = Some(is);
                    if is {
                        // Both questions may have waited for the same.
                        until = until.max(Instant::now() + soon);
                    }
                }
                () = sleep_until(until) => break Who::Nobody,
            }
        };
        let is_there = match who {
            Who::Itself => true,
            Who::Unfit => false,
            Who::Another => self.may_be_there(until, is_home).await,
            Who::Nobody if is_other == Some(true) => false,
            Who::Nobody if is_home == Some(true) || self.is_unknown() => {
                self.tell_doubt();
                true
            }
            Who::Nobody => false,
        };
        if who == Who::Itself {
            *lock(&self.there) = Some(Instant::now());
        }
        is_there
    }

    /// `redis` has no connection to it, and makes one for whoever asks for a key, if it is at home.
    async fn may_be_there(&self, until: Instant, is_home: Option<bool>) -> bool {
        let is_home = match is_home {
            Some(is_home) => is_home,
            None => timeout_at(until, self.knocks()).await.unwrap_or(false),
        };
        if is_home && let Some((mut connection, slot)) = self.way() {
            let is_due = |nodes: Arc<Nodes>| nodes.lost.is_due(FETCH, Instant::now());
            if self.nodes.upgrade().is_some_and(is_due) {
                let _ = timeout_at(until, fetch(&mut connection, slot)).await;
            }
        }
        is_home
    }

    /// Whether it is at home.
    async fn knocks(&self) -> bool {
        let Some(address) = self.primary.address else {
            return false;
        };
        let is_home = self.knocker.knock(address).await;
        if is_home && let Some(nodes) = self.nodes.upgrade() {
            nodes.lost.hear();
        }
        is_home
    }

    async fn is_another_answered(&self) -> bool {
        let nodes = self.nodes.upgrade();
        let way = nodes.and_then(|nodes| {
            let slot = nodes.slot_beside(&self.primary.name)?;
            Some((nodes.connection(), slot))
        });
        match way {
            Some((mut connection, slot)) => self.who(&mut connection, slot).await != Who::Nobody,
            None => false,
        }
    }

    fn tell_doubt(&self) {
        if let Some(nodes) = self.nodes.upgrade() {
            nodes.doubt();
        }
    }

    /// Whether a knock that is not answered says nothing, and there are others, who would have been answered.
    fn is_unknown(&self) -> bool {
        self.nodes.upgrade().is_some_and(|nodes| {
            !nodes.lost.is_heard() && nodes.slot_beside(&self.primary.name).is_some()
        })
    }

    /// Whether it was asked of late and owes the answer, and that to a knock too.
    fn owes(&self) -> bool {
        let asked = *lock(&self.owed);
        asked.is_some_and(|at| at.elapsed() < OWED_FOR) && self.knocker.is_owed()
    }

    pub(super) async fn ask(self) -> bool {
        let Some((mut connection, slot)) = self.way() else {
            return false;
        };
        // Each question to a node that is silent is kept for it somewhere. Where a knock was accepted there, its answer comes first.
        if self.owes() && !self.knocks().await {
            return false;
        }
        *lock(&self.owed) = Some(Instant::now());
        let who = self.who(&mut connection, slot).await;
        if who != Who::Nobody {
            *lock(&self.owed) = None;
        }
        match who {
            Who::Itself => return true,
            Who::Unfit | Who::Nobody => return false,
            Who::Another => {}
        }
        if !self.may_be_fetched().await {
            return false;
        }
        let fetched = fetch(&mut connection, slot).await;
        if matches!(&fetched, Ok(Value::ServerError(error)) if error.code() == "NOPERM") {
            // Keys are not this user's to ask for: the first call will fetch the connection.
            return true;
        }
        self.who(&mut connection, slot).await == Who::Itself
    }

    /// The connection, and a slot of the node: another one each time, for `redis` may not know yet that one has moved.
    fn way(&self) -> Option<(ClusterConnection, u16)> {
        let nodes = self.nodes.upgrade()?;
        let slot = nodes.slot_of(&self.primary.name, fastrand::u16(..))?;
        Some((nodes.connection(), slot))
    }

    async fn who(&self, connection: &mut ClusterConnection, slot: u16) -> Who {
        let is_known = |said: &[u8]| self.primary.id.is_empty() || *self.primary.id == *said;
        let said = by_slot(connection, redis::cmd("CLUSTER").arg("MYID"), slot).await;
        let is_itself = match said {
            Ok(Value::BulkString(said)) => is_known(&said),
            Ok(Value::SimpleString(said)) => is_known(said.as_bytes()),
            // Somebody is there and does not say who: this user may not ask.
            Ok(reply) if is_answer(&Reply::from(reply.clone())) => true,
            Ok(_) => return Who::Unfit,
            Err(error) if error.code().is_some() => return Who::Unfit,
            // It had one until then.
            Err(error) if error.is_connection_dropped() || error.is_connection_refusal() => false,
            Err(_) => return Who::Nobody,
        };
        if is_itself { Who::Itself } else { Who::Another }
    }

    /// Whether `redis` may be made to look for the node: when it is at home, or when that cannot be known here, now and then.
    async fn may_be_fetched(&self) -> bool {
        let neighbour = match self.nodes.upgrade() {
            Some(nodes) if nodes.lost.is_heard() => None,
            // Before we knock: where nobody can answer, that takes all the time there is.
            Some(nodes) if nodes.lost.may_guess(Instant::now()) => return true,
            Some(nodes) => nodes.neighbour(&self.primary.name),
            None => return false,
        };
        let (is_home, is_heard) = tokio::join!(self.knocks(), at(neighbour));
        let Some(nodes) = self.nodes.upgrade() else {
            return false;
        };
        if is_home || is_heard {
            nodes.lost.hear();
        }
        is_home && nodes.lost.is_due(FETCH, Instant::now())
    }
}

async fn after<T>(gap: Duration, question: impl Future<Output = T>) -> T {
    sleep(gap).await;
    question.await
}

async fn at(address: Option<SocketAddr>) -> bool {
    match address {
        Some(address) => Knocker::default().knock(address).await,
        None => false,
    }
}

/// What is known of looking for nodes that `redis` has no connection to.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// A knock was answered, ever: the names of the nodes are addresses that we reach, and who does not answer is away.
    is_heard: AtomicBool,
    fetched: Mutex<Option<Instant>>,
}

/// At most so often is `redis` made to look for a node that is at home: it takes a dial, for which the others wait.
const FETCH: Duration = Duration::from_secs(1);
/// And for one of which that cannot be known, because its address is translated on the way or is a name: it may take the whole of a
/// connection's timeout.
const GUESS: Duration = Duration::from_secs(30);

impl Lost {
    pub(super) fn hear(&self) {
        self.is_heard.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_heard(&self) -> bool {
        self.is_heard.load(Ordering::Relaxed)
    }

    /// Nobody's knock was ever answered, and the last time, or the first question, is long ago.
    fn may_guess(&self, now: Instant) -> bool {
        self.fetched().get_or_insert(now);
        !self.is_heard() && self.is_due(GUESS, now)
    }

    /// Whether the last time is so long ago; then this is the last time.
    fn is_due(&self, gap: Duration, now: Instant) -> bool {
        let mut fetched = self.fetched();
        let is_due = fetched.is_none_or(|last| now.saturating_duration_since(last) >= gap);
        if is_due {
            *fetched = Some(now);
        }
        is_due
    }

    fn fetched(&self) -> MutexGuard<'_, Option<Instant>> {
        lock(&self.fetched)
    }
}

fn lock(at: &Mutex<Option<Instant>>) -> MutexGuard<'_, Option<Instant>> {
    at.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has `redis` make a connection to the primary of `slot`.
async fn fetch(connection: &mut ClusterConnection, slot: u16) -> RedisResult<Value> {
    by_slot(connection, redis::cmd("EXISTS").arg(key_of(slot)), slot).await
}

/// Sends `cmd` to the primary of `slot`, as `redis` knows it.
pub(super) async fn by_slot(
    connection: &mut ClusterConnection,
    cmd: &Cmd,
    slot: u16,
) -> RedisResult<Value> {
    let nowhere = (redis::ErrorKind::Client, "no such slot");
    let slot = Slot::new(slot).ok_or(nowhere)?;
    let route = Route::with_slot(slot, SlotAddr::Master);
    let routing = RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(route));
    connection.route_command(cmd.clone(), routing).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn redis_is_made_to_look_no_more_often_than_so() {
        let (lost, now) = (Lost::default(), Instant::now());
        assert!(lost.is_due(FETCH, now));
        assert!(!lost.is_due(FETCH, now + FETCH / 2));
        assert!(lost.is_due(FETCH, now + FETCH));
        let (lost, mut asked) = (Lost::default(), now);
        assert!(!lost.may_guess(now), "the first question");
        while !lost.may_guess(asked) {
            asked += FETCH;
        }
        assert_eq!(asked - now, GUESS);
        assert!(!lost.may_guess(now + GUESS + GUESS / 2));
        lost.hear();
        assert!(!lost.may_guess(now + GUESS * 9), "known to be away");
    }
}
