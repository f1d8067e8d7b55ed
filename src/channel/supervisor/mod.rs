//! Keeps one link in service: watches it, probes its endpoint, benches, swaps, moves and replaces it, opens and closes the circuit.
//!
//! Owns the endpoint's life, in one task. Promises: a dead link costs a dial, a dead endpoint costs calls microseconds, a busy server
//! costs nothing; a link takes calls only after it was verified and the old path fenced off where that is possible; what it retires
//! is drained or told at once. Leaves judging to [`verdict`](super::verdict), dialling to [`prober`](super::prober), names to `topology`.
//! Fails never: it goes on for as long as a handle lives. Where to look next: [`keep`](super::keep) for what it keeps.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    Hub,
    connect::{Dial, Wire},
    fence::{Fallen, Fence, fallen, fence},
    gate::{Gate, Serving},
    keep::{Candidate, Held, Retired, interleave, template, topology},
    patience::{Patience, Ration},
    prober::{Prober, Sighting},
    verdict::{Adopt, Aim, Probe, Sight, adopt, aim, refuse},
};
use crate::{
    Config, Error, ErrorKind, Phase,
    dns::Resolve,
    health::{Health, HealthState},
    layer::breaker::machine::Trip,
    net::{
        address::Address,
        link::{LinkState, mailbox::Retire},
    },
    telemetry::labels::{self, FenceOutcome, LinkEnd, ProbeOutcome, Transition},
    topology::{Map, Need, Topology},
};

/// A probe's answer and the silent link's own may cross: the link gets this long to speak after all.
const GRACE: Duration = Duration::from_millis(20);
/// Probes of silent links are spread over this long, so that a fleet does not knock at one door at once.
const JITTER_MILLIS: u64 = 50;
/// A link that lived this long was no accident of a broken endpoint.
const SETTLED: Duration = Duration::from_secs(1);
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Old connections remembered for a fence.
const FALLEN: usize = 8;

pub(crate) struct Supervisor<C: Dial> {
    hub: Arc<Hub<C::Wire>>,
    topology: Arc<dyn Topology>,
    maps: watch::Receiver<Arc<Map>>,
    prober: Prober<C>,
    held: Option<Held<C::Wire>>,
    candidate: Option<Candidate<C::Wire>>,
    retired: Vec<Retired<C::Wire>>,
    fallen: Vec<Fallen>,
    patience: Patience,
    ration: Ration,
    last_good: Option<Address>,
    probe: Probe,
    trouble: Option<Error>,
    unfenced: bool,
    served_once: bool,
    is_down: bool,
    gone_since: Instant,
    next_tick: Instant,
}

impl<C: Dial> Supervisor<C> {
    pub(crate) fn new(
        hub: Arc<Hub<C::Wire>>,
        config: &Config,
        connector: C,
        resolver: Option<Arc<dyn Resolve>>,
        runtime: &Handle,
    ) -> Self {
        let now = Instant::now();
        let topology = topology(config, resolver, runtime);
        let mut maps = topology.map();
        maps.mark_changed();
        Self {
            prober: Prober::new(
                connector,
                template(config, &hub.pace, runtime),
                config.breaker(),
            ),
            patience: Patience::new(config.stall_after(), config.detect_within()),
            hub,
            topology,
            maps,
            held: None,
            candidate: None,
            retired: Vec::new(),
            fallen: Vec::new(),
            ration: Ration::new(),
            last_good: None,
            probe: Probe::Early,
            trouble: None,
            unfenced: false,
            served_once: false,
            is_down: false,
            gone_since: now,
            next_tick: now + HOUSEKEEPING,
        }
    }

    /// Runs until the client shuts down.
    pub(crate) async fn run(mut self) {
        while !self.hub.closing.load(Ordering::Acquire) {
            let wake = self.wake();
            tokio::select! {
                () = Held::changed(&mut self.held) => self.on_link(Instant::now()),
                sighting = self.prober.next() => self.on_sighting(sighting, Instant::now()).await,
                () = next_map(&mut self.maps) => {}
                () = self.hub.alarm.notified() => self.on_alarm(Instant::now()),
                () = sleep_until(wake) => self.on_tick(Instant::now()).await,
            }
            self.review(Instant::now());
        }
        self.shut_down().await;
    }

    fn wake(&self) -> Instant {
        let mut wake = self.next_tick;
        if let Some(candidate) = &self.candidate {
            wake = wake.min(candidate.confirm_at);
        }
        if !self.is_down && self.sight() != Sight::Fine {
            // Something may ripen without an event: the probe's silence, or the time without a link.
            wake = wake.min(Instant::now() + GRACE);
        }
        wake
    }

