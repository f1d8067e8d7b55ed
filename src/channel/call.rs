//! One call: from the gate over a link to its reply, and over to the next link if the first one let it go.
//!
//! Owns the named future of a channel's calls and *where* a call may follow to. Promises: what was never sent may go again; what may have
//! run goes again by [`may_repeat`] alone, to the very server that had it (a read also to that server's successor), if [`purse`](super::purse)
//! pays; nothing twice. Whatever ends it, the breaker hears the truth once; a refusal allocates nothing.
//! Leaves the deadline's timer to the timeout layer, which tells it by [`Expire::expire`]. Fails by kind and phase.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::Instant;

use super::{
    Shared,
    gate::{Gate, Place, Serving},
};
use crate::{
    Error, ErrorKind, Phase, Reply, Request,
    deadline::Deadline,
    error::Executed,
    layer::timeout::Expire,
    net::{
        link::{
            LinkId,
            job::{End, Job, Outcome, Sent, Ticket},
            mailbox::Rejected,
        },
        reach::connect::{Dial, Wire},
    },
    own::Hold,
    request::{Reached, Replay, Shape, Values, commands::Effect, may_repeat},
};

/// Times a call may be handed to another link, sent or not.
const MOVES: u8 = 2;

/// A call's future. Dropping it takes the call back if no byte of it was sent; else its reply is swallowed.
pub(crate) struct Call<C: Dial> {
    /// The client lives as long as its calls.
    shared: Hold<Shared<C>>,
    ticket: Ticket,
    stage: Stage,
    shape: Shape,
    effect: Effect,
    replay: Replay,
    /// Its replay has been paid for.
    paid: bool,
    deadline: Deadline,
    moves: u8,
    /// The last link that may have delivered a byte of it and let it go.
    written: Option<LinkId>,
    ramping: bool,
}

enum Stage {
    /// On the way to a link; `carry` is what the last one let go.
    Seeking {
        carry: Option<Box<End>>,
        place: Option<Place>,
    },
    /// In the hands of this link.
    Sent(LinkId),
    /// Known without asking a server: it may not ride here, or there is nothing to ask.
    Known(Result<(), Error>),
    Over,
}

/// What came of looking for a link.
enum Found {
    Link(LinkId),
    Wait,
}

impl<C: Dial> Call<C> {
    pub(super) fn new(shared: Hold<Shared<C>>, request: Request, deadline: Deadline) -> Self {
        let shape = request.shape().clone();
        let (effect, replay) = (
            request.effect(),
            shared.recipe.config.retry().replay_of(&request),
        );
        let known = match request.refusal() {
            Some(reason) => Some(Err(Error::new(ErrorKind::Refused, Phase::Queue, reason))),
            None => (request.expected().owed() == 0).then_some(Ok(())),
        };
        let (ticket, stage) = match known {
            Some(result) => (Ticket::blank(), Stage::Known(result)),
            None => (
                Ticket::new(Job::by(request, replay)),
                Stage::Seeking {
                    carry: None,
                    place: None,
                },
            ),
        };
        Self {
            effect,
            replay,
            paid: false,
            shared,
            ticket,
            stage,
            shape,
            deadline,
            moves: 0,
            written: None,
            ramping: false,
        }
    }

    /// Whether it waits for a link.
    pub(super) fn is_seeking(&self) -> bool {
        matches!(self.stage, Stage::Seeking { .. })
    }

    /// Counts as sent once already: another server had it, and may have run it.
    pub(super) fn once_more(mut self) -> Self {
        self.moves = 1;
        self
    }

    /// Whether another server may be asked instead: this one certainly did not run it, or running it once more is harmless.
    pub(super) fn may_be_asked_elsewhere(&self) -> bool {
        !self.was_written()
            || (self.moves <= 1 && may_repeat(Reached::MaybeRun, self.effect, self.replay, false))
    }

    /// Whether a link that let it go may have delivered it.
    pub(super) fn was_written(&self) -> bool {
        self.written.is_some()
    }

    /// Pays for asking another server, where this one may have run it.
    pub(super) fn pays(&self) -> bool {
        self.written.is_none_or(|link| self.shared.hub.pays(link))
    }

    #[cfg(test)]
    pub(super) fn moves(&self) -> u8 {
        self.moves
    }

