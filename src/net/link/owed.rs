//! Who is owed a reply, in the order in which Redis will give them.
//!
//! Owns the queue of begun jobs and of internal commands. Promises: the n-th reply goes to the n-th request, whether or not anybody
//! still waits for it (a *tombstone* swallows it); a request of several replies gets all of them or none.
//! Leaves bytes to [`outbox`](super::outbox) and [`codec`](super::codec). Fails on a reply that nobody is owed.

use std::{collections::VecDeque, sync::Arc};

use redis::{ServerError, Value};
use tokio::time::Instant;

use super::{
    flock::Flock,
    job::{Job, Origin, Sent},
};
use crate::{
    Error, ErrorKind, Phase,
    request::{Refusals, Values},
};

pub(crate) struct Owed {
    origin: Arc<Origin>,
    /// A command that a replica refused as a whole goes to the primary instead.
    primary_only: bool,
    /// One was.
    refused: bool,
    served: u32,
    /// Their callers, as long as they are not woken.
    answered: Flock,
    entries: VecDeque<Entry>,
}

struct Entry {
    /// `None`: an internal command, whose answer only shows that the peer speaks.
    job: Option<Arc<Job>>,
    /// Where its bytes begin in the stream that the kernel is given.
    start: u64,
    skip: usize,
    want: usize,
    got: Vec<Value>,
    /// What was an error among those that are skipped.
    refused: Option<Box<Refusals>>,
    /// One of its replies was too large to keep.
    too_large: Option<Error>,
}

impl Entry {
    fn is_silent(&self) -> bool {
        self.job.as_ref().is_some_and(|job| job.is_silent())
    }

    /// Skips `value`, but for an error: it is why a transaction will be refused.
    fn pass(&mut self, value: Value) {
        if let (Value::ServerError(_), Some(job)) = (&value, &self.job) {
            let position = job.expected().skip - self.skip;
            self.refused.get_or_insert_default().note(position, value);
        }
        self.skip -= 1;
    }
}

/// A reply came that nobody is owed.
#[derive(Debug)]
pub(crate) struct Unsolicited;

