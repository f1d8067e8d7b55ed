//! A handful of futures, and the first of them to end.
//!
//! Owns [`Race`]. Promises: dropping it drops them all; waiting for the next is cancel-safe. Polls every one each time, so it is for
//! a handful. Leaves bounding their number to its owner. Cannot fail.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

pub(super) struct Race<'a, T> {
    runners: Vec<Pin<Box<dyn Future<Output = T> + Send + 'a>>>,
}

impl<'a, T> Race<'a, T> {
    pub(super) fn new() -> Self {
        Self {
            runners: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, runner: impl Future<Output = T> + Send + 'a) {
        self.runners.push(Box::pin(runner));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runners.is_empty()
    }

    /// The first to end leaves the race. Never ends while nobody runs.
    pub(super) async fn next(&mut self) -> T {
        poll_fn(|context| {
            for (place, runner) in self.runners.iter_mut().enumerate() {
                if let Poll::Ready(result) = runner.as_mut().poll(context) {
                    drop(self.runners.swap_remove(place));
                    return Poll::Ready(result);
                }
            }
            Poll::Pending
        })
        .await
    }
}
