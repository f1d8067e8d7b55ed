//! One deadline over everything a call does.
//!
//! Owns the deadline of every call: the request's own timeout or the configured one, or the deadline of the
//! [scope](crate::deadline::scope) that the call is made in, or of a layer above, where that falls sooner. Promises: no call outlives it by more than the runtime's own lag, because what wakes the caller is
//! no link's task; expiry is *told* to what is below ([`Expire`]) and not merely dropped, so that the breaker
//! counts it and the error knows the phase. Leaves phases and reasons to those below, waking to [`clock`].
//! Fails with `Timeout`; with `Refused` where there is no runtime to wake anybody.

mod clock;

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::{Layer, Service};

use self::clock::{Clock, Watch};
use super::foreign::Foreign;
use crate::{
    Error, Reply, Request,
    deadline::{self, Deadline},
};

/// How many calls of this thread have a deadline that somebody watches.
#[cfg(test)]
pub(crate) fn watched() -> usize {
    Clock::here().map_or(0, |clock| clock.watched())
}

/// A future that can be told that its time is up.
pub(crate) trait Expire {
    /// Ends the call and says in which phase it was, whether it may have run, and why it was late.
    fn expire(self: Pin<&mut Self>) -> Error;
}

/// Gives each call a deadline that covers the inner service's readiness too, where `tower::timeout` covers its answer alone.
///
/// It is the sooner of the request's own timeout or the one given here, the [`deadline::scope`](crate::deadline::scope) around the call, and the
/// deadline of a layer above. Layers below read it and take what is left.
///
/// ```
/// use redis_holdfast::{Error, Reply, Request, layer::TimeoutLayer, redis};
/// use std::{future::pending, time::Duration};
/// use tower::{Layer, Service, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let silent = service_fn(|_: Request| pending::<Result<Reply, Error>>());
/// let mut service = TimeoutLayer::new(Duration::from_millis(10)).layer(silent);
/// let late = service.call(Request::from(&redis::cmd("PING"))).await;
/// assert!(late.unwrap_err().is_timeout());
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TimeoutLayer {
    call_timeout: Duration,
}

impl TimeoutLayer {
    /// A deadline `call_timeout` after each call. Any value is taken as it is: zero ends every call in its first poll.
    #[must_use]
    pub fn new(call_timeout: Duration) -> Self {
        Self { call_timeout }
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<Foreign<S>>;

    fn layer(&self, inner: S) -> Self::Service {
        Timeout::new(Foreign::new(inner), self.call_timeout)
    }
}

/// The service that a [`TimeoutLayer`] makes. Always ready.
///
/// # Errors
/// `Timeout` with the phase that the call was in, and whether it may have run; `Refused`, phase `queue`, outside a tokio runtime; else those of the
/// inner service.
///
/// # Cancel safety
/// That of the inner service.
///
/// ```
/// # use redis_holdfast::{Error, Reply, Request, layer::{Timeout, TimeoutLayer}, redis};
/// # use std::{future::pending, time::Duration};
/// # use tower::{Layer, Service, service_fn};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let silent = service_fn(|_: Request| pending::<Result<Reply, Error>>());
/// let mut service: Timeout<_> = TimeoutLayer::new(Duration::from_secs(1)).layer(silent);
/// // The request's own time counts, where it has one.
/// let hurried = Request::from(&redis::cmd("PING")).with_timeout(Duration::from_millis(10));
/// let late = service.call(hurried).await.unwrap_err();
/// assert!(late.is_timeout() && late.waited() < Duration::from_secs(1));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Timeout<S> {
    inner: S,
    call_timeout: Duration,
}

impl<S> Timeout<S> {
    pub(crate) fn new(inner: S, call_timeout: Duration) -> Self {
        Self {
            inner,
            call_timeout,
        }
    }

    pub(crate) fn set(&mut self, call_timeout: Duration) {
        self.call_timeout = call_timeout;
    }

    pub(crate) fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl<S> Service<Request> for Timeout<S>
where
    S: Service<Request, Response = Reply, Error = Error>,
    S::Future: Expire,
{
    type Response = Reply;
    type Error = Error;
    type Future = TimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let timeout = request.timeout().unwrap_or(self.call_timeout);
        let begun = request.begun().unwrap_or_else(Instant::now);
        let deadline = Deadline::starting(begun, timeout)
            .or_sooner(deadline::current())
            .or_sooner(request.deadline().map(|above| above.at()));
        request.set_deadline(deadline);
        TimeoutFuture {
            inner: self.inner.call(request),
            deadline,
            watch: None,
        }
    }
}

pin_project! {
    /// A call under its deadline. Errors and cancel safety are those of [`Timeout`].
    ///
    /// ```
    /// # use redis_holdfast::{Error, Reply, Request, layer::{TimeoutFuture, TimeoutLayer}, redis};
    /// # use std::{future::pending, time::Duration};
    /// # use tower::{Layer, Service, service_fn};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let silent = service_fn(|_: Request| pending::<Result<Reply, Error>>());
    /// # let mut service = TimeoutLayer::new(Duration::from_millis(10)).layer(silent);
    /// // The clock runs from `call`, polled or not.
    /// let call: TimeoutFuture<_> = service.call(Request::from(&redis::cmd("PING")));
    /// assert!(call.await.unwrap_err().is_timeout());
    /// # Ok(()) }
    /// ```
    #[derive(Debug)]
    pub struct TimeoutFuture<F> {
        #[pin]
        inner: F,
        deadline: Deadline,
        watch: Option<Watch>,
    }
}

impl<F> Future for TimeoutFuture<F>
where
    F: Future<Output = Result<Reply, Error>> + Expire,
{
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(watch) = this.watch {
            if let Poll::Ready(result) = this.inner.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            if watch.is_kept(cx.waker()) {
                return Poll::Pending;
            }
        } else if this.deadline.is_spent() {
            // Late before it begins: not a byte of it may leave.
            return Poll::Ready(Err(this.inner.expire()));
        }
        // Before a link is given anything: where nobody could wake the caller, nothing is sent.
        let clock = match Clock::here() {
            Ok(clock) => clock,
            Err(none) if this.watch.is_none() => {
                return Poll::Ready(Err(Error::homeless().because(none)));
            }
            // It was given to a link while there was a runtime: as if its time were up.
            Err(_) => return Poll::Ready(Err(this.inner.expire())),
        };
        if this.watch.is_none()
            && let Poll::Ready(result) = this.inner.as_mut().poll(cx)
        {
            return Poll::Ready(result);
        }
        // Whoever is polled for the first time has time left.
        if this.watch.is_some() && this.deadline.is_past(Instant::now()) {
            return Poll::Ready(Err(this.inner.expire()));
        }
        *this.watch = Some(Watch::new(clock, this.deadline.at(), cx.waker()));
        Poll::Pending
    }
}
