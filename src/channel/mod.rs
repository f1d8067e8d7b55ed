//! Where layers and sockets meet: calls go in, and leave over the link that a supervisor keeps in service.
//!
//! Owns [`Channel`], a `Service` over the links to one endpoint, and the [`Hub`] that its calls share with their supervisor.
//! Promises: a call never waits for a name, a dial or a probe while a link is in service or the circuit is open; the supervisor ends
//! with the last handle. Leaves admission and the deadline's timer to `layer`, sockets to `net`.
//! Rooms: [`gate`] is what a call finds, [`call`] its way, [`supervisor`] the keeper, [`verdict`] its judgement; its eyes are [`prober`](crate::net::reach::prober).

pub(crate) mod call;
mod fence;
mod gate;
mod keep;
mod patience;
mod purse;
pub(crate) mod route;
mod supervisor;
mod verdict;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{runtime::Handle, sync::Notify, time::Instant};
use tower::Service;

use self::{call::Call, gate::Cell, purse::Purse, route::Pool, supervisor::Supervisor};
use crate::{
    Config, Error, ErrorKind, Phase, Request,
    config::Server,
    deadline::Deadline,
    dns::Resolve,
    health::{Health, HealthCell, HealthState},
    layer::breaker::machine::Machine,
    net::{
        link::{LinkId, Pace, job::Sent},
        reach::connect::{Dial, Wire},
    },
    own::Own,
    request::commands::Effect,
    task::{Owned, spawn_owned},
    telemetry::{
        labels::{ReplayKind, Transition},
        metrics::{CircuitCount, Metrics},
        span,
    },
    topology::{Replica, sentinel::Sentinels},
};

/// What the calls of an endpoint share with its supervisor.
pub(crate) struct Hub<W> {
    gate: Cell<W>,
    breaker: Mutex<Machine>,
    purse: Mutex<Purse>,
    ramping: AtomicBool,
    /// Calls that took a place while admission grew.
    in_ramp: AtomicUsize,
    cap: usize,
    client: Arc<str>,
    pace: Arc<Pace>,
    /// Wakes the supervisor: calls have opened the circuit, or the client is shutting down.
    alarm: Notify,
    tripped: AtomicBool,
    /// A supervisor runs.
    kept: AtomicBool,
    closing: AtomicBool,
    overloaded: Error,
    ramp: Error,
    metrics: Metrics,
    /// Its circuit in the gauge, until the client begins to shut down.
    circuit: Mutex<Option<CircuitCount>>,
    health: Arc<HealthCell>,
    /// The servers that may be read from instead, as the topology last said.
    replicas: ArcSwap<Arc<[Replica]>>,
    reads_replicas: AtomicBool,
}

impl<W: Wire> Hub<W> {
    fn new(config: &Config, metrics: Metrics, health: Arc<HealthCell>) -> Self {
        let endpoint = config.endpoint();
        let refusal =
            |kind, detail: &'static str| Error::new(kind, Phase::Queue, detail).at(endpoint);
        let cap = config.max_in_flight();
        Self {
            gate: Cell::new(),
            breaker: Mutex::new(Machine::new(config.breaker().clone(), Instant::now())),
            purse: Mutex::new(Purse::new(config.retry())),
            ramping: AtomicBool::new(false),
            in_ramp: AtomicUsize::new(0),
            cap,
            client: config.name().clone(),
            pace: Arc::new(pace(config, cap)),
            alarm: Notify::new(),
            tripped: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            overloaded: refusal(
                ErrorKind::Overloaded,
                "connection holds as many calls as it may",
            ),
            ramp: refusal(
                ErrorKind::CircuitOpen,
                "circuit has just closed, admission is growing",
            ),
            circuit: Mutex::new(Some(metrics.circuit())),
            metrics,
            health,
            replicas: ArcSwap::from_pointee([].into()),
            reads_replicas: AtomicBool::new(false),
        }
    }

    fn endpoint(&self) -> &Arc<str> {
        &self.pace.endpoint
    }

    fn stall_after(&self) -> Duration {
        self.pace.stall_after()
    }

    fn overloaded(&self) -> Error {
        self.overloaded.clone()
    }

    fn breaker(&self) -> MutexGuard<'_, Machine> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While admission grows after the circuit closed: takes a place, or refuses. Says whether a place was taken.
    fn enter_ramp(&self) -> Result<bool, Error> {
        if !self.ramping.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let (admitted, ramping) = {
            let mut breaker = self.breaker();
            (
                breaker.admitted(self.cap, Instant::now()),
                breaker.is_ramping(),
            )
        };
        self.ramping.store(ramping, Ordering::Relaxed);
        if self.in_ramp.fetch_add(1, Ordering::Relaxed) >= admitted {
            self.leave_ramp();
            return Err(self.ramp.clone());
        }
        Ok(true)
    }

    fn leave_ramp(&self) {
        self.in_ramp.fetch_sub(1, Ordering::Relaxed);
    }

    /// A call failed in a way that speaks of the endpoint.
    fn call_failed(&self) {
        let trip = {
            let mut breaker = self.breaker();
            let now = Instant::now();
            self.count_served(&mut breaker, now);
            breaker.on_failure(now)
        };
        if trip.is_some() {
            self.tripped.store(true, Ordering::Release);
            self.alarm.notify_one();
        }
    }

    /// Tells the breaker's window, and the purse, of the calls that were served since they were last told.
    fn settle(&self, now: Instant) {
        self.count_served(&mut self.breaker(), now);
    }

    fn count_served(&self, breaker: &mut Machine, now: Instant) {
        let served = self.pace.take_served();
        breaker.on_calls(served, now);
        self.purse().earn(served);
    }

