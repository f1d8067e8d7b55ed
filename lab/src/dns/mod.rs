//! A DNS server that says what the test wrote, over UDP and TCP, on loopback and any port.
//!
//! Owns its sockets and the script. Promises that [`Dns::set`] is in force for every query that arrives after it
//! returned. Leaves resolving to the client under test. Fails with a [`LabError`] when it cannot bind; a malformed
//! query is ignored. Next: [`Answer`]; `wire` for the bytes.

mod script;
mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use self::script::{Answer, Asked};
use self::script::{Plan, Script};
use self::wire::Question;
use crate::LabError;
use crate::task::{Owned, own};

/// A scripted DNS server; ends with this handle. A name without an answer of its own is NXDOMAIN.
#[derive(Debug)]
pub struct Dns {
    addr: SocketAddr,
    script: Arc<Mutex<Script>>,
    _udp: Owned,
    _tcp: Owned,
}

impl Dns {
    /// Listens on an address of its own.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> Result<Self, LabError> {
        Self::start_on((crate::ip(), 0)).await
    }

    /// Listens where it is told; port 53 for `getaddrinfo`, 0 for a free port.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn start_on(addr: impl Into<SocketAddr>) -> Result<Self, LabError> {
        let addr = addr.into();
        let (udp, tcp) = bind(addr)
            .await
            .map_err(|error| LabError::new(format!("no DNS server on {addr}")).because(error))?;
        let addr = udp.local_addr().unwrap_or(addr);
        let script = Arc::new(Mutex::new(Script::new()));
        Ok(Self {
            addr,
            _udp: own(serve_udp(Arc::new(udp), Arc::clone(&script))),
            _tcp: own(serve_tcp(tcp, Arc::clone(&script))),
            script,
        })
    }

    /// Where it listens, UDP and TCP alike.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What to say about `name` from now on; case and a trailing dot do not matter.
    pub fn set(&self, name: &str, answer: Answer) {
        lock(&self.script).set(name, answer);
    }

    /// What to say about every other name.
    pub fn default(&self, answer: Answer) {
        lock(&self.script).fall_back(answer);
    }

    /// Queries for `name` so far, of every type.
    pub fn queries(&self, name: &str) -> u64 {
        lock(&self.script).count(name).0
    }

    /// A queries for `name` so far.
    pub fn lookups(&self, name: &str) -> u64 {
        lock(&self.script).count(name).1
    }

    /// Every query so far (the first 200,000).
    pub fn query_log(&self) -> Vec<Asked> {
        lock(&self.script).log()
    }
}

async fn bind(addr: SocketAddr) -> std::io::Result<(UdpSocket, TcpListener)> {
    let mut last = None;
    // A free UDP port may be taken over TCP.
    for _ in 0..16 {
        let udp = UdpSocket::bind(addr).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()))
}

async fn serve_udp(socket: Arc<UdpSocket>, script: Arc<Mutex<Script>>) {
    let mut late = JoinSet::new();
    let mut packet = [0_u8; 4096];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut packet) => received,
            Some(_) = late.join_next() => continue,
        };
        let Ok((size, peer)) = received else {
            continue;
        };
        let Some((wait, reply)) = respond(packet.get(..size).unwrap_or_default(), &script, false)
        else {
            continue;
        };
        if wait.is_zero() {
            let _ = socket.send_to(&reply, peer).await;
        } else if late.len() < LATE_MOST {
            let socket = Arc::clone(&socket);
            late.spawn(async move {
                sleep(wait).await;
                let _ = socket.send_to(&reply, peer).await;
            });
        }
    }
}

async fn serve_tcp(listener: TcpListener, script: Arc<Mutex<Script>>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if open.len() < LATE_MOST => {
                    open.spawn(timeout(IDLE, talk(stream, Arc::clone(&script))));
                }
                _ => sleep(Duration::from_millis(1)).await,
            },
            Some(_) = open.join_next() => {}
        }
    }
}

/// Length-prefixed messages, one after the other.
async fn talk(mut stream: TcpStream, script: Arc<Mutex<Script>>) -> std::io::Result<()> {
    loop {
        let size = stream.read_u16().await?;
        let mut message = vec![0; usize::from(size)];
        stream.read_exact(&mut message).await?;
        let Some((wait, reply)) = respond(&message, &script, true) else {
            continue;
        };
        sleep(wait).await;
        let mut out = u16::try_from(reply.len())
            .unwrap_or(0)
            .to_be_bytes()
            .to_vec();
        out.extend(reply);
        stream.write_all(&out).await?;
    }
}

fn respond(message: &[u8], script: &Mutex<Script>, tcp: bool) -> Option<(Duration, Vec<u8>)> {
    let question = Question::parse(message)?;
    let Plan { wait, response } = lock(script).plan(&question, tcp);
    Some((wait, question.encode(&response?)))
}

fn lock(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Replies and connections held at once; more are dropped.
const LATE_MOST: usize = 4096;
const IDLE: Duration = Duration::from_secs(120);
