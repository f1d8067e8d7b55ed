//! What all connections of an embedded server share: the keys and the list of who is connected.
//!
//! Owns both, under one lock that is never held across an await. Promises ids that grow and are never used again, as
//! in Redis. Leaves commands to [`super::session`]. Cannot fail. Next: [`super::store`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::desk::Desk;
use super::store::Store;
use super::wire::Reply;

/// The shared state.
#[derive(Debug)]
pub(super) struct World {
    pub(super) addr: String,
    primary: OnceLock<SocketAddr>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    store: Store,
    desk: Desk,
    clients: BTreeMap<u64, Client>,
    /// Also how many ever came.
    last: u64,
}

#[derive(Debug)]
struct Client {
    peer: SocketAddr,
    name: String,
    killed: Arc<Notify>,
}

impl World {
    pub(super) fn at(addr: SocketAddr) -> Self {
        Self {
            addr: addr.to_string(),
            primary: OnceLock::new(),
            state: Mutex::default(),
        }
    }

    /// From now on a replica by its own word.
    pub(super) fn follow(&self, primary: SocketAddr) {
        let _ = self.primary.set(primary);
    }

    /// Whom it follows, if it is a replica.
    pub(super) fn primary(&self) -> Option<SocketAddr> {
        self.primary.get().copied()
    }

    pub(super) fn clients(&self) -> usize {
        self.lock().clients.len()
    }

    pub(super) fn accepts(&self) -> u64 {
        self.lock().last
    }

    /// How long each command takes from now on.
    pub(super) fn set_service_time(&self, takes: Duration) {
        self.lock().desk.takes = takes;
    }

    /// When a command that comes now is done.
    pub(super) fn done(&self) -> Instant {
        self.lock().desk.done(Instant::now())
    }

    /// How long a command that comes now would wait.
    pub(super) fn line(&self) -> Duration {
        self.lock().desk.line(Instant::now())
    }

    /// A new connection's id, and how it will hear that it is killed.
    pub(super) fn enter(&self, peer: SocketAddr) -> (u64, Arc<Notify>) {
        let killed = Arc::new(Notify::new());
        let client = Client {
            peer,
            name: String::new(),
            killed: Arc::clone(&killed),
        };
        let mut state = self.lock();
        state.last += 1;
        let id = state.last;
        state.clients.insert(id, client);
        (id, killed)
    }

    pub(super) fn leave(&self, id: u64) {
        self.lock().clients.remove(&id);
    }

    pub(super) fn rename(&self, id: u64, name: String) {
        if let Some(client) = self.lock().clients.get_mut(&id) {
            client.name = name;
        }
    }

    pub(super) fn name_of(&self, id: u64) -> String {
        let state = self.lock();
        let client = state.clients.get(&id);
        client.map(|client| client.name.clone()).unwrap_or_default()
    }

    /// Kills every connection but `me` that fits all that is given, and says how many.
    pub(super) fn kill(&self, me: u64, id: Option<u64>, addr: Option<&str>) -> i64 {
        let state = self.lock();
        let mut killed = 0;
        for (number, client) in &state.clients {
            let fits = id.is_none_or(|id| id == *number)
                && addr.is_none_or(|addr| addr == client.peer.to_string());
            if fits && *number != me {
                client.killed.notify_one();
                killed += 1;
            }
        }
        killed
    }

    /// The lines of `CLIENT LIST`, or of some of them.
    pub(super) fn list(&self, only: Option<&[u64]>) -> String {
        let state = self.lock();
        let chosen = state
            .clients
            .iter()
            .filter(|(id, _)| only.is_none_or(|only| only.contains(id)));
        chosen.fold(String::new(), |text, (id, client)| {
            let Client { peer, name, .. } = client;
            let laddr = &self.addr;
            text + &format!(
                "id={id} addr={peer} laddr={laddr} fd=8 name={name} age=0 idle=0 flags=N db=0 cmd=client user=default\n"
            )
        })
    }

    /// Carries out a command on keys; `None` when it is not one of these.
    pub(super) fn apply(&self, name: &str, args: &[Vec<u8>]) -> Option<Reply> {
        if self.primary().is_some() && WRITES.contains(&name) {
            return Some(Reply::error(
                "READONLY You can't write against a read only replica.",
            ));
        }
        self.lock().store.apply(name, args, Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const WRITES: [&str; 9] = [
    "SET", "DEL", "UNLINK", "INCR", "INCRBY", "MSET", "EXPIRE", "FLUSHALL", "FLUSHDB",
];
