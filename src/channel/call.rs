//! One call: from the gate over a link to its reply, and over to the next link if the first one let it go.
//!
//! Owns the named future of a channel's calls and the rule of who may follow to another link. Promises: what was never sent may go
//! again; what may have run goes again only if that is harmless, to the very server that had it: reads always, writes of the same
//! effect and reply only behind a fence; nothing twice. Whatever ends it, the breaker hears the truth once.
//! Leaves the deadline's timer to the timeout layer, which tells it by [`Expire::expire`]. Fails by kind and phase.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Instant;

use super::{
    Hub,
    connect::{Recall, Wire},
    gate::{Gate, Place, Serving},
};
use crate::{
    Error, ErrorKind, Phase, Reply, Request,
    deadline::Deadline,
    error::Executed,
    layer::timeout::Expire,
    net::link::{
        job::{End, Outcome, Sent},
        mailbox::Rejected,
    },
    request::{Shape, Values, commands::Effect},
};

/// Times a call may be handed to another link, sent or not.
const MOVES: u8 = 3;

/// A call's future. Dropping it takes the call back if no byte of it was sent; else its reply is swallowed.
pub(crate) struct Call<W: Wire> {
    hub: Arc<Hub<W>>,
    stage: Stage<W>,
    shape: Shape,
    effect: Effect,
    deadline: Deadline,
    moves: u8,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a call is one or the other for its whole life; a box would cost each call an allocation"
)]
enum Stage<W: Wire> {
    /// On the way to a link; `carry` says what happened on the last one.
    Seeking {
        request: Request,
        carry: Option<Carry<W>>,
        place: Option<Place>,
    },
    Sent {
        wire: W,
        ticket: W::Ticket,
    },
    /// Known without asking a server.
    Known(Result<Values, Error>),
    Over,
}

/// What a call brings along from a link that let it go.
struct Carry<W> {
    from: W,
    end: End,
}

enum Step<W: Wire> {
    Sent {
        wire: W,
        ticket: W::Ticket,
    },
    Wait {
        request: Request,
        carry: Option<Carry<W>>,
    },
    Fail(Error),
}

impl<W: Wire> Call<W> {
    pub(super) fn new(hub: Arc<Hub<W>>, request: Request, deadline: Deadline) -> Self {
        hub.enter();
        let (shape, effect) = (request.shape().clone(), request.effect());
        let stage = if let Some(reason) = request.refusal() {
            Stage::Known(Err(Error::new(ErrorKind::Refused, Phase::Queue, reason)))
        } else if request.expected().owed() == 0 {
            Stage::Known(Ok(Values::Many(Vec::new())))
        } else {
            Stage::Seeking {
                request,
                carry: None,
                place: None,
            }
        };
        Self {
            hub,
            stage,
            shape,
            effect,
            deadline,
            moves: 0,
        }
    }

    fn seek(&self, mut request: Request, mut carry: Option<Carry<W>>) -> Step<W> {
        loop {
            let gate = self.hub.gate.load();
            let serving = match &**gate {
                Gate::Waiting => return Step::Wait { request, carry },
                Gate::Down(refusal) => return Step::Fail(self.refused(refusal, carry.as_ref())),
                Gate::Up(serving) => serving,
            };
            if let Some(carry) = &carry {
                if carry.from.id() == serving.wire.id() {
                    return Step::Wait {
                        request,
                        carry: Some(Carry {
                            from: carry.from.clone(),
                            end: carry.end.clone(),
                        }),
                    };
                }
                if !self.may_follow(carry, serving) {
                    return Step::Fail(self.spent(&carry.end));
                }
            }
            if let Some(refusal) = self.hub.ramp_refusal() {
                return Step::Fail(refusal);
            }
            match serving.wire.submit(request) {
                Ok(ticket) => {
                    return Step::Sent {
                        wire: serving.wire.clone(),
                        ticket,
                    };
                }
                Err((Rejected::Full, _)) => return Step::Fail(self.hub.overloaded()),
                Err((Rejected::Closed, Some(back))) => {
                    request = back;
                    let end = End {
                        sent: Sent::Never,
                        error: self.hub.lost(),
                    };
                    carry = Some(Carry {
                        from: serving.wire.clone(),
                        end: carry.map_or(end, |carry| carry.end),
                    });
                }
                Err((Rejected::Closed, None)) => return Step::Fail(self.hub.lost()),
            }
        }
    }

    /// Whether what ended on one link may be sent on another.
    fn may_follow(&self, carry: &Carry<W>, serving: &Serving<W>) -> bool {
        if carry.end.sent == Sent::Never {
            return true;
        }
        let (old, new) = (
            &carry.from.greeting().identity,
            &serving.wire.greeting().identity,
        );
        let same_server = old.is_some() && old == new;
        match self.effect {
            Effect::None => same_server,
            Effect::Overwrite => same_server && serving.fenced.contains(&carry.from.id()),
            Effect::Once => false,
        }
    }

