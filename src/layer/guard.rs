//! All layers around a finished connection.
//!
//! Owns [`GuardLayer`], its builder and the stack it makes. Promises: what is under guard is *bounded*: each call by its deadline, all by
//! their caps, an endpoint that fails by its circuit. It is not *healed*: nothing here can dial, resolve a name or follow a failover.
//! Leaves that to whoever made the connection. The stack stands in [`Stack`], composed of the layers that stand alone.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{
    breaker::{Breaker, BreakerLayer, Circuit, Probe},
    fallback::{Fallback, FallbackLayer},
    foreign::Foreign,
    limit::{Caps, Limit},
    retry::Retry,
    telemetry::Telemetry,
    timeout::Timeout,
};
use crate::{
    BreakerPolicy, ConfigError, Error, Reply, Request, RetryPolicy, config::GuardSettings,
    telemetry::metrics::Metrics,
};

/// The stack around a connection that somebody else made, top to bottom.
#[rustfmt::skip]
pub(crate) type Bounds<B> =
    Telemetry<      // outermost: sees every outcome, also the refused ones
    Fallback<       // optional: what a read means while Redis is away
    Timeout<        // one deadline for waiting, backing off and every attempt
    Limit<          // refuses the call that would queue; its permit is held until the outcome
    Retry<          // outside the breaker, so that each attempt is judged on its own; never retries a refusal
    B               // refuses while the probe is not answered: a breaker, or one for each node of a cluster
    >>>>>;

/// With one circuit for the connection, whose readiness is awaited inside the deadline.
type Stack<S> = Bounds<Breaker<Foreign<S>>>;

/// Bounds a finished connection, and cannot heal it: each call has one deadline, all have their caps, failures open a circuit, what may be
/// retried is; a dead connection stays dead until whoever made it makes another.
///
/// For connections that know their own way: a `ConnectionManager`, a cluster connection, a pool, by a
/// [`ConnectionService`](crate::ConnectionService) or a `PoolService`. Where only a server is to be reached, a
/// [`ResilienceLayer`](super::ResilienceLayer) does more.
///
/// Each call of [`layer`](Layer::layer) makes a stack of its own: its own caps, circuit and retry budget.
///
/// ```
/// use redis_holdfast::{ConnectionService, Request, layer::GuardLayer, redis};
/// use std::time::Duration;
/// use tower::{Layer, Service};
///
/// # use redis_holdfast::{Error, Reply, ServiceConnection, redis::Value};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let connection = ServiceConnection::new(tower::service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Int(1))) }));
/// // `connection` is a `ConnectionManager`, a `ClusterConnection`, …
/// let guard = GuardLayer::builder().name("sessions").call_timeout(Duration::from_millis(250)).build()?;
/// let mut service = guard.layer(ConnectionService::new(connection));
/// let hits = service.call(Request::from(redis::cmd("INCR").arg("hits"))).await?.parse::<u64>()?;
/// # assert_eq!(hits, 1);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct GuardLayer {
    call_timeout: Duration,
    caps: Caps,
    retry: RetryPolicy,
    breaker: BreakerLayer,
    fallback: Option<FallbackLayer>,
    metrics: Metrics,
}

/// Collects the settings of a [`GuardLayer`]; [`build`](Self::build) checks them all.
///
/// ```
/// use redis_holdfast::{BreakerPolicy, RetryPolicy, layer::{GuardLayer, Probe, cache_miss}};
/// use std::time::Duration;
///
/// let guard = GuardLayer::builder()
///     .name("cache")
///     .call_timeout(Duration::from_millis(250))
///     .max_in_flight(512)
///     .max_buffered_bytes(16 << 20)
///     .breaker(BreakerPolicy::default().min_calls(50))
///     .probe(Probe::ping().within(Duration::from_millis(100)))
///     .retry(RetryPolicy::default().attempts(1))
///     .fallback(cache_miss)
///     .build()?;
/// # let _ = guard;
/// let faults = GuardLayer::builder().call_timeout(Duration::ZERO).max_in_flight(0).build().unwrap_err();
/// assert!(faults.faults().len() >= 2); // Every fault at once.
/// # Ok::<(), redis_holdfast::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct GuardBuilder {
    settings: GuardSettings,
    probe: Probe,
    fallback: Option<FallbackLayer>,
}

