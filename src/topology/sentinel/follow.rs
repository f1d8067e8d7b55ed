//! The task that follows one primary: asks all Sentinels, listens to them, and says who it is.
//!
//! Owns the rounds of questions, and the [`Map`]. Promises: one discovery at a time, whoever waits for it and whoever gives up;
//! questions are rationed however many reasons there are to ask; Sentinels that fall silent take nothing away from a primary that
//! serves. Leaves belief to [`belief`](super::belief), hosts to [`names`](super::names), connections to [`table`](super::table) and
//! [`candidate`], links to `channel`.
//! Fails never: failure is the [`Node::trouble`] of the map.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::{
    belief::{Belief, Trouble, Turn, Why},
    board::{Board, Testimony},
    candidate::{self, Cause},
    failover::PeerId,
    names::Names,
    peer::Report,
    plan::Plan,
    table::Table,
    vote::Word,
    wire::{Answer, Depth, Event, Other, Spot},
};
use crate::{
    Error, ErrorKind, Phase,
    net::dns::{Found, Pace},
    task::{Owned, spawn_owned},
    topology::{Map, Node, Replica, named::node},
};

/// Questions to one Sentinel are at least so far apart, whatever happens.
const GAP: Duration = Duration::from_millis(50);
/// Between questions while the primary is away: events may be cut off, and the promise without them is 600 ms.
const URGENT_EVERY: Duration = Duration::from_millis(250);
/// Between questions for the other Sentinels.
const CENSUS_EVERY: Duration = Duration::from_secs(10);
/// Reports that wait to be heard.
const REPORTS: usize = 64;
/// The replicas' number among those who report.
const CANDIDATE: PeerId = PeerId::MAX;

pub(super) struct Follow {
    plan: Arc<Plan>,
    board: Arc<Board>,
    map: watch::Sender<Arc<Map>>,
    reports: mpsc::Receiver<(PeerId, Report)>,
    reporter: mpsc::Sender<(PeerId, Report)>,
    names: Names,
    table: Table,
    belief: Belief,
    testimony: Testimony,
    home: Option<Home>,
    candidates: BTreeMap<Spot, Candidate>,
    /// Grows with each primary.
    term: u64,
    /// See [`Map::deposed`].
    deposed: u64,
    last_failure: Option<Error>,
    last_ask: Instant,
    next_ask: Instant,
    next_census: Instant,
}

/// The primary's name, followed.
struct Home {
    spot: Spot,
    endpoint: Arc<str>,
    found: watch::Receiver<Found>,
}

/// A server that is asked for its role and its data.
struct Candidate {
    cause: Cause,
    _task: Owned,
}

impl Follow {
    pub(super) fn new(plan: Plan, board: Arc<Board>, map: watch::Sender<Arc<Map>>) -> Self {
        let now = Instant::now();
        let plan = Arc::new(plan);
        let (reporter, reports) = mpsc::channel(REPORTS);
        let seeds = &plan.group.seeds;
        let mut belief = Belief::new(seeds.len(), plan.policy.early_promotion);
        let mut names = Names::new(plan.clone());
        let mut table = Table::new(plan.clone(), reporter.clone());
        for (host, port) in seeds {
            let number = table.meet(Spot::new(host, *port), &mut names, None, now);
            belief.meet(number, true);
        }
        Self {
            plan,
            board,
            map,
            reports,
            reporter,
            names,
            table,
            belief,
            testimony: Testimony::default(),
            home: None,
            candidates: BTreeMap::new(),
            term: 0,
            deposed: 0,
            last_failure: None,
            last_ask: now,
            next_ask: now + URGENT_EVERY,
            next_census: now + CENSUS_EVERY,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let next_ask = self.next_ask;
            tokio::select! {
                Some((number, report)) = self.reports.recv() => self.on_report(number, report, Instant::now()),
                () = self.board.news.notified() => {}
                () = moved(&mut self.home) => {}
                () = sleep_until(next_ask) => self.ask(Instant::now()),
            }
            let now = Instant::now();
            self.listen(now);
            if let Some(turn) = self.belief.decide(now) {
                self.turn_to(turn);
            }
            self.watch_candidates(now);
            self.set_pace(now);
            self.publish(now);
        }
    }

