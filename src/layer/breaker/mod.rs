//! The circuit breaker: refuses calls to an endpoint that is known to be away.
//!
//! Owns the decision *whether* calls may pass, [`machine`] and its [`window`], both pure; and, for services that nobody else supervises,
//! [`BreakerLayer`] with a [`circuit`] and a [`probe`] of its own. Promises: user calls are never the guinea pig; only a verified connection
//! or an answered probe closes the circuit. Leaves verifying links to `channel`. Fails with `CircuitOpen`.

mod circuit;
mod judge;
pub(crate) mod machine;
#[cfg(test)]
mod model;
mod pace;
mod permit;
mod probe;
#[cfg(test)]
mod tests;
pub(crate) mod window;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

#[cfg(feature = "cluster")]
use self::judge::judge_node;
use self::{judge::judge, permit::Permit, probe::Tries};
use super::{Gate, foreign::Foreign, timeout::Expire};
use crate::{
    BreakerPolicy, ConfigError, Error, Reply, Request, config::defaults, deadline::Deadline,
    telemetry::metrics::Metrics,
};

pub use circuit::{Circuit, CircuitState, CircuitWatch};
#[cfg(feature = "cluster")]
pub(crate) use judge::is_answer;
pub use probe::Probe;

/// Refuses calls to a service that keeps failing, until a probe of its own is answered.
///
/// Opens when at least half of twenty calls of the last ten seconds failed, or five failed in a row, each begun after the last
/// had failed; what waited together for one dead connection is one failure in a row. And where a call waited in vain for 150 ms or four fifths
/// of its timeout, whichever is less, and none was served since it began, the probe is asked at once: if that is silent too, for 150 ms or three
/// times the quickest call of the last minute, whichever is more, the circuit opens. (For as long as the call waited where none was served of
/// late; for [`Probe::within`] where that was given; never for more than it.) So a black hole costs its callers a deadline, and those who call
/// one after the other no more than a deadline and that silence. A call that is dropped late counts as failed. While open the [`Probe`] runs in
/// the background, and user calls are refused with an error made before. After it, admission grows from a tenth.
///
/// Each call of [`layer`](Layer::layer) makes a circuit of its own: [`Breaker::circuit`]. Put one around each endpoint.
///
/// # Metrics
/// `redis.holdfast.breaker.state` and `.transitions`, under [`name`](Self::name).
///
/// ```
/// use redis_holdfast::{BreakerPolicy, Error, Reply, Request, redis::{self, Value}};
/// use redis_holdfast::layer::{BreakerLayer, Probe};
/// use tower::{Layer, Service, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Okay)) });
/// let breaker = BreakerLayer::new(BreakerPolicy::default(), Probe::ping())?.name("sessions").max_in_flight(256);
/// let mut service = breaker.layer(server);
/// service.call(Request::from(&redis::cmd("PING"))).await?;
/// service.circuit().force_open();
/// let refused = service.call(Request::from(&redis::cmd("PING"))).await.unwrap_err();
/// assert_eq!((refused.is_circuit_open(), refused.endpoint()), (true, Some("sessions")));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct BreakerLayer {
    policy: BreakerPolicy,
    probe: Probe,
    cap: usize,
    metrics: Metrics,
}

impl BreakerLayer {
    /// A breaker by `policy` that is closed by `probe`. The policy's `auth_retry` is of no effect here.
    ///
    /// # Errors
    /// Every fault of the policy at once.
    pub fn new(policy: BreakerPolicy, probe: Probe) -> Result<Self, ConfigError> {
        let faults = policy.faults();
        if !faults.is_empty() {
            return Err(ConfigError::new(faults));
        }
        Ok(Self {
            policy,
            probe,
            cap: defaults::MAX_IN_FLIGHT,
            metrics: Metrics::named(&defaults::NAME.into()),
        })
    }