impl GuardLayer {
    /// Starts with every default.
    pub fn builder() -> GuardBuilder {
        GuardBuilder {
            settings: GuardSettings::default(),
            probe: Probe::ping(),
            fallback: None,
        }
    }
}

/// Setters. Nothing is checked here: [`build`](Self::build) reports every fault at once.
impl GuardBuilder {
    /// The name in metrics, logs and errors. Default `redis`; legal: 1 to 64 of `A–Z a–z 0–9 . _ -`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// Longest time a call may take, from the call to its outcome. Default 500 ms; legal from 1 ms to 1 h.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.settings.call_timeout = timeout;
        self
    }

    /// Calls held at once; one more is refused, never queued. Default 1,024; legal from 1 to 1,000,000.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.settings.max_in_flight = calls;
        self
    }

    /// Bytes of requests held at once. Default 64 MiB; legal from 64 KiB to 1 GiB.
    pub fn max_buffered_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_buffered_bytes = bytes;
        self
    }

    /// When the circuit opens, how it is probed and how calls come back. Default [`BreakerPolicy::default`].
    pub fn breaker(mut self, policy: BreakerPolicy) -> Self {
        self.settings.breaker = policy;
        self
    }

    /// What closes the circuit. Default [`Probe::ping`]. Around a cluster connection each node is asked for itself, and this gives the time of it.
    pub fn probe(mut self, probe: Probe) -> Self {
        self.probe = probe;
        self
    }

    /// What is tried again. Default [`RetryPolicy::default`].
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.settings.retry = policy;
        self
    }

    /// Answers reads that failed: see [`FallbackLayer`]. Default none.
    pub fn fallback(
        mut self,
        answer: impl Fn(&Request, &Error) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        self.fallback = Some(FallbackLayer::new(answer));
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    /// Every fault at once: each value out of its range, each contradiction.
    pub fn build(self) -> Result<GuardLayer, ConfigError> {
        let Self {
            settings,
            probe,
            fallback,
        } = self;
        settings.check()?;
        let name = &settings.name;
        Ok(GuardLayer {
            call_timeout: settings.call_timeout,
            caps: Caps {
                calls: settings.max_in_flight,
                bytes: settings.max_buffered_bytes,
                endpoint: name.as_str().into(),
            },
            retry: settings.retry,
            breaker: BreakerLayer::new(settings.breaker, probe)?
                .name(name)
                .max_in_flight(settings.max_in_flight),
            fallback: fallback.map(|fallback| fallback.name(name)),
            metrics: Metrics::named(&name.as_str().into()),
        })
    }
}

impl GuardLayer {
    /// What makes the circuits.
    #[cfg(feature = "cluster")]
    pub(crate) fn breaker(&self) -> &BreakerLayer {
        &self.breaker
    }

    /// All the rest, around what has them.
    pub(crate) fn bounds<B: Clone>(&self, breaker: B) -> Bounds<B> {
        let retry = Retry::new(breaker, self.retry.clone(), self.metrics);
        let limit = Limit::new(retry, &self.caps, &self.metrics);
        let timeout = Timeout::new(limit, self.call_timeout);
        let fallback = match &self.fallback {
            Some(fallback) => fallback.clone().around(timeout),
            None => Fallback::none(timeout, self.metrics),
        };
        Telemetry::new(fallback, self.metrics).refreshing()
    }
}

