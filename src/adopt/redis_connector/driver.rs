//! Keeps `redis`' own connection: hands it jobs, polls its driver, and judges the silence of the socket below it.
//!
//! Owns `redis`' driver with its socket, in one task, and what was handed to it. Promises: what the link's driver promises
//! ([`net::link::driver`](crate::net::link::driver)), but that *sent* is *handed to `redis`*: nobody can take that back, and only the
//! close of the socket ends it. No more than `HIGH_WATER` bytes that the kernel has not taken are handed over. Leaves framing and
//! matching to `redis`, the socket's truth to [`meter`](super::meter). Fails by ending, as a link does. Next: [`end`].

mod end;

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use redis::{RedisResult, Value, aio::MultiplexedConnection, cmd};
use tokio::time::Instant;

use self::end::broken;
use super::{
    meter::{Meter, Seen},
    role::Role,
};
use crate::{
    Error, ErrorKind, Phase,
    adopt::unpack::Unpacked,
    net::link::{
        Post,
        clock::Clock,
        driver::{Exit, ROUNDS_PER_TURN, SETTLING},
        job::{Job, Sent},
        mailbox::Retire,
        owed::not_primary,
    },
    request::Values,
};

/// No more is handed over while the kernel has not taken so many bytes of what was: `redis` writes one command after the other, and what it
/// has cannot be taken back.
const HIGH_WATER: u64 = 64 * 1024;
/// Bytes of a `PING`.
const PING: usize = 14;

pub(super) struct Driver {
    /// `redis`' driver, and with it the socket.
    redis: Option<Driving>,
    connection: MultiplexedConnection,
    meter: Arc<Meter>,
    seen: Seen,
    post: Post,
    batch: VecDeque<Arc<Job>>,
    /// What `redis` has and has not answered. It answers in this order, so that only the oldest need be asked.
    owed: VecDeque<Owed>,
    /// Bytes handed over.
    handed: u64,
    clock: Clock,
    born: Instant,
    retiring: bool,
    over: bool,
}

struct Owed {
    /// `None`: a sign of life.
    job: Option<Arc<Job>>,
    /// What it is to the peer.
    bytes: u64,
    answer: Answer,
}

/// `redis`' driver.
pub(super) type Driving = Pin<Box<dyn Future<Output = ()> + Send>>;
type Answer = Pin<Box<dyn Future<Output = RedisResult<Values>> + Send>>;

