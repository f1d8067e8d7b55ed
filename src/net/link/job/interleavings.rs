//! The job between its driver and its caller, in every order in which the two can come to it.
//!
//! The *sent* word is one lock; what is modelled is that the sequences around it leave no gap: a job is either not sent and never
//! written, or written with a slot that waits or is a tombstone; never both, never neither; and whoever waits is woken.

use std::sync::atomic::{AtomicUsize, Ordering};

use loom::{future::block_on, thread};
use redis::Value;

use super::*;
use crate::{ErrorKind, Phase, net::link::tests::origin, sync::explore};

fn job() -> (Arc<Job>, Ticket) {
    Job::pair(Request::from(redis::cmd("GET").arg("k")))
}

fn okay() -> Values {
    Values::One(Value::Okay)
}

fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, Phase::Reply, "gone")
}

/// What the driver did with the job.
struct Driven {
    written: usize,
    begun: bool,
    /// Whether somebody waited for the reply; `None` where none came.
    awaited: Option<bool>,
}

/// A driver that begins the job and, if it may, gets the reply to it.
fn drive(job: &Arc<Job>, now: Instant) -> Driven {
    let mut written = 0;
    let begun = job.begin(now, |_| written += 1);
    let awaited = begun.then(|| job.clone().reply(okay()));
    Driven {
        written,
        begun,
        awaited,
    }
}

#[test]
fn a_recalled_job_is_not_sent_and_never_written_or_sent_and_a_tombstone() {
    let now = Instant::now();
    explore("recall against begin and reply", move || {
        let (job, ticket) = job();
        let driver = thread::spawn({
            let job = job.clone();
            move || drive(&job, now)
        });
        let (sent, request) = ticket.recall();
        let driven = driver.join().expect("a driver");
        assert!(request.is_some(), "the request comes back once");
        assert_eq!(driven.begun, driven.written == 1);
        assert_eq!(sent == Sent::Never, driven.written == 0, "both or neither");
        assert!(!job.is_awaited() && job.is_cancelled());
        assert!(
            !job.clone().reply(okay()),
            "a tombstone swallows what comes"
        );
    });
}

#[test]
fn a_late_job_is_never_written_whoever_is_first_to_notice() {
    let now = Instant::now();
    explore("expiry against recall", move || {
        let deadline =
            crate::deadline::Deadline::starting(now, std::time::Duration::from_millis(5));
        let job = Job::new(Request::from(redis::cmd("GET").arg("k")).with_deadline(deadline));
        let ticket = Ticket::new(job.clone());
        let driver = thread::spawn(move || drive(&job, deadline.at()));
        assert_eq!(ticket.recall().0, Sent::Never);
        let driven = driver.join().expect("a driver");
        assert!(!driven.begun && driven.written == 0);
    });
}

#[test]
fn a_dropped_ticket_is_a_job_that_is_not_begun_or_a_reply_that_nobody_gets() {
    let now = Instant::now();
    explore("drop against begin and reply", move || {
        let (job, ticket) = job();
        let driver = thread::spawn({
            let job = job.clone();
            move || drive(&job, now)
        });
        drop(ticket);
        let driven = driver.join().expect("a driver");
        assert_eq!(driven.begun, driven.written == 1);
        assert_eq!(driven.begun, driven.awaited.is_some());
        assert!(!job.is_awaited() && !job.begin(now, |_| panic!("written after it was dropped")));
    });
}

#[test]
fn a_job_taken_back_for_another_link_is_written_once_at_most_over_both() {
    let now = Instant::now();
    explore("renew against begin", move || {
        let (job, ticket) = job();
        let written = Arc::new(AtomicUsize::new(0));
        let driver = thread::spawn({
            let written = written.clone();
            move || {
                job.begin(now, |_| {
                    written.fetch_add(1, Ordering::Relaxed);
                })
            }
        });
        // As a call does: what may have been sent does not follow by itself.
        let (sent, request) = ticket.recall();
        if sent == Sent::Never {
            let next = Job::new(request.expect("not taken before"));
            assert!(next.begin(now, |_| {
                written.fetch_add(1, Ordering::Relaxed);
            }));
        }
        driver.join().expect("a driver");
        assert_eq!(written.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn whoever_waits_for_a_reply_gets_it() {
    let now = Instant::now();
    explore("reply against a wait", move || {
        let (job, mut ticket) = job();
        // Polled before in another task, whose waker must not be the one that is kept.
        let mut elsewhere = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut ticket).poll(&mut elsewhere).is_pending());
        let driver = thread::spawn(move || drive(&job, now));
        assert!(matches!(block_on(ticket), Outcome::Replied(_)));
        assert_eq!(driver.join().expect("a driver").awaited, Some(true));
    });
}

#[test]
fn whoever_waits_for_a_link_that_ends_hears_of_it_and_has_the_request() {
    let now = Instant::now();
    let origin = origin();
    explore("end against a wait", move || {
        let (job, mut ticket) = job();
        let origin = origin.clone();
        let driver = thread::spawn(move || {
            let begun = job.begin(now, |_| ());
            job.end(Sent::Maybe, &lost(), &origin);
            begun
        });
        assert!(matches!(block_on(&mut ticket), Outcome::Ended(_)));
        assert!(driver.join().expect("a driver"), "nobody took it back");
        assert!(ticket.recall().1.is_some());
    });
}
