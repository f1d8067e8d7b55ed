//! Holds a client to so many calls and so many bytes at once; one more is refused, never queued.
//!
//! Owns the in-flight cap and the byte budget of one client. Promises: a clone reserves nothing (a reserving `poll_ready` strands permits
//! in idle clones); a permit is taken in `call`, held until the outcome, and given back however the call ends; a refusal costs a
//! few atomic operations and no allocation; one large command is admitted beside the budget, so that a budget is never less than one.
//! Leaves time to [`timeout`](super::timeout). Fails with `Overloaded`, phase `queue`.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{foreign::Foreign, timeout::Expire};
use crate::{
    Config, Error, ErrorKind, Phase, Reply, Request,
    config::defaults,
    own::{Hold, Own},
    sync::{AtomicBool, AtomicU64},
    telemetry::{metrics::Metrics, series::Gauge},
};

/// Refuses calls beyond a number, and bytes beyond another, instead of queueing them.
///
/// Each call of [`layer`](Layer::layer) makes caps of its own; the clones of one service share them, and a clone that is idle holds nothing.
///
/// # Metrics
/// `redis.holdfast.calls.in_flight`, under [`name`](Self::name).
///
/// ```
/// use redis_holdfast::{Error, ErrorKind, Reply, Request, layer::LimitLayer, redis::{self, Value}};
/// use tower::{Layer, Service, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Okay)) });
/// let mut service = LimitLayer::new(1).max_buffered_bytes(1 << 20).name("sessions").layer(server);
/// let first = service.call(Request::from(&redis::cmd("PING")));
/// let second = service.call(Request::from(&redis::cmd("PING"))).await.unwrap_err();
/// assert_eq!((second.kind(), second.endpoint()), (ErrorKind::Overloaded, Some("sessions")));
/// first.await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct LimitLayer {
    caps: Caps,
}

impl LimitLayer {
    /// At most `calls` at once. Any value is taken as it is: zero refuses all.
    #[must_use]
    pub fn new(calls: usize) -> Self {
        Self {
            caps: Caps {
                calls,
                bytes: defaults::MAX_BUFFERED_BYTES,
                endpoint: defaults::NAME.into(),
            },
        }
    }

    /// At most so many bytes of requests at once; one command of more than half of it rides beside it. Default 64 MiB.
    #[must_use]
    pub fn max_buffered_bytes(mut self, bytes: usize) -> Self {
        self.caps.bytes = bytes;
        self
    }

    /// The name it counts under, and that its refusals give as their endpoint. Default `redis`.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.caps.endpoint = name.into();
        self
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limit<Foreign<S>>;

    fn layer(&self, inner: S) -> Self::Service {
        let metrics = Metrics::named(&self.caps.endpoint);
        Limit::new(Foreign::new(inner), &self.caps, &metrics)
    }
}

/// How much may be held at once, and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Caps {
    pub(crate) calls: usize,
    pub(crate) bytes: usize,
    pub(crate) endpoint: Arc<str>,
}

impl Caps {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            calls: config.max_in_flight(),
            bytes: config.max_buffered_bytes(),
            endpoint: config.endpoint().clone(),
        }
    }
}

/// The service that a [`LimitLayer`] makes. Always ready: a full limit is an error from `call`.
///
/// # Errors
/// `Overloaded`, phase `queue`; else those of the inner service.
///
/// # Cancel safety
/// Place and bytes are given back at once; for the rest that of the inner service.
///
/// ```
/// # use redis_holdfast::{Error, Reply, Request, layer::{Limit, LimitLayer}, redis::{self, Value}};
/// # use tower::{Layer, Service, service_fn};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Okay)) });
/// let mut service: Limit<_> = LimitLayer::new(1).layer(server);
/// let mut idle = service.clone(); // Shares the one place, and holds nothing.
/// let held = service.call(Request::from(&redis::cmd("PING")));
/// assert!(idle.call(Request::from(&redis::cmd("PING"))).await.unwrap_err().is_overloaded());
/// # drop(held);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Limit<S> {
    inner: S,
    budget: Own<Budget>,
}

struct Budget {
    max_calls: u64,
    max_bytes: u64,
    /// Calls and bytes in flight, in one word: admitting is one atomic addition.
    held: AtomicU64,
    /// The seat of the one large command that rides beside the budget.
    has_large: AtomicBool,
    too_many: Error,
    too_large: Error,
}

/// Bytes take the low bits (1 TiB), calls those above (16 million).
const CALL: u64 = 1 << 40;

impl Budget {
    fn new(caps: &Caps) -> Self {
        let refusal = |detail: &'static str| {
            Error::new(ErrorKind::Overloaded, Phase::Queue, detail).at(&caps.endpoint)
        };
        Self {
            max_calls: caps.calls as u64,
            max_bytes: caps.bytes as u64,
            held: AtomicU64::new(0),
            has_large: AtomicBool::new(false),
            too_many: refusal("as many calls as max_in_flight allows are in flight"),
            too_large: refusal("as many bytes as max_buffered_bytes allows are held"),
        }
    }
}

impl Gauge for Budget {
    fn level(&self) -> i64 {
        i64::try_from(self.held.load(Ordering::Relaxed) / CALL).unwrap_or(i64::MAX)
    }
}