    /// A link let the call go: on to the next one, or the end.
    fn after_end(&mut self, wire: W, ticket: &W::Ticket, end: End) -> Option<Error> {
        let (_, request) = ticket.recall();
        // Only a lost connection is followed: a reply that was too large would be so again.
        let lost = end.error.kind() == ErrorKind::ConnectionLost;
        self.moves += 1;
        let (Some(request), true) = (request, lost && self.moves <= MOVES) else {
            return Some(self.spent(&end));
        };
        if end.sent == Sent::Maybe && (self.effect == Effect::Once || self.moves > 1) {
            return Some(self.spent(&end));
        }
        self.hub.moved(end.sent, self.effect);
        self.stage = Stage::Seeking {
            request,
            carry: Some(Carry { from: wire, end }),
            place: None,
        };
        None
    }

    fn spent(&self, end: &End) -> Error {
        let executed = match end.sent {
            Sent::Never => Executed::Never,
            Sent::Maybe => Executed::Maybe,
        };
        end.error
            .clone()
            .executed(executed)
            .after(self.deadline.waited(Instant::now()))
    }

    fn refused(&self, refusal: &Error, carry: Option<&Carry<W>>) -> Error {
        match carry {
            Some(carry) if carry.end.sent == Sent::Maybe => self.spent(&carry.end),
            _ => refusal.clone(),
        }
    }

    fn complete(&mut self, result: Result<Values, Error>) -> Poll<Result<Reply, Error>> {
        self.stage = Stage::Over;
        if result.is_ok() {
            self.hub.call_ended(false);
        }
        let shape = std::mem::replace(&mut self.shape, Shape::Single);
        Poll::Ready(result.map(|values| Reply::new(values, shape)))
    }
}

impl<W: Wire> Future for Call<W> {
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let call = self.get_mut();
        let mut registered = false;
        loop {
            match std::mem::replace(&mut call.stage, Stage::Over) {
                Stage::Seeking {
                    request,
                    carry,
                    mut place,
                } => {
                    match call.seek(request, carry) {
                        Step::Sent { wire, ticket } => {
                            call.hub.gate.leave(&mut place);
                            call.stage = Stage::Sent { wire, ticket };
                        }
                        Step::Fail(error) => {
                            call.hub.gate.leave(&mut place);
                            return call.complete(Err(error));
                        }
                        Step::Wait { request, carry } => {
                            call.stage = if registered {
                                call.stage = Stage::Seeking {
                                    request,
                                    carry,
                                    place,
                                };
                                return Poll::Pending;
                            } else {
                                // Registered, then read once more: a change in between is not missed.
                                call.hub.gate.wait(&mut place, cx.waker());
                                registered = true;
                                Stage::Seeking {
                                    request,
                                    carry,
                                    place,
                                }
                            };
                        }
                    }
                }
                Stage::Sent { wire, mut ticket } => match Pin::new(&mut ticket).poll(cx) {
                    Poll::Pending => {
                        call.stage = Stage::Sent { wire, ticket };
                        return Poll::Pending;
                    }
                    Poll::Ready(Outcome::Replied(values)) => return call.complete(Ok(values)),
                    Poll::Ready(Outcome::Ended(end)) => {
                        if let Some(error) = call.after_end(wire, &ticket, end) {
                            return call.complete(Err(error));
                        }
                    }
                },
                Stage::Known(result) => {
                    call.stage = Stage::Over;
                    return Poll::Ready(
                        result.map(|values| Reply::new(values, call.shape.clone())),
                    );
                }
                Stage::Over => return Poll::Pending,
            }
        }
    }
}

impl<W: Wire> Expire for Call<W> {
    fn expire(self: Pin<&mut Self>) -> Error {
        let call = self.get_mut();
        let (phase, executed, detail) = match std::mem::replace(&mut call.stage, Stage::Over) {
            Stage::Seeking {
                carry, mut place, ..
            } => {
                call.hub.gate.leave(&mut place);
                let sent = carry.map_or(Sent::Never, |carry| carry.end.sent);
                (Phase::Queue, sent, "no connection within the deadline")
            }
            Stage::Sent { wire, ticket } => match (ticket.recall().0, wire.is_silent()) {
                (Sent::Never, _) => (Phase::Write, Sent::Never, "not written within the deadline"),
                // The supervisor judges silence; the breaker's window is for endpoints that speak, too slowly.
                (Sent::Maybe, true) => (Phase::Reply, Sent::Maybe, "server silent"),
                (Sent::Maybe, false) => {
                    call.hub.call_ended(true);
                    (Phase::Reply, Sent::Maybe, "server slow")
                }
            },
            Stage::Known(_) | Stage::Over => (Phase::Queue, Sent::Never, "call was over"),
        };
        let executed = if executed == Sent::Maybe {
            Executed::Maybe
        } else {
            Executed::Never
        };
        Error::new(ErrorKind::Timeout, phase, detail)
            .at(call.hub.endpoint())
            .after(call.deadline.waited(Instant::now()))
            .executed(executed)
    }
}

impl<W: Wire> Drop for Call<W> {
    fn drop(&mut self) {
        self.hub.leave();
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Seeking { mut place, .. } => self.hub.gate.leave(&mut place),
            // Dropped by somebody else's timeout: late enough, it counts as one of ours (`hazards` H8).
            Stage::Sent { wire, .. } if !wire.is_silent() => {
                let patience = self
                    .hub
                    .stall_after()
                    .min(self.deadline.left(self.deadline.start()) * 4 / 5);
                if self.deadline.waited(Instant::now()) > patience {
                    self.hub.call_ended(true);
                }
            }
            Stage::Sent { .. } | Stage::Known(_) | Stage::Over => {}
        }
    }
}
