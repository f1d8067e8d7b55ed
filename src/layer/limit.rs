//! Holds a client to so many calls and so many bytes at once; one more is refused, never queued.
//!
//! Owns the in-flight cap and the byte budget of one client. Promises: a clone reserves nothing (a reserving `poll_ready` strands permits
//! in idle clones); a permit is taken in `call`, held until the outcome, and given back however the call ends; a refusal costs a
//! few atomic operations and no allocation; a command larger than the whole budget is admitted when it is alone.
//! Leaves time to [`timeout`](super::timeout). Fails with `Overloaded`, phase `queue`.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower::Service;

use super::timeout::Expire;
use crate::{
    Config, Error, ErrorKind, Phase, Reply, Request,
    telemetry::{metrics::Metrics, series::Gauge},
};

/// Refuses what would exceed the client's caps.
#[derive(Clone)]
pub(crate) struct Limit<S> {
    inner: S,
    budget: Arc<Budget>,
}

struct Budget {
    max_calls: u64,
    max_bytes: u64,
    held: Arc<InFlight>,
    too_many: Error,
    too_large: Error,
}

/// Calls and bytes in flight, in one word: admitting is one atomic addition.
#[derive(Debug, Default)]
struct InFlight(AtomicU64);

/// Bytes take the low bits (1 TiB), calls those above (16 million).
const CALL: u64 = 1 << 40;

impl Gauge for InFlight {
    fn level(&self) -> i64 {
        i64::try_from(self.0.load(Ordering::Relaxed) / CALL).unwrap_or(i64::MAX)
    }
}

/// A call's share of the caps, for as long as it lives.
struct Permit {
    budget: Arc<Budget>,
    share: u64,
}

impl<S> Limit<S> {
    pub(crate) fn new(inner: S, config: &Config, metrics: &Metrics) -> Self {
        let refusal = |detail: &'static str| {
            Error::new(ErrorKind::Overloaded, Phase::Queue, detail).at(config.endpoint())
        };
        let held = Arc::new(InFlight::default());
        metrics.watch_in_flight(&held);
        let budget = Budget {
            max_calls: config.max_in_flight() as u64,
            max_bytes: config.max_buffered_bytes() as u64,
            held,
            too_many: refusal("as many calls as max_in_flight allows are in flight"),
            too_large: refusal("as many bytes as max_buffered_bytes allows are held"),
        };
        Self {
            inner,
            budget: Arc::new(budget),
        }
    }
}

impl<S> std::fmt::Debug for Limit<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limit")
            .field("in_flight", &self.budget.held.level())
            .finish_non_exhaustive()
    }
}

impl Budget {
    fn admit(self: &Arc<Self>, bytes: usize) -> Result<Permit, &Error> {
        let bytes = (bytes as u64).min(CALL / 4);
        let share = CALL + bytes;
        let before = self.held.0.fetch_add(share, Ordering::Relaxed);
        let (calls, held) = (before / CALL, before % CALL);
        let refusal = if calls >= self.max_calls {
            &self.too_many
        } else if held > 0 && held + bytes > self.max_bytes {
            &self.too_large
        } else {
            return Ok(Permit {
                budget: self.clone(),
                share,
            });
        };
        self.held.0.fetch_sub(share, Ordering::Relaxed);
        Err(refusal)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.held.0.fetch_sub(self.share, Ordering::Relaxed);
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
        match self.budget.admit(request.packed().len()) {
            Ok(permit) => LimitFuture::Admitted {
                inner: self.inner.call(request),
                _permit: permit,
            },
            Err(refusal) => LimitFuture::Refused {
                refusal: refusal.clone(),
            },
        }
    }
}

pin_project! {
    /// An admitted call with its permit, or a refusal.
    #[project = Projected]
    pub(crate) enum LimitFuture<F> {
        /// In flight.
        Admitted {
            #[pin]
            inner: F,
            _permit: Permit,
        },
        /// Refused at once.
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
        match self.project() {
            Projected::Admitted { inner, .. } => inner.poll(cx),
            Projected::Refused { refusal } => Poll::Ready(Err(refusal.clone())),
        }
    }
}

impl<F: Expire> Expire for LimitFuture<F> {
    fn expire(self: Pin<&mut Self>) -> Error {
        match self.project() {
            Projected::Admitted { inner, .. } => inner.expire(),
            Projected::Refused { refusal } => refusal.clone(),
        }
    }
}
