//! What is believed of the primary: everything heard goes in, who it is comes out.
//!
//! Owns [`Belief`]: the Sentinels' seats, the failover under way, what our own links say, and the primary that is followed. Promises:
//! the same things heard give the same belief, whoever told them first; a primary is left only for one that the [`vote`](super::vote) or
//! the four witnesses of [`failover`](super::failover) name; silence takes nothing away from a primary that serves.
//! Leaves hearing and acting to [`follow`](super::follow). Pure: time is an argument. Cannot fail.
//! Recorded failovers in `tests/fixtures/sentinel` are its specification, besides `tests`.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{
    board::Testimony,
    failover::{Claim, Failover, PeerId},
    generation::Generation,
    lag::Lag,
    vote::{Followed, Seat, Verdict, Word, vote},
    wire::{Spot, Told, View},
};
use crate::net::dns::literal;

/// No Sentinel answers: said after so long, where a primary is followed meanwhile.
const UNANSWERED: Duration = Duration::from_secs(1);
/// A primary that was away for so long may be left for one of an older epoch: longer than Sentinels take to agree on a promotion.
const LOST: Duration = Duration::from_secs(3);

/// Replicas that are asked, and read from. More of them are known.
const MOST_REPLICAS: usize = 8;

/// Why the Sentinels are no help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    Nobody,
    Unknown,
    Refused,
    Strangers,
    /// They name a primary of an older epoch than the one that serves.
    Older,
}

/// Another primary is followed from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) spot: Spot,
    pub(super) epoch: u64,
    pub(super) why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It is the first.
    Found,
    /// The Sentinels agree.
    Vote,
    /// They agree on another name, and speak of no failover: it may well be the same server.
    Rename,
    /// It was promoted, and four witnesses agree.
    Promotion,
}

/// What a replica says of itself, and whether it said before that it is one.
struct Seen {
    claim: Claim,
    was_replica: bool,
}

pub(super) struct Belief {
    early: bool,
    seats: BTreeMap<PeerId, Seat>,
    /// Those that were configured.
    seeds: usize,
    /// As many as they say they are.
    known: usize,
    generation: Generation,
    failover: Failover,
    followed: Option<Followed>,
    /// What replicas said of themselves in this failover.
    claims: BTreeMap<Spot, Seen>,
    lag: Lag,
    /// The replicas before the primary was followed, until the Sentinels tell those of the new one.
    heirs: BTreeMap<Spot, bool>,
    lineage: Option<String>,
    own_link_down: bool,
    down_since: Option<Instant>,
    unanswered_since: Option<Instant>,
    trouble: Option<Trouble>,
    round: usize,
    /// When the primary was followed.
    turned: Option<Instant>,
}

impl Belief {
    /// `seeds`: how many Sentinels were configured. `early`: whether four witnesses are enough.
    pub(super) fn new(seeds: usize, early: bool) -> Self {
        Self {
            early,
            seats: BTreeMap::new(),
            seeds,
            known: seeds.max(1),
            generation: Generation::default(),
            failover: Failover::default(),
            followed: None,
            claims: BTreeMap::new(),
            lag: Lag::default(),
            heirs: BTreeMap::new(),
            lineage: None,
            own_link_down: false,
            down_since: None,
            unanswered_since: None,
            trouble: None,
            round: 0,
            turned: None,
        }
    }

    // ── what is heard ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A Sentinel will be asked. `awaited`: nothing is decided before it has answered or failed.
    pub(super) fn meet(&mut self, peer: PeerId, awaited: bool) {
        let seat = Seat {
            word: Word::Silent,
            asked: awaited,
        };
        self.seats.insert(peer, seat);
    }

    /// A Sentinel will not be asked any more.
    pub(super) fn leave(&mut self, peer: PeerId) {
        self.seats.remove(&peer);
        self.failover.on_silence(peer);
    }

    /// Everybody is being asked: those who answered the last time may be waited for.
    pub(super) fn ask(&mut self) {
        self.round = self.round.wrapping_add(1);
        for seat in self.seats.values_mut() {
            seat.asked |= matches!(seat.word, Word::Says(_) | Word::Unknown);
        }
    }

    /// A Sentinel answered, or did not.
    pub(super) fn on_word(&mut self, peer: PeerId, mut word: Word, now: Instant) {
        let Some(seat) = self.seats.get_mut(&peer) else {
            return;
        };
        match &mut word {
            Word::Says(view) => {
                // Its id and its replicas are asked for now and then only.
                if let Word::Says(last) = &seat.word {
                    if view.id.is_none() {
                        view.id.clone_from(&last.id);
                    }
                    if view.replicas.is_none() && view.primary == last.primary {
                        view.replicas.clone_from(&last.replicas);
                    }
                }
                let listed = view.sentinels.take().unwrap_or_default();
                // Who is not behind is of the life that is followed, and so is whom it knows: Sentinels that meet share their epochs.
                let epoch = self.followed.as_ref().map_or(0, |at| at.epoch);
                if view.epoch >= epoch {
                    let ids = listed.iter().map(|other| &other.id);
                    ids.chain(&view.id).for_each(|id| self.generation.meet(id));
                }
                if view.primary.as_ref() == self.followed.as_ref().map(|at| &at.spot) {
                    self.failover.on_view(peer, view, now);
                }
            }
            Word::Silent => self.failover.on_silence(peer),
            Word::Unknown | Word::Refused | Word::Stranger => {}
        }
        *seat = Seat { word, asked: false };
    }

