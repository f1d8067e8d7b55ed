//! One call on its way over one link: the place where the caller and the driver meet.
//!
//! Owns [`Job`], the *sent* word and the reply slot, and [`Ticket`], the caller's end. Promises: exactly one of *written* and
//! *cancelled* ever happens to a job; a job that was cancelled first never reaches the wire, one that was begun keeps its place
//! among the owed replies even when nobody waits any more; its outcome is delivered at most once; a job that has ended is used again
//! ([`spent`]) once nobody else has it. Leaves the order of replies to [`driver`](super::driver) and what follows an [`End`] to `channel`. Cannot fail.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{LinkId, handshake::Greeting};
use crate::{
    Error, Request,
    request::{Expected, Reached, Replay, Shape, Values, may_repeat},
    sync::{Mutex, MutexGuard},
};

/// What became of a job.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The server answered.
    Replied(Values),
    /// The link will not answer.
    Ended(End),
}

/// How a link let go of a job.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) sent: Sent,
    pub(crate) error: Error,
    /// The link that it was.
    pub(crate) from: Arc<Origin>,
}

/// Which link it was, and which server behind it.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) id: LinkId,
    pub(crate) greeting: Greeting,
}

/// Whether a byte of the job was handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Never,
    Maybe,
}

/// The *sent* word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In the mailbox; either side may still take it.
    Queued,
    /// The driver took it: it will be finished on the wire, or the link closed.
    Begun,
    /// The caller took it back, or its outcome has been delivered.
    #[default]
    Closed,
}

#[derive(Default)]
struct Slot {
    state: State,
    /// Held for a replay; the bytes are gone as soon as nobody waits.
    request: Option<Request>,
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

/// A request in a link's hands. The driver holds one reference, the caller's [`Ticket`] the other.
#[derive(Default)]
pub(crate) struct Job {
    expected: Expected,
    repeatable: bool,
    single: bool,
    silent: bool,
    expires: Option<Instant>,
    patience: Duration,
    slot: Mutex<Slot>,
}

impl Job {
    pub(crate) fn new(request: Request) -> Arc<Self> {
        let replay = request.replay().unwrap_or_default();
        Self::by(request, replay)
    }

    /// The same, where its sender's word is known.
    pub(crate) fn by(request: Request, replay: Replay) -> Arc<Self> {
        let mut job = spent::take().unwrap_or_default();
        match Arc::get_mut(&mut job) {
            Some(blank) => {
                blank.fill(request, replay);
                job
            }
            // Nobody gives away what somebody else has.
            None => {
                let mut blank = Self::default();
                blank.fill(request, replay);
                Arc::new(blank)
            }
        }
    }

    /// The same, with its caller's end.
    pub(crate) fn pair(request: Request) -> (Arc<Self>, Ticket) {
        let job = Self::new(request);
        (job.clone(), Ticket::new(job))
    }

    /// Makes a blank job that of `request`.
    fn fill(&mut self, request: Request, replay: Replay) {
        self.expected = request.expected();
        self.repeatable = may_repeat(Reached::MaybeRun, request.effect(), replay, false);
        self.single = matches!(request.shape(), Shape::Single | Shape::NoResponse);
        self.silent = matches!(request.shape(), Shape::NoResponse);
        let deadline = request.deadline();
        self.expires = deadline.map(|deadline| deadline.at());
        self.patience = deadline.map_or(Duration::ZERO, |deadline| deadline.timeout());
        let slot = self.slot.get_mut().unwrap_or_else(PoisonError::into_inner);
        *slot = Slot {
            state: State::Queued,
            request: Some(request),
            outcome: None,
            waker: None,
        };
    }

    pub(crate) fn expected(&self) -> Expected {
        self.expected
    }

    /// Whether it may go again though it may have run, and though the path that it went may still deliver it.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    /// Whether its answer is one bare value.
    pub(crate) fn is_single(&self) -> bool {
        self.single
    }

    /// Whether what refuses it refuses all of it.
    pub(crate) fn is_plain(&self) -> bool {
        self.slot().request.as_ref().is_some_and(Request::is_plain)
    }

    /// Whether its sender does not wait for the reply.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// How long its caller is willing to wait in all; nothing where nobody has said.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        // Nothing under this lock panics; a poisoned slot is as good as any.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the job for the wire and shows its bytes to `write`, unless it was cancelled or has expired.
    pub(crate) fn begin(&self, now: Instant, write: impl FnOnce(&Bytes)) -> bool {
        let mut slot = self.slot();
        if slot.state != State::Queued || self.expires.is_some_and(|expires| now >= expires) {
            return false;
        }
        slot.state = State::Begun;
        if let Some(request) = &slot.request {
            write(request.packed());
        }
        true
    }

    /// Whether the caller took it back before it was begun.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.slot().state == State::Closed
    }

    /// Whether somebody still waits for its outcome.
    pub(crate) fn is_awaited(&self) -> bool {
        let slot = self.slot();
        slot.state != State::Closed && slot.outcome.is_none()
    }

