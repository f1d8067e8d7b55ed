//! Which server a call goes to: the primary, or for what only reads a replica.
//!
//! Owns [`Route`], a `Service` over the [`Channel`] to the primary and one more for each replica that the topology calls fit to be read from.
//! Promises: nothing but reads ever leaves for a replica; a channel to one is made with the first read that wants it, and drained when
//! the topology leaves it out, whether or not anybody reads then; a replica that is silent or away is passed over, and a read that one let go goes on to the next, within its
//! deadline, once at most if it may have run, and only if it may be repeated and that is paid for; what happens to a replica is nothing to
//! the primary's circuit. Leaves who is fit to `topology`, links to [`Channel`], what may be repeated to [`Call`].
//! Fails by kind and phase: `no_replica`, phase `queue`, where a replica and nothing else was asked for.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use tower::Service;

use super::{Channel, Recipe, Shared, Sources, call::Call, gate::Gate};
use crate::{
    Error, ErrorKind, Phase, ReadFrom, Reply, Request,
    error::Executed,
    health::HealthCell,
    layer::timeout::Expire,
    net::reach::connect::{Dial, Wire},
    telemetry::{labels::ReplayKind, metrics::Metrics},
    topology::Replica,
};

/// A `Service` over the primary and its replicas. Always ready; cheap to clone.
pub(crate) struct Route<C: Dial> {
    primary: Channel<C>,
    read_from: ReadFrom,
}

/// The replicas' channels, which all clones share.
pub(super) struct Pool<C: Dial> {
    seats: ArcSwap<Seats<C>>,
    /// Those that were left out and are being drained; held while seats are made or left out.
    leaving: Mutex<Vec<Channel<C>>>,
}

struct Seats<C: Dial> {
    /// What the topology said when they were made.
    of: Arc<[Replica]>,
    seats: Vec<(Replica, Channel<C>)>,
}

/// What a read would find at a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Ready,
    /// Its link owes replies and is silent.
    Silent,
    /// A link is being made.
    Waiting,
    /// Its circuit is open.
    Away,
}

impl<C: Dial> Route<C> {
    pub(crate) fn new(primary: Channel<C>, read_from: ReadFrom) -> Self {
        Self { primary, read_from }
    }

    pub(crate) fn set(&mut self, read_from: ReadFrom) {
        self.read_from = read_from;
    }

    pub(crate) fn wake(&self) {
        self.primary.wake();
    }

    /// Begins the end: no new calls, links drained.
    pub(crate) fn close(&self) {
        self.every(Channel::close);
    }

    /// Ends it now.
    pub(crate) fn abort(&self) {
        self.every(Channel::abort);
    }

    /// What calls hold at the primary's channel.
    #[cfg(test)]
    pub(crate) fn held(&self) -> (usize, usize) {
        self.primary.held()
    }

    pub(crate) fn seal(&self) {
        self.every(Channel::seal);
    }

    /// Whether every link has ended.
    pub(crate) fn is_closed(&self) -> bool {
        let mut closed = true;
        self.every(|channel| closed &= channel.is_closed());
        closed
    }

    fn every(&self, mut each: impl FnMut(&Channel<C>)) {
        each(&self.primary);
        let pool = &self.primary.shared.pool;
        let leaving = pool.leaving();
        let seats = pool.seats.load();
        let seated = seats.seats.iter().map(|(_, channel)| channel);
        seated.chain(leaving.iter()).for_each(each);
    }

    fn is_closing(&self) -> bool {
        self.primary.shared.hub.closing.load(Ordering::Acquire)
    }

    /// The replicas that may be read from, each with its channel.
    fn seats(&self) -> Arc<Seats<C>> {
        let Shared { hub, pool, .. } = &**self.primary.shared;
        if !hub.reads_replicas.load(Ordering::Relaxed) {
            hub.reads_replicas.store(true, Ordering::Relaxed);
            hub.alarm.notify_one();
        }
        let is_current = |seats: &Seats<C>| Arc::ptr_eq(&seats.of, &hub.replicas.load());
        let seats = pool.seats.load_full();
        if is_current(&seats) {
            return seats;
        }
        let _held = pool.leaving();
        let seats = pool.seats.load_full();
        if is_current(&seats) || self.is_closing() {
            return seats;
        }
        let of: Arc<[Replica]> = Arc::clone(&hub.replicas.load());
        let is_missing =
            |replica: &&Replica| !seats.seats.iter().any(|(known, _)| known == *replica);
        let missing = of.iter().filter(is_missing);
        let new = missing.map(|replica| (replica.clone(), self.open(replica)));
        let all = seats.seats.iter().cloned().chain(new).collect();
        let made = Arc::new(Seats { of, seats: all });
        pool.seats.store(made.clone());
        made
    }

