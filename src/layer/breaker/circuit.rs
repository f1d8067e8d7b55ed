//! A circuit: one endpoint's breaker with its prober, and the handle by which people watch and force it.
//!
//! Owns [`Circuit`]. Promises: admitting costs a load while closed and a clone of an error made before while open; an outcome counts for the
//! circuit that admitted it, and not for the one after; the prober runs while the circuit is open, and asks once where a call waited in vain and nobody was served
//! meanwhile; it ends with the last handle. Leaves deciding to [`machine`](super::machine), judging to [`judge`](super::judge). Fails with `CircuitOpen`.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch, time::Instant};

use super::{
    judge::Judgement,
    machine::{Machine, Trip},
    pace::Pace,
    permit::Permit,
    probe::Tries,
};
use crate::{
    Error, ErrorKind, Phase,
    backoff::Backoff,
    config::BreakerPolicy,
    task::{Kept, Owned, spawn_owned},
    telemetry::{
        labels::Transition,
        metrics::{CircuitCount, Metrics},
        span,
    },
};

/// What a circuit does with calls.
///
/// ```
/// use redis_holdfast::layer::CircuitState;
///
/// /// Whether to serve the page without what Redis knows.
/// fn is_poor(state: CircuitState) -> bool {
///     matches!(state, CircuitState::Open | CircuitState::ForcedOpen)
/// }
/// assert!(!is_poor(CircuitState::Closed));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitState {
    /// Calls pass.
    Closed,
    /// Calls are refused, and the probe is at work.
    Open,
    /// Calls are refused because somebody said so.
    ForcedOpen,
    /// Calls pass, whatever becomes of them, because somebody said so.
    ForcedClosed,
}

/// The circuit of one breaker: to watch it, and to force it by hand. Clones are the same circuit.
///
/// Every change is told to those who [`watch`](Self::watch), counted in `redis.holdfast.breaker.transitions`, and logged once.
///
/// ```
/// use redis_holdfast::{BreakerPolicy, Error, Reply, Request, redis::Value};
/// use redis_holdfast::layer::{BreakerLayer, CircuitState, Probe};
/// use tower::{Layer, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Okay)) });
/// let service = BreakerLayer::new(BreakerPolicy::default(), Probe::ping())?.layer(server);
/// let circuit = service.circuit().clone();
/// let mut watch = circuit.watch();
/// circuit.force_open();
/// assert_eq!(watch.changed().await, Some(CircuitState::ForcedOpen));
/// circuit.release();
/// assert_ne!(circuit.state(), CircuitState::ForcedOpen);
/// circuit.force_closed(); // Nobody judges now, for example while the probe itself is broken.
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Circuit(pub(super) Arc<Core>);

pub(super) struct Core {
    /// The generation above the mode: one load admits a call.
    word: AtomicU64,
    machine: Mutex<State>,
    policy: BreakerPolicy,
    cap: usize,
    /// Calls that took a place while admission grew.
    in_ramp: AtomicUsize,
    states: watch::Sender<CircuitState>,
    tries: Tries,
    prober: Mutex<Option<Owned>>,
    /// A prober runs.
    kept: Arc<AtomicBool>,
    /// Asks whether a silent endpoint is there at all.
    doubter: Mutex<Option<Owned>>,
    /// It runs.
    doubted: Arc<AtomicBool>,
    refusal: Error,
    ramp: Error,
    endpoint: Arc<str>,
    metrics: Metrics,
}

struct State {
    machine: Machine,
    /// When the last failure was counted: a failure that began before it is the same one.
    failed_at: Option<Instant>,
    /// When an attempt was last served.
    served_at: Option<Instant>,
    pace: Pace,
    count: CircuitCount,
}

impl State {
    /// Whether nobody was served since.
    fn is_silent_since(&self, since: Instant) -> bool {
        self.served_at.is_none_or(|served| served <= since)
    }
}

/// An attempt that a circuit has admitted.
#[derive(Clone, Copy)]
pub(super) struct Attempt {
    /// The circuit's at that time.
    pub(super) word: u64,
    pub(super) begun: Instant,
    /// Having waited so long in vain it puts its endpoint in doubt.
    pub(super) patience: Duration,
}

impl Attempt {
    fn waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun)
    }

    fn was_in_vain(&self, now: Instant) -> bool {
        self.waited(now) >= self.patience
    }
}

