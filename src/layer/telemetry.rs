//! Sees every outcome, also the refused ones.
//!
//! Owns the count and the duration of calls. Promises: each call is counted once, by its outcome; a dropped call is counted by nobody but
//! the user who dropped it. Leaves state changes to those who make them. Adds no failure.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use crate::{
    Error, Reply, Request,
    telemetry::{metrics::Metrics, span},
};

/// Counts calls by outcome and records how long they took.
#[derive(Clone)]
pub(crate) struct Telemetry<S> {
    inner: S,
    metrics: Metrics,
}

impl<S> Telemetry<S> {
    pub(crate) fn new(inner: S, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }

    pub(crate) fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl<S: std::fmt::Debug> std::fmt::Debug for Telemetry<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

    fn call(&mut self, request: Request) -> Self::Future {
        let (started, command) = (Instant::now(), request.command());
        TelemetryFuture {
            inner: self.inner.call(request.begun_at(started)),
            command,
            metrics: self.metrics,
            started,
        }
    }
}

pin_project! {
    /// A call that is counted when it ends.
    pub(crate) struct TelemetryFuture<F> {
        #[pin]
        inner: F,
        metrics: Metrics,
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
        let (outcome, waited) = (
            result.as_ref().err().map(Error::kind),
            this.started.elapsed(),
        );
        this.metrics.call_ended(outcome, waited);
        span::call_ended(this.metrics.client(), this.command, outcome, waited);
        Poll::Ready(result)
    }
}