    /// The whole of which a share is admitted when the circuit has closed. Default 1,024.
    #[must_use]
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.cap = calls;
        self
    }

    /// The name it counts under, and that its refusals give as their endpoint. Default `redis`.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.metrics = Metrics::named(&name.into());
        self
    }

    pub(crate) fn around<S>(&self, inner: S) -> Breaker<S>
    where
        S: Service<Request, Response = Reply, Error = Error> + Clone + Send + 'static,
        S::Future: Send + 'static,
    {
        let probe = self.probe.over(inner.clone());
        let circuit = self.circuit(probe, self.metrics.client().into());
        Breaker { inner, circuit }
    }

    /// The name it counts under.
    #[cfg(feature = "cluster")]
    pub(crate) fn client(&self) -> &'static str {
        self.metrics.client()
    }

    /// The circuit of one of several endpoints, for whoever tells them apart. `probe` asks that one alone, in the time that this layer's own
    /// probe has; `doubt`, while the circuit is closed, whether it may be condemned, in about the time that it is given.
    #[cfg(feature = "cluster")]
    pub(crate) fn circuit_of<P, D>(
        &self,
        endpoint: &Arc<str>,
        probe: impl Fn() -> P + Send + Sync + 'static,
        doubt: impl Fn(std::time::Duration) -> D + Send + Sync + 'static,
    ) -> Circuit
    where
        P: Future<Output = bool> + Send + 'static,
        D: Future<Output = bool> + Send + 'static,
    {
        self.circuit(self.probe.instead(probe, doubt), endpoint.clone())
    }

    fn circuit(&self, tries: Tries, endpoint: Arc<str>) -> Circuit {
        Circuit::new(self.policy.clone(), self.cap, tries, endpoint, self.metrics)
    }
}

impl<S> Layer<S> for BreakerLayer
where
    S: Service<Request, Response = Reply> + Clone + Send + 'static,
    S::Error: Into<Error>,
    S::Future: Send + 'static,
{
    type Service = Breaker<Foreign<S>>;

    fn layer(&self, inner: S) -> Self::Service {
        self.around(Foreign::new(inner))
    }
}

/// The service that a [`BreakerLayer`] makes. Always ready: an open circuit is an error from `call`. Clones share the circuit.
///
/// # Errors
/// `CircuitOpen`, phase `queue`, while the circuit is open, and for what its growing admission has no place for; else those of the inner
/// service.
///
/// # Cancel safety
/// That of the inner service. A call that is dropped after more than 150 ms, or four fifths of its timeout if that is less, counts as failed.
///
/// ```
/// use redis_holdfast::{BreakerPolicy, Error, Reply, Request, redis::{self, Value}};
/// use redis_holdfast::layer::{Breaker, BreakerLayer, Probe};
/// use tower::{Layer, Service, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Okay)) });
/// let mut service: Breaker<_> = BreakerLayer::new(BreakerPolicy::default(), Probe::ping())?.layer(server);
/// let clone = service.clone();
/// clone.circuit().force_open();
/// assert!(service.call(Request::from(&redis::cmd("PING"))).await.unwrap_err().is_circuit_open());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Breaker<S> {
    inner: S,
    circuit: Circuit,
}

impl<S> Breaker<S> {
    /// Its circuit.
    #[must_use]
    pub fn circuit(&self) -> &Circuit {
        &self.circuit
    }
}

impl<S> Gate for Breaker<S> {
    fn refuses(&self, _: &Request) -> bool {
        self.circuit.refuses()
    }
}

impl<S: fmt::Debug> fmt::Debug for Breaker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("inner", &self.inner)
            .field("circuit", &self.circuit)
            .finish()
    }
}

impl<S> Service<Request> for Breaker<S>
where
    S: Service<Request, Response = Reply, Error = Error>,
{
    type Response = Reply;
    type Error = Error;
    type Future = BreakerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        BreakerFuture::of(Under::One(&self.circuit), &mut self.inner, request)
    }
}

