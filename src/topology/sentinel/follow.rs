//! The task that follows one primary: asks all Sentinels, listens to them, and says who it is.
//!
//! Owns the round of questions, the Sentinels that are known, and the [`Map`]. Promises: one discovery at a time, whoever waits for it
//! and whoever gives up; questions are rationed however many reasons there are to ask; Sentinels that fall silent take nothing away from
//! a primary that serves. Leaves belief to [`vote`](super::vote) and [`failover`](super::failover), links to `channel`.
//! Fails never: failure is the [`Node::trouble`] of the map.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::{
    board::{Board, Testimony},
    candidate,
    failover::{Claim, Failover, PeerId},
    peer::{self, Order, Report},
    plan::Plan,
    vote::{Followed, Seat, Verdict, Word, vote},
    wire::{Answer, Depth, Event, Spot, Told, View},
};
use crate::{
    Error, ErrorKind, Phase,
    net::dns::{Follower, Found, Lookups, Pace},
    task::{Owned, spawn_owned},
    topology::{Map, Node, named::node},
};

/// Questions to one Sentinel are at least so far apart, whatever happens.
const GAP: Duration = Duration::from_millis(100);
/// Between questions while the primary is away: events may be cut off, and the promise without them is 600 ms.
const URGENT_EVERY: Duration = Duration::from_millis(250);
/// Between questions for the other Sentinels.
const CENSUS_EVERY: Duration = Duration::from_secs(10);
/// Connections to Sentinels. More of them are known, not asked.
const MOST_PEERS: usize = 5;
/// A Sentinel that only others knew, and that is silent for so long, is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// No Sentinel answers: said after so long, where the primary serves meanwhile.
const UNANSWERED: Duration = Duration::from_secs(1);
/// A primary that was away for so long may be left for one of an older epoch: longer than Sentinels take to agree on a promotion.
const LOST: Duration = Duration::from_secs(3);
/// The candidate's number among those who report.
const CANDIDATE: PeerId = PeerId::MAX;

/// A Sentinel that is asked.
struct Peer {
    spot: Spot,
    seat: Seat,
    id: Option<Arc<str>>,
    learned: bool,
    heard: Instant,
    dns: Follower,
    _task: Owned,
}

/// The primary's name, followed.
struct Home {
    dns: Follower,
    found: watch::Receiver<Found>,
    endpoint: Arc<str>,
}

struct Candidate {
    spot: Spot,
    claim: Option<Claim>,
    _dns: Follower,
    _task: Owned,
}

pub(super) struct Follow {
    plan: Arc<Plan>,
    board: Arc<Board>,
    map: watch::Sender<Arc<Map>>,
    reports: mpsc::Receiver<(PeerId, Report)>,
    reporter: mpsc::Sender<(PeerId, Report)>,
    orders: watch::Sender<Order>,
    peers: BTreeMap<PeerId, Peer>,
    next_id: PeerId,
    known: usize,
    failover: Failover,
    followed: Option<Followed>,
    home: Option<Home>,
    candidate: Option<Candidate>,
    lineage: Option<String>,
    term: u64,
    turn: usize,
    trouble: Option<Error>,
    last_failure: Option<Error>,
    testimony: Testimony,
    down_since: Option<Instant>,
    unanswered_since: Option<Instant>,
    last_ask: Instant,
    next_ask: Instant,
    next_census: Instant,
}

impl Follow {
    pub(super) fn new(plan: Plan, board: Arc<Board>, map: watch::Sender<Arc<Map>>) -> Self {
        let now = Instant::now();
        let (reporter, reports) = mpsc::channel(64);
        let plan = Arc::new(plan);
        let mut follow = Self {
            known: plan.group.seeds.len(),
            board,
            map,
            reports,
            reporter,
            orders: watch::Sender::new(Order {
                urgent: true,
                ..Order::default()
            }),
            peers: BTreeMap::new(),
            next_id: 0,
            failover: Failover::default(),
            followed: None,
            home: None,
            candidate: None,
            lineage: None,
            term: 0,
            turn: 0,
            trouble: None,
            last_failure: None,
            testimony: Testimony::default(),
            down_since: None,
            unanswered_since: None,
            last_ask: now,
            next_ask: now + URGENT_EVERY,
            next_census: now + CENSUS_EVERY,
            plan,
        };
        for (host, port) in &follow.plan.clone().group.seeds {
            follow.meet(Spot::new(host, *port), false, now);
        }
        follow
    }

