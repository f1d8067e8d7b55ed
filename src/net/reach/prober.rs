//! Verifies endpoints with connections of its own, so that no user call has to.
//!
//! Owns the attempts that are under way, when the next one starts, and which are given up. Promises: gaps grow from 100 to 270 ms
//! (± 50 %) and no further, for ever, because a SYN that a black hole swallowed must be followed by a fresh one (the kernel's own
//! back-off would decide our recovery); at most one connection per address waits in a frozen server's accept queue;
//! wrong credentials are tried at most once a second. Leaves the verdict to its keeper, and who is denied to [`denied`]. Fails never.

mod denied;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};

use self::denied::Denied;
use super::{
    connect::{Attempt, Dial, Stage},
    scout::{self, Leave, Scout, Scouts},
};
use crate::{
    Error, ErrorKind, Phase, backoff::Backoff, config::BreakerPolicy, net::address::Address,
};

/// Between the first tries of two addresses of one name (RFC 8305, connection attempt delay).
const STAGGER: Duration = Duration::from_millis(250);
/// A connection that was accepted and stays silent is replaced this often, in case the path has forgotten it.
const RENEW_ESTABLISHED: Duration = Duration::from_secs(12);
/// Unanswered SYNs per address.
const SYNS: usize = 4;

/// A connection that lived this long was no accident of a broken endpoint.
pub(crate) const SETTLED: Duration = Duration::from_secs(1);
/// The least between two dials of somebody who answers and is no good. Three of these are longer than a second.
const SPACING: Duration = Duration::from_millis(350);
const LONGEST_SPACING: Duration = Duration::from_millis(378);
/// An accident is spared the spacing, once in so long: with that dial there are four in any second at the most.
const PASS: Duration = Duration::from_millis(1100);

/// Who waits for another client's probe looks this often whether it was answered.
const LISTEN: Duration = Duration::from_millis(20);

/// How much an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Haste {
    /// A link is silent: another client's probe of the same address may tell as much as ours.
    Polite,
    /// There is no link: dial.
    Urgent,
}

/// What an attempt came to.
pub(crate) enum Sighting<W> {
    /// It answered a normal command.
    Served(W),
    /// It did not. `round_over`: no address is left that could still answer.
    Failed {
        address: Address,
        error: Error,
        round_over: bool,
    },
}

pub(crate) struct Prober<C: Dial> {
    connector: C,
    template: Attempt,
    auth_gap: Duration,
    jitter_percent: u32,
    backoff: Backoff,
    attempts: JoinSet<(u64, Result<C::Wire, Error>)>,
    live: Vec<Live>,
    targets: Vec<Address>,
    haste: Haste,
    round: VecDeque<Address>,
    next: Option<Instant>,
    /// No round begins before this, whatever `next` says: somebody who answered was no good.
    not_before: Option<Instant>,
    /// Who that was, the last time.
    no_good: Option<Address>,
    /// When an accident was spared the spacing, the last time.
    passed: Option<Instant>,
    denied: Denied,
    /// When the first attempt of the current trouble was made, by us or for us.
    first: Option<Instant>,
    count: u64,
}

struct Live {
    number: u64,
    address: Address,
    stage: Arc<Stage>,
    started: Instant,
    handle: AbortHandle,
    scout: Option<Scout>,
}

impl<C: Dial> Prober<C> {
    pub(crate) fn new(connector: C, template: Attempt, policy: &BreakerPolicy) -> Self {
        Self {
            connector,
            template,
            auth_gap: policy.auth_gap(),
            jitter_percent: policy.probe_jitter_percent(),
            backoff: Backoff::new(
                policy.first_probe_gap(),
                policy.longest_probe_gap(),
                policy.probe_jitter_percent(),
            ),
            attempts: JoinSet::new(),
            live: Vec::new(),
            targets: Vec::new(),
            haste: Haste::Urgent,
            round: VecDeque::new(),
            next: None,
            not_before: None,
            no_good: None,
            passed: None,
            denied: Denied::default(),
            first: None,
            count: 0,
        }
    }

    /// Probes `targets` from `at` on, for ever. Attempts at them that are under way go on, those at other addresses are given up: they would verify
    /// what nobody wants. Where it probes already, `at` only brings the next one forward if a target is new.
    pub(crate) fn aim(&mut self, targets: Vec<Address>, haste: Haste, at: Instant) {
        let is_new = |target: &&Address| !self.targets.contains(target);
        let news: VecDeque<Address> = targets.iter().filter(is_new).cloned().collect();
        let is_other = !self.targets.is_empty() && news.len() == targets.len();
        if self.next.is_none() || is_other {
            self.round = targets.iter().cloned().collect();
            self.next = Some(at);
        } else if !news.is_empty() {
            // Of the others nothing new is known.
            self.round = news;
            self.next = Some(at);
        }
        if is_other {
            self.not_before = None;
        }
        self.live.retain(|live| {
            let is_wanted = targets.contains(&live.address);
            if !is_wanted {
                live.handle.abort();
            }
            is_wanted
        });
        self.round.retain(|address| targets.contains(address));
        self.denied.keep(&targets);
        self.haste = haste;
        self.targets = targets;
    }

