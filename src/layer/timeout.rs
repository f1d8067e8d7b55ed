//! One deadline over everything a call does.
//!
//! Owns the call's only timer. Promises: no call outlives its deadline by more than the runtime's own lag, because the caller's task
//! holds the timer and not the link's; expiry is *told* to what is below ([`Expire`]) and not merely dropped, so that the breaker
//! counts it and the error knows the phase. Leaves phases and reasons to those below. Fails with `Timeout`.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::Service;

use crate::{Error, Reply, Request, deadline::Deadline};

/// A future that can be told that its time is up.
pub(crate) trait Expire {
    /// Ends the call and says in which phase it was, whether it may have run, and why it was late.
    fn expire(self: Pin<&mut Self>) -> Error;
}

/// Gives each call its deadline: the request's own timeout, or the configured one.
#[derive(Clone, Debug)]
pub(crate) struct Timeout<S> {
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

    fn call(&mut self, request: Request) -> Self::Future {
        let timeout = request.timeout().unwrap_or(self.call_timeout);
        let begun = request.begun().unwrap_or_else(Instant::now);
        let deadline = Deadline::starting(begun, timeout);
        let inner = self.inner.call(request.with_deadline(deadline));
        TimeoutFuture {
            inner,
            timer: sleep_until(deadline.at()),
        }
    }
}

pin_project! {
    /// A call under its deadline.
    #[derive(Debug)]
    pub(crate) struct TimeoutFuture<F> {
        #[pin]
        inner: F,
        #[pin]
        timer: Sleep,
    }
}

impl<F> Future for TimeoutFuture<F>
where
    F: Future<Output = Result<Reply, Error>> + Expire,
{
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Poll::Ready(result) = this.inner.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        ready!(this.timer.poll(cx));
        Poll::Ready(Err(this.inner.expire()))
    }
}
