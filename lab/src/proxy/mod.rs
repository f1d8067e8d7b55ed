//! A TCP proxy that breaks the network in exactly the way it is told.
//!
//! Owns a listener and its connections. Promises that a mode means what it says from the moment [`Proxy::set`] returns
//! for new connections, and within one poll for open ones, also those blocked in a read or a write; a connection that
//! passes loses and reorders nothing. Leaves the choice of faults to tests. Fails with a [`LabError`] when it cannot
//! bind or switch. Next: [`Mode`]; `gate` for new connections, `pump` for bytes.

mod connection;
mod gate;
mod mode;
mod pump;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::gate::Gate;
pub use self::mode::Mode;
use crate::LabError;
use crate::task::{Owned, own};

/// A proxy in front of one upstream address; ends with this handle.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    _task: Owned,
}

/// Where to listen: an address (a free port is taken) or an address and port.
#[derive(Clone, Copy, Debug)]
pub struct Listen(SocketAddr);

#[derive(Debug)]
struct Shared {
    gate: Gate,
    upstream: Mutex<SocketAddr>,
    modes: Mutex<Modes>,
    counters: Counters,
}

#[derive(Debug)]
struct Modes {
    for_new: Mode,
    next: u64,
    open: HashMap<u64, watch::Sender<Mode>>,
}

#[derive(Debug, Default)]
struct Counters {
    accepts: AtomicU64,
    open: AtomicUsize,
    up: AtomicU64,
    down: AtomicU64,
}

impl Proxy {
    /// Listens on an address of its own.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(upstream: SocketAddr) -> Result<Self, LabError> {
        Self::start_on(crate::ip(), upstream).await
    }

    /// Listens where it is told.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn start_on(
        listen: impl Into<Listen>,
        upstream: SocketAddr,
    ) -> Result<Self, LabError> {
        let Listen(addr) = listen.into();
        let gate = Gate::bind(addr)
            .map_err(|error| LabError::new(format!("cannot listen on {addr}")).because(error))?;
        let modes = Modes {
            for_new: Mode::Pass,
            next: 0,
            open: HashMap::new(),
        };
        let shared = Arc::new(Shared {
            gate,
            upstream: Mutex::new(upstream),
            modes: Mutex::new(modes),
            counters: Counters::default(),
        });
        let task = own(serve(Arc::clone(&shared)));
        Ok(Self {
            shared,
            _task: task,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.shared.gate.addr()
    }

    /// `redis://` and the address.
    pub fn url(&self) -> String {
        format!("redis://{}/", self.addr())
    }

    /// Switches new and open connections.
    pub fn set(&self, mode: Mode) {
        let mut modes = self.shared.modes();
        self.shared.switch_new(&mut modes, mode);
        modes.switch_open(mode);
    }

    /// Switches only connections accepted from now on.
    pub fn set_for_new(&self, mode: Mode) {
        let mut modes = self.shared.modes();
        self.shared.switch_new(&mut modes, mode);
    }

    /// Switches only connections the proxy has accepted by now (a client that has had one answer is surely among them).
    pub fn set_for_old(&self, mode: Mode) {
        self.shared.modes().switch_open(mode);
    }

    /// Sends later connections elsewhere; open ones stay where they are.
    pub fn retarget(&self, upstream: SocketAddr) {
        *self
            .shared
            .upstream
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = upstream;
    }

    /// Connections accepted so far.
    pub fn accepts(&self) -> u64 {
        self.shared.counters.accepts.load(Ordering::Relaxed)
    }

    /// Connections not ended yet. While a mode holds them, one which the client closed still counts: nobody has read
    /// its end.
    pub fn open_connections(&self) -> usize {
        self.shared.counters.open.load(Ordering::Relaxed)
    }

    /// Bytes handed to the server so far.
    pub fn bytes_up(&self) -> u64 {
        self.shared.counters.up.load(Ordering::Relaxed)
    }

    /// Bytes handed to clients so far.
    pub fn bytes_down(&self) -> u64 {
        self.shared.counters.down.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn modes(&self) -> MutexGuard<'_, Modes> {
        self.modes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn switch_new(&self, modes: &mut Modes, mode: Mode) {
        if let Err(error) = self.gate.switch(mode.door()) {
            panic!("the proxy cannot switch to {mode:?}: {error}");
        }
        modes.for_new = mode;
    }
}

impl Modes {
    fn switch_open(&mut self, mode: Mode) {
        let Some(mode) = mode.for_open() else {
            return;
        };
        for sender in self.open.values() {
            sender.send_replace(mode);
        }
    }
}

/// Strikes a connection off the list, however it ended.
struct Listed {
    id: u64,
    shared: Arc<Shared>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.shared.modes().open.remove(&self.id);
        self.shared.counters.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(shared: Arc<Shared>) {
    let mut ear = shared.gate.ear();
    let mut carried = JoinSet::new();
    loop {
        let client = tokio::select! {
            client = shared.gate.accept(&mut ear) => client,
            Some(_) = carried.join_next() => continue,
        };
        let (listed, mode) = admit(&shared);
        carried.spawn(carry(client, listed, mode));
    }
}

/// Registers an accepted connection under the mode for new ones.
fn admit(shared: &Arc<Shared>) -> (Listed, watch::Receiver<Mode>) {
    let mut modes = shared.modes();
    let id = modes.next;
    modes.next += 1;
    // Accepted at the very moment of a switch to a closed door: it is an open connection then.
    let mode = modes.for_new.for_open().unwrap_or(Mode::Pass);
    let sender = watch::Sender::new(mode);
    let receiver = sender.subscribe();
    modes.open.insert(id, sender);
    drop(modes);
    shared.counters.accepts.fetch_add(1, Ordering::Relaxed);
    shared.counters.open.fetch_add(1, Ordering::Relaxed);
    let shared = Arc::clone(shared);
    (Listed { id, shared }, receiver)
}

async fn carry(client: TcpStream, listed: Listed, mode: watch::Receiver<Mode>) {
    connection::carry(client, &listed.shared, mode).await;
}

impl Listen {
    pub(crate) fn addr(self) -> SocketAddr {
        self.0
    }
}

impl From<SocketAddr> for Listen {
    fn from(addr: SocketAddr) -> Self {
        Self(addr)
    }
}

impl From<IpAddr> for Listen {
    fn from(ip: IpAddr) -> Self {
        Self((ip, 0).into())
    }
}

impl From<Ipv4Addr> for Listen {
    fn from(ip: Ipv4Addr) -> Self {
        Self((ip, 0).into())
    }
}