    /// A Sentinel told something unasked: who is down, and whom it promotes. Who *is* the primary it is asked.
    pub(super) fn on_told(&mut self, peer: PeerId, told: &Told, now: Instant) {
        let Some(followed) = &self.followed else {
            return;
        };
        if told.of.as_ref().is_none_or(|of| *of == followed.spot) {
            self.failover.on_event(peer, &told.event, now);
        }
    }

    /// The server at `spot` says what it is.
    pub(super) fn on_claim(&mut self, spot: &Spot, claim: Claim, now: Instant) {
        if self.followed.as_ref().is_some_and(|at| at.spot == *spot) {
            self.lag.on_primary(&claim, now);
            return;
        }
        self.lag.on_replica(spot, &claim);
        let before = self.claims.get(spot);
        let was_replica = before.is_some_and(|seen| seen.was_replica || !seen.claim.is_primary);
        self.claims
            .insert(spot.clone(), Seen { claim, was_replica });
    }

    /// What our own links say of the primary that is followed.
    pub(super) fn on_testimony(&mut self, testimony: &Testimony, now: Instant) {
        self.own_link_down = testimony.down;
        if let Some(lineage) = &testimony.lineage {
            self.lag.on_lineage(lineage);
            self.lineage = Some(lineage.clone());
        }
        if testimony.down {
            self.down_since.get_or_insert(now);
        } else {
            self.down_since = None;
        }
    }

    // ── what is believed ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    #[cfg(test)]
    fn followed(&self) -> Option<&Followed> {
        self.followed.as_ref()
    }

    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    /// Whether a Sentinel holds the primary down.
    pub(super) fn is_doubted(&self) -> bool {
        self.failover.is_doubted()
    }

    /// The replicas to ask for their role: the one that a Sentinel has named, or all of them while none is named, the primary is held
    /// down, and our own link to it is down as well.
    pub(super) fn candidates(&mut self, now: Instant) -> Vec<Spot> {
        let named = self.failover.candidate(now);
        let Some(followed) = self.followed.as_ref().filter(|_| self.early) else {
            return Vec::new();
        };
        let mut asked = match named {
            Some(spot) => vec![spot],
            None if self.own_link_down && self.failover.is_unled() => {
                let known = self.replicas_of(&followed.spot);
                known.into_keys().take(MOST_REPLICAS).collect()
            }
            None => Vec::new(),
        };
        asked.retain(|spot| *spot != followed.spot);
        asked
    }

    /// The replicas of the primary that is followed, each with whether it may be read from.
    pub(super) fn replicas(&self, now: Instant) -> BTreeMap<Spot, bool> {
        let Some(followed) = &self.followed else {
            return BTreeMap::new();
        };
        let tells =
            |view: &View| view.replicas.is_some() && view.primary.as_ref() == Some(&followed.spot);
        let mut known = if self.seats.values().filter_map(view).any(tells) {
            self.replicas_of(&followed.spot)
        } else {
            self.heirs.clone()
        };
        known.remove(&followed.spot);
        let may = |(spot, well): (Spot, bool)| {
            let may = well && self.lag.allows(&spot, now);
            (spot, may)
        };
        known.into_iter().map(may).take(MOST_REPLICAS).collect()
    }

    /// Those that any Sentinel knows as replicas of this primary, each with whether it is well by the word of half of them or more.
    fn replicas_of(&self, primary: &Spot) -> BTreeMap<Spot, bool> {
        let views = self.seats.values().filter_map(view);
        let of_it = views.filter(|view| view.primary.as_ref() == Some(primary));
        let mut votes: BTreeMap<&Spot, (usize, usize)> = BTreeMap::new();
        for listed in of_it.flat_map(|view| view.replicas.iter().flatten()) {
            let (well, all) = votes.entry(&listed.spot).or_default();
            *well += usize::from(listed.well);
            *all += 1;
        }
        let count = |(spot, (well, all)): (&Spot, (usize, usize))| (spot.clone(), well * 2 >= all);
        votes.into_iter().map(count).collect()
    }

    /// Sentinels that answer.
    pub(super) fn reachable(&self) -> usize {
        let answers = |seat: &&Seat| matches!(seat.word, Word::Says(_) | Word::Unknown);
        self.seats.values().filter(answers).count()
    }

    /// Whether one that was configured has neither answered nor failed yet.
    pub(super) fn awaits(&self) -> bool {
        let is_awaited = |seat: &Seat| seat.asked && matches!(seat.word, Word::Silent);
        self.seats.values().any(is_awaited)
    }

