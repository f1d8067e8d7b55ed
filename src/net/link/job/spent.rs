//! Jobs that have ended, for the next calls of their thread: a served call allocates none.
//!
//! Owns a few of them per thread. Promises: a job is kept only if nobody else has it, so that no late reply, tombstone or cancelled place
//! in a queue ever belongs to two calls; what is kept holds no request, no reply and no waker. Leaves emptying a job to
//! [`Ticket`](super::Ticket), which gives it. Cannot fail: a thread that is ending keeps none.

use std::{cell::RefCell, sync::Arc};

use super::Job;

/// Calls that end together, as they do with a batch of replies, find room for their jobs. 40 KiB of a thread at most.
const MOST: usize = 128;

thread_local! {
    static SPENT: RefCell<Vec<Arc<Job>>> = const { RefCell::new(Vec::new()) };
}

/// A job to be used again.
pub(super) fn take() -> Option<Arc<Job>> {
    SPENT.try_with(|spent| spent.borrow_mut().pop()).ok()?
}

/// Keeps `job` if its giver is the last who has it.
pub(super) fn give(job: Option<Arc<Job>>) {
    let Some(job) = job.filter(|job| Arc::strong_count(job) == 1) else {
        return;
    };
    // loom's locks belong to one order of its threads.
    if cfg!(all(test, loom)) {
        return;
    }
    let _ending = SPENT.try_with(|spent| {
        let mut spent = spent.borrow_mut();
        if spent.len() < MOST {
            spent.push(job);
        }
    });
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll, Waker},
        thread,
    };

    use redis::Value;
    use tokio::time::Instant;

    use super::*;
    use crate::{
        Request,
        net::link::job::{Outcome, Ticket},
        request::Values,
    };

    fn request() -> Request {
        Request::from(redis::cmd("GET").arg("k"))
    }

    fn kept() -> usize {
        SPENT.with(|spent| spent.borrow().len())
    }

    fn poll(ticket: &mut Ticket) -> Poll<Outcome> {
        Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Runs `test` on a thread that has kept nothing yet.
    fn apart(test: impl FnOnce() + Send + 'static) {
        thread::spawn(test).join().expect("no panic");
    }

    #[test]
    fn an_answered_job_serves_the_next_call_and_is_as_new() {
        apart(|| {
            let (job, mut ticket) = Job::pair(request());
            let place = Arc::as_ptr(&job);
            assert!(job.begin(Instant::now(), |_| ()));
            assert!(job.reply(Values::One(Value::Okay)));
            assert!(poll(&mut ticket).is_ready());
            assert_eq!(kept(), 1);
            let (job, mut ticket) = Job::pair(request());
            assert_eq!((Arc::as_ptr(&job), kept()), (place, 0));
            assert!(job.is_awaited() && !job.is_cancelled());
            assert!(
                poll(&mut ticket).is_pending(),
                "the last reply is not in it"
            );
            assert!(job.begin(Instant::now(), |_| ()));
        });
    }

    #[test]
    fn an_outcome_that_nobody_heard_is_not_the_next_callers() {
        apart(|| {
            let (job, ticket) = Job::pair(request());
            assert!(job.begin(Instant::now(), |_| ()));
            assert!(job.reply(Values::One(Value::Okay)));
            drop(ticket);
            assert_eq!(kept(), 1);
            let (job, mut ticket) = Job::pair(request());
            assert!(job.is_awaited() && poll(&mut ticket).is_pending());
        });
    }

    #[test]
    fn a_tombstone_is_not_used_again_while_its_link_has_it() {
        apart(|| {
            let (job, ticket) = Job::pair(request());
            assert!(job.begin(Instant::now(), |_| ()));
            drop(ticket);
            assert_eq!(kept(), 0);
            let (next, _ticket) = Job::pair(request());
            assert!(!Arc::ptr_eq(&job, &next));
            assert!(
                !job.reply(Values::One(Value::Okay)),
                "it swallows its reply"
            );
            assert!(next.is_awaited());
        });
    }

    #[test]
    fn a_cancelled_job_in_a_mailbox_is_not_used_again() {
        apart(|| {
            let (job, ticket) = Job::pair(request());
            drop(ticket);
            assert_eq!(kept(), 0);
            assert!(!job.begin(Instant::now(), |_| ()));
        });
    }

    #[test]
    fn a_thread_keeps_so_many_and_no_more() {
        apart(|| {
            let tickets: Vec<_> = (0..2 * MOST)
                .map(|_| Ticket::new(Job::new(request())))
                .collect();
            drop(tickets);
            assert_eq!(kept(), MOST);
        });
    }
}
