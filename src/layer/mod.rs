//! The tower side: layers around a `Service<Request>`. A layer has never heard of a socket.
//!
//! Owns [`ResilienceLayer`], the whole stack, and the layers it is made of. Promises: each of them is always ready and admits in `call`;
//! what a call reserves it gives back on success, error, panic and drop; an open circuit is an error from `call`, never from
//! `poll_ready`. Leaves links to `channel`. The stack stands here and nowhere else, top to bottom:

pub(crate) mod breaker;
mod budget;
mod fallback;
mod foreign;
mod guard;
pub(crate) mod limit;
pub(crate) mod retry;
pub(crate) mod telemetry;
#[cfg(test)]
mod tests;
pub(crate) mod timeout;
#[cfg(test)]
mod traps;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

use self::limit::Caps;
use crate::{
    Config, Error, ReadFrom, Reply, Request,
    channel::{Channel, Sources, route::Route},
    dns::Resolve,
    health::HealthCell,
    telemetry::metrics::Metrics,
    topology::sentinel::Sentinels,
};

pub use self::breaker::{
    Breaker, BreakerFuture, BreakerLayer, Circuit, CircuitState, CircuitWatch, Probe,
};
pub use self::budget::{Budget, BudgetLayer, Limited, Read, ReadBudget};
#[cfg(feature = "http")]
pub use self::budget::{GrpcTimeout, Header};
pub use self::fallback::{Fallback, FallbackFuture, FallbackLayer, cache_miss};
pub use self::foreign::{Foreign, ForeignFuture};
pub use self::guard::{Guard, GuardBuilder, GuardFuture, GuardLayer};
pub use self::limit::{Limit, LimitFuture, LimitLayer};
pub use self::retry::{Retry, RetryFuture, RetryLayer};
pub use self::telemetry::{Telemetry, TelemetryFuture, TelemetryLayer};
pub use self::timeout::{Timeout, TimeoutFuture, TimeoutLayer};
#[cfg(feature = "cluster")]
pub(crate) use self::{breaker::Under, guard::Bounds};
pub use crate::net::reach::connect::{Connect, LinkConnector};

/// What a layer can say of itself before it is called.
pub(crate) trait Gate {
    /// Whether it would refuse this call now.
    fn refuses(&self, _: &Request) -> bool {
        false
    }
}

/// The stack around the links that a connector makes, top to bottom.
#[rustfmt::skip]
type Stack<C> =
    Telemetry<      // outermost: sees every outcome, also the refused ones
    Timeout<        // one deadline for waiting and every attempt; its expiry is an outcome that link and breaker hear of
    Limit<          // refuses the call that would queue; its permit is held until the outcome
    Route<C>        // the channel to the primary, or for a read the one to a replica: each a breaker and the link in service
    >>>;

/// Wraps a *connector* and heals what it makes: names followed, silence found, links probed, swapped and fenced, the circuit opened
/// and closed, every call bounded.
///
/// Each call of [`layer`](Layer::layer) makes a stack of its own: its own caps, connection and circuit. Connecting begins at once inside a
/// runtime, else with the first call. Health is told by a [`Client`](crate::Client) alone; here ask the errors and the metrics.
///
/// ```
/// use redis_holdfast::layer::{LinkConnector, ResilienceLayer};
/// use redis_holdfast::{Config, Request, redis};
/// use tower::{Service, ServiceBuilder};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let url = "redis://cache.internal:6379";
/// # let server = holdfast_lab::Embedded::start().await?;
/// # let url: &str = &server.url();
/// let config = Config::builder(url).name("hits").build()?;
/// # let config = config.into_builder().call_timeout(std::time::Duration::from_secs(30)).build()?; // the machine may be busy
/// let mut service = ServiceBuilder::new().layer(ResilienceLayer::new(config)).service(LinkConnector::new());
/// let hits: u64 = service.call(Request::from(redis::cmd("INCR").arg("hits"))).await?.parse()?;
/// assert_eq!(hits, 1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ResilienceLayer {
    config: Arc<Config>,
    sources: Sources,
    health: Option<Arc<HealthCell>>,
}