    fn purse(&self) -> MutexGuard<'_, Purse> {
        self.purse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pays for sending again what `link` may have delivered, if that can be paid for.
    fn pays(&self, link: LinkId) -> bool {
        let now = Instant::now();
        self.settle(now);
        self.purse().pays(link, now)
    }

    fn moved(&self, sent: Sent, effect: Effect) {
        let kind = match (sent, effect) {
            (Sent::Never, _) => ReplayKind::NotSent,
            (Sent::Maybe, Effect::None) => ReplayKind::Read,
            (Sent::Maybe, _) => ReplayKind::Overwrite,
        };
        self.metrics.replayed(kind, 1);
    }

    fn circuit(&self) -> MutexGuard<'_, Option<CircuitCount>> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_breaker(&self, transition: Transition) {
        if let Some(circuit) = &mut *self.circuit() {
            circuit.moved(transition);
        }
        span::breaker_moved(&self.client, self.endpoint(), transition);
    }
}

fn pace(config: &Config, cap: usize) -> Pace {
    let pace = Pace::new(
        config.endpoint().clone(),
        cap.saturating_mul(2),
        config.stall_after(),
        config.detect_within(),
    );
    match config.server() {
        Server::Sentinel(_) => pace.primary_only(),
        Server::Tcp { .. } | Server::Replica { .. } | Server::Unix(_) => pace,
    }
}

/// A `Service` over the links to one endpoint. Always ready; cheap to clone.
pub(crate) struct Channel<C: Dial> {
    shared: Own<Shared<C>>,
}

pub(crate) struct Shared<C: Dial> {
    hub: Arc<Hub<C::Wire>>,
    recipe: Recipe<C>,
    /// Of replicas. The supervisor closes those that the topology leaves out, and keeps none alive.
    pool: Arc<Pool<C>>,
    supervisor: Mutex<Option<Owned>>,
}

/// What a supervisor is made of, kept until a runtime is there.
#[derive(Clone)]
struct Recipe<C> {
    config: Arc<Config>,
    connector: C,
    sources: Sources,
}

/// Where addresses come from, beside the configuration.
#[derive(Clone, Default)]
pub(crate) struct Sources {
    pub(crate) resolver: Option<Arc<dyn Resolve>>,
    pub(crate) sentinels: Option<Sentinels>,
}

impl<C: Dial> Channel<C> {
    pub(crate) fn new(
        config: Arc<Config>,
        connector: C,
        sources: Sources,
        metrics: Metrics,
        health: Arc<HealthCell>,
    ) -> Self {
        let hub = Arc::new(Hub::new(&config, metrics, health));
        let recipe = Recipe {
            config,
            connector,
            sources,
        };
        let channel = Self {
            shared: Own::new(Shared {
                hub,
                recipe,
                pool: Arc::default(),
                supervisor: Mutex::new(None),
            }),
        };
        channel.wake();
        channel
    }

    fn supervisor(&self) -> MutexGuard<'_, Option<Owned>> {
        self.shared
            .supervisor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that a supervisor runs, where there is a runtime to run it: the one that the client was built in may be gone.
    pub(crate) fn wake(&self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut supervisor = self.supervisor();
        let hub = &self.shared.hub;
        if hub.kept.load(Ordering::Acquire) || hub.closing.load(Ordering::Acquire) {
            return;
        }
        hub.kept.store(true, Ordering::Release);
        let Recipe {
            config,
            connector,
            sources,
        } = self.shared.recipe.clone();
        let pool = Arc::downgrade(&self.shared.pool);
        let keeper = Supervisor::new(hub.clone(), pool, &config, connector, &sources, &runtime);
        *supervisor = Some(spawn_owned(&runtime, keeper.run()));
    }

    /// Begins the end: no new calls, links drained. What is refused from now on is no circuit's doing.
    pub(crate) fn close(&self) {
        *self.shared.hub.circuit() = None;
        self.shared.hub.closing.store(true, Ordering::Release);
        self.shared.hub.alarm.notify_one();
    }

    /// Ends the supervisor, and with it the links that no call holds.
    pub(crate) fn abort(&self) {
        *self.supervisor() = None;
        self.seal();
    }

    /// Refuses for good, also where no supervisor was there to say so.
    pub(crate) fn seal(&self) {
        let (hub, error) = (&self.shared.hub, shut_down());
        let health = Health::because(HealthState::Down, &error, hub.endpoint());
        hub.health.set(health);
        hub.gate.set(gate::Gate::Down(error.at(hub.endpoint())));
    }

    /// How many calls wait for a link, and how many hold a place on the ramp.
    #[cfg(test)]
    pub(crate) fn held(&self) -> (usize, usize) {
        let hub = &self.shared.hub;
        (hub.gate.waiting(), hub.in_ramp.load(Ordering::Relaxed))
    }

    /// Whether the supervisor has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.supervisor().as_ref().is_none_or(Owned::is_finished)
    }
}

/// What every call gets from the end on.
fn shut_down() -> Error {
    Error::new(ErrorKind::Refused, Phase::Queue, "client is shut down")
}

impl<C: Dial> Clone for Channel<C> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<C: Dial> std::fmt::Debug for Channel<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("endpoint", self.shared.hub.endpoint())
            .finish_non_exhaustive()
    }
}

impl<C: Dial> Service<Request> for Channel<C> {
    type Response = crate::Reply;
    type Error = Error;
    type Future = Call<C>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if !self.shared.hub.kept.load(Ordering::Relaxed) {
            self.wake();
        }
        let deadline = request
            .deadline()
            .unwrap_or_else(|| Deadline::after(self.shared.recipe.config.call_timeout()));
        Call::new(self.shared.hold(), request, deadline)
    }
}