/// The low bits of the word.
const CLOSED: u64 = 0;
const RAMPING: u64 = 1;
const OPEN: u64 = 2;
const FORCED_OPEN: u64 = 3;
const FORCED_CLOSED: u64 = 4;
const MODES: u64 = 8;

impl Circuit {
    /// That of `endpoint`, by which refusals and events name it.
    pub(super) fn new(
        policy: BreakerPolicy,
        cap: usize,
        tries: Tries,
        endpoint: Arc<str>,
        metrics: Metrics,
    ) -> Self {
        let refusal = |detail: &'static str| {
            Error::new(ErrorKind::CircuitOpen, Phase::Queue, detail).at(&endpoint)
        };
        let now = Instant::now();
        let state = State {
            machine: Machine::new(policy.clone(), now),
            failed_at: None,
            served_at: None,
            pace: Pace::new(now),
            count: metrics.circuit(),
        };
        Self(Arc::new(Core {
            word: AtomicU64::new(CLOSED),
            machine: Mutex::new(state),
            policy,
            cap,
            in_ramp: AtomicUsize::new(0),
            states: watch::Sender::new(CircuitState::Closed),
            tries,
            prober: Mutex::new(None),
            kept: Arc::new(AtomicBool::new(false)),
            doubter: Mutex::new(None),
            doubted: Arc::new(AtomicBool::new(false)),
            refusal: refusal("circuit is open"),
            ramp: refusal("circuit has just closed, admission is growing"),
            endpoint,
            metrics,
        }))
    }

    /// What it does with calls now.
    #[must_use]
    pub fn state(&self) -> CircuitState {
        *self.0.states.borrow()
    }

    /// Word of each change.
    #[must_use]
    pub fn watch(&self) -> CircuitWatch {
        CircuitWatch(self.0.states.subscribe())
    }

    /// Refuses every call until [`release`](Self::release).
    pub fn force_open(&self) {
        let mut state = self.0.lock();
        self.0.stop_probing();
        self.0
            .shift(&mut state, FORCED_OPEN, Some(Transition::Forced));
    }

    /// Passes every call until [`release`](Self::release), whatever becomes of them.
    pub fn force_closed(&self) {
        let mut state = self.0.lock();
        self.0.stop_probing();
        self.0
            .shift(&mut state, FORCED_CLOSED, Some(Transition::Released));
    }

    /// Lets the circuit judge for itself again: closed, with nothing counted yet. Of no effect on one that is not forced.
    pub fn release(&self) {
        let mut state = self.0.lock();
        if mode(self.0.word.load(Ordering::Relaxed)) < FORCED_OPEN {
            return;
        }
        state.machine = Machine::new(self.0.policy.clone(), Instant::now());
        self.0.shift(&mut state, CLOSED, Some(Transition::Released));
    }

    /// Whether a call would be refused now.
    pub(super) fn refuses(&self) -> bool {
        matches!(
            mode(self.0.word.load(Ordering::Relaxed)),
            OPEN | FORCED_OPEN
        )
    }

    /// What a call would be refused with now.
    #[cfg(feature = "cluster")]
    pub(crate) fn refusal(&self) -> Option<Error> {
        self.refuses().then(|| self.0.refuse())
    }

    /// Asks whether the endpoint is there at all, as after a call that waited in vain.
    #[cfg(feature = "cluster")]
    pub(crate) fn doubt(&self) {
        let word = self.0.word.load(Ordering::Relaxed);
        if mode(word) == CLOSED {
            let now = Instant::now();
            let attempt = Attempt {
                word,
                begun: now,
                patience: Duration::ZERO,
            };
            self.0.doubt(attempt, Judgement::Failed, now, self.0.lock());
        }
    }

    pub(super) fn admit(&self) -> Result<Permit, Error> {
        let core = &self.0;
        let word = core.word.load(Ordering::Acquire);
        match mode(word) {
            CLOSED | FORCED_CLOSED => Ok(Permit::new(core.clone(), word, false)),
            RAMPING => core.enter_ramp(word),
            _ => Err(core.refuse()),
        }
    }
}