    // ── the Sentinels ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn on_report(&mut self, number: PeerId, report: Report, now: Instant) {
        match report {
            Report::Claims(spot, claim) => {
                if self.candidates.contains_key(&spot) {
                    self.belief.on_claim(&spot, claim, now);
                }
            }
            Report::Told(told) => {
                if told.event == Event::Census {
                    self.next_census = now;
                }
                self.belief.on_told(number, &told, now);
                self.ask_soon(now);
            }
            Report::Answered(answer) => self.on_answer(number, answer, now),
            Report::Failed(error) => self.on_failure(number, error, now),
        }
        for gone in self.table.forget(now) {
            self.belief.leave(gone);
        }
    }

    fn on_answer(&mut self, number: PeerId, answer: Answer, now: Instant) {
        let mut others = None;
        let word = match answer {
            Answer::Says(view) => {
                self.table.heard(number, view.id.as_ref(), now);
                others.clone_from(&view.sentinels);
                Word::Says(view)
            }
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
        self.table.heard(number, None, now);
        self.belief.on_word(number, word, now);
        match others {
            // One that was configured may be one of them, and has not said yet who it is: they are counted again the next time.
            Some(_) if self.belief.awaits() => self.next_census = now,
            Some(others) => self.learn(others, now),
            None => {}
        }
    }

    fn learn(&mut self, others: Vec<Other>, now: Instant) {
        for met in self.table.learn(others, &mut self.names, now) {
            self.belief.meet(met, false);
        }
    }

    fn on_failure(&mut self, number: PeerId, error: Error, now: Instant) {
        let word = match error.kind() {
            ErrorKind::Auth => Word::Refused,
            ErrorKind::Protocol => Word::Stranger,
            _ => Word::Silent,
        };
        self.board.count(|tally| match &word {
            Word::Silent => tally.silent += 1,
            _ => tally.refused += 1,
        });
        self.belief.on_word(number, word, now);
        self.last_failure = Some(error);
    }

    fn ask_soon(&mut self, now: Instant) {
        self.next_ask = self.next_ask.min((self.last_ask + GAP).max(now));
    }

    fn ask(&mut self, now: Instant) {
        let census = now >= self.next_census;
        if census {
            self.next_census = now + CENSUS_EVERY;
        }
        let urgent = self.is_urgent();
        let replicas = census || urgent || self.belief.is_doubted() || self.testimony.reads;
        self.belief.ask();
        self.table.order(|order| {
            order.round += 1;
            order.depth = Depth { census, replicas };
        });
        self.last_ask = now;
        self.next_ask = now + self.gap(urgent);
        self.take_stock();
    }

    fn is_urgent(&self) -> bool {
        self.home.is_none() || self.testimony.urgent
    }

    fn gap(&self, urgent: bool) -> Duration {
        let (gap, spread) = if urgent {
            (URGENT_EVERY, 20)
        } else {
            (self.plan.policy.poll_every, 10)
        };
        gap * (100 - spread + fastrand::u32(0..=2 * spread)) / 100
    }

    /// Leaves word of how lookups and Sentinels fare.
    fn take_stock(&self) {
        self.board.set_lookups(self.names.lookups());
        let reachable = self.belief.reachable();
        self.board.count(|tally| tally.reachable = reachable);
    }

    // ── the clients ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Hears what the clients say of their links.
    fn listen(&mut self, now: Instant) {
        let testimony = self.board.testimony(self.term);
        let was = std::mem::replace(&mut self.testimony, testimony);
        self.belief.on_testimony(&self.testimony, now);
        if self.testimony.urgent && !was.urgent {
            self.ask_soon(now);
        }
    }

    /// Names are looked up, and Sentinels dialled, as hard as the primary is needed. A replica that may be promoted is needed.
    fn set_pace(&mut self, now: Instant) {
        let urgent = self.is_urgent();
        let pace = if urgent { Pace::Urgent } else { Pace::Calm };
        let homes = self.home.iter().map(|home| &home.spot.host);
        let others = self.table.hosts().chain(homes);
        let candidates = self.candidates.iter().map(|(spot, one)| {
            let pace = match one.cause {
                Cause::Promotion => Pace::Urgent,
                Cause::Reads => pace,
            };
            (spot.host.clone(), pace)
        });
        let meant = others.map(|host| (host.clone(), pace)).chain(candidates);
        self.names.mean(meant, now);
        self.table.order(|order| order.urgent = urgent);
    }

    // ── the primary ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Another server is meant from now on.
    fn turn_to(&mut self, turn: Turn) {
        let Turn { spot, epoch, why } = turn;
        let name = &*self.plan.group.name;
        info!(
            target: "redis_holdfast::sentinel",
            master = name, primary = %spot, epoch, ?why, "primary followed"
        );
        self.board.count(|tally| match why {
            Why::Found => {}
            Why::Vote | Why::Rename => tally.voted += 1,
            Why::Promotion => tally.promoted += 1,
        });
        self.home = Some(Home {
            endpoint: spot.to_string().into(),
            found: self.names.found(&spot.host),
            spot,
        });
        self.term += 1;
        if matches!(why, Why::Vote | Why::Promotion) {
            self.deposed = self.term;
        }
    }

    /// Sees to it that the replicas which may be promoted, those that are read from, their primary, and no others are asked.
    fn watch_candidates(&mut self, now: Instant) {
        let mut wanted: BTreeMap<Spot, Cause> = BTreeMap::new();
        if self.testimony.reads {
            let replicas = self.belief.replicas(now).into_keys();
            let primary = self.home.iter().map(|home| home.spot.clone());
            wanted.extend(replicas.chain(primary).map(|spot| (spot, Cause::Reads)));
        }
        let promotable = self.belief.candidates(now).into_iter();
        wanted.extend(promotable.map(|spot| (spot, Cause::Promotion)));
        self.candidates
            .retain(|spot, candidate| wanted.get(spot) == Some(&candidate.cause));
        for (spot, cause) in wanted {
            if !self.candidates.contains_key(&spot) {
                let candidate = self.watch(&spot, cause);
                self.candidates.insert(spot, candidate);
            }
        }
    }

    fn watch(&mut self, spot: &Spot, cause: Cause) -> Candidate {
        let finding = self.names.found(&spot.host);
        let (reporter, plan) = (self.reporter.clone(), self.plan.clone());
        let task = candidate::run(CANDIDATE, spot.clone(), cause, finding, reporter, plan);
        Candidate {
            cause,
            _task: spawn_owned(&self.plan.runtime, task),
        }
    }

    fn publish(&self, now: Instant) {
        let mut primary = self.home.as_ref().map_or_else(Node::unknown, |home| {
            node(&home.endpoint, home.spot.port, home.found.borrow().clone())
        });
        let trouble = self.belief.trouble();
        if primary.trouble.is_none() {
            primary.trouble = trouble.map(|trouble| self.error(trouble));
        }
        let doubted = self.belief.is_doubted();
        let readable = self.belief.replicas(now).into_iter();
        let readable = readable.filter(|(_, may)| *may);
        let replicas: Arc<[Replica]> = readable
            .map(|(Spot { host, port }, _)| Replica { host, port })
            .collect();
        self.map.send_if_modified(|map| {
            let was = says(&map.primary.trouble);
            let is = says(&primary.trouble);
            let same = map.term == self.term
                && map.doubted == doubted
                && map.replicas == replicas
                && map.primary.addresses == primary.addresses
                && map.primary.former == primary.former
                && map.primary.gone == primary.gone
                && was == is;
            if same {
                return false;
            }
            if was != is
                && let Some(trouble) = &primary.trouble
            {
                let name = &*self.plan.group.name;
                warn!(target: "redis_holdfast::sentinel", master = name, %trouble, "primary in doubt");
            }
            *map = Arc::new(Map {
                primary,
                epoch: map.epoch + 1,
                term: self.term,
                deposed: self.deposed,
                doubted,
                replicas,
            });
            true
        });
    }

    fn error(&self, trouble: Trouble) -> Error {
        let (kind, detail) = match trouble {
            Trouble::Nobody => (ErrorKind::NoPrimary, "no Sentinel answers"),
            Trouble::Unknown => (
                ErrorKind::NoPrimary,
                "no Sentinel knows a primary of this name",
            ),
            Trouble::Older => (
                ErrorKind::NoPrimary,
                "Sentinels name a primary of an older epoch",
            ),
            Trouble::Refused => (ErrorKind::Auth, "Sentinel refused our credentials"),
            Trouble::Strangers => (
                ErrorKind::Protocol,
                "peer is a Redis server, not a Sentinel",
            ),
        };
        let error = Error::new(kind, Phase::Discovery, detail).at(&self.plan.endpoint);
        match &self.last_failure {
            Some(failure) if failure.detail() != detail => error.because(failure.clone()),
            _ => error,
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