    fn open(&self, replica: &Replica) -> Channel<C> {
        let Recipe {
            config,
            connector,
            sources,
        } = self.primary.shared.recipe.clone();
        let config = Arc::new(config.of_replica(&replica.host, replica.port));
        let metrics = Metrics::named(config.name());
        let health = Arc::new(HealthCell::starting(&config));
        let sources = Sources {
            sentinels: None,
            ..sources
        };
        Channel::new(config, connector, sources, metrics, health)
    }

    /// One of the replicas, by lot: taking turns would give every second read to the same one. Who would take the primary as well does not wait for one.
    fn pick(&self, tried: &[Replica], read_from: ReadFrom) -> Option<(Replica, Channel<C>)> {
        let seats = self.seats();
        let seats = &seats.seats;
        let start = fastrand::usize(..seats.len().max(1));
        let order = || {
            let round = seats.iter().skip(start).chain(seats.iter().take(start));
            round.filter(|(replica, _)| !tried.contains(replica))
        };
        let standing = |wanted| order().find(|(_, channel)| channel.standing() == wanted);
        let patient = read_from == ReadFrom::Replica;
        let found = standing(Standing::Ready)
            .or_else(|| standing(Standing::Silent).filter(|_| patient))
            .or_else(|| standing(Standing::Waiting).filter(|_| patient));
        if found.is_none() {
            // Those whose runtime has ended find another one.
            seats.iter().for_each(|(_, channel)| channel.wake());
        }
        found.cloned()
    }

    fn no_replica(&self) -> Error {
        let detail = "no replica can be read from";
        Error::new(ErrorKind::NoReplica, Phase::Queue, detail).at(self
            .primary
            .shared
            .hub
            .endpoint())
    }
}

impl<C: Dial> Pool<C> {
    /// Drains the channels to all but `listed`.
    pub(super) fn keep(&self, listed: &[Replica]) {
        let mut leaving = self.leaving();
        let last = self.seats.load_full();
        let all = last.seats.iter().cloned();
        let (seats, left): (Vec<_>, Vec<_>) =
            all.partition(|(replica, _)| listed.contains(replica));
        let of = last.of.clone();
        self.seats.store(Arc::new(Seats { of, seats }));
        leaving.retain(|channel| !channel.is_closed());
        for (_, channel) in left {
            channel.close();
            leaving.push(channel);
        }
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Channel<C>>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Dial> Default for Pool<C> {
    fn default() -> Self {
        let none = Seats {
            of: [].into(),
            seats: Vec::new(),
        };
        Self {
            seats: ArcSwap::from_pointee(none),
            leaving: Mutex::default(),
        }
    }
}

impl<C: Dial> Channel<C> {
    fn standing(&self) -> Standing {
        let hub = &self.shared.hub;
        match &**hub.gate.load() {
            Gate::Up(serving) if serving.wire.is_silent() => Standing::Silent,
            Gate::Up(_) => Standing::Ready,
            Gate::Waiting => Standing::Waiting,
            Gate::Down(_) => Standing::Away,
        }
    }
}

impl<C: Dial> Clone for Route<C> {
    fn clone(&self) -> Self {
        Self {
            primary: self.primary.clone(),
            read_from: self.read_from,
        }
    }
}

impl<C: Dial> std::fmt::Debug for Route<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route")
            .field("primary", &self.primary)
            .field("read_from", &self.read_from)
            .finish_non_exhaustive()
    }
}

impl<C: Dial> Service<Request> for Route<C> {
    type Response = Reply;
    type Error = Error;
    type Future = Routed<C>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Routed<C> {
        let read_from = request.read_from().unwrap_or(self.read_from);
        if read_from == ReadFrom::Primary || !request.only_reads() || self.is_closing() {
            return Routed::at(self.primary.call(request));
        }
        let read = Read {
            route: self.clone(),
            read_from,
            tried: Vec::new(),
            request: request.clone(),
        };
        match (self.pick(&[], read_from), read_from) {
            (Some((replica, mut channel)), _) => {
                let (call, mut read) = (channel.call(request), Box::new(read));
                read.tried.push(replica);
                Routed {
                    stage: Stage::Asked(call),
                    read: Some(read),
                    maybe_run: false,
                }
            }
            (None, ReadFrom::Replica) => Routed {
                stage: Stage::Refused(self.no_replica()),
                read: None,
                maybe_run: false,
            },
            (None, _) => Routed::at(self.primary.call(request)),
        }
    }
}

/// A call's future.
pub(crate) struct Routed<C: Dial> {
    stage: Stage<C>,
    /// While the server that is asked is a replica.
    read: Option<Box<Read<C>>>,
    /// A server that was left may have run it.
    maybe_run: bool,
}

#[allow(
    clippy::large_enum_variant,
    reason = "a box would cost every call an allocation, to save nobody one"
)]
enum Stage<C: Dial> {
    Asked(Call<C>),
    Refused(Error),
}

/// What it takes to ask another one.
struct Read<C: Dial> {
    route: Route<C>,
    read_from: ReadFrom,
    tried: Vec<Replica>,
    request: Request,
}