impl Core {
    #[cfg(test)]
    pub(super) fn word(&self) -> u64 {
        self.word.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(self: &Arc<Self>) -> Error {
        let is_open = mode(self.word.load(Ordering::Relaxed)) == OPEN;
        if is_open && !self.kept.load(Ordering::Relaxed) {
            self.start_probing();
        }
        self.refusal.clone()
    }

    fn enter_ramp(self: &Arc<Self>, word: u64) -> Result<Permit, Error> {
        let admitted = {
            let mut state = self.lock();
            let admitted = state.machine.admitted(self.cap, Instant::now());
            if !state.machine.is_ramping() && self.word.load(Ordering::Relaxed) == word {
                // The same generation: what was admitted in the ramp counts.
                self.word.store(word - RAMPING, Ordering::Release);
            }
            admitted
        };
        let permit = Permit::new(self.clone(), word, true);
        if self.in_ramp.fetch_add(1, Ordering::Relaxed) >= admitted {
            return Err(self.ramp.clone());
        }
        Ok(permit)
    }

    pub(super) fn leave_ramp(&self) {
        self.in_ramp.fetch_sub(1, Ordering::Relaxed);
    }

    /// The attempt has ended.
    pub(super) fn record(self: &Arc<Self>, attempt: Attempt, judgement: Judgement, now: Instant) {
        let Attempt { word, begun, .. } = attempt;
        let same = || generation(self.word.load(Ordering::Relaxed)) == generation(word);
        if judgement == Judgement::Neutral || !same() {
            return;
        }
        let mut state = self.lock();
        // It may have tripped before we had the lock.
        if !same() || mode(self.word.load(Ordering::Relaxed)) > RAMPING {
            return;
        }
        #[cfg(feature = "cluster")]
        if judgement == Judgement::Elsewhere {
            return self.doubt(attempt, judgement, now, state);
        }
        if judgement == Judgement::Served {
            state.machine.on_calls(1, now);
            state.machine.on_link_success();
            state.served_at = Some(now);
            state.pace.on_served(attempt.waited(now), now);
            return;
        }
        // Those who waited together for one dead connection are one failure in a row, and as many in the window.
        let is_apart = state.failed_at.is_none_or(|at| begun >= at);
        if is_apart {
            state.failed_at = Some(now);
        }
        let mut trip = state.machine.on_failure(now);
        if trip.is_none() && is_apart {
            trip = state.machine.on_link_failure(now);
        }
        if let Some(trip) = trip {
            let transition = match trip {
                Trip::Window => Transition::Window,
                Trip::Consecutive | Trip::Verdict => Transition::Consecutive,
            };
            self.shift(&mut state, OPEN, Some(transition));
            drop(state);
            self.start_probing();
        } else {
            self.doubt(attempt, judgement, now, state);
        }
    }

    /// An attempt that several circuits admitted has failed, and nobody says by whose endpoint: counted for none, but in doubt.
    pub(super) fn suspect(self: &Arc<Self>, attempt: Attempt, judgement: Judgement, now: Instant) {
        if generation(self.word.load(Ordering::Relaxed)) == generation(attempt.word) {
            self.doubt(attempt, judgement, now, self.lock());
        }
    }

    /// Where the attempt waited in vain, or found no way, while nobody else was served, the probe is asked whether the endpoint is there at
    /// all, and if it is silent too the circuit opens. Who counts failures alone pays five deadlines for a black hole.
    fn doubt(
        self: &Arc<Self>,
        attempt: Attempt,
        judgement: Judgement,
        now: Instant,
        mut state: MutexGuard<'_, State>,
    ) {
        let is_reason = judgement.is_of_the_way() || attempt.was_in_vain(now);
        if !is_reason || !state.is_silent_since(attempt.begun) {
            return;
        }
        let usual = state.pace.patience(attempt.waited(now), now);
        drop(state);
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut doubter = self.doubter.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(asking) = Kept::claim(&self.doubted) else {
            return;
        };
        let core = Arc::downgrade(self);
        let asked = self.tries.in_doubt(usual);
        *doubter = Some(spawn_owned(&runtime, async move {
            let is_there = asked.await;
            let Some(core) = core.upgrade() else { return };
            if !is_there {
                core.condemn(attempt);
            }
            // Another call may be in doubt as soon as this is told.
            drop(asking);
        }));
    }

    /// Opens the circuit that admitted the attempt, unless somebody was served after all.
    fn condemn(self: &Arc<Self>, attempt: Attempt) {
        let mut state = self.lock();
        let now = self.word.load(Ordering::Relaxed);
        if generation(now) != generation(attempt.word)
            || mode(now) > RAMPING
            || !state.is_silent_since(attempt.begun)
        {
            return;
        }
        state.machine.trip(Trip::Verdict, Instant::now());
        self.shift(&mut state, OPEN, Some(Transition::Unresponsive));
        drop(state);
        self.start_probing();
    }

    /// Another mode, and another generation: what is under way counts no more.
    fn shift(&self, held: &mut State, mode: u64, transition: Option<Transition>) {
        let next = generation(self.word.load(Ordering::Relaxed)).wrapping_add(1);
        self.word
            .store(next.wrapping_mul(MODES) | mode, Ordering::Release);
        let state = match mode {
            OPEN => CircuitState::Open,
            FORCED_OPEN => CircuitState::ForcedOpen,
            FORCED_CLOSED => CircuitState::ForcedClosed,
            _ => CircuitState::Closed,
        };
        let is_news = self.states.send_replace(state) != state;
        if let Some(transition) = transition.filter(|_| is_news) {
            held.count.moved(transition);
            span::breaker_moved(self.metrics.client(), &self.endpoint, transition);
        }
    }

    /// The probe was answered: closes the circuit, if it has rested.
    fn close(&self) -> bool {
        let mut state = self.lock();
        if mode(self.word.load(Ordering::Relaxed)) != OPEN {
            return true;
        }
        let now = Instant::now();
        if !state.machine.close(now) {
            return false;
        }
        state.failed_at = None;
        state.machine.on_link_success();
        // It may be another server that answers now, and elsewhere.
        state.pace = Pace::new(now);
        self.shift(&mut state, RAMPING, Some(Transition::Verified));
        true
    }

    fn prober(&self) -> MutexGuard<'_, Option<Owned>> {
        self.prober.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop_probing(&self) {
        *self.prober() = None;
    }

    /// Where there is no runtime, the next call that is refused inside one starts it.
    fn start_probing(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut prober = self.prober();
        let Some(kept) = Kept::claim(&self.kept) else {
            return;
        };
        let task = probing(Arc::downgrade(self), self.tries.clone(), self.gaps(), kept);
        *prober = Some(spawn_owned(&runtime, task));
    }

    fn gaps(&self) -> Backoff {
        let policy = &self.policy;
        Backoff::new(
            policy.first_probe_gap(),
            policy.longest_probe_gap(),
            policy.probe_jitter_percent(),
        )
    }
}

/// Holds the circuit for moments only: the last handle to go ends it.
async fn probing(core: Weak<Core>, tries: Tries, mut gaps: Backoff, _kept: Kept) {
    loop {
        tokio::time::sleep(gaps.next()).await;
        let is_served = tries.once().await;
        match core.upgrade() {
            Some(core) if is_served && core.close() => return,
            Some(_) => {}
            None => return,
        }
    }
}

fn mode(word: u64) -> u64 {
    word % MODES
}

fn generation(word: u64) -> u64 {
    word / MODES
}

impl fmt::Debug for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Circuit")
            .field("state", &self.state())
            .field("in_ramp", &self.0.in_ramp.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

/// Word of each change of a circuit; from [`Circuit::watch`].
///
/// ```
/// # use redis_holdfast::{BreakerPolicy, Error, Reply, Request, redis::Value};
/// # use redis_holdfast::layer::{BreakerLayer, CircuitState, CircuitWatch, Probe};
/// # use tower::{Layer, service_fn};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Okay)) });
/// # let service = BreakerLayer::new(BreakerPolicy::default(), Probe::ping())?.layer(server);
/// let mut watch: CircuitWatch = service.circuit().watch();
/// assert_eq!(watch.current(), CircuitState::Closed);
/// service.circuit().force_closed();
/// assert_eq!(watch.changed().await, Some(CircuitState::ForcedClosed));
/// drop(service);
/// assert_eq!(watch.changed().await, None);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct CircuitWatch(watch::Receiver<CircuitState>);

impl CircuitWatch {
    /// The state now.
    #[must_use]
    pub fn current(&self) -> CircuitState {
        *self.0.borrow()
    }

    /// Waits for the next change; `None` once the circuit is gone. Changes in quick succession may be told as one.
    ///
    /// # Cancel safety
    /// Nothing is lost: a change that came is told by the next call.
    pub async fn changed(&mut self) -> Option<CircuitState> {
        self.0.changed().await.ok()?;
        Some(*self.0.borrow_and_update())
    }
}