    /// As it is once `link`, which may have delivered it, has let it go.
    #[cfg(test)]
    pub(super) fn lost_by(mut self, link: LinkId) -> Self {
        self.written = Some(link);
        self.moves = 1;
        self
    }

    /// Hands the job to the link in service, if it may go there.
    fn seek(&mut self, carry: Option<&End>) -> Result<Found, Error> {
        let hub = &self.shared.hub;
        let gate = hub.gate.load();
        let serving = match &**gate {
            Gate::Waiting => return Ok(Found::Wait),
            Gate::Down(refusal) => return Err(self.refused(refusal, carry)),
            Gate::Up(serving) => serving,
        };
        let origin = serving.wire.origin();
        if let Some(end) = carry {
            if end.from.id == origin.id {
                return Ok(Found::Wait);
            }
            if !self.may_follow(end, serving) {
                return Err(self.spent(end));
            }
            self.paid = self.paid || end.sent == Sent::Never || hub.pays(end.from.id);
            if !self.paid {
                return Err(self.spent(end));
            }
        }
        if !self.ramping {
            self.ramping = hub
                .enter_ramp()
                .map_err(|refusal| self.refused(&refusal, carry))?;
        }
        let Some(job) = self.ticket.job() else {
            return Ok(Found::Wait);
        };
        match serving.wire.submit(job.clone()) {
            Ok(()) => {
                if let Some(end) = carry {
                    hub.moved(end.sent, self.effect);
                }
                Ok(Found::Link(origin.id))
            }
            // It ended a moment ago, and the gate is about to say so.
            Err(Rejected::Closed) => Ok(Found::Wait),
            Err(Rejected::Full) => Err(self.refused(&hub.overloaded(), carry)),
        }
    }

    /// Whether what ended on one link may be sent on another: harmless to repeat, and to the very server that had it.
    fn may_follow(&self, end: &End, serving: &Serving<C::Wire>) -> bool {
        if end.sent == Sent::Never {
            return true;
        }
        let (old, new) = (&end.from.greeting, &serving.wire.origin().greeting);
        let same_server = old.identity.is_some() && old.identity == new.identity;
        let fenced = same_server && serving.fenced.contains(&end.from.id);
        // Whoever was promoted in its place has what it had: a read may ask there.
        let knows = same_server || (self.effect == Effect::None && new.succeeds(old));
        knows && may_repeat(Reached::MaybeRun, self.effect, self.replay, fenced)
    }

    /// A link let the call go: on to the next one, or the end.
    fn after_end(&mut self, mut end: End) -> Result<(), Error> {
        self.moves += 1;
        if end.sent == Sent::Maybe {
            self.written = Some(end.from.id);
        } else if self.written.is_some() {
            end.sent = Sent::Maybe;
        }
        // Only a lost connection is followed: a reply that was too large would be so again.
        let lost = end.sent == Sent::Never || end.error.kind() == ErrorKind::ConnectionLost;
        let harmless = may_repeat(Reached::MaybeRun, self.effect, self.replay, true);
        let spent = end.sent == Sent::Maybe && (!harmless || self.moves > 1);
        if !lost || spent || self.moves > MOVES {
            return Err(self.spent(&end));
        }
        let Some(request) = self.ticket.recall().1 else {
            return Err(self.spent(&end));
        };
        self.ticket = Ticket::new(Job::by(request, self.replay));
        self.stage = Stage::Seeking {
            carry: Some(Box::new(end)),
            place: None,
        };
        Ok(())
    }

    fn spent(&self, end: &End) -> Error {
        end.error
            .clone()
            .executed(executed(end.sent))
            .after(self.deadline.waited(Instant::now()))
    }

    fn refused(&self, refusal: &Error, carry: Option<&End>) -> Error {
        match carry {
            Some(end) if end.sent == Sent::Maybe => self.spent(end),
            _ => refusal.clone(),
        }
    }

