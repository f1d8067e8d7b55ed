//! What threads share by hand, by one name for the product and for loom.
//!
//! Owns the choice between std's locks and atomics and loom's, which try every order in which threads can come to them, and
//! [`explore`], which the models of those orders start with. Promises: without `cfg(loom)` these are std's own types. Leaves the
//! models to `interleavings`, beside what they look at: `net/link/job`, `net/link/mailbox`, `channel/gate`, `layer/limit`. They are built
//! and run by `scripts/loom.sh`.

#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64},
};

#[cfg(all(test, loom))]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64},
};

/// Runs `model` once for each order in which its threads can meet. A quick run interrupts a thread, where it could have gone on, three
/// times at most; a full one as often as it can be.
#[cfg(all(test, loom))]
pub(crate) fn explore(name: &str, model: impl Fn() + Send + Sync + 'static) {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    let orders = Arc::new(AtomicU64::new(0));
    let mut builder = loom::model::Builder::new();
    let is_full = std::env::var_os("HOLDFAST_FULL").is_some();
    builder.preemption_bound = if is_full { None } else { Some(3) };
    let counted = orders.clone();
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!("FIGURE loom {name}: {orders:?} orders");
}
