//! Drives one socket: takes jobs from the mailbox, writes them in batches, matches replies in order, and notices silence.
//!
//! Owns the socket of one link, in one task. Promises: reads and writes advance together, so that neither can starve the other;
//! silence is judged only after a read found nothing; whatever ends it, every job that it held gets its outcome, with the truth
//! about whether a byte of it was sent. Leaves retries, probes and swaps to `channel`.
//! Fails by ending: [`LinkState::Dead`] says why. Where to look next: [`owed`](super::owed), [`outbox`](super::outbox), [`clock`](super::clock).

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use redis::Value;
use tokio::{sync::watch, time::Instant};
use tokio_util::io::poll_read_buf;

use super::{
    LinkState, Pace, Post,
    clock::Clock,
    codec::{Decoder, Frame},
    gather::{Gather, Scene},
    job::{Job, Origin, Sent},
    mailbox::{Mailbox, Retire},
    outbox::Outbox,
    owed::Owed,
    socket::Socket,
};
use crate::{Error, ErrorKind, Phase};

const READ_CHUNK: usize = 64 * 1024;
/// Work per poll before other tasks of the runtime get their turn.
const READS_PER_TURN: usize = 16;
const FRAMES_PER_TURN: usize = 4096;
pub(crate) const ROUNDS_PER_TURN: usize = 16;
/// A link so young was asked for its role a moment ago: an error inside a reply may be a script's own, and no script may make us swap
/// links all day.
pub(crate) const SETTLING: Duration = Duration::from_secs(1);
const PING: Bytes = Bytes::from_static(b"*1\r\n$4\r\nPING\r\n");

/// What a driver starts from: a socket whose handshake is done.
pub(crate) struct Start<S> {
    pub(crate) socket: S,
    pub(crate) decoder: Decoder,
    /// Bytes read beyond the handshake.
    pub(crate) inbox: BytesMut,
    /// Replies still to come for commands that the handshake sent.
    pub(crate) owed: usize,
}

pub(crate) struct Driver<S: Socket> {
    socket: S,
    decoder: Decoder,
    inbox: BytesMut,
    outbox: Outbox,
    owed: Owed,
    batch: VecDeque<Arc<Job>>,
    mailbox: Arc<Mailbox>,
    origin: Arc<Origin>,
    clock: Clock,
    pace: Arc<Pace>,
    state: watch::Sender<LinkState>,
    born: Instant,
    write_blocked: bool,
    gather: Gather,
    retiring: bool,
    over: bool,
}

/// Why a driver ends.
pub(crate) enum Exit {
    /// The peer or the kernel ended the connection.
    Lost(io::Error),
    /// The peer broke the protocol.
    Protocol(Error),
    /// No sign of life for `detect_within`.
    Silent,
    /// Retired, and nothing is left to do.
    Retired,
    /// Retired by force.
    Aborted(Error),
}

impl Exit {
    /// What it is to those who wait, and whether it was the peer's doing.
    pub(crate) fn told(self, pace: &Pace) -> (Error, bool) {
        match self {
            Self::Lost(error) => (pace.lost(lost(&error)).because(error), true),
            Self::Protocol(error) => (error.at(&pace.endpoint), true),
            Self::Silent => (pace.lost("server silent"), false),
            Self::Retired => (pace.lost("connection is being replaced"), false),
            Self::Aborted(error) => (error, false),
        }
    }
}

/// Whether a read found the socket empty.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Drained,
    MoreToCome,
}