    /// Looks for a link until there is one or nothing to do but wait.
    fn poll_seek(
        &mut self,
        cx: &mut Context<'_>,
        carry: Option<Box<End>>,
        mut place: Option<Place>,
    ) -> Poll<Result<(), Error>> {
        let mut found = self.seek(carry.as_deref());
        if matches!(found, Ok(Found::Wait)) {
            // Registered, then read once more: a change in between is not missed.
            self.shared.hub.gate.wait(&mut place, cx.waker());
            found = self.seek(carry.as_deref());
        }
        if matches!(found, Ok(Found::Wait)) {
            self.stage = Stage::Seeking { carry, place };
            return Poll::Pending;
        }
        self.shared.hub.gate.leave(&mut place);
        Poll::Ready(found.map(|found| {
            if let Found::Link(id) = found {
                self.stage = Stage::Sent(id);
            }
        }))
    }

    /// Whether the link that has the call is quiet, or no longer the one in service.
    fn is_silent(&self, link: LinkId) -> bool {
        match &**self.shared.hub.gate.load() {
            Gate::Up(serving) if serving.wire.origin().id == link => serving.wire.is_silent(),
            _ => true,
        }
    }

    fn poll_stage(&mut self, cx: &mut Context<'_>) -> Poll<Result<Values, Error>> {
        loop {
            match &mut self.stage {
                Stage::Sent(_) => match ready!(Pin::new(&mut self.ticket).poll(cx)) {
                    Outcome::Replied(values) => return Poll::Ready(Ok(values)),
                    Outcome::Ended(end) => self.after_end(end)?,
                },
                Stage::Seeking { carry, place } => {
                    let (carry, place) = (carry.take(), place.take());
                    ready!(self.poll_seek(cx, carry, place))?;
                }
                Stage::Known(result) => {
                    let nothing = || Values::Many(Vec::new());
                    return Poll::Ready(result.clone().map(|()| nothing()));
                }
                Stage::Over => return Poll::Pending,
            }
        }
    }
}

impl<C: Dial> Future for Call<C> {
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let call = self.get_mut();
        let result = ready!(call.poll_stage(cx));
        call.stage = Stage::Over;
        let shape = std::mem::replace(&mut call.shape, Shape::Single);
        Poll::Ready(result.map(|values| Reply::new(values, shape)))
    }
}

impl<C: Dial> Expire for Call<C> {
    fn expire(self: Pin<&mut Self>) -> Error {
        let call = self.get_mut();
        let hub = &call.shared.hub;
        let (phase, sent, detail) = match std::mem::replace(&mut call.stage, Stage::Over) {
            Stage::Seeking { carry, mut place } => {
                hub.gate.leave(&mut place);
                (
                    Phase::Queue,
                    carry.map_or(Sent::Never, |end| end.sent),
                    "no connection within the deadline",
                )
            }
            Stage::Sent(link) => match (call.ticket.recall().0, call.is_silent(link)) {
                (Sent::Never, _) => (Phase::Write, Sent::Never, "not written within the deadline"),
                // The supervisor judges silence; the breaker's window is for endpoints that speak, too slowly.
                (Sent::Maybe, true) => (Phase::Reply, Sent::Maybe, "server silent"),
                (Sent::Maybe, false) => {
                    hub.call_failed();
                    (Phase::Reply, Sent::Maybe, "server slow")
                }
            },
            Stage::Known(_) | Stage::Over => (Phase::Queue, Sent::Never, "call was over"),
        };
        let sent = if call.written.is_some() {
            Sent::Maybe
        } else {
            sent
        };
        Error::new(ErrorKind::Timeout, phase, detail)
            .at(hub.endpoint())
            .after(call.deadline.waited(Instant::now()))
            .executed(executed(sent))
    }
}

impl<C: Dial> Drop for Call<C> {
    fn drop(&mut self) {
        let hub = &self.shared.hub;
        if self.ramping {
            hub.leave_ramp();
        }
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Seeking { mut place, .. } => hub.gate.leave(&mut place),
            // Dropped by somebody else's timeout: late enough, it counts as one of ours.
            Stage::Sent(link) if !self.is_silent(link) => {
                let patience = hub.stall_after().min(self.deadline.timeout() * 4 / 5);
                if self.deadline.waited(Instant::now()) > patience {
                    hub.call_failed();
                }
            }
            Stage::Sent(_) | Stage::Known(_) | Stage::Over => {}
        }
    }
}

fn executed(sent: Sent) -> Executed {
    match sent {
        Sent::Never => Executed::Never,
        Sent::Maybe => Executed::Maybe,
    }
}

#[cfg(test)]
mod tests;
