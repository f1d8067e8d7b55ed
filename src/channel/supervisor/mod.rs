//! Keeps one link in service: watches it, probes its endpoint, benches, swaps, moves and replaces it, opens and closes the circuit.
//!
//! Owns the endpoint's life, in one task: what happens to it here, what becomes of connections in [`adopt`], what callers and people
//! are told in [`standing`]. Promises: a dead link costs a dial, a dead endpoint costs calls microseconds, a busy server
//! costs nothing; a link takes calls only after it was verified and the old path fenced off where that is possible; what it retires
//! is drained or told at once. Leaves judging to [`verdict`](super::verdict), dialling to [`prober`](crate::net::reach::prober), names to `topology`.
//! Fails never: it goes on for as long as a handle lives. Where to look next: [`keep`](super::keep).

mod adopt;
mod primary;
mod standing;

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Hub, Sources,
    fence::Fallen,
    gate::{Gate, Serving},
    keep::{Candidate, Held, Retired, dial_order, template, topology},
    patience::{Patience, Ration},
    route::Pool,
    verdict::{Aim, Probe, Sight, aim, refuse},
};
use crate::{
    Config, Error, ErrorKind, Phase,
    layer::breaker::machine::Trip,
    net::{
        address::Address,
        dns::Lookups,
        link::{LinkState, mailbox::Retire},
        reach::{
            connect::{Dial, Wire},
            prober::{Haste, Prober, SETTLED, Sighting},
        },
    },
    telemetry::{
        labels::{self, LinkEnd, Lookup, ProbeOutcome, Transition},
        span,
    },
    topology::{Map, Need, Tally, Topology},
};

/// A probe's answer and the silent link's own may cross: the link gets this long to speak after all.
const GRACE: Duration = Duration::from_millis(20);
/// Probes of silent links are spread over this long, so that a fleet does not knock at one door at once.
const JITTER_MILLIS: u64 = 50;
/// Callers that were answered are given this long to notice before a client that shuts down says its last figures.
const HANDOVER: Duration = Duration::from_millis(50);
/// While no swap is allowed, the verified candidate is kept and asked again this often.
const HOLD: Duration = Duration::from_millis(100);

/// Makes a client's topology, and makes it again.
type Survey = Box<dyn Fn() -> Arc<dyn Topology> + Send + Sync>;

pub(crate) struct Supervisor<C: Dial> {
    hub: Arc<Hub<C::Wire>>,
    pool: Weak<Pool<C>>,
    survey: Survey,
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
    /// That dials fail is said once, until one succeeds.
    said_dial_failed: bool,
    is_down: bool,
    gone_since: Instant,
    lookups: Lookups,
    tally: Tally,
    /// The server that is meant; see [`Map::term`].
    term: u64,
    /// Its last link said that it is no primary.
    demoted: bool,
    /// The link was asked for a sign of life because the Sentinels doubt its server.
    nudged: bool,
    clocks: (Duration, Duration),
    connect_timeout: Duration,
    next_tick: Instant,
}

impl<C: Dial> Supervisor<C> {
    pub(crate) fn new(
        hub: Arc<Hub<C::Wire>>,
        pool: Weak<Pool<C>>,
        config: &Arc<Config>,
        connector: C,
        sources: &Sources,
        runtime: &Handle,
    ) -> Self {
        let now = Instant::now();
        hub.gate.set(Gate::Waiting);
        let (sources, plan, home) = (sources.clone(), config.clone(), runtime.clone());
        let survey: Survey = Box::new(move || topology(&plan, &sources, &home));
        let topology = survey();
        let mut maps = topology.map();
        maps.mark_changed();
        let next_tick = hub.pace.next_beat(now);
        Self {
            prober: Prober::new(
                connector,
                template(config, &hub.pace, runtime),
                config.breaker(),
            ),
            patience: Patience::new(config.stall_after(), config.detect_within()),
            hub,
            pool,
            survey,
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
            said_dial_failed: false,
            is_down: false,
            gone_since: now,
            lookups: Lookups::default(),
            tally: Tally::default(),
            term: 0,
            demoted: false,
            nudged: false,
            clocks: (config.stall_after(), config.detect_within()),
            connect_timeout: config.connect_timeout(),
            next_tick,
        }
    }