impl Owed {
    pub(crate) fn new(origin: Arc<Origin>, primary_only: bool) -> Self {
        Self {
            origin,
            primary_only,
            refused: false,
            served: 0,
            answered: Flock::default(),
            entries: VecDeque::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Notes that `job`, whose bytes begin at `start`, is owed its replies.
    pub(crate) fn push(&mut self, job: Arc<Job>, start: u64) {
        let expected = job.expected();
        self.entries.push_back(Entry {
            job: Some(job),
            start,
            skip: expected.skip,
            want: expected.count,
            got: Vec::new(),
            refused: None,
            too_large: None,
        });
    }

    /// Notes an internal command of `replies` replies.
    pub(crate) fn push_internal(&mut self, start: u64, replies: usize) {
        self.entries.push_back(Entry {
            job: None,
            start,
            skip: replies,
            want: 0,
            got: Vec::new(),
            refused: None,
            too_large: None,
        });
    }

    /// Gives `value` to the oldest request that is owed one.
    pub(crate) fn answer(&mut self, value: Result<Value, Error>) -> Result<(), Unsolicited> {
        #[cfg(holdfast_mutant = "no_tombstone")]
        self.entries
            .retain(|entry| entry.job.as_ref().is_none_or(|job| job.is_awaited()));
        let entry = self.entries.front_mut().ok_or(Unsolicited)?;
        match value {
            Err(error) => {
                entry.too_large = Some(error);
                if entry.skip > 0 {
                    entry.skip -= 1
                } else {
                    entry.want = entry.want.saturating_sub(1)
                }
            }
            Ok(value) if entry.skip > 0 => entry.pass(value),
            Ok(value) if entry.want == 1 && entry.got.is_empty() && entry.too_large.is_none() => {
                return self.complete(Some(value));
            }
            Ok(value) => {
                entry.got.push(value);
                entry.want = entry.want.saturating_sub(1);
            }
        }
        if entry.skip == 0 && entry.want == 0 {
            self.complete(None)
        } else {
            Ok(())
        }
    }

    fn complete(&mut self, single: Option<Value>) -> Result<(), Unsolicited> {
        let entry = self.entries.pop_front().ok_or(Unsolicited)?;
        let Some(job) = entry.job else { return Ok(()) };
        if let Some(error) = entry.too_large {
            job.end(Sent::Maybe, &error, &self.origin);
            return Ok(());
        }
        if let Some(Value::ServerError(error)) = &single
            && self.primary_only
            && is_replicas(error)
            && job.is_plain()
        {
            self.refused = true;
            job.end(Sent::Never, &not_primary(), &self.origin);
            return Ok(());
        }
        let is_single = job.is_single();
        let waits = job.leave(match (single, entry.refused) {
            (Some(value), _) if is_single => Values::One(value),
            (Some(value), None) => Values::Many(vec![value]),
            (Some(value), Some(refused)) => Values::Refused(vec![value], refused),
            (None, None) => Values::Many(entry.got),
            (None, Some(refused)) => Values::Refused(entry.got, refused),
        });
        if let Some(waker) = waits {
            self.served += 1;
            waker
                .into_iter()
                .for_each(|waker| self.answered.join(waker));
        }
        Ok(())
    }

    /// Lets go of every request of which no byte was written, newest first, and gives where the oldest of them began. `but_silent`: one whose sender does
    /// not wait was told that it is on its way, and goes out, with what stands before it.
    pub(crate) fn release_unsent(
        &mut self,
        written: u64,
        error: &Error,
        but_silent: bool,
    ) -> Option<u64> {
        let mut from = None;
        while self
            .entries
            .back()
            .is_some_and(|entry| entry.start >= written && !(but_silent && entry.is_silent()))
            && let Some(entry) = self.entries.pop_back()
        {
            from = Some(entry.start);
            if let Some(job) = entry.job {
                job.end(Sent::Never, error, &self.origin);
            }
        }
        from
    }

    /// What must never be: a request that nobody waits for is dropped when only its beginning was written.
    #[cfg(holdfast_mutant = "half_written")]
    pub(crate) fn forget_half_written(&mut self, written: u64, pace: &super::Pace) -> bool {
        let begun = |entry: &Entry| entry.start < written;
        let Some(last) = self.entries.iter().rposition(begun) else {
            return false;
        };
        let is_whole = self
            .entries
            .get(last + 1)
            .is_some_and(|next| next.start == written);
        let given_up = |entry: &Entry| entry.job.as_ref().is_some_and(|job| !job.is_awaited());
        if is_whole || !self.entries.get(last).is_some_and(given_up) {
            return false;
        }
        self.release_unsent(written, &pace.lost("half written"), false);
        self.entries.pop_back().is_some()
    }

    /// Tells every waiting request that is harmless to repeat that it may be sent elsewhere; its place stays, as a tombstone.
    pub(crate) fn release_repeatable(&self, error: &Error) {
        for job in self.entries.iter().filter_map(|entry| entry.job.as_ref()) {
            if job.is_repeatable() {
                job.end(Sent::Maybe, error, &self.origin);
            }
        }
    }

    /// Tells everybody that no reply will come.
    pub(crate) fn end_all(&mut self, written: u64, error: &Error) {
        self.release_unsent(written, error, false);
        for job in self.entries.drain(..).filter_map(|entry| entry.job) {
            job.end(Sent::Maybe, error, &self.origin);
        }
    }

    /// Whether, since this was last asked, a command was refused as a whole because the server is no primary.
    pub(crate) fn take_refused(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }

    /// Whether some who were answered wait to be woken.
    pub(crate) fn wakes_more(&self) -> bool {
        !self.answered.is_empty()
    }

    /// Wakes some of those who were answered, in a turn that began at `now`. Says whether others wait.
    pub(crate) fn wake(&mut self, now: Instant) -> bool {
        self.answered.wake(now);
        self.wakes_more()
    }

    /// Replies that somebody waited for, since the last time this was asked.
    pub(crate) fn take_served(&mut self) -> u32 {
        std::mem::take(&mut self.served)
    }

    /// Who is owed the next reply, and the bytes of what he asked, in a stream that ends at `end`.
    pub(crate) fn oldest(&self, end: u64) -> Option<(&Job, u64)> {
        let entry = self.entries.front()?;
        let end = self.entries.get(1).map_or(end, |next| next.start);
        Some((entry.job.as_deref()?, end.saturating_sub(entry.start)))
    }

    /// Whether a caller still waits, or has been told that its command is on its way.
    pub(crate) fn is_awaited(&self) -> bool {
        self.entries.iter().any(|entry| {
            entry.is_silent() || entry.job.as_ref().is_some_and(|job| job.is_awaited())
        })
    }
}

/// Whether a replica refused a command for being one: it has not run.
pub(crate) fn is_replicas(error: &ServerError) -> bool {
    let details = error.details().unwrap_or_default();
    match error.code() {
        "READONLY" => matches!(
            details,
            "You can't write against a read only replica."
                | "You can't write against a read only slave."
        ),
        "MASTERDOWN" => details.starts_with("Link with MASTER is down"),
        _ => false,
    }
}

/// What a call is told that found replicas only.
pub(crate) fn not_primary() -> Error {
    Error::new(
        ErrorKind::RoleMismatch,
        Phase::Reply,
        "server is a replica, not a primary",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Request,
        net::link::{
            job::{Outcome, Ticket},
            tests::origin,
        },
    };
    use std::{future::Future, pin::Pin, task::Context, task::Poll, task::Waker};
    use tokio::time::Instant;

    fn begun(request: impl Into<Request>) -> (Arc<Job>, Ticket) {
        let (job, ticket) = Job::pair(request.into());
        job.begin(Instant::now(), |_| ());
        (job, ticket)
    }

    fn outcome(ticket: &mut Ticket) -> Option<Outcome> {
        match Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }

    fn lost() -> Error {
        Error::new(ErrorKind::ConnectionLost, Phase::Reply, "lost")
    }

    #[tokio::test]
    async fn the_nth_reply_goes_to_the_nth_request_and_a_tombstone_swallows_its_own() {
        let mut owed = Owed::new(origin(), false);
        let ((first, ticket), (second, mut waiting)) =
            (begun(redis::cmd("GET")), begun(redis::cmd("GET")));
        owed.push(first, 0);
        owed.push_internal(10, 1);
        owed.push(second, 20);
        drop(ticket);
        for n in 0..3 {
            assert!(owed.answer(Ok(Value::Int(n))).is_ok());
        }
        assert!(matches!(
            outcome(&mut waiting),
            Some(Outcome::Replied(Values::One(Value::Int(2))))
        ));
        assert!(
            owed.answer(Ok(Value::Okay)).is_err(),
            "nobody is owed this one"
        );
    }

    #[tokio::test]
    async fn a_transaction_skips_to_its_exec() {
        let mut owed = Owed::new(origin(), false);
        let mut pipeline = redis::pipe();
        pipeline.atomic().cmd("GET").arg("a").cmd("GET").arg("b");
        let (job, mut ticket) = begun(pipeline);
        owed.push(job, 0);
        for value in [
            Value::Okay,
            Value::SimpleString("QUEUED".into()),
            Value::SimpleString("QUEUED".into()),
            Value::Array(vec![]),
        ] {
            assert!(outcome(&mut ticket).is_none());
            owed.answer(Ok(value)).expect("owed");
        }
        assert!(
            matches!(outcome(&mut ticket), Some(Outcome::Replied(Values::Many(values))) if values == [Value::Array(vec![])])
        );
    }

    #[tokio::test]
    async fn what_was_not_written_is_let_go_as_unsent_and_only_that() {
        let mut owed = Owed::new(origin(), false);
        let ((a, mut written), (b, mut unsent)) =
            (begun(redis::cmd("INCR")), begun(redis::cmd("INCR")));
        owed.push(a, 0);
        owed.push(b, 20);
        assert_eq!(owed.release_unsent(5, &lost(), false), Some(20));
        assert!(
            matches!(outcome(&mut unsent), Some(Outcome::Ended(end)) if end.sent == Sent::Never)
        );
        owed.end_all(5, &lost());
        assert!(
            matches!(outcome(&mut written), Some(Outcome::Ended(end)) if end.sent == Sent::Maybe)
        );
    }

    #[tokio::test]
    async fn a_reply_too_large_fails_its_own_caller_only() {
        let mut owed = Owed::new(origin(), false);
        let ((a, mut big), (b, mut small)) = (begun(redis::cmd("GET")), begun(redis::cmd("GET")));
        owed.push(a, 0);
        owed.push(b, 10);
        owed.answer(Err(Error::new(
            ErrorKind::Protocol,
            Phase::Reply,
            "too large",
        )))
        .expect("owed");
        owed.answer(Ok(Value::Okay)).expect("owed");
        assert!(
            matches!(outcome(&mut big), Some(Outcome::Ended(end)) if end.error.kind() == ErrorKind::Protocol)
        );
        assert!(matches!(outcome(&mut small), Some(Outcome::Replied(_))));
    }
}