impl<S> Layer<S> for GuardLayer
where
    S: Service<Request, Response = Reply> + Clone + Send + 'static,
    S::Error: Into<Error>,
    S::Future: Send + 'static,
{
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        let breaker = self.breaker.around(Foreign::new(inner));
        let circuit = breaker.circuit().clone();
        let stack = self.bounds(breaker);
        Guard { stack, circuit }
    }
}

/// The stack that a [`GuardLayer`] puts around a connection. Cheap to clone; clones share caps, circuit and retry budget.
///
/// # Readiness
/// Always ready. `poll_ready` reserves nothing; the connection's own readiness is awaited by each call, inside its deadline.
///
/// # Errors
/// `Timeout`, `Overloaded`, `CircuitOpen`, and what the connection fails with. [`Error::may_have_executed`] is `true` for whatever was handed to
/// the connection: nobody here sees its socket.
///
/// # Cancel safety
/// A call that is dropped gives back all that it holds here; what its connection does with it is the connection's affair. Dropped late
/// it counts as a failure of the endpoint.
///
/// ```
/// # use redis_holdfast::{Error, Reply, Request, layer::{Guard, GuardLayer}, redis::{self, Value}};
/// # use tower::{Layer, Service, service_fn};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let connection = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Okay)) });
/// let mut guarded: Guard<_> = GuardLayer::builder().name("sessions").build()?.layer(connection);
/// guarded.circuit().force_open(); // Maintenance: nothing is sent, whoever has a clone.
/// let refused = guarded.call(Request::from(&redis::cmd("PING"))).await.unwrap_err();
/// assert_eq!((refused.is_circuit_open(), refused.endpoint()), (true, Some("sessions")));
/// # Ok(()) }
/// ```
pub struct Guard<S> {
    stack: Stack<S>,
    circuit: Circuit,
}

impl<S> Guard<S> {
    /// Its circuit, to watch and to force.
    #[must_use]
    pub fn circuit(&self) -> &Circuit {
        &self.circuit
    }
}

impl<S: Clone> Clone for Guard<S> {
    fn clone(&self) -> Self {
        Self {
            stack: self.stack.clone(),
            circuit: self.circuit.clone(),
        }
    }
}

impl<S: fmt::Debug + Clone> fmt::Debug for Guard<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("stack", &self.stack)
            .field("circuit", &self.circuit)
            .finish()
    }
}

impl<S> Service<Request> for Guard<S>
where
    S: Service<Request, Response = Reply> + Clone,
    S::Error: Into<Error>,
{
    type Response = Reply;
    type Error = Error;
    type Future = GuardFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.stack.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> GuardFuture<S> {
        GuardFuture {
            inner: self.stack.call(request),
        }
    }
}

pin_project! {
    /// A call under guard. Errors and cancel safety are those of [`Guard`].
    ///
    /// ```
    /// # use redis_holdfast::{Error, Reply, Request, layer::{GuardFuture, GuardLayer}, redis::{self, Value}};
    /// # use tower::{Layer, Service, service_fn};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let connection = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Okay)) });
    /// # let mut guarded = GuardLayer::builder().max_in_flight(1).build()?.layer(connection);
    /// let call: GuardFuture<_> = guarded.call(Request::from(&redis::cmd("PING")));
    /// drop(call); // Its place is free again.
    /// guarded.call(Request::from(&redis::cmd("PING"))).await?;
    /// # Ok(()) }
    /// ```
    pub struct GuardFuture<S>
    where
        S: Service<Request, Response = Reply>,
        S: Clone,
        S::Error: Into<Error>,
    {
        #[pin]
        inner: <Stack<S> as Service<Request>>::Future,
    }
}

impl<S> Future for GuardFuture<S>
where
    S: Service<Request, Response = Reply> + Clone,
    S::Error: Into<Error>,
{
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx)
    }
}

impl<S> fmt::Debug for GuardFuture<S>
where
    S: Service<Request, Response = Reply> + Clone,
    S::Error: Into<Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardFuture").finish_non_exhaustive()
    }
}
