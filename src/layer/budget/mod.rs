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
///
/// ```
/// use redis_holdfast::layer::ReadBudget;
/// use std::time::Duration;
///
/// /// A job tells its own time.
/// #[derive(Clone)]
/// struct OfTheJob;
/// struct Job { millis: Option<u64> }
///
/// impl ReadBudget<Job> for OfTheJob {
///     fn read(&self, job: &Job) -> Option<Duration> {
///         job.millis.map(Duration::from_millis)
///     }
/// }
/// assert_eq!(OfTheJob.read(&Job { millis: Some(50) }), Some(Duration::from_millis(50)));
/// ```
pub trait ReadBudget<Q> {
    /// The time, or nothing where the request does not say.
    fn read(&self, request: &Q) -> Option<Duration>;
}

/// Every request has the whole limit.
///
/// ```
/// use redis_holdfast::layer::{BudgetLayer, Limited};
/// use std::time::Duration;
///
/// let same_for_all: BudgetLayer<Limited> = BudgetLayer::new(Duration::from_millis(800));
/// # let _ = same_for_all;
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Limited;

/// Asks a closure. Made by [`BudgetLayer::reading`].
///
/// ```
/// use redis_holdfast::layer::{BudgetLayer, Read};
/// use std::time::Duration;
///
/// // A request that is its own time, in milliseconds.
/// let asked: BudgetLayer<Read<fn(&u64) -> Option<Duration>>> =
///     BudgetLayer::new(Duration::from_millis(800)).reading(|millis| Some(Duration::from_millis(*millis)));
/// # let _ = asked;
/// ```
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

/// The service that a [`BudgetLayer`] makes. Readiness, errors and cancel safety are the inner service's.
///
/// ```
/// use redis_holdfast::{deadline, layer::{Budget, BudgetLayer}};
/// use std::{convert::Infallible, time::Duration};
/// use tower::{Layer, Service, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let api = service_fn(|()| async { Ok::<_, Infallible>(deadline::current()) });
/// let mut api: Budget<_> = BudgetLayer::new(Duration::from_millis(800)).layer(api);
/// assert!(api.call(()).await?.is_some(), "every Redis call in there ends within 800 ms");
/// # Ok(()) }
/// ```
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