/// Whose word a call needs.
pub(crate) enum Under<'a> {
    /// Nobody's: it passes, and nobody hears of its outcome.
    #[cfg(feature = "cluster")]
    Nothing,
    One(&'a Circuit),
    /// That of a cluster's node.
    #[cfg(feature = "cluster")]
    Node(&'a Circuit),
    /// That of each of several. Served, it counts for all; failed, for none, but each has its endpoint asked whether it is there.
    #[cfg(feature = "cluster")]
    Nodes(&'a [Circuit]),
}

/// What those have given.
enum Leave {
    One(Permit),
    #[cfg(feature = "cluster")]
    Node(Permit),
    #[cfg(feature = "cluster")]
    Nodes(Vec<Permit>),
}

impl Leave {
    fn of(under: Under<'_>, deadline: Option<Deadline>) -> Result<Self, Error> {
        let admit = |circuit: &Circuit| Ok(circuit.admit()?.with_deadline(deadline));
        match under {
            Under::One(circuit) => admit(circuit).map(Self::One),
            #[cfg(feature = "cluster")]
            Under::Nothing => Ok(Self::Nodes(Vec::new())),
            #[cfg(feature = "cluster")]
            Under::Node(circuit) => admit(circuit).map(Self::Node),
            #[cfg(feature = "cluster")]
            Under::Nodes(circuits) => {
                let permits = circuits.iter().map(|circuit| Ok(admit(circuit)?.shared()));
                permits.collect::<Result<_, _>>().map(Self::Nodes)
            }
        }
    }

    fn begin(&mut self) {
        match self {
            Self::One(permit) => permit.begin(),
            #[cfg(feature = "cluster")]
            Self::Node(permit) => permit.begin(),
            #[cfg(feature = "cluster")]
            Self::Nodes(permits) => permits.iter_mut().for_each(Permit::begin),
        }
    }

    fn judge(&mut self, result: Result<&Reply, &Error>) {
        match self {
            Self::One(permit) => permit.judge(judge(result)),
            #[cfg(feature = "cluster")]
            Self::Node(permit) => permit.judge(judge_node(result)),
            #[cfg(feature = "cluster")]
            Self::Nodes(permits) => {
                let judgement = judge_node(result);
                permits
                    .iter_mut()
                    .for_each(|permit| permit.judge(judgement));
            }
        }
    }
}

pin_project! {
    /// A call that was admitted, or refused at once. Errors and cancel safety are those of [`Breaker`].
    ///
    /// ```
    /// # use redis_holdfast::{BreakerPolicy, Error, Reply, Request, redis::{self, Value}};
    /// # use redis_holdfast::layer::{BreakerFuture, BreakerLayer, Probe};
    /// # use tower::{Layer, Service, service_fn};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Okay)) });
    /// # let mut service = BreakerLayer::new(BreakerPolicy::default(), Probe::ping())?.layer(server);
    /// let call: BreakerFuture<_> = service.call(Request::from(&redis::cmd("PING")));
    /// // Admitted before: what befalls the circuit now is no matter of this call's.
    /// service.circuit().force_open();
    /// assert!(call.await.is_ok());
    /// # Ok(()) }
    /// ```
    pub struct BreakerFuture<F> {
        #[pin]
        stage: Stage<F>,
    }
}

pin_project! {
    #[project = Staged]
    enum Stage<F> {
        Admitted {
            #[pin]
            inner: F,
            leave: Leave,
        },
        Refused {
            refusal: Error,
        },
    }
}

impl<F> BreakerFuture<F> {
    /// A call that is refused.
    #[cfg(feature = "cluster")]
    pub(crate) fn refused(refusal: Error) -> Self {
        Self {
            stage: Stage::Refused { refusal },
        }
    }

    /// A call of `inner` under these circuits.
    pub(crate) fn of<S>(under: Under<'_>, inner: &mut S, request: Request) -> Self
    where
        S: Service<Request, Future = F>,
    {
        let stage = match Leave::of(under, request.deadline()) {
            Ok(leave) => Stage::Admitted {
                leave,
                inner: inner.call(request),
            },
            Err(refusal) => Stage::Refused { refusal },
        };
        Self { stage }
    }
}

impl<F> Future for BreakerFuture<F>
where
    F: Future<Output = Result<Reply, Error>>,
{
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().stage.project() {
            Staged::Admitted { inner, leave } => {
                leave.begin();
                let result = ready!(inner.poll(cx));
                leave.judge(result.as_ref());
                Poll::Ready(result)
            }
            Staged::Refused { refusal } => Poll::Ready(Err(refusal.clone())),
        }
    }
}

impl<F: Expire> Expire for BreakerFuture<F> {
    fn expire(self: Pin<&mut Self>) -> Error {
        match self.project().stage.project() {
            Staged::Admitted { inner, leave } => {
                let error = inner.expire();
                leave.judge(Err(&error));
                error
            }
            Staged::Refused { refusal } => refusal.clone(),
        }
    }
}

impl<F> fmt::Debug for BreakerFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerFuture").finish_non_exhaustive()
    }
}
