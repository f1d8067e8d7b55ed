//! What becomes of connections: verified ones are taken into service, old ones fenced off and retired.
//!
//! Owns the way of a connection from *verified* to *serving* to *retired*. Promises: the old path is fenced off before a new one takes
//! calls; what cannot be fenced is waited for; a connection is dropped only where another serves. Leaves the decision to
//! [`verdict`](crate::channel::verdict), the words to the server to [`fence`](crate::channel::fence). Cannot fail.

use std::{
    future::pending,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{GRACE, HOLD, Supervisor, primary::means_another};
use crate::{
    channel::{
        fence::{Fallen, Fence, fallen, fence, send_kill},
        gate::{Gate, Serving},
        keep::{Candidate, Held, Retired},
        verdict::{Adopt, Aim, Probe, Sight, adopt},
    },
    net::{
        address::Address,
        link::{LinkId, LinkState, mailbox::Retire},
        reach::{
            connect::{Dial, Wire},
            prober::Haste,
        },
    },
    telemetry::{
        labels::{self, FenceOutcome, ProbeOutcome, Transition},
        span,
    },
    topology::Map,
};

/// Old connections remembered for a fence.
const FALLEN: usize = 8;

impl<C: Dial> Supervisor<C> {
    /// The silent link had its moment to speak. While the ration allows no swap, or an upload explains the silence, what is verified is kept rather
    /// than dialled anew.
    pub(super) async fn confirm(&mut self, mut candidate: Candidate<C::Wire>, now: Instant) {
        let is_silent = matches!(self.sight(), Sight::Suspect | Sight::Unresponsive);
        if candidate.wire.is_silent() {
            self.look_again(&candidate.wire, now);
        } else if is_silent && (!self.ration.allows(now) || self.is_excused(now)) {
            candidate.confirm_at = now + HOLD;
            // Its server may go while it is kept: it is no candidate then.
            Self::nudge(&candidate.wire);
            self.candidate = Some(candidate);
        } else {
            self.take(candidate.wire, now).await;
        }
    }

    /// Where the endpoint itself was silent, or its name has another address, nobody waits for an upload.
    fn is_excused(&self, now: Instant) -> bool {
        let is_excused = |held: &Held<C::Wire>| held.is_excused(now);
        !self.is_down && !self.is_moved() && self.held.as_ref().is_some_and(is_excused)
    }

    /// Probes again, a gap from now: what was just verified could not be used, or has died meanwhile.
    fn look_again(&mut self, verified: &C::Wire, now: Instant) {
        let pause = match &*verified.watch().borrow() {
            LinkState::Dead { .. } => self.prober.pause_after(Duration::ZERO, now),
            _ => Duration::ZERO,
        };
        let gap = self.prober.gap().max(pause);
        let targets = self.targets(Aim::Everywhere);
        self.prober.aim(targets, Haste::Urgent, now + gap);
    }

    /// Puts a verified connection to use, or lets it go.
    pub(super) async fn take(&mut self, wire: C::Wire, now: Instant) {
        let same = self.same_server(&wire);
        let decision = adopt(self.sight(), same, self.is_moved(), self.ration.allows(now));
        self.hub.metrics.probed(if same || self.held.is_none() {
            ProbeOutcome::Served
        } else {
            ProbeOutcome::Moved
        });
        let rests = self.hub.breaker().rest_until();
        if decision == Adopt::Discard || rests.is_some_and(|until| now < until) {
            self.look_again(&wire, now);
            return;
        }
        let old = self.held.take();
        let silent = old.as_ref().filter(|_| decision == Adopt::Swap);
        if self.is_down && self.retired.iter().any(|retired| !retired.is_over()) {
            // Those whom the fence cuts off follow to the new link: they are not to find an open circuit.
            self.hub.gate.set(Gate::Waiting);
        }
        let turn = turned(self.maps.clone(), self.term, wire.address());
        let (fenced, fence) = tokio::select! {
            biased;
            // Another server is meant by now: this one is not to be handed a byte, and the old link not one more.
            () = turn => (Vec::new(), Some(Fence::Silent)),
            fences = self.fence_off(&wire, silent) => fences,
        };
        let is_dead = matches!(*wire.watch().borrow(), LinkState::Dead { .. });
        let is_foreign = self.is_foreign(wire.address());
        // Silent itself, it is no better than the old one; and what it were handed could overtake what the old one still holds.
        let is_silent = decision == Adopt::Swap && fence == Some(Fence::Silent);
        if is_dead || is_foreign || is_silent || !self.may_close(Instant::now()) {
            self.held = old;
            if self.is_down {
                self.say_down();
            }
            self.look_again(&wire, Instant::now());
            return;
        }
        self.serve(wire, fenced);
        if let Some(old) = old {
            self.let_go(old, decision, fence);
        }
    }

    fn serve(&mut self, wire: C::Wire, fenced: Vec<LinkId>) {
        span::link_in_service(&self.hub.client, self.hub.endpoint(), fenced.len());
        self.last_good = Some(wire.address().clone());
        self.hub.gate.set(Gate::Up(Serving {
            wire: wire.clone(),
            fenced,
        }));
        self.fallen.retain(|fallen| !fallen.fenced);
        self.prober.rest();
        self.candidate = None;
        self.held = Some(Held::new(wire, Instant::now(), &self.hub.metrics));
        self.served_once = true;
        self.demoted = false;
        self.nudged = false;
        self.is_down = false;
        self.trouble = None;
        self.probe = Probe::Early;
    }

    /// Retires the link that served until now.
    fn let_go(&mut self, old: Held<C::Wire>, decision: Adopt, fence: Option<Fence>) {
        if decision != Adopt::Swap {
            self.retire(old, Retire::Drain, labels::LinkState::Draining);
            return;
        }
        self.ration.on_swap(Instant::now());
        self.hub.metrics.swapped();
        let outcome = fence.map_or(FenceOutcome::Failed, outcome);
        span::link_swapped(&self.hub.client, self.hub.endpoint(), outcome);
        let origin = old.wire.origin();
        let known = origin.greeting.identity.is_some();
        let has_batch = self.hub.purse().has_batch(origin.id, Instant::now());
        let order = match fence {
            Some(Fence::Up) => {
                Retire::Abort(self.lost("connection replaced and fenced: executed before or never"))
            }
            // The server has what it was asked, and will come to it: what could not be sent again waits for that.
            Some(Fence::Blocked) if !has_batch => Retire::Drain,
            // Its reads may follow to the same server, and only a server that says who it is is known to be the same.
            _ if known => Retire::Bench,
            _ => Retire::Drain,
        };
        if fence != Some(Fence::Up) {
            self.remember(&old.wire);
        }
        self.retire(old, order, labels::LinkState::Benched);
    }

    /// Closes the circuit for a verified connection, unless the endpoint has to rest.
    pub(super) fn may_close(&mut self, now: Instant) -> bool {
        let mut breaker = self.hub.breaker();
        let was_open = breaker.is_open();
        if !breaker.close(now) {
            return false;
        }
        let ramping = breaker.is_ramping();
        drop(breaker);
        if was_open {
            self.hub.ramping.store(ramping, Ordering::Relaxed);
            self.hub.set_breaker(Transition::Verified);
        }
        true
    }

    /// Fences off, over `wire`, every old connection to the same server; `silent` is the one that is being swapped out. Gives those that
    /// are certain to deliver nothing any more.
    async fn fence_off(
        &mut self,
        wire: &C::Wire,
        silent: Option<&Held<C::Wire>>,
    ) -> (Vec<LinkId>, Option<Fence>) {
        let mut fenced = Vec::new();
        let mut of_silent = None;
        if let Some(silent) = silent {
            let result = match fallen(&silent.wire) {
                Some(old) => fence(wire, &old, true).await,
                None => Fence::Denied,
            };
            self.count_fence(result);
            if result == Fence::Up {
                fenced.push(silent.wire.origin().id);
            }
            of_silent = Some(result);
        }
        let identity = wire.origin().greeting.identity.as_ref();
        // A copy: whoever gives this up half-way still has to fence them off.
        let mut remembered = self.fallen.clone();
        for old in remembered
            .iter_mut()
            .filter(|old| Some(&old.identity) == identity)
        {
            // A link that does not answer one question is not asked the next.
            if !old.fenced && of_silent == Some(Fence::Silent) {
                // Not waited for again, and still in front of every call that this link will be handed.
                send_kill(wire, old);
            } else if !old.fenced {
                // One that still waits for its replies may be held by the server itself.
                let lives = self.retired.iter().any(|retired| retired.lives(old.id));
                let result = fence(wire, old, lives).await;
                self.count_fence(result);
                old.fenced = result == Fence::Up;
                if result == Fence::Silent {
                    of_silent = Some(Fence::Silent);
                }
            }
            if old.fenced {
                fenced.push(old.id);
            }
        }
        self.fallen = remembered;
        (fenced, of_silent)
    }

    fn count_fence(&mut self, result: Fence) {
        match result {
            Fence::Up => self.unfenced = false,
            Fence::Denied => self.unfenced = true,
            Fence::Blocked | Fence::Silent => {}
        }
        self.hub.metrics.fenced(outcome(result));
    }

    /// Keeps in mind that the old connection `wire` may still deliver something.
    pub(super) fn remember(&mut self, wire: &C::Wire) {
        let Some(old) = fallen(wire) else { return };
        if self.fallen.len() >= FALLEN {
            self.fallen.remove(0);
        }
        self.fallen.push(Fallen {
            fenced: false,
            ..old
        });
    }

    pub(super) fn retire(&mut self, held: Held<C::Wire>, order: Retire, state: labels::LinkState) {
        held.wire.retire(order);
        self.retired.push(Retired::new(held, state));
    }

    pub(super) fn same_server(&self, wire: &C::Wire) -> bool {
        let new = &wire.origin().greeting.identity;
        self.held
            .as_ref()
            .is_some_and(|held| match (&held.wire.origin().greeting.identity, new) {
                (Some(old), Some(new)) => old == new,
                // Where it may not be asked, the address has to do; nothing written is sent again on that word.
                _ => held.wire.address() == wire.address(),
            })
    }

    /// A connection that was verified while the link is silent: the link gets a moment to speak after all.
    pub(super) fn consider(&mut self, wire: C::Wire, now: Instant) {
        self.prober.rest();
        // Who was slow to answer was no silent server.
        self.probe = Probe::Early;
        self.candidate = Some(Candidate {
            wire,
            confirm_at: now + GRACE,
        });
    }
}

/// Waits until another server is meant than the one at `address`, which was in `term`.
async fn turned(mut maps: watch::Receiver<Arc<Map>>, term: u64, address: &Address) {
    let turns = |map: &Arc<Map>| means_another(map, term, address);
    if maps.wait_for(turns).await.is_err() {
        pending::<()>().await;
    }
}

fn outcome(fence: Fence) -> FenceOutcome {
    match fence {
        Fence::Up => FenceOutcome::Raised,
        Fence::Denied | Fence::Blocked => FenceOutcome::Refused,
        Fence::Silent => FenceOutcome::Failed,
    }
}
