//! The one door to `tokio::spawn`: every task has an owner.
//!
//! Owns [`spawn_owned`] and [`Owned`]. Promises: dropping the [`Owned`] aborts the task, so nothing outlives the value that wanted it;
//! what has no owner ([`run_soon`]) runs once and never waits.
//! Leaves the choice of runtime to the caller. Fails never; a panic in a task ends that task alone.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{runtime::Handle, task::AbortHandle};

/// A running task that ends with this value.
#[derive(Debug)]
pub(crate) struct Owned(AbortHandle);

impl Owned {
    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `future` on `runtime` until it ends or the returned value is dropped.
pub(crate) fn spawn_owned<F>(runtime: &Handle, future: F) -> Owned
where
    F: Future<Output = ()> + Send + 'static,
{
    Owned(runtime.spawn(future).abort_handle())
}

/// Held by a task of which there is to be one: says that none runs any more when it ends, also when its runtime does.
pub(crate) struct Kept(Arc<AtomicBool>);

impl Kept {
    /// For the first who asks, until it is dropped.
    pub(crate) fn claim(flag: &Arc<AtomicBool>) -> Option<Self> {
        (!flag.swap(true, Ordering::AcqRel)).then(|| Self(flag.clone()))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Runs `turn` on `runtime`, once and soon; drops it if the runtime has ended.
pub(crate) fn run_soon(runtime: &Handle, turn: impl FnOnce() + Send + 'static) {
    drop(runtime.spawn(async move { turn() }));
}