impl ResilienceLayer {
    /// The stack for the server of `config`.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config: Arc::new(config),
            sources: Sources::default(),
            health: None,
        }
    }

    /// Looks names up with `resolver` instead of the system's name servers.
    ///
    /// ```
    /// # use redis_holdfast::{Config, dns::System, layer::ResilienceLayer};
    /// let config = Config::builder("redis://cache.corp").build()?;
    /// let layer = ResilienceLayer::new(config).resolver(System::new());
    /// # let _ = layer;
    /// # Ok::<(), redis_holdfast::ConfigError>(())
    /// ```
    #[must_use]
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.sources.resolver = Some(Arc::new(resolver));
        self
    }

    /// Shares the connections to the Sentinels with others that have the same handle.
    ///
    /// ```
    /// # use redis_holdfast::{Config, Sentinels, layer::ResilienceLayer};
    /// let config = Config::builder("redis+sentinel://s-0,s-1,s-2/orders").build()?;
    /// let layer = ResilienceLayer::new(config).sentinels(&Sentinels::new());
    /// # let _ = layer;
    /// # Ok::<(), redis_holdfast::ConfigError>(())
    /// ```
    #[must_use]
    pub fn sentinels(mut self, sentinels: &Sentinels) -> Self {
        self.sources.sentinels = Some(sentinels.clone());
        self
    }

    pub(crate) fn sources(mut self, sources: Sources) -> Self {
        self.sources = sources;
        self
    }

    pub(crate) fn health(mut self, health: Arc<HealthCell>) -> Self {
        self.health = Some(health);
        self
    }

    pub(crate) fn build<C: Connect>(&self, connector: C) -> ResilienceService<C> {
        let config = &self.config;
        let metrics = Metrics::named(config.name());
        let health = self
            .health
            .clone()
            .unwrap_or_else(|| Arc::new(HealthCell::starting(config)));
        let channel = Channel::new(
            config.clone(),
            connector,
            self.sources.clone(),
            metrics,
            health,
        );
        let route = Route::new(channel, config.read_from());
        let limit = Limit::new(route.clone(), &Caps::of(config), &metrics);
        let timeout = Timeout::new(limit, config.call_timeout());
        ResilienceService {
            stack: Telemetry::new(timeout, metrics),
            route,
        }
    }
}

impl<C: Connect> Layer<C> for ResilienceLayer {
    type Service = ResilienceService<C>;

    fn layer(&self, connector: C) -> ResilienceService<C> {
        self.build(connector)
    }
}

/// The stack that a [`ResilienceLayer`] puts around a connector. Cheap to clone; clones share caps, links and circuit.
///
/// # Readiness
/// Always ready. `poll_ready` reserves nothing, and an open circuit or a full limit is an error from `call`: `tower::load_shed` above it
/// never sheds; read [`Error::is_overloaded`] and [`Error::is_circuit_open`] instead.
///
/// # Errors
/// Every [`ErrorKind`](crate::ErrorKind) but `Redis`: an error *reply* is a [`Reply`], and [`Reply::parse`] makes it an error.
///
/// # Cancel safety
/// A call that is dropped before it was begun never runs. Once begun it is finished on the wire, may run, and its reply is swallowed; the
/// connection stays in step. The [crate's guide](crate#cancel-safety) has the whole table.
///
/// # Metrics
/// Those of [`telemetry::names`](crate::telemetry::names), under the name of its configuration.
///
/// ```
/// use redis_holdfast::{Config, ErrorKind, Request, layer::{LinkConnector, ResilienceLayer, ResilienceService}, redis};
/// use tower::{Layer, Service};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Nobody listens there.
/// let config = Config::builder("redis://127.0.0.1:1").build()?;
/// let mut service: ResilienceService<LinkConnector> = ResilienceLayer::new(config).layer(LinkConnector::new());
/// let error = service.call(Request::from(redis::cmd("INCR").arg("hits"))).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::ConnectionLost);
/// assert!(!error.may_have_executed());
/// # Ok(()) }
/// ```
pub struct ResilienceService<C: Connect> {
    stack: Stack<C>,
    route: Route<C>,
}

impl<C: Connect> ResilienceService<C> {
    pub(crate) fn route(&self) -> &Route<C> {
        &self.route
    }

    pub(crate) fn set_read_from(&mut self, read_from: ReadFrom) {
        self.stack
            .inner_mut()
            .inner_mut()
            .inner_mut()
            .set(read_from);
    }

    pub(crate) fn set_call_timeout(&mut self, call_timeout: Duration) {
        self.stack.inner_mut().set(call_timeout);
    }
}

impl<C: Connect> Clone for ResilienceService<C> {
    fn clone(&self) -> Self {
        Self {
            stack: self.stack.clone(),
            route: self.route.clone(),
        }
    }
}

impl<C: Connect> fmt::Debug for ResilienceService<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResilienceService")
            .field("stack", &self.stack)
            .finish()
    }
}

impl<C: Connect> Service<Request> for ResilienceService<C> {
    type Response = Reply;
    type Error = Error;
    type Future = ResilienceFuture<C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.stack.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> ResilienceFuture<C> {
        ResilienceFuture {
            inner: self.stack.call(request),
        }
    }
}

pin_project! {
    /// A call's future. Errors and cancel safety are those of [`ResilienceService`].
    ///
    /// ```
    /// # use redis_holdfast::{Client, Request, layer::{LinkConnector, ResilienceFuture}, redis};
    /// # use tower::Service;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut service = Client::builder("redis://127.0.0.1:1")?.build()?.service();
    /// let call: ResilienceFuture<LinkConnector> = service.call(Request::from(redis::cmd("INCR").arg("hits")));
    /// drop(call); // Not begun: it never runs, and leaves nothing.
    /// # Ok(()) }
    /// ```
    pub struct ResilienceFuture<C: Connect> {
        #[pin]
        inner: <Stack<C> as Service<Request>>::Future,
    }
}

impl<C: Connect> Future for ResilienceFuture<C> {
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx)
    }
}

impl fmt::Debug for ResilienceLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResilienceLayer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
