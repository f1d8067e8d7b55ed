//! The mailbox between callers and driver, in every order in which they can come to it.

use loom::{future::block_on, thread};

use super::*;
use crate::{
    Request,
    net::link::job::{Sent, Ticket},
    sync::explore,
};

fn job() -> Arc<Job> {
    Job::new(Request::from(redis::cmd("PING")))
}

/// A driver that sleeps while there is nothing to take, until it has `wanted` jobs or an order.
async fn drive(mailbox: &Mailbox, wanted: usize) -> usize {
    let (mut taken, mut batch) = (0, VecDeque::new());
    std::future::poll_fn(|cx| {
        let found = mailbox.take(&mut batch, wanted, cx.waker());
        taken += batch.drain(..).count();
        if taken == wanted || found.order.is_some() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    taken + mailbox.close().len()
}

#[test]
fn a_driver_that_sleeps_is_woken_for_every_job() {
    explore("two pushes against a driver that sleeps", || {
        let mailbox = Arc::new(Mailbox::new(2));
        let callers = [mailbox.clone(), mailbox.clone()]
            .map(|mailbox| thread::spawn(move || mailbox.push(job()).expect("room")));
        assert_eq!(block_on(drive(&mailbox, 2)), 2);
        for caller in callers {
            caller.join().expect("a caller");
        }
    });
}

#[test]
fn what_is_recalled_from_a_full_mailbox_is_written_or_makes_room_and_never_both() {
    let now = tokio::time::Instant::now();
    explore(
        "recall against take, begin and a push for its place",
        move || {
            let mailbox = Arc::new(Mailbox::new(1));
            let first = job();
            let ticket = Ticket::new(first.clone());
            mailbox.push(first).expect("room");
            let other = thread::spawn({
                let mailbox = mailbox.clone();
                move || mailbox.push(job())
            });
            let driver = thread::spawn({
                let mailbox = mailbox.clone();
                move || {
                    let (mut batch, mut written) = (VecDeque::new(), 0);
                    mailbox.take(&mut batch, 2, Waker::noop());
                    for job in batch {
                        job.begin(now, |_| written += 1);
                    }
                    written
                }
            });
            let sent = ticket.recall().0;
            let pushed = other.join().expect("another caller").is_ok();
            let mut written = driver.join().expect("a driver");
            let mut left = 0;
            for job in mailbox.close() {
                left += usize::from(job.begin(now, |_| written += 1));
            }
            assert!(left <= 1, "more than its capacity");
            let both = usize::from(sent == Sent::Maybe) + usize::from(pushed);
            assert_eq!(written, both, "{sent:?}, {pushed}");
        },
    );
}

#[test]
fn a_job_pushed_while_the_link_retires_is_taken_or_comes_back() {
    explore("push against retire", || {
        let mailbox = Arc::new(Mailbox::new(2));
        let caller = thread::spawn({
            let mailbox = mailbox.clone();
            move || mailbox.push(job())
        });
        let supervisor = thread::spawn({
            let mailbox = mailbox.clone();
            move || mailbox.retire(Retire::Drain)
        });
        let taken = block_on(drive(&mailbox, 2));
        supervisor.join().expect("a supervisor");
        let pushed = caller.join().expect("a caller");
        assert_eq!(taken, usize::from(pushed.is_ok()));
        assert!(pushed.is_ok() || pushed == Err(Rejected::Closed));
    });
}