/// A call's share of the caps, for as long as it lives.
struct Permit {
    budget: Hold<Budget>,
    share: u64,
    has_seat: bool,
}

impl<S> Limit<S> {
    pub(crate) fn new(inner: S, caps: &Caps, metrics: &Metrics) -> Self {
        let budget = Own::new(Budget::new(caps));
        metrics.watch_in_flight(&budget);
        Self { inner, budget }
    }

    pub(crate) fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    fn admit(&self, bytes: usize) -> Result<Permit, &Error> {
        let (budget, bytes) = (&**self.budget, bytes as u64);
        // Counted like the others, a command as large as the budget would have to wait until it is alone, and then refuse all others.
        let has_seat =
            bytes > budget.max_bytes / 2 && !budget.has_large.swap(true, Ordering::Relaxed);
        if bytes > budget.max_bytes && !has_seat {
            return Err(&budget.too_large);
        }
        let permit = Permit {
            budget: self.budget.hold(),
            share: if has_seat {
                CALL
            } else {
                CALL + bytes.min(CALL / 4)
            },
            has_seat,
        };
        let before = budget.held.fetch_add(permit.share, Ordering::Relaxed);
        if before / CALL >= budget.max_calls {
            return Err(&budget.too_many);
        }
        if !has_seat && before % CALL + bytes > budget.max_bytes {
            return Err(&budget.too_large);
        }
        Ok(permit)
    }
}

impl<S> fmt::Debug for Limit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limit")
            .field("in_flight", &self.budget.level())
            .finish_non_exhaustive()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.share, Ordering::Relaxed);
        if self.has_seat {
            // No plain store: exchanges follow one another, and loom knows that of them alone.
            self.budget.has_large.swap(false, Ordering::Relaxed);
        }
    }
}

impl<S> Service<Request> for Limit<S>
where
    S: Service<Request, Response = Reply, Error = Error>,
{
    type Response = Reply;
    type Error = Error;
    type Future = LimitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let stage = match self.admit(request.packed().len()) {
            Ok(permit) => Stage::Admitted {
                inner: self.inner.call(request),
                _permit: permit,
            },
            Err(refusal) => Stage::Refused {
                refusal: refusal.clone(),
            },
        };
        LimitFuture { stage }
    }
}

pin_project! {
    /// A call that was admitted, or refused at once. Errors and cancel safety are those of [`Limit`].
    ///
    /// ```
    /// # use redis_holdfast::{Error, Reply, Request, layer::{LimitFuture, LimitLayer}, redis::{self, Value}};
    /// # use tower::{Layer, Service, service_fn};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Okay)) });
    /// # let mut service = LimitLayer::new(1).layer(server);
    /// let call: LimitFuture<_> = service.call(Request::from(&redis::cmd("PING")));
    /// drop(call); // Its place is free again.
    /// assert!(service.call(Request::from(&redis::cmd("PING"))).await.is_ok());
    /// # Ok(()) }
    /// ```
    pub struct LimitFuture<F> {
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
            _permit: Permit,
        },
        Refused {
            refusal: Error,
        },
    }
}

impl<F> Future for LimitFuture<F>
where
    F: Future<Output = Result<Reply, Error>>,
{
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().stage.project() {
            Staged::Admitted { inner, .. } => inner.poll(cx),
            Staged::Refused { refusal } => Poll::Ready(Err(refusal.clone())),
        }
    }
}

impl<F: Expire> Expire for LimitFuture<F> {
    fn expire(self: Pin<&mut Self>) -> Error {
        match self.project().stage.project() {
            Staged::Admitted { inner, .. } => inner.expire(),
            Staged::Refused { refusal } => refusal.clone(),
        }
    }
}

impl<F> fmt::Debug for LimitFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitFuture").finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod interleavings;
#[cfg(test)]
mod tests {
    use super::*;

    fn limit(max_bytes: usize) -> Limit<()> {
        let config = Config::builder("redis://127.0.0.1/")
            .max_in_flight(4)
            .max_buffered_bytes(max_bytes);
        let config = config.build().expect("legal");
        let metrics = Metrics::named(&"limit".into());
        Limit::new((), &Caps::of(&config), &metrics)
    }

    #[test]
    fn one_large_command_rides_beside_the_budget_and_refuses_nobody() {
        let max = 64 << 10;
        let limit = limit(max);
        let small = limit.admit(100).expect("room");
        let large = limit.admit(10 * max).expect("the one large");
        assert!(limit.admit(10 * max).is_err(), "a second one");
        let others = limit.admit(max / 2).expect("a budget of their own");
        assert!(limit.admit(max / 2).is_err(), "which ends");
        drop((small, large, others));
        assert!(limit.admit(10 * max).is_ok(), "the seat is free again");
        assert_eq!(limit.budget.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_cap_of_calls_is_exact_and_refusals_hold_nothing() {
        let limit = limit(64 << 10);
        let held: Vec<_> = (0..4).map(|_| limit.admit(1).expect("room")).collect();
        for _ in 0..1000 {
            assert!(limit.admit(1).is_err());
        }
        assert_eq!(limit.budget.level(), 4);
        drop(held);
        assert_eq!(limit.budget.held.load(Ordering::Relaxed), 0);
    }
}
