//! A server at the other end of a pipe: it says which question it answers, and is cut, late, and slow to speak as it pleases.
//!
//! Owns [`World`], what all its connections share, and [`Pipes`], the connector that reaches it. Promises one reply per command, in
//! order, with pushes in between where they are wanted; a killed connection answers nothing more. Leaves judging to the storm.
//! Fails by closing: bytes that are no command are counted as garbage.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::watch,
};

use super::{Arc, Duration, sleep};
use crate::{
    Error,
    layer::Connect,
    net::link::{Link, handshake::handshake},
    net::reach::connect::{Attempt, Dial},
    task::{Owned, spawn_owned},
};

/// What `GET key` answers.
pub(super) fn of_key(key: &[u8]) -> String {
    format!("of {}", String::from_utf8_lossy(key))
}

/// What the connections of the server share.
#[derive(Debug)]
pub(crate) struct World {
    with_pushes: bool,
    behaves: AtomicBool,
    hushed: watch::Sender<bool>,
    open: Mutex<HashMap<u64, Owned>>,
    connections: AtomicU64,
    commands: AtomicU64,
    pushes: AtomicU64,
    cuts: AtomicU64,
    sliced: AtomicU64,
    garbage: AtomicU64,
}

impl World {
    pub(crate) fn new(with_pushes: bool) -> Self {
        Self {
            with_pushes,
            behaves: AtomicBool::new(false),
            hushed: watch::Sender::new(false),
            open: Mutex::default(),
            connections: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            pushes: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            sliced: AtomicU64::new(0),
            garbage: AtomicU64::new(0),
        }
    }

    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// Commands read, answered or not.
    pub(super) fn commands(&self) -> u64 {
        self.commands.load(Relaxed)
    }

    pub(super) fn pushes(&self) -> u64 {
        self.pushes.load(Relaxed)
    }

    pub(super) fn cuts(&self) -> u64 {
        self.cuts.load(Relaxed)
    }

    /// Answers that were given a byte at a time.
    pub(super) fn sliced(&self) -> u64 {
        self.sliced.load(Relaxed)
    }

    pub(super) fn garbage(&self) -> u64 {
        self.garbage.load(Relaxed)
    }

    /// No cuts, slices and delays any more.
    pub(crate) fn behave(&self) {
        self.behaves.store(true, Relaxed);
    }

    /// Reads, and says nothing.
    pub(super) fn hush(&self) {
        self.hushed.send_replace(true);
    }

    pub(super) fn speak(&self) {
        self.hushed.send_replace(false);
    }

    /// Ends every connection.
    pub(super) fn close(&self) {
        self.open().clear();
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Owned>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects to a [`World`].
#[derive(Clone)]
pub(crate) struct Pipes(Arc<World>);

impl Pipes {
    pub(crate) fn to(world: &Arc<World>) -> Self {
        Self(world.clone())
    }
}

impl Connect for Pipes {}

impl Dial for Pipes {
    type Wire = Link;

    fn connect(
        &self,
        attempt: Attempt,
    ) -> impl Future<Output = Result<Link, Error>> + Send + 'static {
        let world = self.0.clone();
        async move {
            let behaves = world.behaves.load(Relaxed);
            let size = if behaves { 16 } else { fastrand::u32(4..=16) };
            let (near, far) = duplex(1 << size);
            let id = world.connections.fetch_add(1, Relaxed);
            let peer = Peer {
                id,
                world: world.clone(),
                resp3: false,
                greeted: false,
                queued: None,
            };
            let task = spawn_owned(&attempt.runtime, peer.serve(far));
            world.open().insert(id, task);
            attempt.stage.established();
            let (start, greeting) = handshake(near, &attempt.introduction).await?;
            Ok(Link::spawn(
                start,
                greeting,
                attempt.address,
                &attempt.pace,
                &attempt.runtime,
            ))
        }
    }
}

/// One connection.
struct Peer {
    id: u64,
    world: Arc<World>,
    resp3: bool,
    /// It has read the whole introduction, which is written before any of its answers is read: no pipe here holds either.
    greeted: bool,
    /// Replies of the commands between MULTI and EXEC.
    queued: Option<Vec<Vec<u8>>>,
}

/// What a connection does with its next answers.
enum Whim {
    Plain,
    /// One byte at a time.
    Slices,
    /// So late, in the middle.
    Late(Duration),
    /// Cut in the middle.
    Cut,
}

impl Peer {
    async fn serve(mut self, mut pipe: DuplexStream) {
        let (mut inbox, mut out) = (BytesMut::new(), Vec::new());
        let mut hushed = self.world.hushed.subscribe();
        loop {
            let read = tokio::select! {
                read = pipe.read_buf(&mut inbox) => read.unwrap_or(0),
                // To say what it has kept to itself.
                Ok(()) = hushed.changed() => 1,
            };
            if read == 0 {
                return;
            }
            loop {
                match take(&mut inbox) {
                    Ok(Some(words)) => self.hear(&words, &mut out),
                    Ok(None) => break,
                    Err(Garbage) => {
                        self.world.garbage.fetch_add(1, Relaxed);
                        return;
                    }
                }
            }
            if *hushed.borrow_and_update() || !self.greeted {
                continue;
            }
            if !self.say(&mut pipe, &out).await {
                self.world.cuts.fetch_add(1, Relaxed);
                return;
            }
            out.clear();
        }
    }

