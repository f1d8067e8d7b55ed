//! An API request's time, handed to every Redis call below it.
//!
//! Owns [`BudgetLayer`], a layer for the stack of an *API* (axum, tonic, hyper, or any other), not of Redis. Promises: every Redis call
//! that the request's future makes ends within the request's budget; what a header says can shorten the budget and never lengthen it.
//! Leaves ending the API request itself to the layers that do so. Adds no failure.

#[cfg(feature = "http")]
mod header;

use std::{
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tower::{Layer, Service};

use crate::deadline::{self, Scope};

#[cfg(feature = "http")]
pub use header::{GrpcTimeout, Header};

/// Opens a [`deadline::scope`] around every request of an API: all Redis calls that it makes share its time.
///
/// The budget starts with the request. It is the limit given here, or what `R` reads from the request where that is less: a header, with
/// the feature `http` ([`grpc_timeout`](BudgetLayer::grpc_timeout), [`header`](BudgetLayer::header)), or what a closure finds
/// ([`reading`](BudgetLayer::reading)). Tasks that a request spawns are outside, as [`deadline::scope`] says.
///
/// ```
/// use redis_holdfast::layer::BudgetLayer;
/// use std::time::Duration;
/// use tower::{ServiceBuilder, service_fn};
///
/// # struct Job { urgent: bool }
/// let api = ServiceBuilder::new()
///     .layer(BudgetLayer::new(Duration::from_millis(800)).reading(|job: &Job| job.urgent.then_some(Duration::from_millis(50))))
///     .service(service_fn(|job: Job| async move { Ok::<_, std::convert::Infallible>(job) }));
/// # let _ = api;
/// ```
#[derive(Clone, Debug)]
pub struct BudgetLayer<R = Limited> {
    limit: Duration,
    read: R,
}

/// Reads from a request how much time its sender gives it.
pub trait ReadBudget<Q> {
    /// The time, or nothing where the request does not say.
    fn read(&self, request: &Q) -> Option<Duration>;
}

/// Every request has the whole limit.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Limited;

/// Asks a closure.
#[derive(Clone, Copy, Debug)]
pub struct Read<F>(F);

impl BudgetLayer {
    /// Gives each request `limit`. Any value is taken as it is: zero fails every Redis call below.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        let read = Limited;
        Self { limit, read }
    }

    /// Gives a request what `read` finds in it, where that is less than the limit.
    #[must_use]
    pub fn reading<F>(self, read: F) -> BudgetLayer<Read<F>> {
        self.with(Read(read))
    }

    fn with<R>(self, read: R) -> BudgetLayer<R> {
        let limit = self.limit;
        BudgetLayer { limit, read }
    }
}

impl<Q> ReadBudget<Q> for Limited {
    fn read(&self, _: &Q) -> Option<Duration> {
        None
    }
}

impl<Q, F: Fn(&Q) -> Option<Duration>> ReadBudget<Q> for Read<F> {
    fn read(&self, request: &Q) -> Option<Duration> {
        self.0(request)
    }
}

impl<S, R: Clone> Layer<S> for BudgetLayer<R> {
    type Service = Budget<S, R>;

    fn layer(&self, inner: S) -> Budget<S, R> {
        let budget = self.clone();
        Budget { inner, budget }
    }
}

/// The service that a [`BudgetLayer`] makes. Readiness and errors are the inner service's.
#[derive(Clone, Debug)]
pub struct Budget<S, R = Limited> {
    inner: S,
    budget: BudgetLayer<R>,
}

impl<Q, S, R> Service<Q> for Budget<S, R>
where
    S: Service<Q>,
    R: ReadBudget<Q>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Scope<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Q) -> Scope<S::Future> {
        let BudgetLayer { limit, read } = &self.budget;
        let given = read.read(&request);
        let time = given.map_or(*limit, |given| given.min(*limit));
        let at = deadline::Deadline::starting(Instant::now(), time).at();
        // A service may make its calls before its future is polled.
        deadline::scope(at, deadline::within(at, || self.inner.call(request)))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{ServiceExt, service_fn};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// What is left to a call below, made at once and made in the future.
    async fn left<R: ReadBudget<Option<Duration>> + Clone>(
        layer: BudgetLayer<R>,
        asked: Option<Duration>,
    ) -> [Option<Duration>; 2] {
        let now = Instant::now();
        let api = layer.layer(service_fn(|_: Option<Duration>| {
            let at_once = deadline::current();
            async move { Ok::<_, Infallible>([at_once, deadline::current()]) }
        }));
        let found = api.oneshot(asked).await.expect("infallible");
        assert_eq!(deadline::current(), None);
        found.map(|at| at.map(|at| at - now))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_may_ask_for_less_and_never_for_more() {
        let layer = BudgetLayer::new(50 * MS);
        assert_eq!(left(layer.clone(), None).await, [Some(50 * MS); 2]);
        let reading = layer.reading(|asked: &Option<Duration>| *asked);
        for (asked, given) in [
            (None, 50),
            (Some(20 * MS), 20),
            (Some(Duration::MAX), 50),
            (Some(Duration::ZERO), 0),
        ] {
            let found = left(reading.clone(), asked).await;
            assert_eq!(found, [Some(given * MS); 2], "{asked:?}");
        }
    }
}
