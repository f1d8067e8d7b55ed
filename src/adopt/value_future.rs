//! The futures of `redis`' traits around a call of ours.
//!
//! Owns [`ValueFuture`] and [`ValuesFuture`]. Promises: they are as large as the call they hold, where an `async` block around it would hold it
//! twice, before it is polled and after: what a call allocates stays small; and like that block they let go of the call when it ends, so that
//! a future that is still held, its value taken, holds no place of anybody's. Leave everything else to the call. Fail as it does, in
//! `redis`' own type.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use redis::{Pipeline, RedisResult, Value};

use crate::{Error, Reply};

pin_project! {
    /// A command's value.
    pub(crate) struct ValueFuture<F> {
        #[pin]
        call: Option<F>,
    }
}

impl<F> ValueFuture<F> {
    pub(crate) fn of(call: F) -> Self {
        Self { call: Some(call) }
    }
}

impl<F> Future for ValueFuture<F>
where
    F: Future<Output = Result<Reply, Error>>,
{
    type Output = RedisResult<Value>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = ready!(ended(self.project().call, cx));
        Poll::Ready(Ok(reply?.into_value()))
    }
}

pin_project! {
    /// A pipeline's values.
    pub(crate) struct ValuesFuture<'a, F> {
        #[pin]
        call: Option<F>,
        pipeline: &'a Pipeline,
    }
}

impl<'a, F> ValuesFuture<'a, F> {
    pub(crate) fn of(call: F, pipeline: &'a Pipeline) -> Self {
        Self {
            call: Some(call),
            pipeline,
        }
    }
}

impl<F> Future for ValuesFuture<'_, F>
where
    F: Future<Output = Result<Reply, Error>>,
{
    type Output = RedisResult<Vec<Value>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let reply = ready!(ended(this.call, cx));
        Poll::Ready(reply?.into_replies(this.pipeline))
    }
}

/// What `call` ends with. It is gone then; asked once more, it says nothing.
fn ended<F: Future>(mut call: Pin<&mut Option<F>>, cx: &mut Context<'_>) -> Poll<F::Output> {
    let Some(running) = call.as_mut().as_pin_mut() else {
        return Poll::Pending;
    };
    let output = ready!(running.poll(cx));
    call.set(None);
    Poll::Ready(output)
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, sync::Arc, task::Waker};

    use super::*;

    #[test]
    fn a_call_that_has_ended_is_gone_though_its_future_is_held() {
        let place = Arc::new(());
        let held = place.clone();
        let call = poll_fn(move |_| {
            let _held = &held;
            Poll::Ready(Ok(Reply::from(Value::Okay)))
        });
        let mut future = pin!(ValueFuture::of(call));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(future.as_mut().poll(&mut cx).is_ready());
        assert_eq!(Arc::strong_count(&place), 1);
        assert!(future.as_mut().poll(&mut cx).is_pending());
    }
}
