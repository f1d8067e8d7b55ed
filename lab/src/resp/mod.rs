//! An embedded RESP2/RESP3 server, for where no real one can be had, and a scripted fake for hostile tests.
//!
//! Owns the listener and the connections. Promises enough of Redis for a client's handshake, the string commands and
//! MULTI, and for a cluster of one; frozen, it neither accepts nor answers while the kernel goes on completing connections, as a stopped Redis
//! does; given a service time, it has a capacity, and a line before it. Leaves truth to real servers ([`crate::server`]). Fails with a [`LabError`] when it cannot bind.

mod desk;
mod fake;
mod session;
mod store;
pub(crate) mod wire;
mod world;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

pub use self::fake::RespFake;
use self::session::Session;
use self::wire::{Reply, take_command};
use self::world::World;
use crate::LabError;
use crate::proxy::Listen;
use crate::task::{Owned, own};

/// A small Redis inside this process; ends with this handle.
#[derive(Debug)]
pub struct Embedded {
    addr: SocketAddr,
    world: Arc<World>,
    frozen: watch::Sender<bool>,
    task: Owned,
}

impl Embedded {
    /// Listens on an address of its own.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> Result<Self, LabError> {
        Self::start_on(crate::ip()).await
    }

    /// Listens where it is told.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn start_on(listen: impl Into<Listen>) -> Result<Self, LabError> {
        let wanted = listen.into().addr();
        let cannot = |error: std::io::Error| {
            LabError::new(format!("cannot listen on {wanted}")).because(error)
        };
        let listener = TcpListener::bind(wanted).await.map_err(cannot)?;
        let addr = listener.local_addr().map_err(cannot)?;
        let world = Arc::new(World::at(addr));
        let frozen = watch::Sender::new(false);
        let task = own(serve(listener, Arc::clone(&world), frozen.subscribe()));
        Ok(Self {
            addr,
            world,
            frozen,
            task,
        })
    }

    /// As [`start`](Self::start), but a replica of the one at `primary` by its own word: it says so and refuses writes.
    /// Nothing is replicated.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start_replica(primary: SocketAddr) -> Result<Self, LabError> {
        let made = Self::start().await?;
        made.world.follow(primary);
        Ok(made)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `redis://` and the address.
    pub fn url(&self) -> String {
        format!("redis://{}/", self.addr)
    }

    /// Accepts nothing and answers nothing from now on.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// Goes on with whatever has piled up.
    pub fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    /// Takes so long over each command from now on, one command at a time for all connections: a capacity of one in `takes`. Who gives up
    /// waiting keeps his place in the line. Zero is as quick as it can be.
    pub fn set_service_time(&self, takes: Duration) {
        self.world.set_service_time(takes);
    }

    /// How long a command that came now would stand in line.
    pub fn line(&self) -> Duration {
        self.world.line()
    }

    /// Connections accepted so far.
    pub fn accepts(&self) -> u64 {
        self.world.accepts()
    }

    /// Connections open now.
    pub fn clients(&self) -> usize {
        self.world.clients()
    }

    /// Closes everything and waits until the port is free.
    pub async fn stop(self) {
        let Self { task, .. } = self;
        task.stop().await;
    }
}

async fn serve(listener: TcpListener, world: Arc<World>, mut frozen: watch::Receiver<bool>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = accept(&listener, &mut frozen) => {
                if let Some((stream, peer)) = accepted {
                    let session = Session::new(Arc::clone(&world), peer);
                    open.spawn(talk(stream, session, frozen.clone()));
                }
            }
            Some(_) = open.join_next() => {}
        }
    }
}

async fn accept(
    listener: &TcpListener,
    frozen: &mut watch::Receiver<bool>,
) -> Option<(TcpStream, SocketAddr)> {
    awake(frozen).await;
    tokio::select! {
        biased;
        _ = frozen.changed() => None,
        accepted = listener.accept() => accepted.ok(),
    }
}

async fn talk(mut stream: TcpStream, mut session: Session, mut frozen: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let killed = Arc::clone(&session.killed);
    let (mut input, mut line) = (BytesMut::new(), Line::default());
    while !(session.quit && line.0.is_empty()) {
        tokio::select! {
            read = stream.read_buf(&mut input), if !session.quit => {
                // Read but not looked at: a stopped process has not seen it.
                awake(&mut frozen).await;
                if !matches!(read, Ok(1..)) {
                    return;
                }
                session.hear(&mut input, &mut line);
            }
            () = line.moves() => {}
            () = killed.notified() => return,
        }
        awake(&mut frozen).await;
        let out = line.done(Instant::now());
        let written = tokio::select! {
            written = stream.write_all(&out) => written.is_ok(),
            () = killed.notified() => false,
        };
        if !written {
            return;
        }
    }
}

/// Replies of one connection, and when each is due.
#[derive(Default)]
struct Line(VecDeque<(Instant, Vec<u8>)>);

impl Line {
    /// Waits until the first reply is due; for ever where there is none.
    async fn moves(&self) {
        match self.0.front() {
            Some((due, _)) => sleep_until(*due).await,
            None => std::future::pending().await,
        }
    }

    /// Takes out what is due at `now`.
    fn done(&mut self, now: Instant) -> Vec<u8> {
        let due = self.0.partition_point(|(due, _)| *due <= now);
        self.0.drain(..due).flat_map(|(_, reply)| reply).collect()
    }
}

impl Session {
    /// Answers what has come in whole.
    fn hear(&mut self, input: &mut BytesMut, line: &mut Line) {
        while !self.quit {
            let mut out = Vec::new();
            match take_command(input) {
                Ok(None) => return,
                Ok(Some(words)) if words.is_empty() => continue,
                Ok(Some(words)) => self.answer(words).write(&mut out, self.resp3),
                Err(why) => {
                    Reply::error(format!("ERR Protocol error: {why}")).write(&mut out, false);
                    self.quit = true;
                }
            }
            line.0.push_back((self.done(), out));
        }
    }
}

async fn awake(frozen: &mut watch::Receiver<bool>) {
    // Without a sender the server is going away, and this task with it.
    let _ = frozen.wait_for(|frozen| !frozen).await;
}
