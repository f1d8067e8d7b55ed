//! The way in to a link: callers put jobs in, the driver takes them out in batches.
//!
//! Owns the bounded queue between handles and driver, and the orders that retire a link. Promises: never more than `capacity` jobs
//! wait; a job that could not be taken in comes back at once; one wake-up for a whole batch; a closed mailbox stays closed.
//! Leaves everything on the wire to [`driver`](super::driver). Cannot fail.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError},
    task::Waker,
};

use super::job::Job;
use crate::{
    Error,
    sync::{Mutex, MutexGuard},
};

/// How a link is sent into retirement. Each order closes the mailbox; a later order replaces a gentler one.
#[derive(Clone, Debug)]
pub(crate) enum Retire {
    /// Finish what is on the wire, then close.
    Drain,
    /// The link is silent and another has taken over: like `Drain`, but what was written and is harmless to repeat (reads, as a rule) is let go for a replay.
    Bench,
    /// Close now; whoever still waits gets this error.
    Abort(Error),
}

/// Why a job was not taken in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// The link takes no new jobs.
    Closed,
    /// As many wait as may.
    Full,
}

pub(crate) struct Mailbox {
    capacity: usize,
    inner: Mutex<Inner>,
}

struct Inner {
    jobs: VecDeque<Arc<Job>>,
    order: Option<Retire>,
    closed: bool,
    waker: Option<Waker>,
}

impl Mailbox {
    pub(crate) fn new(capacity: usize) -> Self {
        let inner = Inner {
            jobs: VecDeque::new(),
            order: None,
            closed: false,
            waker: None,
        };
        Self {
            capacity,
            inner: Mutex::new(inner),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues `job` for the wire.
    pub(crate) fn push(&self, job: Arc<Job>) -> Result<(), Rejected> {
        let waker = {
            let mut inner = self.lock();
            if inner.closed {
                return Err(Rejected::Closed);
            }
            if inner.jobs.len() >= self.capacity {
                // Cancelled jobs hold their places until the driver comes by; a blocked driver does not.
                inner.jobs.retain(|job| !job.is_cancelled());
                if inner.jobs.len() >= self.capacity {
                    return Err(Rejected::Full);
                }
            }
            inner.jobs.push_back(job);
            // Taken: the second job of a batch wakes nobody.
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Closes the mailbox and hands the driver `order`.
    pub(crate) fn retire(&self, order: Retire) {
        let waker = {
            let mut inner = self.lock();
            inner.closed = true;
            inner.order = Some(order);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Moves up to `room` jobs into `batch`. When that leaves nothing to do, `waker` is kept for the next push or order.
    pub(crate) fn take(&self, batch: &mut VecDeque<Arc<Job>>, room: usize, waker: &Waker) -> Taken {
        let mut inner = self.lock();
        let count = room.min(inner.jobs.len());
        if count == inner.jobs.len() && batch.is_empty() {
            std::mem::swap(&mut inner.jobs, batch);
        } else {
            batch.extend(inner.jobs.drain(..count));
        }
        let order = inner.order.take();
        if order.is_none() {
            match &mut inner.waker {
                Some(held) => held.clone_from(waker),
                held => *held = Some(waker.clone()),
            }
        }
        Taken {
            order,
            left: inner.jobs.len(),
        }
    }

    /// Closes for good and gives back every job that waits.
    pub(crate) fn close(&self) -> VecDeque<Arc<Job>> {
        let mut inner = self.lock();
        inner.closed = true;
        inner.waker = None;
        std::mem::take(&mut inner.jobs)
    }
}

/// What [`Mailbox::take`] found besides jobs.
pub(crate) struct Taken {
    pub(crate) order: Option<Retire>,
    /// Jobs that there was no room for.
    pub(crate) left: usize,
}

#[cfg(all(test, loom))]
mod interleavings;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Request, net::link::job::Ticket};

    fn job() -> Arc<Job> {
        Job::new(Request::from(redis::cmd("PING")))
    }

    #[test]
    fn a_full_mailbox_refuses_but_forgets_the_cancelled_first() {
        let mailbox = Mailbox::new(2);
        let cancelled = job();
        let ticket = Ticket::new(cancelled.clone());
        assert_eq!(mailbox.push(cancelled), Ok(()));
        assert_eq!(mailbox.push(job()), Ok(()));
        assert_eq!(mailbox.push(job()), Err(Rejected::Full));
        drop(ticket);
        assert_eq!(mailbox.push(job()), Ok(()));
    }

    #[test]
    fn an_order_closes_the_mailbox_and_what_waits_comes_back() {
        let mailbox = Mailbox::new(2);
        mailbox.push(job()).expect("room");
        mailbox.retire(Retire::Drain);
        assert_eq!(mailbox.push(job()), Err(Rejected::Closed));
        let mut batch = VecDeque::new();
        let taken = mailbox.take(&mut batch, 0, Waker::noop());
        assert!(matches!(taken.order, Some(Retire::Drain)));
        assert_eq!((taken.left, mailbox.close().len()), (1, 1));
    }

    #[test]
    fn the_driver_takes_no_more_than_it_has_room_for() {
        let mailbox = Mailbox::new(8);
        for _ in 0..5 {
            mailbox.push(job()).expect("room");
        }
        let mut batch = VecDeque::new();
        assert_eq!(mailbox.take(&mut batch, 3, Waker::noop()).left, 2);
        assert_eq!(batch.len(), 3);
    }
}
