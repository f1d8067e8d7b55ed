//! Tries again what may be tried again, while there is time and the budget pays.
//!
//! Owns the attempts of a call. Promises: never after a refusal (an open circuit, a full limit), never what may have run and has an
//! effect unless its sender said so, never beyond the deadline, never more than the budget pays for; an error that comes after an attempt
//! that may have run says that the call may have run. Leaves the rule to
//! [`may_repeat`], the reading of outcomes to [`policy`], the price to [`budget`], and judging each attempt to
//! the breaker below. Fails with the last attempt's error.

pub(crate) mod budget;
pub(crate) mod policy;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use tower::{Layer, Service};

use self::{budget::Budget, policy::failed};
use super::{Gate, foreign::Foreign, timeout::Expire};
use crate::{
    ConfigError, Error, ErrorKind, Phase, Reply, Request,
    config::{RetryPolicy, defaults},
    deadline::Deadline,
    error::Executed,
    request::{Reached, commands::Effect, may_repeat},
    telemetry::{labels::ReplayKind, metrics::Metrics},
};

/// Tries failed calls again by a [`RetryPolicy`]. Stands inside a [`TimeoutLayer`](super::TimeoutLayer), whose deadline bounds all
/// attempts, and outside a [`BreakerLayer`](super::BreakerLayer), which judges each.
///
/// What goes again is what was certainly not run, reads, and by [`Replay::Overwrite`](crate::Replay::Overwrite) writes whose repetition is harmless; never a refused call.
/// An error reply (`LOADING`, `TRYAGAIN`, …) refuses a command as a whole, which was then not run; a script's, or one in a pipeline, may come
/// after something was done.
/// The budget is shared by the clones of one service.
///
/// # Metrics
/// `redis.holdfast.replays`, under [`name`](Self::name).
///
/// ```
/// use redis_holdfast::{Error, Reply, Request, RetryPolicy, redis::{self, Value}};
/// use redis_holdfast::layer::{RetryLayer, TimeoutLayer};
/// use std::time::Duration;
/// use tower::{Layer, Service, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Okay)) });
/// let retry = RetryLayer::new(RetryPolicy::default().attempts(2))?.name("sessions");
/// let mut service = TimeoutLayer::new(Duration::from_millis(250)).layer(retry.layer(server));
/// service.call(Request::from(redis::cmd("GET").arg("k"))).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RetryLayer {
    policy: RetryPolicy,
    metrics: Metrics,
}

impl RetryLayer {
    /// Retries by `policy`.
    ///
    /// # Errors
    /// Every fault of the policy at once.
    pub fn new(policy: RetryPolicy) -> Result<Self, ConfigError> {
        let faults = policy.faults();
        if !faults.is_empty() {
            return Err(ConfigError::new(faults));
        }
        let metrics = Metrics::named(&defaults::NAME.into());
        Ok(Self { policy, metrics })
    }

    /// The name it counts under. Default `redis`.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.metrics = Metrics::named(&name.into());
        self
    }
}

impl<S: Clone> Layer<S> for RetryLayer {
    type Service = Retry<Foreign<S>>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry::new(Foreign::new(inner), self.policy.clone(), self.metrics)
    }
}

/// The service that a [`RetryLayer`] makes. Always ready; clones share the budget.
///
/// # Errors
/// That of the last attempt; if an earlier one may have run it says so too ([`Error::may_have_executed`]).
///
/// # Cancel safety
/// That of the inner service for the attempt under way; there is no further one.
///
/// ```
/// use redis_holdfast::{Error, Reply, Request, RetryPolicy, redis::{self, RedisError, Value}};
/// use redis_holdfast::layer::{Retry, RetryLayer};
/// use std::{io, sync::atomic::{AtomicUsize, Ordering}};
/// use tower::{Layer, Service, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// static CALLS: AtomicUsize = AtomicUsize::new(0);
/// let flaky = service_fn(|_: Request| async {
///     match CALLS.fetch_add(1, Ordering::Relaxed) {
///         0 => Err(RedisError::from(io::Error::from(io::ErrorKind::ConnectionReset))),
///         _ => Ok(Reply::from(Value::Int(7))),
///     }
/// });
/// let mut service: Retry<_> = RetryLayer::new(RetryPolicy::default().attempts(2))?.layer(flaky);
/// let price = service.call(Request::from(redis::cmd("GET").arg("price"))).await?;
/// assert_eq!(price.parse::<u64>()?, 7);
/// # Ok(()) }
/// ```
pub struct Retry<S> {
    inner: S,
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    policy: RetryPolicy,
    budget: Mutex<Budget>,
    /// Served since the budget was last asked.
    served: AtomicU64,
    /// Where further attempts come from: a service per call would cost every call one.
    spare: Mutex<S>,
    metrics: Metrics,
}

impl<S: Clone> Retry<S> {
    pub(crate) fn new(inner: S, policy: RetryPolicy, metrics: Metrics) -> Self {
        let shared = Shared {
            budget: Mutex::new(Budget::new(&policy)),
            policy,
            served: AtomicU64::new(0),
            spare: Mutex::new(inner.clone()),
            metrics,
        };
        Self {
            inner,
            shared: Arc::new(shared),
        }
    }
}

impl<S: Clone> Clone for Retry<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Retry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("inner", &self.inner)
            .field("policy", &self.shared.policy)
            .finish_non_exhaustive()
    }
}

impl<S> Shared<S> {
    fn pays(&self, now: Instant) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.earn(self.served.swap(0, Ordering::Relaxed));
        budget.pay(now)
    }

    /// Jittered, between the two ends of the policy's range.
    fn gap(&self) -> Duration {
        let (least, most) = self.policy.gaps();
        least + (most - least).mul_f64(fastrand::f64())
    }
}