    /// Gives up every attempt. The gaps go on growing where they were until [`calm`](Self::calm).
    pub(crate) fn rest(&mut self) {
        self.attempts.abort_all();
        self.attempts.detach_all();
        self.live.clear();
        self.targets.clear();
        self.round.clear();
        self.next = None;
        self.first = None;
        // The trouble is over: what a server said in it may be hours old in the next one.
        self.denied = Denied::default();
    }

    /// Attempts from now on are made after this template.
    pub(crate) fn set_template(&mut self, template: Attempt) {
        self.template = template;
    }

    /// Other gaps from now on. An attempt that waits for longer than the first of them waits no longer than that.
    pub(crate) fn set_gaps(&mut self, first: Duration, cap: Duration, now: Instant) {
        self.backoff = Backoff::new(first, cap, self.jitter_percent);
        self.next = self.next.map(|next| next.min(now + first));
    }

    /// The last connection has served well: the next trouble starts with short gaps again.
    pub(crate) fn calm(&mut self) {
        self.backoff.reset();
    }

    /// Another server is meant, or it has another address: nothing that was learned of the last one holds.
    pub(crate) fn forget(&mut self) {
        self.calm();
        self.not_before = None;
        self.passed = None;
        self.denied = Denied::default();
    }

    /// The gap to keep before dialling again an endpoint that was verified and could not be used.
    pub(crate) fn gap(&mut self) -> Duration {
        self.backoff.next()
    }

    /// A connection has ended that was in use for so long: the pause that is kept before the next dial. Once is an accident, or a promotion
    /// (Sentinels cut everybody off who talks to the replica that they promote) and costs none; one that lasted for longer has had it.
    pub(crate) fn pause_after(&mut self, lived: Duration, now: Instant) -> Duration {
        if lived >= SETTLED {
            self.calm();
        }
        if lived >= LONGEST_SPACING {
            return Duration::ZERO;
        }
        let Some(spacing) = self.spacing(now, true) else {
            return Duration::ZERO;
        };
        let pause = spacing.max(self.gap()).saturating_sub(lived);
        self.not_before = self.not_before.max(Some(now + pause));
        pause
    }

    /// The least between the dial that came to no good and the next one; none where that was an accident.
    fn spacing(&mut self, now: Instant, may_pass: bool) -> Option<Duration> {
        let is_owed = |at: Instant| now.saturating_duration_since(at) >= PASS;
        if may_pass && self.passed.is_none_or(is_owed) {
            self.passed = Some(now);
            return None;
        }
        // Spread, so that a fleet does not knock in step.
        let spread = (LONGEST_SPACING - SPACING).as_millis();
        Some(SPACING + Duration::from_millis(fastrand::u64(0..=spread as u64)))
    }

    pub(crate) fn is_resting(&self) -> bool {
        self.next.is_none()
    }