    fn sight(&self) -> Sight {
        self.held.as_ref().map_or(Sight::Gone, Held::sight)
    }

    /// Whether the serving link's address has left its name.
    fn is_moved(&self) -> bool {
        let gone = &self.maps.borrow().primary.gone;
        self.held
            .as_ref()
            .is_some_and(|held| gone.contains(held.wire.address()))
    }

    // ── what happened ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn on_link(&mut self, now: Instant) {
        let Some(held) = &mut self.held else { return };
        let before = held.sight();
        match held.observe() {
            LinkState::Healthy if before != Sight::Fine => {
                self.patience.on_acquittal(now);
                self.candidate = None;
            }
            LinkState::Dead { error, by_peer } => self.on_death(error, by_peer, now),
            LinkState::Healthy | LinkState::Suspect { .. } | LinkState::Unresponsive { .. } => {}
        }
    }

    /// Calls are served again.
    fn in_service(&mut self) {
        self.served_once = true;
        self.is_down = false;
        self.trouble = None;
        self.probe = Probe::Early;
    }

    fn on_death(&mut self, error: Error, by_peer: bool, now: Instant) {
        let Some(held) = self.held.take() else { return };
        self.hub.metrics.link_died(link_end(&error, by_peer));
        tracing::warn!(target: "redis_holdfast::channel", endpoint = &**self.hub.endpoint(), by_peer, reason = error.detail(), "link lost");
        self.remember(&held.wire);
        let settled = now.saturating_duration_since(held.adopted) >= SETTLED;
        if settled {
            self.hub.breaker().on_link_success();
            self.prober.calm();
        }
        if self.hub.breaker().on_link_failure(now).is_some() {
            self.hub.set_breaker(Transition::Consecutive);
        }
        self.trouble = Some(error);
        self.gone_since = now;
        if self.prober.is_resting() {
            self.probe = Probe::Early;
        }
        if !self.is_down {
            self.hub.gate.set(Gate::Waiting);
        }
        let pause = if settled {
            Duration::ZERO
        } else {
            self.prober.gap()
        };
        self.prober.aim(self.targets(Aim::Everywhere), now + pause);
    }

    async fn on_sighting(&mut self, sighting: Sighting<C::Wire>, now: Instant) {
        match sighting {
            Sighting::Failed { error, round_over } => {
                self.hub.metrics.dialled(Some(error.kind()));
                let refused = error.kind() == ErrorKind::Refused;
                self.hub.metrics.probed(if refused {
                    ProbeOutcome::Refused
                } else {
                    ProbeOutcome::Failed
                });
                if refused {
                    self.probe = Probe::Refused;
                } else if round_over {
                    self.probe = if is_hard(&error) {
                        Probe::Failed
                    } else {
                        Probe::Silent
                    };
                }
                self.trouble = Some(error);
            }
            Sighting::Served(wire) => {
                self.hub.metrics.dialled(None);
                self.patience
                    .on_round_trip(wire.origin().greeting.round_trip);
                match self.sight() {
                    Sight::Suspect | Sight::Unresponsive if self.same_server(&wire) => {
                        self.prober.rest();
                        self.candidate = Some(Candidate {
                            wire,
                            confirm_at: now + GRACE,
                        });
                    }
                    _ => self.take(wire, now).await,
                }
            }
        }
    }

    fn on_alarm(&mut self, now: Instant) {
        if !self.hub.tripped.swap(false, Ordering::AcqRel) {
            return;
        }
        self.hub.set_breaker(Transition::Window);
        self.trouble = Some(Error::new(
            ErrorKind::Timeout,
            Phase::Reply,
            "server answers probes but fails calls",
        ));
        if let Some(held) = self.held.take() {
            self.retire(held, Retire::Drain, labels::LinkState::Draining);
        }
        self.gone_since = now;
        self.open();
        let rested = self.hub.breaker().rest_until().unwrap_or(now);
        self.prober.rest();
        self.prober.aim(self.targets(Aim::Everywhere), rested);
    }

    async fn on_tick(&mut self, now: Instant) {
        if let Some(candidate) = self
            .candidate
            .take_if(|candidate| now >= candidate.confirm_at)
        {
            self.take(candidate.wire, now).await;
        }
        if now >= self.next_tick {
            self.hub.metrics.lag(now - self.next_tick);
            self.next_tick = now + HOUSEKEEPING;
            self.retired.retain(|retired| !retired.is_over());
            if self
                .held
                .as_ref()
                .is_some_and(|held| now.saturating_duration_since(held.adopted) >= SETTLED)
            {
                self.hub.breaker().on_link_success();
                self.prober.calm();
            }
            self.hub.settle(now);
            self.hub.metrics.refresh(now);
        }
    }

    // ── what follows ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Brings prober, circuit, topology and health in line with what is known.
    fn review(&mut self, now: Instant) {
        self.resume(now);
        let (sight, moved) = (self.sight(), self.is_moved());
        self.hub
            .pace
            .set_stall_after(self.patience.stall_after(now));
        let aim = aim(sight, moved);
        self.topology.need(if aim == Aim::Nowhere {
            Need::Calm
        } else {
            Need::Urgent
        });
        if aim == Aim::Nowhere {
            if !self.prober.is_resting() {
                self.prober.rest();
            }
            self.candidate = None;
            self.probe = Probe::Early;
        } else if self.candidate.is_none() {
            self.probe_for(aim, sight, now);
        }
        if self.probe == Probe::Early
            && self
                .prober
                .age(now)
                .is_some_and(|age| age >= self.patience.probe_time())
        {
            self.probe = Probe::Silent;
        }
        let gone_for = now.saturating_duration_since(self.gone_since);
        let dead = sight == Sight::Gone && self.hub.breaker().is_open();
        if !self.is_down
            && (dead
                || refuse(
                    sight,
                    self.probe,
                    gone_for,
                    self.hub.pace.unresponsive_after,
                ))
        {
            self.refuse_calls(sight, now);
        } else if !self.is_down
            && sight == Sight::Gone
            && !self.served_once
            && self.has_no_address()
        {
            self.open();
        } else if self.is_down && self.held.is_none() {
            // The reason may have changed: a refused dial became a failing name.
            self.say_down();
        }
        self.tell_health(sight);
    }

    fn probe_for(&mut self, aim: Aim, sight: Sight, now: Instant) {
        let targets = self.targets(aim);
        if targets.is_empty() {
            return;
        }
        let resting_circuit = self
            .hub
            .breaker()
            .rest_until()
            .filter(|_| sight == Sight::Gone);
        let jitter = match sight {
            Sight::Suspect => Duration::from_millis(fastrand::u64(0..=JITTER_MILLIS)),
            _ => Duration::ZERO,
        };
        if self.prober.is_resting() {
            self.probe = Probe::Early;
        }
        self.prober.aim(
            targets,
            resting_circuit.map_or(now, |rested| rested.max(now)) + jitter,
        );
    }

    /// The circuit opened over a silence that the link itself has broken since: no better proof of its endpoint will come, and nobody
    /// probes an endpoint whose link is fine.
    fn resume(&mut self, now: Instant) {
        if !self.is_down || self.sight() != Sight::Fine || !self.may_close(now) {
            return;
        }
        let Some(held) = &self.held else { return };
        tracing::info!(target: "redis_holdfast::channel", endpoint = &**self.hub.endpoint(), "silent link spoke again");
        self.hub.gate.set(Gate::Up(Serving {
            wire: held.wire.clone(),
            fenced: Vec::new(),
        }));
        self.is_down = false;
        self.trouble = None;
    }

    /// The endpoint is silent or away: refuse new calls until it is verified.
    fn refuse_calls(&mut self, sight: Sight, now: Instant) {
        let hard = self.probe == Probe::Failed;
        if !self.hub.breaker().is_open() {
            self.hub.breaker().trip(Trip::Verdict, now);
            self.hub.set_breaker(if hard {
                Transition::Dead
            } else {
                Transition::Unresponsive
            });
        }
        if self.trouble.is_none() || (sight == Sight::Unresponsive && !hard) {
            self.trouble = Some(Error::new(
                ErrorKind::ConnectionLost,
                Phase::Reply,
                "server silent",
            ));
        }
        self.open();
        if hard && let Some(held) = self.held.take() {
            // Nobody is there any more: those who wait are told at once.
            let error = self.lost("server is gone");
            self.remember(&held.wire);
            self.hub.metrics.link_died(LinkEnd::Silent);
            self.retire(held, Retire::Abort(error), labels::LinkState::Benched);
            self.gone_since = now;
        }
    }

    fn open(&mut self) {
        self.is_down = true;
        self.say_down();
    }

    fn say_down(&mut self) {
        let refusal = self.refusal();
        let gate = self.hub.gate.load();
        if let Gate::Down(said) = &**gate
            && (said.kind(), said.phase(), said.detail())
                == (refusal.kind(), refusal.phase(), refusal.detail())
        {
            return;
        }
        tracing::warn!(target: "redis_holdfast::channel", endpoint = &**self.hub.endpoint(), kind = refusal.kind().as_str(), phase = refusal.phase().as_str(), reason = refusal.detail(), "calls are refused");
        self.hub.gate.set(Gate::Down(refusal));
    }

    /// What a call is told while the circuit is open: the reason itself where a person must act or nothing ever worked.
    fn refusal(&self) -> Error {
        let endpoint = self.hub.endpoint();
        let no_address = self
            .has_no_address()
            .then(|| self.maps.borrow().primary.trouble.clone())
            .flatten();
        let reason = no_address
            .or_else(|| self.trouble.clone())
            .unwrap_or_else(|| self.lost("no connection yet"));
        let own = matches!(
            reason.kind(),
            ErrorKind::Auth
                | ErrorKind::Dns
                | ErrorKind::Protocol
                | ErrorKind::Refused
                | ErrorKind::Tls
        );
        if own || !self.served_once {
            return reason
                .at(endpoint)
                .executed(crate::error::Executed::Never)
                .after(Duration::ZERO);
        }
        Error::new(
            ErrorKind::CircuitOpen,
            reason.phase(),
            format!("circuit is open: {}", reason.detail()),
        )
        .at(endpoint)
        .because(reason)
    }

    fn has_no_address(&self) -> bool {
        let map = self.maps.borrow();
        map.primary.addresses.is_empty() && map.primary.trouble.is_some()
    }

    /// Puts a verified connection to use, or lets it go.
    async fn take(&mut self, wire: C::Wire, now: Instant) {
        let same = self.same_server(&wire);
        let decision = adopt(self.sight(), same, self.is_moved(), self.ration.allows(now));
        self.hub.metrics.probed(if same || self.held.is_none() {
            ProbeOutcome::Served
        } else {
            ProbeOutcome::Moved
        });
        if decision == Adopt::Discard || !self.may_close(now) {
            return;
        }
        let old = self.held.take();
        let (fenced, verdict) = self
            .fence_off(&wire, old.as_ref().filter(|_| decision == Adopt::Swap))
            .await;
        let now = Instant::now();
        if matches!(wire.watch().borrow().clone(), LinkState::Dead { .. }) {
            // It died while the fence was put up.
            self.held = old;
            return;
        }
        self.last_good = Some(wire.address().clone());
        tracing::info!(target: "redis_holdfast::channel", endpoint = &**self.hub.endpoint(), action = ?decision, fenced = fenced.len(), "link in service");
        self.hub.gate.set(Gate::Up(Serving {
            wire: wire.clone(),
            fenced,
        }));
        if let Some(old) = old {
            let order = match (decision, verdict) {
                (Adopt::Swap, Some(Fence::Up)) => Retire::Abort(
                    self.lost("connection replaced and fenced: executed before or never"),
                ),
                (Adopt::Swap, _) => Retire::Bench,
                _ => Retire::Drain,
            };
            if decision == Adopt::Swap {
                self.ration.on_swap(now);
                self.hub.metrics.swapped();
            }
            let state = if decision == Adopt::Swap {
                labels::LinkState::Benched
            } else {
                labels::LinkState::Draining
            };
            self.retire(old, order, state);
        }
        self.prober.rest();
        self.held = Some(Held::new(wire, now, &self.hub.metrics));
        self.in_service();
    }

    /// Closes the circuit for a verified connection, unless the endpoint has to rest.
    fn may_close(&mut self, now: Instant) -> bool {
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

    /// Fences off, over `wire`, every old connection to the same server; `silent` is the one that is being swapped out.
    async fn fence_off(
        &mut self,
        wire: &C::Wire,
        silent: Option<&Held<C::Wire>>,
    ) -> (Vec<crate::net::link::LinkId>, Option<Fence>) {
        let mut fenced = Vec::new();
        let mut verdict = None;
        if let Some(silent) = silent {
            let result = match fallen(&silent.wire) {
                Some(old) => fence(wire, &old, true).await,
                None => Fence::Missing,
            };
            self.count_fence(result);
            if result == Fence::Up {
                fenced.push(silent.wire.origin().id);
            }
            verdict = Some(result);
        }
        for old in std::mem::take(&mut self.fallen) {
            if wire.origin().greeting.identity.as_ref() == Some(&old.identity) {
                let result = fence(wire, &old, false).await;
                self.count_fence(result);
                if result == Fence::Up {
                    fenced.push(old.id);
                }
            }
        }
        (fenced, verdict)
    }

    fn count_fence(&mut self, result: Fence) {
        self.unfenced = result == Fence::Missing;
        self.hub.metrics.fenced(match result {
            Fence::Up => FenceOutcome::Raised,
            Fence::Blocked => FenceOutcome::Refused,
            Fence::Missing => FenceOutcome::Failed,
        });
    }

    fn remember(&mut self, wire: &C::Wire) {
        if let Some(old) = fallen(wire) {
            if self.fallen.len() >= FALLEN {
                self.fallen.remove(0);
            }
            self.fallen.push(old);
        }
    }

    fn retire(&mut self, held: Held<C::Wire>, order: Retire, state: labels::LinkState) {
        held.wire.retire(order);
        self.retired.push(Retired::new(held, state));
    }

    fn same_server(&self, wire: &C::Wire) -> bool {
        let new = &wire.origin().greeting.identity;
        self.held
            .as_ref()
            .is_some_and(|held| match (&held.wire.origin().greeting.identity, new) {
                (Some(old), Some(new)) => old == new,
                // Where it may not be asked, the address has to do; nothing written is sent again on that word.
                _ => held.wire.address() == wire.address(),
            })
    }

    fn targets(&self, aim: Aim) -> Vec<Address> {
        match (aim, &self.held) {
            (Aim::Nowhere, _) => Vec::new(),
            (Aim::Same, Some(held)) => vec![held.wire.address().clone()],
            (Aim::Same | Aim::Everywhere, _) => interleave(
                &self.maps.borrow().primary.addresses,
                self.last_good.as_ref(),
            ),
        }
    }

    fn tell_health(&self, sight: Sight) {
        let endpoint = self.hub.endpoint();
        let health = match sight {
            _ if self.is_down => Health::because(HealthState::Down, &self.refusal(), endpoint),
            Sight::Gone if !self.served_once => {
                Health::new(HealthState::Down, "connecting for the first time", endpoint)
            }
            Sight::Gone => Health::new(
                HealthState::Degraded,
                "connection is being replaced",
                endpoint,
            ),
            Sight::Suspect | Sight::Unresponsive => {
                Health::new(HealthState::Degraded, "connection is silent", endpoint)
            }
            Sight::Fine => match &self.maps.borrow().primary.trouble {
                Some(trouble) => Health::because(HealthState::Degraded, trouble, endpoint),
                None if self.unfenced => Health::new(
                    HealthState::Degraded,
                    "server does not let old connections be fenced off",
                    endpoint,
                ),
                None => Health::new(HealthState::Ready, "serving", endpoint),
            },
        };
        self.hub.health.set(health);
    }

    fn lost(&self, detail: &'static str) -> Error {
        Error::new(ErrorKind::ConnectionLost, Phase::Reply, detail).at(self.hub.endpoint())
    }

    async fn shut_down(mut self) {
        self.prober.rest();
        self.candidate = None;
        self.trouble = Some(Error::new(
            ErrorKind::Refused,
            Phase::Queue,
            "client is shut down",
        ));
        self.open();
        self.tell_health(Sight::Gone);
        if let Some(held) = self.held.take() {
            self.retire(held, Retire::Drain, labels::LinkState::Draining);
        }
        for retired in &mut self.retired {
            retired.over().await;
        }
        self.hub.metrics.refresh(Instant::now());
    }
}

/// Waits for the next map. A topology that never changes has nobody left to tell of changes.
async fn next_map(maps: &mut watch::Receiver<Arc<Map>>) {
    if maps.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Evidence that nobody is there, as opposed to no evidence that somebody is.
fn is_hard(error: &Error) -> bool {
    match error.phase() {
        Phase::Connect => error.waited().is_zero(),
        _ => error.kind() != ErrorKind::Timeout,
    }
}

fn link_end(error: &Error, by_peer: bool) -> LinkEnd {
    match (error.kind(), by_peer) {
        (ErrorKind::Protocol, _) => LinkEnd::Protocol,
        (_, true) if error.detail() == "server closed the connection" => LinkEnd::Closed,
        (_, true) => LinkEnd::Io,
        (_, false) => LinkEnd::Silent,
    }
}