    /// Draws the conclusion from what was heard so far.
    pub(super) fn decide(&mut self, now: Instant) -> Option<Turn> {
        self.count_sentinels();
        if let Some(followed) = &mut self.followed {
            let down = self
                .down_since
                .map(|since| now.saturating_duration_since(since));
            followed.lost = down.is_some_and(|down| down >= LOST);
        }
        self.forget_claims(now);
        if let Some(turn) = self.promoted() {
            return Some(self.follow(turn, now));
        }
        let seats = self.seats.values();
        // One that was wiped knows of no others; those configured may still answer. Who will not is not waited for.
        let known = self.known.max(self.seeds);
        let followed = self.followed.as_ref();
        let verdict = vote(seats, known, followed, &self.generation, self.round);
        if verdict != Verdict::Nobody {
            self.unanswered_since = None;
        }
        self.trouble = match verdict {
            Verdict::Wait => self.trouble,
            Verdict::Follow { spot, epoch } => {
                self.trouble = None;
                return self.voted(spot, epoch, now);
            }
            // After a promotion they take a moment to agree.
            Verdict::Keep if self.is_fresh(now) => self.trouble,
            Verdict::Keep => Some(Trouble::Older),
            Verdict::Nobody if !self.is_unanswered(now) => self.trouble,
            Verdict::Nobody => Some(Trouble::Nobody),
            Verdict::Unknown => Some(Trouble::Unknown),
            Verdict::Refused => Some(Trouble::Refused),
            Verdict::Strangers => Some(Trouble::Strangers),
        };
        None
    }

    /// The most that any of them knows of, itself included.
    fn count_sentinels(&mut self) {
        let views = self.seats.values().filter_map(view);
        if let Some(others) = views.map(|view| view.others).max() {
            self.known = usize::try_from(others)
                .unwrap_or(usize::MAX)
                .saturating_add(1);
        }
    }

    /// Whether it is time to say that none of them answers.
    fn is_unanswered(&mut self, now: Instant) -> bool {
        let since = *self.unanswered_since.get_or_insert(now);
        self.followed.is_none() || now.saturating_duration_since(since) >= UNANSWERED
    }

    fn is_fresh(&self, now: Instant) -> bool {
        let age = self.turned.map(|at| now.saturating_duration_since(at));
        age.is_some_and(|age| age < LOST)
    }

    /// What was said in a failover that is over says nothing in the next one.
    fn forget_claims(&mut self, now: Instant) {
        let asked = self.candidates(now);
        self.claims.retain(|spot, _| asked.contains(spot));
        let known = self.replicas(now);
        self.lag.keep(|spot| known.contains_key(spot));
    }

    fn promoted(&self) -> Option<Turn> {
        let lineage = self.lineage.as_deref();
        let (known, down) = (self.known, self.own_link_down);
        let named = self.failover.named().and_then(|spot| {
            let seen = self.claims.get(spot)?;
            let agreed = self.failover.may_serve(known, down, &seen.claim, lineage);
            agreed.then_some(spot)
        });
        let claims = self.claims.iter();
        let claims = claims.map(|(spot, seen)| (spot, &seen.claim, seen.was_replica));
        let spot = named.or_else(|| self.failover.unnamed(known, down, claims, lineage))?;
        Some(Turn {
            spot: spot.clone(),
            // What the Sentinels will say once they agree is later than what they said before.
            epoch: self.followed.as_ref().map_or(0, |at| at.epoch) + 1,
            why: Why::Promotion,
        })
    }

    fn voted(&mut self, spot: Spot, epoch: u64, now: Instant) -> Option<Turn> {
        let is_new = self.followed.as_ref().is_none_or(|at| at.spot != spot);
        let turn = is_new.then(|| {
            let why = match &self.followed {
                None => Why::Found,
                // Sentinels that begin to announce names, or cease to.
                Some(at) if at.epoch == epoch && is_name(&at.spot) != is_name(&spot) => Why::Rename,
                Some(_) => Why::Vote,
            };
            self.follow(Turn { spot, epoch, why }, now)
        });
        if let Some(followed) = &mut self.followed {
            followed.epoch = epoch;
        }
        turn
    }

    fn follow(&mut self, turn: Turn, now: Instant) -> Turn {
        self.heirs = self.replicas(now);
        self.lag.turn();
        self.turned = Some(now);
        self.followed = Some(Followed {
            spot: turn.spot.clone(),
            epoch: turn.epoch,
            lost: false,
        });
        self.failover = Failover::default();
        self.claims.clear();
        self.lineage = None;
        self.own_link_down = false;
        self.down_since = None;
        self.trouble = None;
        turn
    }
}

fn is_name(spot: &Spot) -> bool {
    literal(&spot.host).is_none()
}

fn view(seat: &Seat) -> Option<&View> {
    match &seat.word {
        Word::Says(view) => Some(view),
        _ => None,
    }
}

#[cfg(test)]
mod replay;

#[cfg(test)]
mod tests;