    /// Runs until the client shuts down.
    pub(crate) async fn run(mut self) {
        while !self.hub.closing.load(Ordering::Acquire) {
            let wake = self.wake();
            tokio::select! {
                () = Held::changed(&mut self.held) => self.on_link(Instant::now()),
                sighting = self.prober.next() => self.on_sighting(sighting, Instant::now()).await,
                () = next_map(&mut self.maps, self.topology.as_ref()) => self.on_map(),
                () = self.hub.alarm.notified() => self.on_alarm(Instant::now()),
                () = self.hub.pace.disowning.notified() => self.on_disowned(Instant::now()),
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

    /// Whether an answer from `address` is none of the server behind the silent link.
    fn speaks_of_another(&self, address: &Address) -> bool {
        self.held
            .as_ref()
            .is_some_and(|held| held.wire.address() != address)
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

    fn on_death(&mut self, error: Error, by_peer: bool, now: Instant) {
        let Some(held) = self.held.take() else { return };
        let reason = link_end(&error, by_peer);
        self.hub.metrics.link_died(reason);
        span::link_lost(&self.hub.client, self.hub.endpoint(), reason, &error);
        self.remember(&held.wire);
        if let Some(candidate) = &mut self.candidate {
            // Verified a moment ago: it serves now.
            candidate.confirm_at = now;
        }
        let lived = now.saturating_duration_since(held.adopted);
        if lived >= SETTLED {
            self.hub.breaker().on_link_success();
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
        // An endpoint whose connections do not last is not dialled in a storm.
        let pause = self.prober.pause_after(lived, now);
        self.prober
            .aim(self.targets(Aim::Everywhere), Haste::Urgent, now + pause);
    }

    async fn on_sighting(&mut self, sighting: Sighting<C::Wire>, now: Instant) {
        match sighting {
            Sighting::Failed {
                address,
                error,
                round_over,
            } => {
                self.hub.metrics.dialled(Some(error.kind()));
                if !std::mem::replace(&mut self.said_dial_failed, true) {
                    span::dial_failed(&self.hub.client, self.hub.endpoint(), &error);
                }
                // Whoever answers is alive, whatever the answer.
                let alive = matches!(
                    error.kind(),
                    ErrorKind::Refused
                        | ErrorKind::Auth
                        | ErrorKind::Protocol
                        | ErrorKind::RoleMismatch
                );
                self.hub.metrics.probed(if alive {
                    ProbeOutcome::Refused
                } else {
                    ProbeOutcome::Failed
                });
                if error.kind() == ErrorKind::RoleMismatch && self.term > 0 {
                    // The failover is still under way, or we are: the calls wait, as for a link that is being made. A read that was given to a
                    // replica which is none has others to go to.
                    self.probe = Probe::Silent;
                    self.demoted = true;
                } else if self.speaks_of_another(&address) {
                    // That says nothing of the link's.
                } else if alive {
                    self.probe = Probe::Refused;
                } else if round_over {
                    self.probe = if is_hard(&error, self.held.is_some()) {
                        Probe::Failed
                    } else {
                        Probe::Silent
                    };
                }
                self.trouble = Some(error);
            }
            // An attempt that was made before another server was meant.
            Sighting::Served(wire) if self.is_foreign(wire.address()) => {}
            Sighting::Served(wire) => {
                self.hub.metrics.dialled(None);
                self.said_dial_failed = false;
                self.patience
                    .on_round_trip(wire.origin().greeting.round_trip);
                match self.sight() {
                    Sight::Suspect | Sight::Unresponsive if self.same_server(&wire) => {
                        self.consider(wire, now);
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
            // What its callers have given up may be delivered yet: not after what the next link is handed.
            self.remember(&held.wire);
            self.retire(held, Retire::Drain, labels::LinkState::Draining);
        }
        self.gone_since = now;
        self.open();
        let rested = self.hub.breaker().rest_until().unwrap_or(now);
        self.prober.rest();
        self.prober
            .aim(self.targets(Aim::Everywhere), Haste::Urgent, rested);
    }

    async fn on_tick(&mut self, now: Instant) {
        if let Some(candidate) = self
            .candidate
            .take_if(|candidate| now >= candidate.confirm_at)
        {
            self.confirm(candidate, now).await;
        }
        if now >= self.next_tick {
            self.hub.metrics.lag(now - self.next_tick);
            self.next_tick = self.hub.pace.next_beat(now);
            self.sweep();
            if self
                .held
                .as_ref()
                .is_some_and(|held| now.saturating_duration_since(held.adopted) >= SETTLED)
            {
                self.hub.breaker().on_link_success();
                self.prober.calm();
            }
            self.hub.settle(now);
            self.count_lookups(now);
            self.count_answers();
            self.hub.metrics.refresh(now);
        }
    }

    /// Counts the retired links that have ended, and lets them go.
    fn sweep(&mut self) {
        let metrics = &self.hub.metrics;
        self.retired.retain(|retired| {
            let over = retired.is_over();
            if over {
                metrics.link_died(retired.end());
            }
            !over
        });
    }

    fn count_lookups(&mut self, now: Instant) {
        let (metrics, seen) = (&self.hub.metrics, self.topology.lookups());
        let last = std::mem::replace(&mut self.lookups, seen);
        // A topology that was made anew counts from nothing.
        let grown = |of: fn(&Lookups) -> u64| of(&seen).saturating_sub(of(&last));
        metrics.looked_up(Lookup::Positive, grown(|of| of.positive));
        metrics.looked_up(Lookup::Negative, grown(|of| of.negative));
        metrics.looked_up(Lookup::Transient, grown(|of| of.transient));
        if let Some(age) = seen.age {
            metrics.dns_answered(now.checked_sub(age));
            metrics.dns_addresses(self.maps.borrow().primary.addresses.len());
        }
    }

    // ── what follows ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Brings prober, circuit, topology and health in line with what is known.
    fn review(&mut self, now: Instant) {
        self.mind_primary(now);
        self.resume(now);
        let (sight, moved) = (self.sight(), self.is_moved());
        self.hub
            .pace
            .set_stall_after(self.patience.stall_after(now));
        let aim = aim(sight, moved);
        // A link that is merely suspect is no reason to ask a name server.
        let is_down = matches!(sight, Sight::Unresponsive | Sight::Gone);
        self.topology.need(if is_down || moved {
            Need::Urgent
        } else {
            Need::Calm
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
        let probe = self.evidence(now);
        // The very first link is waited for until an attempt has failed.
        let gone_for = match (self.served_once, probe) {
            (false, Probe::Early) => Duration::ZERO,
            _ => now.saturating_duration_since(self.gone_since),
        };
        let unresponsive_after = self.hub.pace.unresponsive_after;
        let dead = sight == Sight::Gone && self.hub.breaker().is_open();
        if !self.is_down && (dead || refuse(sight, probe, gone_for, unresponsive_after)) {
            self.refuse_calls(sight, probe, now);
        } else if !self.is_down
            && sight == Sight::Gone
            && !self.served_once
            && self.no_address().is_some()
        {
            self.open();
        } else if self.is_down && self.held.is_none() {
            // The reason may have changed: a refused dial became a failing name.
            self.say_down();
        }
        self.testify(sight);
        self.tell_health(sight);
    }

    /// What the probes have shown so far.
    fn evidence(&mut self, now: Instant) -> Probe {
        // The very first link is waited for as long as a connection may take: then the first attempt has failed, whatever became of it.
        let is_first = !self.served_once && self.held.is_none();
        let long = if is_first {
            self.connect_timeout
        } else {
            self.patience.probe_time()
        };
        if self.probe == Probe::Early && self.prober.age(now).is_some_and(|age| age >= long) {
            self.probe = Probe::Silent;
            self.hub.metrics.probed(ProbeOutcome::Silent);
            if is_first {
                self.trouble.get_or_insert_with(|| self.prober.silence());
            }
        }
        self.probe
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
        let haste = match sight {
            Sight::Suspect | Sight::Unresponsive => Haste::Polite,
            Sight::Fine | Sight::Gone => Haste::Urgent,
        };
        if self.prober.is_resting() {
            self.probe = Probe::Early;
        }
        self.prober.aim(
            targets,
            haste,
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
        span::link_in_service(&self.hub.client, self.hub.endpoint(), 0);
        self.hub.gate.set(Gate::Up(Serving {
            wire: held.wire.clone(),
            fenced: Vec::new(),
        }));
        self.is_down = false;
        self.trouble = None;
    }

    /// The endpoint is silent or away: refuse new calls until it is verified.
    fn refuse_calls(&mut self, sight: Sight, probe: Probe, now: Instant) {
        let hard = probe == Probe::Failed;
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
            self.retire(held, Retire::Abort(error), labels::LinkState::Benched);
            self.gone_since = now;
        }
    }

    fn open(&mut self) {
        self.is_down = true;
        self.say_down();
    }

    fn targets(&self, aim: Aim) -> Vec<Address> {
        match (aim, &self.held) {
            (Aim::Nowhere, _) => Vec::new(),
            (Aim::Same, Some(held)) => vec![held.wire.address().clone()],
            (Aim::Same | Aim::Everywhere, held) => {
                let order = dial_order(&self.maps.borrow().primary, self.last_good.as_ref());
                match held {
                    // No address is known of the name that its server has now.
                    Some(held) if order.is_empty() => vec![held.wire.address().clone()],
                    _ => order,
                }
            }
        }
    }

    async fn shut_down(mut self) {
        self.prober.rest();
        self.candidate = None;
        self.trouble = Some(super::shut_down());
        self.open();
        self.tell_health(Sight::Gone);
        if let Some(held) = self.held.take() {
            self.retire(held, Retire::Drain, labels::LinkState::Draining);
        }
        for retired in &mut self.retired {
            retired.over().await;
        }
        self.sweep();
        self.count_lookups(Instant::now());
        self.count_answers();
        // Callers take their answers when they are polled: the last figures are worth a moment of waiting for that, and no more.
        let patience = Instant::now() + HANDOVER;
        while self.hub.metrics.sum_in_flight() > 0 && Instant::now() < patience {
            sleep(Duration::from_millis(1)).await;
        }
        self.hub.metrics.refresh(Instant::now());
    }
}

impl<C: Dial> Drop for Supervisor<C> {
    /// A runtime that ends takes its tasks along: nobody may believe in a link without a keeper. The next call makes a new one.
    fn drop(&mut self) {
        if !self.hub.closing.load(Ordering::Acquire) {
            self.trouble =
                Some(self.lost("the runtime that kept this client's connection has ended"));
            self.open();
            self.tell_health(Sight::Gone);
        }
        self.hub.kept.store(false, Ordering::Release);
    }
}

/// Evidence that nobody is there, as opposed to no evidence that somebody is, or to trouble of our own (no descriptors left). `held`: a link is, and a
/// connection that was accepted and closed again (a reset may be there before we have looked at it) may be the word of a proxy that takes no new
/// ones just now.
fn is_hard(error: &Error, held: bool) -> bool {
    use std::io::ErrorKind as Io;
    match error.phase() {
        Phase::Connect => match error.io_kind() {
            Some(Io::ConnectionRefused | Io::HostUnreachable | Io::NetworkUnreachable) => true,
            Some(Io::ConnectionReset) => !held,
            _ => false,
        },
        _ => !held && error.kind() == ErrorKind::ConnectionLost,
    }
}

/// Waits for the next map, or for the end of a topology that was kept elsewhere. One that never changes has nobody left to tell of
/// changes.
async fn next_map(maps: &mut watch::Receiver<Arc<Map>>, topology: &dyn Topology) {
    if maps.changed().await.is_err() {
        if !topology.is_shared() {
            std::future::pending::<()>().await;
        }
        // A runtime that is ending gets its chance to end.
        tokio::task::yield_now().await;
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