impl<S> Service<Request> for Retry<S>
where
    S: Service<Request, Response = Reply, Error = Error> + Clone + Gate,
{
    type Response = Reply;
    type Error = Error;
    type Future = RetryFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> RetryFuture<S> {
        let left = self.shared.policy.further_attempts();
        // What is refused below is not tried again: a refusal copies nothing.
        let kept = (left > 0 && !self.inner.refuses(&request)).then(|| request.clone());
        RetryFuture {
            deadline: request.deadline(),
            shared: self.shared.clone(),
            kept,
            left,
            maybe_run: false,
            stage: Stage::Trying {
                future: self.inner.call(request),
            },
        }
    }
}

pin_project! {
    /// A call of several attempts. Errors and cancel safety are those of [`Retry`].
    ///
    /// ```
    /// # use redis_holdfast::{Error, Reply, Request, RetryPolicy, layer::{RetryFuture, RetryLayer}, redis::{self, Value}};
    /// # use tower::{Layer, Service, service_fn};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Okay)) });
    /// # let mut service = RetryLayer::new(RetryPolicy::default())?.layer(server);
    /// let call: RetryFuture<_> = service.call(Request::from(&redis::cmd("PING")));
    /// call.await?;
    /// # Ok(()) }
    /// ```
    pub struct RetryFuture<S>
    where
        S: Service<Request>,
    {
        shared: Arc<Shared<S>>,
        kept: Option<Request>,
        deadline: Option<Deadline>,
        left: u32,
        maybe_run: bool,
        #[pin]
        stage: Stage<S::Future>,
    }
}

pin_project! {
    #[project = Staged]
    enum Stage<F> {
        Trying {
            #[pin]
            future: F,
        },
        Resting {
            sleep: Pin<Box<Sleep>>,
            outcome: Option<Result<Reply, Error>>,
        },
        Over,
    }
}

impl<S> RetryFuture<S>
where
    S: Service<Request, Response = Reply, Error = Error>,
{
    /// How long to rest before another attempt, if there may be one after `result`.
    fn again(self: Pin<&mut Self>, result: &Result<Reply, Error>) -> Option<Duration> {
        let this = self.project();
        let request = this.kept.as_ref()?;
        let reached = failed(result, request.is_plain())?;
        let (effect, policy) = (request.effect(), &this.shared.policy);
        let replay = policy.replay_of(request);
        if *this.left == 0 || !may_repeat(reached, effect, replay, false) {
            return None;
        }
        let (now, gap) = (Instant::now(), this.shared.gap());
        let has_time = this
            .deadline
            .is_none_or(|deadline| deadline.left(now) > gap);
        if !has_time || !this.shared.pays(now) {
            return None;
        }
        *this.left -= 1;
        *this.maybe_run |= reached == Reached::MaybeRun;
        let kind = match (reached, effect) {
            (Reached::NotRun, _) => ReplayKind::NotSent,
            (Reached::MaybeRun, Effect::None) => ReplayKind::Read,
            (Reached::MaybeRun, _) => ReplayKind::Overwrite,
        };
        this.shared.metrics.replayed(kind, 1);
        Some(gap)
    }
}

/// An error that follows an attempt that may have run.
fn after(maybe_run: bool, error: Error) -> Error {
    if maybe_run && !error.may_have_executed() {
        error.executed(Executed::Maybe)
    } else {
        error
    }
}

impl<S> Future for RetryFuture<S>
where
    S: Service<Request, Response = Reply, Error = Error> + Clone,
{
    type Output = Result<Reply, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut this = self.as_mut().project();
            match this.stage.as_mut().project() {
                Staged::Trying { future } => {
                    let result = ready!(future.poll(cx));
                    if result.is_ok() && failed(&result, true).is_none() {
                        this.shared.served.fetch_add(1, Ordering::Relaxed);
                    }
                    match self.as_mut().again(&result) {
                        Some(gap) => self.as_mut().project().stage.set(Stage::Resting {
                            sleep: Box::pin(sleep(gap)),
                            outcome: Some(result),
                        }),
                        None => {
                            let mut this = self.project();
                            this.stage.set(Stage::Over);
                            let maybe_run = *this.maybe_run;
                            return Poll::Ready(result.map_err(|error| after(maybe_run, error)));
                        }
                    }
                }
                Staged::Resting { sleep, .. } => {
                    ready!(sleep.as_mut().poll(cx));
                    let Some(request) = this.kept.clone() else {
                        return Poll::Pending;
                    };
                    let spare = &this.shared.spare;
                    let mut service = spare.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    let future = service.call(request);
                    this.stage.set(Stage::Trying { future });
                }
                Staged::Over => return Poll::Pending,
            }
        }
    }
}

impl<S> Expire for RetryFuture<S>
where
    S: Service<Request>,
    S::Future: Expire,
{
    fn expire(self: Pin<&mut Self>) -> Error {
        let mut this = self.project();
        let error = match this.stage.as_mut().project() {
            Staged::Trying { future } => future.expire(),
            Staged::Resting { outcome, .. } => match outcome.take() {
                Some(Err(error)) => error,
                _ => between(this.deadline.as_ref()),
            },
            Staged::Over => between(this.deadline.as_ref()),
        };
        this.stage.set(Stage::Over);
        after(*this.maybe_run, error)
    }
}

fn between(deadline: Option<&Deadline>) -> Error {
    let waited = deadline.map(|deadline| deadline.waited(Instant::now()));
    Error::new(
        ErrorKind::Timeout,
        Phase::Queue,
        "refused until the deadline passed",
    )
    .after(waited.unwrap_or_default())
}

impl<S: Service<Request>> fmt::Debug for RetryFuture<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryFuture")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