    /// Writes, as the whim of the moment is. Says whether the connection goes on.
    async fn say(&self, pipe: &mut DuplexStream, out: &[u8]) -> bool {
        let middle = fastrand::usize(0..=out.len());
        let (first, rest) = out.split_at(middle);
        match self.whim() {
            Whim::Plain => return pipe.write_all(out).await.is_ok(),
            Whim::Slices => {
                self.world.sliced.fetch_add(1, Relaxed);
                for byte in out {
                    if pipe.write_all(&[*byte]).await.is_err() {
                        return false;
                    }
                    tokio::task::yield_now().await;
                }
                return true;
            }
            Whim::Late(by) => {
                let _ = pipe.write_all(first).await;
                sleep(by).await;
                return pipe.write_all(rest).await.is_ok();
            }
            Whim::Cut => {
                let _ = pipe.write_all(first).await;
            }
        }
        false
    }

    fn whim(&self) -> Whim {
        if self.world.behaves.load(Relaxed) {
            return Whim::Plain;
        }
        match fastrand::u32(0..4000) {
            // Once in some thousand operations: a peer that cuts each link sooner than we dial the next serves nobody, whoever calls it.
            0..8 => Whim::Cut,
            // Long enough for a probe and a swap, now and then for a verdict.
            8..10 => Whim::Late(Duration::from_millis(fastrand::u64(10..700))),
            10..120 => Whim::Late(Duration::from_micros(fastrand::u64(100..5_000))),
            120..160 => Whim::Slices,
            _ => Whim::Plain,
        }
    }

    fn hear(&mut self, words: &[Vec<u8>], out: &mut Vec<u8>) {
        if self.world.with_pushes && self.resp3 && fastrand::u8(..) < 64 {
            out.extend(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n");
            self.world.pushes.fetch_add(1, Relaxed);
        }
        self.world.commands.fetch_add(1, Relaxed);
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        match words.as_slice() {
            [b"MULTI"] => {
                self.queued = Some(Vec::new());
                out.extend(b"+OK\r\n");
            }
            [b"EXEC"] => {
                let replies = self.queued.take().unwrap_or_default();
                out.extend(format!("*{}\r\n", replies.len()).into_bytes());
                out.extend(replies.concat());
            }
            words => {
                let reply = self.answer(words);
                match &mut self.queued {
                    Some(queued) => {
                        queued.push(reply);
                        out.extend(b"+QUEUED\r\n");
                    }
                    None => out.extend(reply),
                }
            }
        }
    }

    fn answer(&mut self, words: &[&[u8]]) -> Vec<u8> {
        match words {
            [b"ECHO", word] => bulk(word),
            [b"GET", key] => bulk(of_key(key).as_bytes()),
            [b"INCRBY", _, number] => [b":".as_slice(), number, b"\r\n"].concat(),
            [b"PING"] => {
                self.greeted = true;
                b"+PONG\r\n".to_vec()
            }
            [b"HELLO", ..] => {
                self.resp3 = true;
                b"%1\r\n+proto\r\n:3\r\n".to_vec()
            }
            [b"CLIENT", b"INFO"] => bulk(format!("id={} addr=1.1.1.1:1", self.id).as_bytes()),
            [b"CLIENT", b"LIST", ..] => bulk(b""),
            [b"CLIENT", b"KILL", b"ID", id, ..] => {
                let id = String::from_utf8_lossy(id).parse().unwrap_or(u64::MAX);
                drop(self.world.open().remove(&id));
                b":1\r\n".to_vec()
            }
            [b"INFO", b"server"] => bulk(b"redis_version:9\r\nrun_id:storm\r\n"),
            [b"INFO", ..] => bulk(b"role:master\r\nmaster_replid:storm\r\n"),
            _ => b"+OK\r\n".to_vec(),
        }
    }
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    let mut reply = format!("${}\r\n", bytes.len()).into_bytes();
    reply.extend(bytes);
    reply.extend(b"\r\n");
    reply
}

/// Not a command.
struct Garbage;

/// The next whole command, if it is there.
fn take(inbox: &mut BytesMut) -> Result<Option<Vec<Vec<u8>>>, Garbage> {
    let mut at = 0;
    let Some(count) = number(inbox, &mut at, b'*')? else {
        return Ok(None);
    };
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let Some(length) = number(inbox, &mut at, b'$')? else {
            return Ok(None);
        };
        let Some(word) = inbox.get(at..at + length + 2) else {
            return Ok(None);
        };
        words.push(word.strip_suffix(b"\r\n").ok_or(Garbage)?.to_vec());
        at += length + 2;
    }
    inbox.advance(at);
    Ok(Some(words))
}

fn number(inbox: &[u8], at: &mut usize, mark: u8) -> Result<Option<usize>, Garbage> {
    let rest = inbox.get(*at..).unwrap_or_default();
    let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
        return Ok(None);
    };
    let digits = rest
        .get(..end)
        .and_then(|line| line.strip_prefix(&[mark]))
        .ok_or(Garbage)?;
    *at += end + 2;
    let digits = std::str::from_utf8(digits).map_err(|_| Garbage)?;
    digits.parse().map(Some).map_err(|_| Garbage)
}