impl<S: Socket> Driver<S> {
    pub(crate) fn new(start: Start<S>, post: Post) -> Self {
        let Post {
            origin,
            mailbox,
            pace,
            state,
        } = post;
        let now = Instant::now();
        let mut owed = Owed::new(origin.clone(), pace.primary_only);
        let mut clock = Clock::new(&pace, now);
        if start.owed > 0 {
            owed.push_internal(0, start.owed);
            clock.owe(now);
        }
        Self {
            socket: start.socket,
            decoder: start.decoder,
            inbox: start.inbox,
            outbox: Outbox::default(),
            owed,
            batch: VecDeque::new(),
            mailbox,
            origin,
            clock,
            pace,
            state,
            born: now,
            write_blocked: false,
            gather: Gather::default(),
            retiring: false,
            over: false,
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), Exit> {
        let now = Instant::now();
        // While some of those who were answered are still to be woken, the server is given what the others ask first.
        let goes_on = self.owed.wakes_more();
        let read = self.read(cx, now)?;
        let served = self.owed.take_served();
        if served > 0 {
            self.pace.serve(served);
        }
        let wakes_more = goes_on || self.owed.wake(now);
        if self.gather(cx, served, wakes_more) {
            return Ok(());
        }
        let mut more = wakes_more || read == Read::MoreToCome;
        for round in 0..ROUNDS_PER_TURN {
            let left = self.fill(cx, now)?;
            self.write(cx, now)?;
            if !left || self.write_blocked {
                break;
            }
            more |= round + 1 == ROUNDS_PER_TURN;
        }
        if goes_on {
            // After the write: the server is at work for the last flock while this one is.
            self.owed.wake(now);
        }
        self.judge(cx, now, read)?;
        if self.retiring && self.is_done() {
            return Err(Exit::Retired);
        }
        if more {
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    /// Says whether this turn ends here, so that callers who are about to come share the next write.
    fn gather(&mut self, cx: &mut Context<'_>, served: u32, wakes_more: bool) -> bool {
        let waits = self.gather.waits(Scene {
            served,
            owes: !self.owed.is_empty(),
            wakes_more,
            is_blocked: self.outbox.waiting() > 0,
        });
        if waits {
            cx.waker().wake_by_ref();
        }
        waits
    }

    fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Read, Exit> {
        let mut frames = 0;
        self.decode(&mut frames)?;
        if frames > 0 {
            // Read in an earlier turn, answered in this one.
            self.progress(now);
        }
        for _ in 0..READS_PER_TURN {
            if frames >= FRAMES_PER_TURN {
                return Ok(Read::MoreToCome);
            }
            self.inbox.reserve(READ_CHUNK);
            match poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.inbox) {
                Poll::Pending => return Ok(Read::Drained),
                Poll::Ready(Ok(0)) => return Err(Exit::Lost(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(Err(error)) => return Err(Exit::Lost(error)),
                Poll::Ready(Ok(_)) => {
                    self.decode(&mut frames)?;
                    self.clock.heard(&self.pace, now);
                    self.progress(now);
                }
            }
        }
        Ok(Read::MoreToCome)
    }

    fn decode(&mut self, frames: &mut usize) -> Result<(), Exit> {
        while *frames < FRAMES_PER_TURN && !self.inbox.is_empty() {
            let frame = self.decoder.decode(&mut self.inbox).map_err(|malformed| {
                Exit::Protocol(
                    Error::new(
                        ErrorKind::Protocol,
                        Phase::Reply,
                        "peer broke the redis protocol",
                    )
                    .because(malformed),
                )
            })?;
            let Some(frame) = frame else { break };
            *frames += 1;
            let reply = match frame {
                #[cfg(not(holdfast_mutant = "push_is_reply"))]
                Frame::Push(push) => {
                    self.pace.pushed(push);
                    continue;
                }
                #[cfg(holdfast_mutant = "push_is_reply")]
                Frame::Push(value) => Ok(value),
                Frame::Reply(value) => Ok(value),
                Frame::TooLarge { bytes } => Err(Error::new(
                    ErrorKind::Protocol,
                    Phase::Reply,
                    format!("reply of {bytes} bytes is larger than this client takes"),
                )),
            };
            if self.owed.answer(reply).is_err() {
                return Err(Exit::Protocol(Error::new(
                    ErrorKind::Protocol,
                    Phase::Reply,
                    "peer sent a reply that nobody asked for",
                )));
            }
        }
        if self.decoder.take_disowned() && self.pace.primary_only {
            self.disown()?;
        }
        Ok(())
    }

    /// The server is a replica: not one more call is begun here, what was written gets its answer.
    fn disown(&mut self) -> Result<(), Exit> {
        let refused = self.owed.take_refused();
        if self.retiring || (!refused && self.born.elapsed() < SETTLING) {
            return Ok(());
        }
        self.pace.disown(self.origin.id);
        self.obey(Retire::Drain, false)
    }

    fn progress(&mut self, now: Instant) {
        let owes = !self.owed.is_empty();
        self.clock.progress(&self.state, owes, now);
    }

    /// Begins as many jobs as there is room for. Says whether more wait.
    fn fill(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, Exit> {
        let room = if self.batch.is_empty() {
            self.pace.max_owed.saturating_sub(self.owed.len())
        } else {
            0
        };
        let taken = self.mailbox.take(&mut self.batch, room, cx.waker());
        if let Some(order) = taken.order {
            let writes_on = matches!(order, Retire::Drain) && self.clock.is_fine();
            self.obey(order, writes_on)?;
        }
        while self.outbox.has_room() {
            let Some(job) = self.batch.pop_front() else {
                break;
            };
            let start = self.outbox.accepted();
            if job.begin(now, |bytes| self.outbox.push(bytes)) {
                self.clock.owe(now);
                if job.is_silent() {
                    let _ = job.clone().reply(crate::request::Values::One(Value::Nil));
                }
                self.owed.push(job, start);
            }
        }
        Ok(!self.batch.is_empty() || (taken.left > 0 && self.owed.len() < self.pace.max_owed))
    }

    /// `writes_on`: what its sender does not wait for is still written.
    fn obey(&mut self, order: Retire, writes_on: bool) -> Result<(), Exit> {
        self.retiring = true;
        let error = match &order {
            Retire::Abort(error) => return Err(Exit::Aborted(error.clone())),
            Retire::Drain | Retire::Bench => self.pace.lost("connection is being replaced"),
        };
        let written = self.outbox.written();
        if let Some(from) = self.owed.release_unsent(written, &error, writes_on) {
            self.outbox.withdraw(from);
        }
        self.end_unbegun(&error);
        if matches!(order, Retire::Bench) {
            self.owed.release_repeatable(&error);
        }
        Ok(())
    }

    fn end_unbegun(&mut self, error: &Error) {
        for job in self.batch.drain(..).chain(self.mailbox.close()) {
            job.end(Sent::Never, error, &self.origin);
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), Exit> {
        if self.outbox.waiting() == 0 {
            return Ok(());
        }
        let before = self.outbox.written();
        let blocked = match self.outbox.poll_write(&mut self.socket, cx) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(error)) => return Err(Exit::Lost(error)),
        };
        #[cfg(holdfast_mutant = "half_written")]
        if blocked
            && self
                .owed
                .forget_half_written(self.outbox.written(), &self.pace)
        {
            self.outbox.withdraw(self.outbox.written());
        }
        // A kernel that takes bytes proves nothing; one that takes bytes again after it was full shows that the peer reads.
        if self.write_blocked && self.outbox.written() > before {
            self.progress(now);
        }
        self.write_blocked = blocked;
        Ok(())
    }

    /// Looks at the clocks, and sees to it that the timer fires when the next look is due.
    fn judge(&mut self, cx: &mut Context<'_>, now: Instant, read: Read) -> Result<(), Exit> {
        if read == Read::Drained {
            let oldest = || self.owed.oldest(self.outbox.accepted());
            self.clock.look(&self.pace, &self.state, now, oldest)?;
            if self.owed.is_empty() && !self.retiring && self.clock.take_ping(now) {
                self.owed.push_internal(self.outbox.accepted(), 1);
                self.outbox.push(&PING);
                self.write(cx, now)?;
            }
        }
        let is_idle = self.owed.is_empty();
        self.clock.set(cx, &self.pace, now, is_idle, self.retiring);
        Ok(())
    }

    /// A retiring link is done when all is answered, or nobody waits for what is not.
    fn is_done(&self) -> bool {
        self.owed.is_empty() || !self.owed.is_awaited()
    }

    fn finish(&mut self, exit: Exit) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let (error, by_peer) = exit.told(&self.pace);
        if !by_peer {
            self.socket.abort();
        }
        self.end_unbegun(&error);
        self.owed.end_all(self.outbox.written(), &error);
        self.state.send_replace(LinkState::Dead { error, by_peer });
    }
}

fn lost(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "server closed the connection",
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "connection was reset",
        io::ErrorKind::TimedOut => "server stopped acknowledging",
        _ => "connection failed",
    }
}

impl<S: Socket> Future for Driver<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = self.get_mut();
        match driver.turn(cx) {
            Ok(()) => Poll::Pending,
            Err(exit) => {
                driver.finish(exit);
                Poll::Ready(())
            }
        }
    }
}

impl<S: Socket> Drop for Driver<S> {
    /// A driver that is dropped in mid-flight (its runtime ends, its last handle goes) leaves nobody waiting.
    fn drop(&mut self) {
        let error = self.pace.lost("connection was dropped");
        self.finish(Exit::Aborted(error));
    }
}