    /// How long the first attempt of this trouble has been out.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        self.first.map(|first| now.saturating_duration_since(first))
    }

    /// What the attempts that are out have come to so far.
    pub(crate) fn silence(&self) -> Error {
        let (phase, detail) = if self.live.iter().any(|live| live.stage.is_established()) {
            (Phase::Handshake, "server silent")
        } else {
            (Phase::Connect, "server did not accept the connection")
        };
        Error::new(ErrorKind::ConnectionLost, phase, detail)
    }

    /// The next sighting. Cancel safe: attempts go on between calls.
    pub(crate) async fn next(&mut self) -> Sighting<C::Wire> {
        loop {
            let at = self.due();
            tokio::select! {
                Some(joined) = self.attempts.join_next() => {
                    if let Ok((number, result)) = joined
                        && let Some(sighting) = self.landed(number, result)
                    {
                        return sighting;
                    }
                }
                () = sleep_until(at.unwrap_or_else(Instant::now)), if at.is_some() => self.launch(Instant::now()),
                else => std::future::pending().await,
            }
        }
    }

    /// When the next attempt is due. A round that has begun is gone through, but for an address that was no good.
    fn due(&self) -> Option<Instant> {
        let next = self.next?;
        let has_begun = !self.round.is_empty() && self.round.len() < self.targets.len();
        let is_held = !has_begun || self.round.front() == self.no_good.as_ref();
        let holds = [
            self.not_before.filter(|_| is_held),
            self.denied.until(&self.targets),
        ];
        holds.into_iter().flatten().chain([next]).max()
    }

    fn landed(&mut self, number: u64, result: Result<C::Wire, Error>) -> Option<Sighting<C::Wire>> {
        let place = self.live.iter().position(|live| live.number == number)?;
        let Live {
            address,
            scout,
            started,
            ..
        } = self.live.swap_remove(place);
        if let Some(scout) = scout {
            scout.answered(Instant::now());
        }
        match result {
            Ok(wire) => {
                self.denied.clear(&address);
                Some(Sighting::Served(wire))
            }
            Err(error) => {
                let now = Instant::now();
                // On a long way the next one is out already.
                let others = self.live.iter().filter(|live| live.address == address);
                let newest = others.map(|live| live.started).max();
                if is_no_good(&error)
                    && let Some(spacing) = self.spacing(now, newest.is_none())
                {
                    let newest = newest.unwrap_or(started);
                    self.not_before = self.not_before.max(Some(newest + spacing));
                    self.no_good = Some(address.clone());
                }
                if error.kind() == ErrorKind::Auth {
                    self.denied.refused(&address, now + self.auth_gap());
                    self.give_up(&address);
                } else {
                    self.denied.clear(&address);
                }
                if !self.round.is_empty() {
                    self.next = Some(now);
                }
                let round_over = self.round.is_empty() && self.live.is_empty();
                Some(Sighting::Failed {
                    address,
                    error,
                    round_over,
                })
            }
        }
    }

    /// Spread, so that a fleet with a wrong password does not knock in step.
    fn auth_gap(&self) -> Duration {
        self.auth_gap + self.auth_gap * fastrand::u32(0..=25) / 100
    }

    /// The attempts at `address` that are out would hear what is known already.
    fn give_up(&mut self, address: &Address) {
        self.live.retain(|live| {
            let is_kept = live.address != *address;
            if !is_kept {
                live.handle.abort();
            }
            is_kept
        });
    }

    /// Starts the next attempt of the round, or a new round.
    fn launch(&mut self, now: Instant) {
        if self.round.is_empty() {
            let may_go = |target: &&Address| !self.denied.holds(target, now);
            self.round = self.targets.iter().filter(may_go).cloned().collect();
        }
        let then = now + self.auth_gap();
        while let Some(address) = self.round.pop_front() {
            if self.denied.holds(&address, now) {
                continue;
            }
            let leave = self.leave(&address, now);
            if matches!(leave, Leave::Wait) {
                self.round.push_front(address);
                // The silence of the probe that is out is ours as well.
                self.first.get_or_insert(now);
                self.next = Some(now + LISTEN);
                return;
            }
            if self.make_room(&address, now) {
                self.denied.dialled(&address, then);
                self.start(address, leave, now);
                break;
            }
            self.denied.pass(&address);
        }
        let gap = if self.round.is_empty() {
            self.backoff.next()
        } else {
            STAGGER
        };
        self.next = Some(now + gap);
    }

    /// Whether to dial, or to wait for what another client of this process hears: only with the first attempt, and not for long.
    fn leave(&self, address: &Address, now: Instant) -> Leave {
        let waited = self.age(now).unwrap_or_default();
        if self.haste == Haste::Urgent || !self.live.is_empty() || waited >= scout::PATIENCE {
            return Leave::Free;
        }
        Scouts::of_process().ask(address, now)
    }

    /// Whether another attempt at `address` makes sense; gives up an older one for it where needed.
    fn make_room(&mut self, address: &Address, now: Instant) -> bool {
        let established = self
            .live
            .iter()
            .position(|live| live.address == *address && live.stage.is_established());
        if let Some(place) = established {
            let stale = self.live.get(place).is_some_and(|live| {
                now.saturating_duration_since(live.started) >= RENEW_ESTABLISHED
            });
            if stale {
                self.live.swap_remove(place).handle.abort();
            }
            return stale;
        }
        if self
            .live
            .iter()
            .filter(|live| live.address == *address)
            .count()
            >= SYNS
            && let Some(oldest) = self
                .live
                .iter()
                .filter(|live| live.address == *address)
                .map(|live| live.number)
                .min()
            && let Some(place) = self.live.iter().position(|live| live.number == oldest)
        {
            self.live.swap_remove(place).handle.abort();
        }
        true
    }

    fn start(&mut self, address: Address, leave: Leave, now: Instant) {
        self.count += 1;
        let (number, stage) = (self.count, Arc::new(Stage::default()));
        let attempt = Attempt {
            address: address.clone(),
            stage: stage.clone(),
            ..self.template.clone()
        };
        let connecting = self.connector.connect(attempt);
        let runtime = self.template.runtime.clone();
        let handle = self
            .attempts
            .spawn_on(async move { (number, connecting.await) }, &runtime);
        self.live.push(Live {
            number,
            address,
            stage,
            started: now,
            handle,
            scout: match leave {
                Leave::First(scout) => Some(scout),
                Leave::Free | Leave::Wait => None,
            },
        });
        self.first.get_or_insert(now);
    }
}

/// Somebody answered: hung up, spoke no RESP, or refused us.
fn is_no_good(error: &Error) -> bool {
    use std::io::ErrorKind as Io;
    match error.kind() {
        ErrorKind::Protocol | ErrorKind::Refused => true,
        ErrorKind::ConnectionLost if error.phase() == Phase::Handshake => {
            error.io_kind() != Some(Io::TimedOut)
        }
        ErrorKind::ConnectionLost => error.io_kind() == Some(Io::ConnectionReset),
        _ => false,
    }
}

#[cfg(test)]
mod model;