impl<C: Dial> Routed<C> {
    fn at(call: Call<C>) -> Self {
        Self {
            stage: Stage::Asked(call),
            read: None,
            maybe_run: false,
        }
    }

    /// The replica was no help: on to the next one, to the primary, or the end.
    fn go_on(
        &mut self,
        read: Box<Read<C>>,
        last: Result<Reply, Error>,
    ) -> Option<Result<Reply, Error>> {
        if !self.may_leave() {
            return Some(last);
        }
        let next = read.route.pick(&read.tried, read.read_from);
        if next.is_none() && read.read_from == ReadFrom::Replica {
            let none = |error: Error| {
                let none = read.route.no_replica().after(error.waited());
                none.because(error)
            };
            self.maybe_run |= self.was_written();
            return Some(last.map_err(none));
        }
        if !self.pays() {
            return Some(last);
        }
        self.ask(read, next);
        None
    }

    /// The replica's link is gone, and the next one is being made: who has one does not need to wait. Says whether somebody has.
    fn pass_on(&mut self) -> bool {
        let Some(read) = self.read.take() else {
            return false;
        };
        // Nobody who is not ready is worth leaving this one for.
        let next = read.route.pick(&read.tried, ReadFrom::PreferReplica);
        let is_stuck = next.is_none() && read.read_from == ReadFrom::Replica;
        if is_stuck || !self.may_leave() || !self.pays() {
            self.read = Some(read);
            return false;
        }
        self.ask(read, next);
        true
    }

    /// Whether the server that was asked may be left for another one.
    fn may_leave(&self) -> bool {
        match &self.stage {
            Stage::Asked(call) => call.may_be_asked_elsewhere(),
            Stage::Refused(_) => true,
        }
    }

    /// Pays for leaving it. Only once it is known that somebody else is there.
    fn pays(&self) -> bool {
        match &self.stage {
            Stage::Asked(call) => call.pays(),
            Stage::Refused(_) => true,
        }
    }

    /// Whether the server that was asked may have run it: one that refused it has not.
    fn was_written(&self) -> bool {
        matches!(&self.stage, Stage::Asked(call) if call.was_written())
    }

    /// Asks `next`, or the primary where there is none.
    fn ask(&mut self, mut read: Box<Read<C>>, next: Option<(Replica, Channel<C>)>) {
        self.maybe_run |= self.was_written();
        read.count(self.maybe_run);
        let call = match next {
            Some((replica, mut channel)) => {
                read.tried.push(replica);
                let call = channel.call(read.request.clone());
                self.read = Some(read);
                call
            }
            None => {
                let Read {
                    mut route, request, ..
                } = *read;
                route.primary.call(request)
            }
        };
        self.stage = Stage::Asked(if self.maybe_run {
            call.once_more()
        } else {
            call
        });
    }
}

impl<C: Dial> Read<C> {
    /// It is asked for once more.
    fn count(&self, maybe_run: bool) {
        let kind = if maybe_run {
            ReplayKind::Read
        } else {
            ReplayKind::NotSent
        };
        self.route.primary.shared.hub.metrics.replayed(kind, 1);
    }
}

impl<C: Dial> Future for Routed<C> {
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let routed = self.get_mut();
        loop {
            let result = match &mut routed.stage {
                Stage::Asked(call) => match Pin::new(&mut *call).poll(cx) {
                    Poll::Ready(result) => result,
                    Poll::Pending if call.is_seeking() && routed.pass_on() => continue,
                    Poll::Pending => return Poll::Pending,
                },
                Stage::Refused(error) => return Poll::Ready(Err(error.clone())),
            };
            let Some(read) = routed.read.take_if(|_| is_no_help(&result)) else {
                return Poll::Ready(match routed.maybe_run {
                    true => result.map_err(|error| after(true, error)),
                    false => result,
                });
            };
            if let Some(result) = routed.go_on(read, result) {
                return Poll::Ready(result.map_err(|error| after(routed.maybe_run, error)));
            }
        }
    }
}

/// An error that follows a server that may have run it.
fn after(maybe_run: bool, error: Error) -> Error {
    if maybe_run && !error.may_have_executed() {
        error.executed(Executed::Maybe)
    } else {
        error
    }
}

/// Whether another server may do better. One whose caps are reached is spared, not replaced: the next one would be flooded as well.
fn is_no_help(result: &Result<Reply, Error>) -> bool {
    match result {
        Ok(reply) => reply.is_of_a_replica_that_cannot(),
        Err(error) => !matches!(
            error.kind(),
            ErrorKind::Timeout | ErrorKind::Overloaded | ErrorKind::Redis
        ),
    }
}

impl<C: Dial> Expire for Routed<C> {
    fn expire(self: Pin<&mut Self>) -> Error {
        let routed = self.get_mut();
        let error = match &mut routed.stage {
            Stage::Asked(call) => Pin::new(call).expire(),
            Stage::Refused(error) => error.clone(),
        };
        after(routed.maybe_run, error)
    }
}

#[cfg(test)]
mod tests;
