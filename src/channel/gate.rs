//! What a call finds when it arrives: a link, a refusal, or a moment's wait.
//!
//! Owns the current [`Gate`] of one endpoint and the wakers of the calls that wait for it to change. Promises: reading it never waits;
//! a call that registered before a change is woken by it; a call that left is forgotten. Leaves deciding to
//! [`supervisor`](super::supervisor), which alone sets it. Cannot fail.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    task::Waker,
};

use arc_swap::{ArcSwap, Guard};

use crate::{Error, net::link::LinkId, sync::Mutex};

/// Where calls may go right now.
#[derive(Debug)]
pub(crate) enum Gate<W> {
    /// A link is being made: a call waits, within its own deadline.
    Waiting,
    /// Calls go over this link.
    Up(Serving<W>),
    /// The circuit is open, for this reason.
    Down(Error),
}

/// The link in service.
#[derive(Debug)]
pub(crate) struct Serving<W> {
    pub(crate) wire: W,
    /// Older links to the same server that are certain to deliver nothing any more.
    pub(crate) fenced: Vec<LinkId>,
}

pub(crate) struct Cell<W> {
    gate: ArcSwap<Gate<W>>,
    waiters: Mutex<Waiters>,
}

#[derive(Default)]
struct Waiters {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

/// A place among those who wait. Given back with [`Cell::leave`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place(u64);

impl<W> Cell<W> {
    pub(crate) fn new() -> Self {
        Self {
            gate: ArcSwap::from_pointee(Gate::Waiting),
            waiters: Mutex::default(),
        }
    }

    pub(crate) fn load(&self) -> Guard<Arc<Gate<W>>> {
        self.gate.load()
    }

    pub(crate) fn set(&self, gate: Gate<W>) {
        self.gate.store(Arc::new(gate));
        let wakers = {
            let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut waiters.wakers)
        };
        for waker in wakers.into_values() {
            waker.wake();
        }
    }

    /// Sees to it that `waker` hears of the next change. The gate must be read again afterwards: it may just have changed.
    pub(crate) fn wait(&self, place: &mut Option<Place>, waker: &Waker) {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let number = match place {
            Some(Place(number)) => *number,
            None => {
                waiters.next += 1;
                *place = Some(Place(waiters.next));
                waiters.next
            }
        };
        waiters.wakers.insert(number, waker.clone());
    }

    pub(crate) fn leave(&self, place: &mut Option<Place>) {
        if let Some(Place(number)) = place.take() {
            self.waiters
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .wakers
                .remove(&number);
        }
    }

    /// How many calls wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .wakers
            .len()
    }
}

#[cfg(all(test, loom))]
mod interleavings;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_is_remembered_once_and_forgotten_when_it_leaves() {
        let cell: Cell<()> = Cell::new();
        let (mut one, mut two) = (None, None);
        cell.wait(&mut one, Waker::noop());
        cell.wait(&mut one, Waker::noop());
        cell.wait(&mut two, Waker::noop());
        assert_eq!(cell.waiting(), 2);
        cell.leave(&mut one);
        assert_eq!(cell.waiting(), 1);
        cell.set(Gate::Waiting);
        assert_eq!(cell.waiting(), 0);
        cell.leave(&mut two);
    }
}