    /// Hands over the reply, and wakes who waits for it. Says whether somebody did.
    pub(crate) fn reply(self: Arc<Self>, values: Values) -> bool {
        let Some(waker) = self.leave(values) else {
            return false;
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Leaves the reply for whoever waits, if somebody does, and gives whom to wake.
    pub(crate) fn leave(self: Arc<Self>, values: Values) -> Option<Option<Waker>> {
        // The job is let go of before its caller is woken: who has it alone can use it again.
        self.deliver(Outcome::Replied(values))
    }

    pub(crate) fn end(&self, sent: Sent, error: &Error, from: &Arc<Origin>) {
        let delivered = self.deliver(Outcome::Ended(End {
            sent,
            error: error.clone(),
            from: from.clone(),
        }));
        if let Some(Some(waker)) = delivered {
            waker.wake();
        }
    }

    /// Leaves the outcome for whoever waits, if somebody does, and gives whom to wake.
    fn deliver(&self, outcome: Outcome) -> Option<Option<Waker>> {
        let mut slot = self.slot();
        if slot.state == State::Closed || slot.outcome.is_some() {
            return None;
        }
        slot.outcome = Some(outcome);
        Some(slot.waker.take())
    }
}

/// The caller's end of a [`Job`]: a future of its [`Outcome`].
///
/// Dropping it takes the job back if it has not been begun; otherwise its place among the owed replies stays, as a tombstone.
pub(crate) struct Ticket {
    /// `None`: there is nothing to take back.
    job: Option<Arc<Job>>,
}

impl Ticket {
    pub(crate) fn new(job: Arc<Job>) -> Self {
        Self { job: Some(job) }
    }

    /// Of no job: nothing was to be sent.
    pub(crate) fn blank() -> Self {
        Self { job: None }
    }

    /// Takes the job back, with its request for another try. Tells whether a byte of it may have been sent.
    pub(crate) fn recall(&self) -> (Sent, Option<Request>) {
        let Some(job) = &self.job else {
            return (Sent::Never, None);
        };
        let mut slot = job.slot();
        let sent = if slot.state == State::Begun {
            Sent::Maybe
        } else {
            Sent::Never
        };
        slot.state = State::Closed;
        let (request, unheard) = (
            slot.request.take(),
            (slot.outcome.take(), slot.waker.take()),
        );
        // A waker may run somebody else's code when it goes, and so may what a layer attached to the request.
        drop(slot);
        drop(unheard);
        (sent, request)
    }

    /// Leaves the job to its link: whatever becomes of it concerns nobody.
    pub(crate) fn forget(mut self) {
        self.job = None;
    }

    /// The driver's half.
    pub(crate) fn job(&self) -> Option<&Arc<Job>> {
        self.job.as_ref()
    }
}

impl Future for Ticket {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let ticket = self.get_mut();
        let Some(job) = &ticket.job else {
            return Poll::Pending;
        };
        let mut slot = job.slot();
        if let Some(outcome) = slot.outcome.take() {
            // Closed only for a reply: after an end the request is recalled for another try.
            if matches!(outcome, Outcome::Replied(_)) {
                slot.state = State::Closed;
                // What a layer attached may run its code when it goes: not under the lock.
                let attached = slot.request.as_mut().map(Request::detach);
                slot.request = None;
                drop(slot);
                drop(attached);
                spent::give(ticket.job.take());
            }
            return Poll::Ready(outcome);
        }
        match &mut slot.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            waker => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.job.is_some() {
            // The request's bytes are dropped after the lock.
            let _request = self.recall();
            spent::give(self.job.take());
        }
    }
}

#[cfg(all(test, loom))]
mod interleavings;
mod spent;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, Phase, net::link::tests::origin};
    use redis::Value;

    fn job() -> (Arc<Job>, Ticket) {
        Job::pair(Request::from(redis::cmd("GET").arg("k")))
    }

    fn poll(ticket: &mut Ticket) -> Poll<Outcome> {
        Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn a_job_recalled_while_queued_is_never_begun() {
        let (job, ticket) = job();
        assert_eq!(ticket.recall().0, Sent::Never);
        assert!(!job.begin(Instant::now(), |_| ()));
        assert!(job.is_cancelled());
    }

    #[tokio::test]
    async fn a_begun_job_may_have_been_sent_and_swallows_its_late_reply() {
        let (job, mut ticket) = job();
        assert!(job.begin(Instant::now(), |_| ()));
        assert!(!job.begin(Instant::now(), |_| ()), "begun once");
        assert_eq!(ticket.recall().0, Sent::Maybe);
        assert!(!job.clone().reply(Values::One(Value::Okay)));
        assert!(poll(&mut ticket).is_pending(), "nobody gets the late reply");
        assert!(!job.is_awaited());
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_expired_in_the_queue_is_not_begun() {
        let now = Instant::now();
        let deadline =
            crate::deadline::Deadline::starting(now, std::time::Duration::from_millis(5));
        let job = Job::new(Request::from(redis::cmd("GET").arg("k")).with_deadline(deadline));
        assert!(!job.begin(now + std::time::Duration::from_millis(5), |_| ()));
        assert!(job.begin(now, |_| ()));
    }

    #[tokio::test]
    async fn an_ended_job_gives_its_request_back_for_another_try() {
        let (job, mut ticket) = job();
        job.end(
            Sent::Never,
            &Error::new(ErrorKind::ConnectionLost, Phase::Queue, "gone"),
            &origin(),
        );
        assert!(matches!(
            poll(&mut ticket),
            Poll::Ready(Outcome::Ended(End {
                sent: Sent::Never,
                ..
            }))
        ));
        assert!(ticket.recall().1.is_some());
    }

    #[tokio::test]
    async fn only_the_first_outcome_counts() {
        let (job, mut ticket) = job();
        job.begin(Instant::now(), |_| ());
        assert!(job.clone().reply(Values::One(Value::Int(1))));
        job.end(
            Sent::Maybe,
            &Error::new(ErrorKind::ConnectionLost, Phase::Reply, "gone"),
            &origin(),
        );
        assert!(matches!(
            poll(&mut ticket),
            Poll::Ready(Outcome::Replied(Values::One(Value::Int(1))))
        ));
    }
}
