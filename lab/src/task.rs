//! The lab's one door to spawning: a handle that aborts its task when dropped.
//!
//! Owns [`Owned`]. Promises that no task outlives the value that started it by more than one poll. Leaves graceful
//! endings to the callers. Fails never; outside a runtime tokio panics, as it does everywhere. Next: [`crate::proxy`].

use std::future::Future;

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinHandle};

/// A spawned task that ends with this handle.
#[derive(Debug)]
pub struct Owned<T = ()> {
    handle: Option<JoinHandle<T>>,
    abort: AbortHandle,
}

/// Starts `task` on the current runtime, owned by the handle returned.
pub fn own<F>(task: F) -> Owned<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let handle = Handle::current().spawn(task);
    Owned {
        abort: handle.abort_handle(),
        handle: Some(handle),
    }
}

impl<T> Owned<T> {
    /// Waits for the task; `None` when it panicked or was aborted.
    pub async fn join(mut self) -> Option<T> {
        match self.handle.take() {
            Some(handle) => handle.await.ok(),
            None => None,
        }
    }

    /// Aborts the task and waits until what it held is dropped.
    pub async fn stop(self) {
        self.abort.abort();
        self.join().await;
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.abort.abort();
    }
}