    pub(super) async fn run(mut self) {
        loop {
            let next_ask = self.next_ask;
            tokio::select! {
                Some((id, report)) = self.reports.recv() => self.on_report(id, report, Instant::now()),
                () = self.board.news.notified() => {}
                () = moved(&mut self.home) => {}
                () = sleep_until(next_ask) => self.ask(Instant::now()),
            }
            let now = Instant::now();
            self.listen(now);
            self.decide(now);
            self.publish();
        }
    }

    // ── the Sentinels ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn meet(&mut self, spot: Spot, learned: bool, now: Instant) {
        let id = self.next_id;
        self.next_id += 1;
        let (found, finding) = watch::channel(Found::default());
        let dns = self
            .plan
            .follow(&spot, move |told| drop(found.send_replace(told)));
        let task = peer::run(
            id,
            spot.clone(),
            finding,
            self.orders.subscribe(),
            self.reporter.clone(),
            self.plan.clone(),
        );
        let peer = Peer {
            spot,
            // Its first answer is waited for.
            seat: Seat {
                word: Word::Silent,
                asked: !learned,
            },
            id: None,
            learned,
            heard: now,
            dns,
            _task: spawn_owned(&self.plan.runtime, task),
        };
        self.peers.insert(id, peer);
    }

    fn on_report(&mut self, id: PeerId, report: Report, now: Instant) {
        if id == CANDIDATE {
            if let (Report::Claims(claim), Some(candidate)) = (report, &mut self.candidate) {
                candidate.claim = Some(claim);
            }
            return;
        }
        match report {
            Report::Answered(answer) => self.on_answer(id, answer, now),
            Report::Told(told) => self.on_told(id, &told, now),
            Report::Failed(error) => self.on_failure(id, error, now),
            Report::Claims(_) => {}
        }
        self.forget(now);
    }

    fn on_answer(&mut self, id: PeerId, answer: Answer, now: Instant) {
        let word = match answer {
            Answer::Says(view) => Word::Says(view),
            Answer::Unknown => Word::Unknown,
            Answer::Refused => Word::Refused,
            Answer::Stranger => Word::Stranger,
        };
        self.board.count(|tally| match &word {
            Word::Says(_) => tally.answered += 1,
            Word::Unknown => tally.unknown += 1,
            Word::Refused | Word::Stranger => tally.refused += 1,
            Word::Silent => tally.silent += 1,
        });
        let others = match &word {
            Word::Says(view) => {
                let followed = self.followed.as_ref().map(|followed| &followed.spot);
                if view.primary.as_ref() == followed {
                    self.failover.on_view(id, view, now);
                }
                view.sentinels.clone()
            }
            _ => None,
        };
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.heard = now;
        peer.seat.sit(word);
        if let Word::Says(View { id: Some(id), .. }) = &peer.seat.word {
            peer.id = Some(id.clone());
        }
        for other in others.into_iter().flatten().filter(|other| !other.down) {
            let is_known = self
                .peers
                .values()
                .any(|peer| peer.id.as_ref() == Some(&other.id) || peer.spot == other.spot);
            if !is_known && self.peers.len() < MOST_PEERS {
                self.meet(other.spot, true, now);
            }
        }
    }

    fn on_failure(&mut self, id: PeerId, error: Error, now: Instant) {
        let word = match error.kind() {
            ErrorKind::Auth => Word::Refused,
            ErrorKind::Protocol => Word::Stranger,
            _ => Word::Silent,
        };
        self.board.count(|tally| match &word {
            Word::Silent => tally.silent += 1,
            _ => tally.refused += 1,
        });
        self.failover.on_silence(id);
        if let Some(peer) = self.peers.get_mut(&id) {
            if !matches!(word, Word::Silent) {
                peer.heard = now;
            }
            peer.seat = Seat { word, asked: false };
        }
        self.last_failure = Some(error);
    }

    fn on_told(&mut self, id: PeerId, told: &Told, now: Instant) {
        let of_ours = match (&told.of, &self.followed) {
            (Some(of), Some(followed)) => *of == followed.spot,
            _ => true,
        };
        if of_ours {
            self.failover.on_event(id, &told.event, now);
        }
        if let Event::Switched { to } = &told.event
            && let Some(peer) = self.peers.get_mut(&id)
            && let Word::Says(view) = &mut peer.seat.word
        {
            // Its next answer brings the epoch; until then, one later than any we knew.
            let epoch = self.followed.as_ref().map_or(0, |followed| followed.epoch);
            view.primary = Some(to.clone());
            view.epoch = view.epoch.max(epoch + 1);
        }
        if told.event == Event::Census {
            self.next_census = now;
        }
        self.next_ask = self.next_ask.min((self.last_ask + GAP).max(now));
    }

    /// Lets go of Sentinels that only others knew, and that are silent or turn out to be known already.
    fn forget(&mut self, now: Instant) {
        let ids: Vec<(PeerId, Option<Arc<str>>)> = self
            .peers
            .iter()
            .map(|(number, peer)| (*number, peer.id.clone()))
            .collect();
        let is_double = |number: PeerId, peer: &Peer| {
            peer.id.is_some()
                && ids
                    .iter()
                    .any(|(other, id)| *other < number && *id == peer.id)
        };
        self.peers.retain(|number, peer| {
            let stale = now.saturating_duration_since(peer.heard) > FORGOTTEN;
            !peer.learned || !(stale || is_double(*number, peer))
        });
    }

    fn ask(&mut self, now: Instant) {
        let census = now >= self.next_census;
        if census {
            self.next_census = now + CENSUS_EVERY;
        }
        let urgent = self.is_urgent();
        for peer in self.peers.values_mut() {
            peer.seat.asked |= !matches!(peer.seat.word, Word::Silent);
        }
        self.orders.send_modify(|order| {
            order.round += 1;
            order.urgent = urgent;
            order.depth = Depth {
                census,
                replicas: urgent || self.failover.is_doubted(),
            };
        });
        self.last_ask = now;
        self.turn = self.turn.wrapping_add(1);
        self.next_ask = now + self.gap(urgent);
        self.count_lookups();
    }

    fn is_urgent(&self) -> bool {
        self.followed.is_none() || self.testimony.urgent
    }

    fn gap(&self, urgent: bool) -> Duration {
        let (gap, spread) = if urgent {
            (URGENT_EVERY, 20)
        } else {
            (self.plan.policy.poll_every, 10)
        };
        gap * (100 - spread + fastrand::u32(0..=2 * spread)) / 100
    }

    fn count_lookups(&self) {
        let homes = self.home.iter().map(|home| &home.dns);
        let all = self.peers.values().map(|peer| &peer.dns).chain(homes);
        let mut sum = Lookups::default();
        for lookups in all.map(Follower::lookups) {
            sum.positive += lookups.positive;
            sum.negative += lookups.negative;
            sum.transient += lookups.transient;
            sum.age = sum.age.max(lookups.age);
        }
        self.board.set_lookups(sum);
        let answering = |peer: &&Peer| matches!(peer.seat.word, Word::Says(_) | Word::Unknown);
        let reachable = self.peers.values().filter(answering).count();
        self.board.count(|tally| tally.reachable = reachable);
    }

    // ── the clients ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Hears what the clients say of their links.
    fn listen(&mut self, now: Instant) {
        let testimony = self.board.testimony(self.term);
        if testimony.urgent && !self.testimony.urgent {
            self.next_ask = self.next_ask.min((self.last_ask + GAP).max(now));
        }
        if testimony.urgent != self.testimony.urgent {
            let pace = if testimony.urgent {
                Pace::Urgent
            } else {
                Pace::Calm
            };
            let homes = self.home.iter().map(|home| &home.dns);
            let peers = self.peers.values().map(|peer| &peer.dns);
            homes.chain(peers).for_each(|dns| dns.pace(pace));
            self.orders
                .send_modify(|order| order.urgent = testimony.urgent);
        }
        if testimony.lineage.is_some() {
            self.lineage.clone_from(&testimony.lineage);
        }
        if testimony.down {
            self.down_since.get_or_insert(now);
        } else {
            self.down_since = None;
        }
        self.testimony = testimony;
    }

    // ── the decision ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn decide(&mut self, now: Instant) {
        let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        if let Some(followed) = &mut self.followed {
            followed.lost = since(self.down_since).is_some_and(|down| down >= LOST);
        }
        let views = self.peers.values().filter_map(|peer| peer.seat.view());
        if let Some(others) = views.map(|view| view.others).max() {
            self.known = usize::try_from(others)
                .unwrap_or(usize::MAX)
                .saturating_add(1);
        }
        self.known = self.known.max(1);
        if self.plan.policy.early_promotion && self.promote(now) {
            return;
        }
        let seats = self.peers.values().map(|peer| &peer.seat);
        let verdict = vote(seats, self.known, self.followed.as_ref(), self.turn);
        self.trouble = match &verdict {
            Verdict::Wait => return,
            Verdict::Follow { spot, epoch } => {
                self.follow(spot, *epoch);
                None
            }
            Verdict::Keep => Some(self.no_primary("Sentinels name a primary of an older epoch")),
            Verdict::Nobody => {
                let since = *self.unanswered_since.get_or_insert(now);
                let serves = self.followed.is_some() && self.trouble.is_none();
                if serves && now.saturating_duration_since(since) < UNANSWERED {
                    return;
                }
                Some(self.no_primary("no Sentinel answers"))
            }
            Verdict::Unknown => Some(self.no_primary("no Sentinel knows a primary of this name")),
            Verdict::Refused => {
                Some(self.failed(ErrorKind::Auth, "Sentinel refused our credentials"))
            }
            Verdict::Strangers => Some(self.failed(
                ErrorKind::Protocol,
                "peer is a Redis server, not a Sentinel",
            )),
        };
        if verdict != Verdict::Nobody {
            self.unanswered_since = None;
        }
    }

    /// Watches the candidate of a failover, and follows it as soon as four witnesses agree. Says whether it did.
    fn promote(&mut self, now: Instant) -> bool {
        let Some(followed) = &self.followed else {
            return false;
        };
        let spot = self.failover.candidate(now);
        let spot = spot.filter(|spot| *spot != followed.spot);
        if self.candidate.as_ref().map(|candidate| &candidate.spot) != spot.as_ref() {
            self.candidate = spot.map(|spot| self.watch(spot));
        }
        let Some(Candidate {
            spot,
            claim: Some(claim),
            ..
        }) = &self.candidate
        else {
            return false;
        };
        let down = self.testimony.down;
        let agreed = self
            .failover
            .may_serve(self.known, down, claim, self.lineage.as_deref());
        if !agreed {
            return false;
        }
        let (spot, epoch) = (spot.clone(), followed.epoch + 1);
        self.board.count(|tally| tally.promoted += 1);
        self.adopt(spot, epoch, "promotion");
        self.trouble = None;
        true
    }

    fn watch(&self, spot: Spot) -> Candidate {
        let (found, finding) = watch::channel(Found::default());
        let dns = self
            .plan
            .follow(&spot, move |told| drop(found.send_replace(told)));
        dns.pace(Pace::Urgent);
        let task = candidate::run(
            CANDIDATE,
            spot.clone(),
            finding,
            self.reporter.clone(),
            self.plan.clone(),
        );
        Candidate {
            spot,
            claim: None,
            _dns: dns,
            _task: spawn_owned(&self.plan.runtime, task),
        }
    }

    fn follow(&mut self, spot: &Spot, epoch: u64) {
        if self
            .followed
            .as_ref()
            .is_none_or(|followed| followed.spot != *spot)
        {
            if self.followed.is_some() {
                self.board.count(|tally| tally.voted += 1);
            }
            self.adopt(spot.clone(), epoch, "vote");
        }
        let Some(followed) = &mut self.followed else {
            return;
        };
        followed.epoch = epoch;
        let vouching = self.peers.values().filter_map(|peer| {
            let view = peer.seat.view()?;
            (view.primary.as_ref() == Some(spot)).then(|| peer.id.clone())?
        });
        let vouched: Vec<_> = vouching.collect();
        if !vouched.is_empty() {
            followed.vouched = vouched;
        }
    }

    /// Another server is meant from now on.
    fn adopt(&mut self, spot: Spot, epoch: u64, reason: &'static str) {
        let name = &*self.plan.group.name;
        info!(
            target: "redis_holdfast::sentinel",
            master = name, primary = %spot, epoch, reason, "primary followed"
        );
        let (found, finding) = watch::channel(Found::default());
        let dns = self
            .plan
            .follow(&spot, move |told| drop(found.send_replace(told)));
        dns.pace(Pace::Urgent);
        self.home = Some(Home {
            dns,
            found: finding,
            endpoint: spot.to_string().into(),
        });
        self.followed = Some(Followed {
            spot,
            epoch,
            vouched: Vec::new(),
            lost: false,
        });
        self.term += 1;
        self.failover = Failover::default();
        self.candidate = None;
        self.lineage = None;
        self.down_since = None;
    }

    fn no_primary(&self, detail: &'static str) -> Error {
        self.failed(ErrorKind::NoPrimary, detail)
    }

    fn failed(&self, kind: ErrorKind, detail: &'static str) -> Error {
        let error = Error::new(kind, Phase::Discovery, detail).at(&self.plan.endpoint);
        match &self.last_failure {
            Some(failure) if failure.detail() != detail => error.because(failure.clone()),
            _ => error,
        }
    }

    // ── the map ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn publish(&self) {
        let mut primary = match &self.home {
            Some(home) => {
                let Some(followed) = &self.followed else {
                    return;
                };
                let found = home.found.borrow().clone();
                node(&home.endpoint, followed.spot.port, found)
            }
            None => Node::unknown(),
        };
        if primary.trouble.is_none() {
            primary.trouble.clone_from(&self.trouble);
        }
        let doubted = self.failover.is_doubted();
        self.map.send_if_modified(|map| {
            let same = map.term == self.term
                && map.doubted == doubted
                && map.primary.addresses == primary.addresses
                && map.primary.gone == primary.gone
                && says(&map.primary.trouble) == says(&primary.trouble);
            if same {
                return false;
            }
            if says(&map.primary.trouble) != says(&self.trouble)
                && let Some(trouble) = &self.trouble
            {
                let name = &*self.plan.group.name;
                warn!(target: "redis_holdfast::sentinel", master = name, %trouble, "Sentinels do not help");
            }
            *map = Arc::new(Map {
                primary,
                epoch: map.epoch + 1,
                term: self.term,
                doubted,
            });
            true
        });
    }
}

impl Seat {
    fn sit(&mut self, word: Word) {
        *self = Self { word, asked: false };
    }

    fn view(&self) -> Option<&View> {
        match &self.word {
            Word::Says(view) => Some(view),
            _ => None,
        }
    }
}

fn says(trouble: &Option<Error>) -> Option<(ErrorKind, Phase, &str)> {
    let error = trouble.as_ref()?;
    Some((error.kind(), error.phase(), error.detail()))
}

async fn moved(home: &mut Option<Home>) {
    if let Some(home) = home
        && home.found.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
