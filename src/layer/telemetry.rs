//! Sees every outcome, also the refused ones.
//!
//! Owns the count and the duration of calls. Promises: each call is counted once, by its outcome; a dropped call is counted by nobody but
//! the user who dropped it. Leaves state changes to those who make them. Adds no failure.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::foreign::Foreign;
use crate::{
    Error, Reply, Request,
    telemetry::{metrics::Metrics, span, stopwatch::Stopwatch},
};

/// Counts calls by outcome and records how long they took. Stands outermost, so that it sees refused calls too.
///
/// # Metrics
/// `redis.holdfast.calls` and `db.client.operation.duration`, under the name given. A recorder hears of them about once a second, as calls end.
///
/// ```
/// use redis_holdfast::{Error, Reply, Request, layer::TelemetryLayer, redis::{self, Value}};
/// use tower::{Layer, Service, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Okay)) });
/// let mut service = TelemetryLayer::new("sessions").layer(server);
/// service.call(Request::from(&redis::cmd("PING"))).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct TelemetryLayer {
    metrics: Metrics,
}

impl TelemetryLayer {
    /// Counts under `name`, which should be from a small set: it is a label.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let metrics = Metrics::named(&name.into());
        Self { metrics }
    }
}

impl<S> Layer<S> for TelemetryLayer {
    type Service = Telemetry<Foreign<S>>;

    fn layer(&self, inner: S) -> Self::Service {
        Telemetry::new(Foreign::new(inner), self.metrics).refreshing()
    }
}

/// The service that a [`TelemetryLayer`] makes. Always ready.
///
/// # Errors
/// Those of the inner service, each counted by its kind.
///
/// # Cancel safety
/// That of the inner service. A call that is dropped is in no counter.
///
/// ```
/// # use redis_holdfast::{Error, Reply, Request, layer::{Telemetry, TelemetryLayer}, redis::{self, Value}};
/// # use tower::{Layer, Service, service_fn};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Okay)) });
/// let mut service: Telemetry<_> = TelemetryLayer::new("sessions").layer(server);
/// service.clone().call(Request::from(&redis::cmd("PING"))).await?; // Counted with the others.
/// # service.call(Request::from(&redis::cmd("PING"))).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Telemetry<S> {
    inner: S,
    metrics: Metrics,
    refreshes: bool,
}

impl<S> Telemetry<S> {
    pub(crate) fn new(inner: S, metrics: Metrics) -> Self {
        Self {
            inner,
            metrics,
            refreshes: false,
        }
    }

    /// Brings a recorder up to date as calls end, where no task does.
    pub(crate) fn refreshing(mut self) -> Self {
        self.refreshes = true;
        self
    }

    pub(crate) fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl<S: fmt::Debug> fmt::Debug for Telemetry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S> Service<Request> for Telemetry<S>
where
    S: Service<Request, Response = Reply, Error = Error>,
{
    type Response = Reply;
    type Error = Error;
    type Future = TelemetryFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let (started, command) = (Instant::now(), request.command());
        request.begin(started);
        TelemetryFuture {
            inner: self.inner.call(request),
            command,
            metrics: self.metrics,
            refreshes: self.refreshes,
            started,
        }
    }
}

pin_project! {
    /// A call that is counted when it ends. Errors and cancel safety are those of [`Telemetry`].
    ///
    /// ```
    /// # use redis_holdfast::{Error, Reply, Request, layer::{TelemetryFuture, TelemetryLayer}, redis::{self, Value}};
    /// # use tower::{Layer, Service, service_fn};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Okay)) });
    /// # let mut service = TelemetryLayer::new("sessions").layer(server);
    /// let call: TelemetryFuture<_> = service.call(Request::from(&redis::cmd("PING")));
    /// call.await?; // Its duration is the time from `call` to here.
    /// # Ok(()) }
    /// ```
    #[derive(Debug)]
    pub struct TelemetryFuture<F> {
        #[pin]
        inner: F,
        metrics: Metrics,
        refreshes: bool,
        command: &'static str,
        started: Instant,
    }
}

impl<F> Future for TelemetryFuture<F>
where
    F: Future<Output = Result<Reply, Error>>,
{
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        let outcome = result.as_ref().err().map(Error::kind);
        let watch = Stopwatch::started(*this.started);
        this.metrics.call_ended(outcome, &watch);
        span::call_ended(this.metrics.client(), this.command, outcome, &watch);
        if *this.refreshes {
            this.metrics.refresh_when_due(watch.now());
        }
        Poll::Ready(result)
    }
}
