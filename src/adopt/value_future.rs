//! The futures of `redis`' traits around a call of ours.
//!
//! Owns [`ValueFuture`] and [`ValuesFuture`]. Promises: they are as large as the call they hold, where an `async` block around it would hold it
//! twice, before it is polled and after: what a call allocates stays small. Leave everything else to the call. Fail as it does, in
//! `redis`' own type.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use redis::{Pipeline, RedisResult, Value};

use crate::{Error, Reply};

pin_project! {
    /// A command's value.
    pub(crate) struct ValueFuture<F> {
        #[pin]
        call: F,
    }
}

impl<F> ValueFuture<F> {
    pub(crate) fn of(call: F) -> Self {
        Self { call }
    }
}

impl<F> Future for ValueFuture<F>
where
    F: Future<Output = Result<Reply, Error>>,
{
    type Output = RedisResult<Value>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = self.project().call.poll(cx);
        reply.map(|reply| Ok(reply?.into_value()))
    }
}

pin_project! {
    /// A pipeline's values.
    pub(crate) struct ValuesFuture<'a, F> {
        #[pin]
        call: F,
        pipeline: &'a Pipeline,
    }
}

impl<'a, F> ValuesFuture<'a, F> {
    pub(crate) fn of(call: F, pipeline: &'a Pipeline) -> Self {
        Self { call, pipeline }
    }
}

impl<F> Future for ValuesFuture<'_, F>
where
    F: Future<Output = Result<Reply, Error>>,
{
    type Output = RedisResult<Vec<Value>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let reply = this.call.poll(cx);
        reply.map(|reply| reply?.into_replies(this.pipeline))
    }
}
