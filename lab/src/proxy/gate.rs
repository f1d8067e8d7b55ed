//! The listening socket: open, refusing or deaf, switched without ever giving up the port.
//!
//! Owns the socket and the connects that fill its backlog. Promises that a switch has happened when [`Gate::switch`]
//! returns, with no instant of another behaviour in between: refusing is `shutdown` on the listener and hearing again
//! is `listen` (Linux keeps an explicitly bound port through both), deaf is a backlog of 0 filled by our own
//! connects, so that the kernel drops every further SYN. Leaves bytes to [`super::pump`]. Fails with `io::Error`.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::mode::Door;
use crate::net::free_port;

/// The door of a proxy.
#[derive(Debug)]
pub(super) struct Gate {
    socket: Socket,
    addr: SocketAddr,
    state: Mutex<State>,
    door: watch::Sender<Door>,
}

/// The accepting side of a gate.
pub(super) struct Ear {
    door: watch::Receiver<Door>,
    listener: Option<TcpListener>,
}

#[derive(Debug)]
struct State {
    door: Door,
    fillers: VecDeque<Socket>,
}

impl Gate {
    /// Binds; port 0 means a free one.
    pub(super) fn bind(addr: SocketAddr) -> io::Result<Self> {
        // A port asked for by number survives `shutdown` and `listen`; one the kernel picked does not.
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..16 {
            let exact = match addr.port() {
                0 => free_port(addr.ip())?,
                _ => addr,
            };
            match Self::bind_exactly(exact) {
                Ok(gate) => return Ok(gate),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn bind_exactly(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        let state = State {
            door: Door::Open,
            fillers: VecDeque::new(),
        };
        Ok(Self {
            socket,
            addr,
            state: Mutex::new(state),
            door: watch::Sender::new(Door::Open),
        })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Done when it returns.
    pub(super) fn switch(&self, door: Door) -> io::Result<()> {
        // The lock keeps the accepting task out while the backlog changes under it.
        let mut state = self.lock();
        if state.door == door {
            return Ok(());
        }
        match door {
            Door::Open => self.socket.listen(BACKLOG)?,
            Door::Refusing => self.socket.shutdown(Shutdown::Both)?,
            Door::Deaf => {
                self.socket.listen(0)?;
                for _ in 0..FILLERS {
                    state.fillers.push_back(self.filler()?);
                }
            }
        }
        if door != Door::Deaf {
            state.fillers.clear();
        }
        state.door = door;
        drop(state);
        self.door.send_replace(door);
        Ok(())
    }

    /// The one who accepts.
    pub(super) fn ear(&self) -> Ear {
        Ear {
            door: self.door.subscribe(),
            listener: None,
        }
    }

    /// The next connection; pending while the door is not open.
    pub(super) async fn accept(&self, ear: &mut Ear) -> TcpStream {
        let Ear { door, listener } = ear;
        loop {
            if door.has_changed().unwrap_or(false) {
                // Dropped, not kept: a refusing socket hangs up, and tokio never forgets a hang-up.
                *listener = None;
            }
            if *door.borrow_and_update() != Door::Open {
                if door.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                *listener = None;
                continue;
            }
            let accepted = tokio::select! {
                biased;
                _ = door.changed() => {
                    *listener = None;
                    continue;
                }
                accepted = self.accept_open(listener) => accepted,
            };
            match accepted {
                Ok((stream, peer)) if peer.ip() != FILLER => return stream,
                Ok(_) => {}
                // Descriptors ran out, or the door is just closing: look again soon, with a fresh registration.
                Err(_) => {
                    *listener = None;
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                }
            }
        }
    }

    async fn accept_open(
        &self,
        listener: &mut Option<TcpListener>,
    ) -> io::Result<(TcpStream, SocketAddr)> {
        if listener.is_none() {
            *listener = Some(TcpListener::from_std(self.socket.try_clone()?.into())?);
        }
        let listener = listener.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        std::future::poll_fn(|context| {
            let state = self.lock();
            match state.door {
                Door::Open => listener.poll_accept(context),
                // The watch wakes us.
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// One connect of our own, known by its source address and never waited for.
    fn filler(&self) -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(self.addr),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_nonblocking(true)?;
        // Fails on an IPv6 proxy: none of ours could be told from a client there.
        socket.bind(&SockAddr::from(SocketAddr::new(FILLER, 0)))?;
        let _ = socket.connect(&self.addr.into());
        Ok(socket)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const BACKLOG: i32 = 1024;
/// One fills a backlog of 0 (the kernel allows one more than it says); two more wait for a place, should one come free.
const FILLERS: usize = 3;
const FILLER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 255, 255, 254));