impl Driver {
    pub(super) fn new(
        connection: MultiplexedConnection,
        redis: Driving,
        meter: Arc<Meter>,
        post: Post,
    ) -> Self {
        let now = Instant::now();
        let clock = Clock::new(&post.pace, now);
        Self {
            redis: Some(redis),
            connection,
            meter,
            seen: Seen::default(),
            post,
            batch: VecDeque::new(),
            owed: VecDeque::new(),
            handed: 0,
            clock,
            born: now,
            retiring: false,
            over: false,
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), Exit> {
        let now = Instant::now();
        self.meter.turn();
        for round in 0.. {
            self.run(cx, now)?;
            if !self.fill(cx, now)? {
                break;
            }
            if round == ROUNDS_PER_TURN {
                cx.waker().wake_by_ref();
                break;
            }
        }
        self.judge(cx, now)?;
        if self.retiring && self.is_done() {
            return Err(Exit::Retired);
        }
        Ok(())
    }

    /// Looks at the clocks, and sees to it that the timer fires when the next look is due.
    fn judge(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), Exit> {
        if self.seen.drained {
            let oldest = || {
                let oldest = self.owed.front()?;
                Some((oldest.job.as_deref()?, oldest.bytes))
            };
            self.clock
                .look(&self.post.pace, &self.post.state, now, oldest)?;
            if self.owed.is_empty() && !self.retiring && self.clock.take_ping(now) {
                self.hand_over(cx, None, Unpacked::One(cmd("PING")), PING, now)?;
                self.run(cx, now)?;
            }
        }
        let is_idle = self.owed.is_empty();
        self.clock
            .set(cx, &self.post.pace, now, is_idle, self.retiring);
        Ok(())
    }

    /// Lets `redis` read and write, and hands out what it was answered.
    fn run(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), Exit> {
        let over = match &mut self.redis {
            Some(redis) => redis.as_mut().poll(cx).is_ready(),
            None => true,
        };
        let before = std::mem::replace(&mut self.seen, self.meter.seen());
        self.settle(cx)?;
        if let Some(end) = self.meter.take_end() {
            return Err(Exit::Lost(end));
        }
        if over {
            return Err(broken(None));
        }
        let heard = self.seen.read > before.read;
        if heard {
            self.clock.heard(&self.post.pace, now);
        }
        // A kernel that takes bytes proves nothing; one that takes bytes again after it was full shows that the peer reads.
        let moved_on = before.blocked && self.seen.written > before.written;
        if heard || moved_on {
            let owes = !self.owed.is_empty();
            self.clock.progress(&self.post.state, owes, now);
        }
        Ok(())
    }

    fn settle(&mut self, cx: &mut Context<'_>) -> Result<(), Exit> {
        let (mut served, mut role) = (0, Role::Primary);
        let settled = loop {
            let Some(oldest) = self.owed.front_mut() else {
                break Ok(());
            };
            match oldest.answer.as_mut().poll(cx) {
                Poll::Pending => break Ok(()),
                // What failed stays where it is, to be told with the others.
                Poll::Ready(Err(error)) => break Err(self.failed(&error)),
                Poll::Ready(Ok(values)) => {
                    if let Some(Owed { job: Some(job), .. }) = self.owed.pop_front() {
                        let said = Role::said(self.post.pace.primary_only, &job, &values);
                        role = role.max(said);
                        served += u32::from(self.answer(job, said, values));
                    }
                }
            }
        };
        if served > 0 {
            self.post.pace.serve(served);
        }
        settled?;
        self.disown(role)
    }

    /// Hands over the reply. A command that a replica refused as a whole goes to the primary instead.
    fn answer(&self, job: Arc<Job>, said: Role, values: Values) -> bool {
        if said == Role::Refused {
            job.end(Sent::Never, &not_primary(), &self.post.origin);
            return false;
        }
        job.reply(values)
    }

    /// The server is a replica: not one more call is handed over, what was gets its answer.
    fn disown(&mut self, role: Role) -> Result<(), Exit> {
        let settling = role == Role::Replica && self.born.elapsed() < SETTLING;
        if self.retiring || role == Role::Primary || settling {
            return Ok(());
        }
        self.post.pace.disown(self.post.origin.id);
        self.obey(&Retire::Drain)
    }

    /// Hands over as many jobs as there is room for. Says whether it was any.
    fn fill(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, Exit> {
        let room = if self.batch.is_empty() {
            self.post.pace.max_owed.saturating_sub(self.owed.len())
        } else {
            0
        };
        let taken = self.post.mailbox.take(&mut self.batch, room, cx.waker());
        if let Some(order) = taken.order {
            self.obey(&order)?;
        }
        let mut any = false;
        while self.handed.saturating_sub(self.seen.written) < HIGH_WATER {
            let Some(job) = self.batch.pop_front() else {
                break;
            };
            let mut packed = Bytes::new();
            if job.begin(now, |bytes| packed = bytes.clone()) {
                any = true;
                self.begin(cx, job, &packed, now)?;
            }
        }
        Ok(any)
    }

    fn begin(
        &mut self,
        cx: &mut Context<'_>,
        job: Arc<Job>,
        packed: &Bytes,
        now: Instant,
    ) -> Result<(), Exit> {
        if job.is_silent() {
            let _ = job.clone().reply(Values::One(Value::Nil));
        }
        match Unpacked::new(packed, job.expected(), job.is_single()) {
            Some(unpacked) => self.hand_over(cx, Some(job), unpacked, packed.len(), now),
            None => {
                let error = Error::new(
                    ErrorKind::Protocol,
                    Phase::Write,
                    "request is not what redis packs",
                );
                job.end(Sent::Never, &error, &self.post.origin);
                Ok(())
            }
        }
    }

    fn hand_over(
        &mut self,
        cx: &mut Context<'_>,
        job: Option<Arc<Job>>,
        unpacked: Unpacked,
        bytes: usize,
        now: Instant,
    ) -> Result<(), Exit> {
        self.clock.owe(now);
        let bytes = bytes as u64;
        self.handed += bytes;
        let mut answer: Answer = Box::pin(unpacked.ask(self.connection.clone()));
        // Asked once, in order: this puts it into `redis`' queue, where there is room for all that we hand over.
        match answer.as_mut().poll(cx) {
            Poll::Pending => self.owed.push_back(Owed { job, bytes, answer }),
            Poll::Ready(Ok(values)) => {
                let _ = job.map(|job| job.reply(values));
            }
            Poll::Ready(Err(error)) => {
                // It is told with the others.
                self.owed.push_back(Owed { job, bytes, answer });
                return Err(self.failed(&error));
            }
        }
        Ok(())
    }
}

impl Future for Driver {
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
