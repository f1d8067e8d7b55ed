//! The faster way: a replica that was promoted is recognised before the Sentinels have agreed on it.
//!
//! Owns [`Failover`], what is known of the failover of one primary. The Sentinel that leads it names the replica before it promotes it;
//! the others hear of the promotion most of a second later. Promises: a candidate is served from only when four witnesses agree: a
//! Sentinel named it, and has not given up; a majority of all known Sentinels hold the old primary down; our own link to that is dead
//! or demoted; the candidate itself says it is a primary, with a replication id that comes from the old one's. In a failover that
//! somebody has ordered nobody is down: there the word of the Sentinel that leads it stands for the second and third, for what is
//! still written to the old primary is lost.
//! Where the Sentinel that leads is silent to us nobody names the candidate: then every replica is asked, and that we saw it turn from
//! a replica into a primary in this failover, alone of all of them, stands for the first. A leader that was heard to give up is not guessed after.
//! Leaves asking to [`candidate`](super::candidate). Pure: time is an argument. Cannot fail.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::wire::{Event, Spot, View};

/// A name that was not confirmed for so long is forgotten: three times what a failover takes at Sentinel's defaults.
const NAMED_FOR: Duration = Duration::from_secs(180);

/// The number by which a Sentinel is known here.
pub(crate) type PeerId = u32;

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) is_primary: bool,
    /// The replication id its data had before it was one.
    pub(crate) parent: Option<String>,
    /// How it stands to the data of the primary.
    pub(crate) data: Data,
}

/// What a server says of its data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Data {
    /// Its replication id.
    pub(crate) lineage: Option<String>,
    /// How much of it there is.
    pub(crate) offset: Option<u64>,
    /// It hears its primary, or has not for so long; nothing where it never did.
    pub(crate) deaf_for: Option<Duration>,
    /// It is taking over a whole set of data.
    pub(crate) syncing: bool,
}

impl Claim {
    /// Whether it is a primary whose data come from the server of `lineage`, as far as that is known.
    fn descends_from(&self, lineage: Option<&str>) -> bool {
        self.is_primary && lineage.is_some() && self.parent.as_deref() == lineage
    }
}

/// What is known of the failover of the followed primary.
#[derive(Debug, Default)]
pub(crate) struct Failover {
    held: BTreeMap<PeerId, Held>,
    named: Option<Named>,
    /// A leader has named a replica and given up since: what became of that one nobody knows.
    abandoned: bool,
}

/// What one Sentinel holds of the old primary.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    down: bool,
    /// How many others it says hold it down too, itself included.
    agreed: u32,
    /// It leads a failover that somebody has ordered.
    ordered: bool,
}

#[derive(Debug)]
struct Named {
    spot: Spot,
    by: PeerId,
    at: Instant,
}

impl Failover {
    pub(crate) fn on_event(&mut self, peer: PeerId, event: &Event, now: Instant) {
        let held = self.held.entry(peer).or_default();
        match event {
            Event::Down(down) => {
                held.down = *down;
                if !down {
                    held.agreed = 0;
                }
            }
            Event::AgreedDown { down, votes } => {
                held.down |= *down;
                held.agreed = if *down { *votes } else { 0 };
            }
            Event::Named(spot) | Event::Promoted(spot) => self.name(peer, spot, now),
            Event::Aborted => self.unname(peer),
            Event::Elected | Event::Switched | Event::Stir | Event::Census => {}
        }
    }

    pub(crate) fn on_view(&mut self, peer: PeerId, view: &View, now: Instant) {
        let agreed = if view.o_down { view.quorum } else { 0 };
        let held = self.held.entry(peer).or_default();
        held.down = view.s_down || view.o_down;
        held.ordered = view.ordered;
        // An event told the exact number, the view only the least.
        held.agreed = if view.o_down {
            held.agreed.max(agreed)
        } else {
            0
        };
        if let Some(spot) = &view.promoting {
            self.name(peer, spot, now);
        }
    }

    /// A Sentinel that is not heard any more holds nothing down; whom it named stays named, for it may have died as leader.
    pub(crate) fn on_silence(&mut self, peer: PeerId) {
        self.held.remove(&peer);
    }

    fn name(&mut self, by: PeerId, spot: &Spot, at: Instant) {
        self.named = Some(Named {
            spot: spot.clone(),
            by,
            at,
        });
        self.abandoned = false;
    }

    fn unname(&mut self, peer: PeerId) {
        let named = self.named.take_if(|named| named.by == peer);
        self.abandoned |= named.is_some();
    }

    /// Whether it is worth asking replicas that nobody has named.
    pub(crate) fn is_unled(&self) -> bool {
        self.named.is_none() && !self.abandoned && self.is_doubted()
    }

    /// Whom to ask for its role.
    pub(crate) fn candidate(&mut self, now: Instant) -> Option<Spot> {
        self.named
            .take_if(|named| now.saturating_duration_since(named.at) > NAMED_FOR);
        self.named.as_ref().map(|named| named.spot.clone())
    }

    /// Who was named last.
    pub(crate) fn named(&self) -> Option<&Spot> {
        self.named.as_ref().map(|named| &named.spot)
    }

    /// Whether any Sentinel holds the primary down.
    pub(crate) fn is_doubted(&self) -> bool {
        self.held.values().any(|held| held.down)
    }

    /// Whether a majority of `known` Sentinels hold the primary down, by their own word or by that of one who counted them.
    pub(crate) fn is_held_down(&self, known: usize) -> bool {
        let majority = known / 2 + 1;
        let down = self.held.values().filter(|held| held.down);
        let counted = self.held.values().map(|held| held.agreed).max();
        let counted = counted.and_then(|counted| usize::try_from(counted).ok());
        down.count().max(counted.unwrap_or_default()) >= majority
    }

    /// Whether the four witnesses agree. `own_link_down`: ours to the old primary is dead or demoted. `lineage`: the old primary's
    /// replication id.
    pub(crate) fn may_serve(
        &self,
        known: usize,
        own_link_down: bool,
        claim: &Claim,
        lineage: Option<&str>,
    ) -> bool {
        let fallen = self.is_held_down(known) && own_link_down;
        self.named.is_some() && (fallen || self.is_ordered()) && claim.descends_from(lineage)
    }

    /// The one that may be served from although nobody named it: of all `claims`, each with whether its server was a replica before in
    /// this failover, exactly one says that it is a primary by now.
    pub(crate) fn unnamed<'a>(
        &self,
        known: usize,
        own_link_down: bool,
        claims: impl Iterator<Item = (&'a Spot, &'a Claim, bool)>,
        lineage: Option<&str>,
    ) -> Option<&'a Spot> {
        if !(self.is_unled() && own_link_down && self.is_held_down(known)) {
            return None;
        }
        let mut primaries = claims.filter(|(_, claim, _)| claim.is_primary);
        let (spot, claim, turned) = primaries.next()?;
        let alone = primaries.next().is_none();
        (alone && turned && claim.descends_from(lineage)).then_some(spot)
    }

    /// Whether the Sentinel that named the candidate was told to fail over.
    fn is_ordered(&self) -> bool {
        let by = self
            .named
            .as_ref()
            .and_then(|named| self.held.get(&named.by));
        by.is_some_and(|held| held.ordered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINEAGE: &str = "0123456789abcdef";

    fn spot(port: u16) -> Spot {
        Spot::new("10.0.0.1", port)
    }

    fn claim() -> Claim {
        Claim {
            is_primary: true,
            parent: Some(LINEAGE.to_owned()),
            data: Data::default(),
        }
    }

    /// A real failover as three Sentinels told it; the second one leads.
    fn led(now: Instant) -> Failover {
        let mut failover = Failover::default();
        for peer in 0..3 {
            failover.on_event(peer, &Event::Down(true), now);
        }
        let agreed = Event::AgreedDown {
            down: true,
            votes: 2,
        };
        failover.on_event(1, &agreed, now);
        failover.on_event(1, &Event::Elected, now);
        failover.on_event(1, &Event::Named(spot(2)), now);
        failover
    }

    #[tokio::test(start_paused = true)]
    async fn four_witnesses_and_not_one_less() {
        let now = Instant::now();
        let mut failover = led(now);
        assert_eq!(failover.candidate(now), Some(spot(2)));
        let serve = |failover: &Failover, link, claim: &Claim, lineage| {
            failover.may_serve(3, link, claim, lineage)
        };
        assert!(serve(&failover, true, &claim(), Some(LINEAGE)));
        // Our own link still works.
        assert!(!serve(&failover, false, &claim(), Some(LINEAGE)));
        // It is still a replica.
        let replica = Claim {
            is_primary: false,
            ..claim()
        };
        assert!(!serve(&failover, true, &replica, Some(LINEAGE)));
        // Somebody else's data, or nobody knows whose.
        for (parent, lineage) in [
            (Some("another"), Some(LINEAGE)),
            (None, Some(LINEAGE)),
            (Some(LINEAGE), None),
            (None, None),
        ] {
            let claim = Claim {
                is_primary: true,
                parent: parent.map(str::to_owned),
                data: Data::default(),
            };
            assert!(
                !serve(&failover, true, &claim, lineage),
                "{parent:?} {lineage:?}"
            );
        }
        // Nobody named it.
        let mut unnamed = led(now);
        unnamed.on_event(1, &Event::Aborted, now);
        assert!(!serve(&unnamed, true, &claim(), Some(LINEAGE)));
        // Not enough of them hold the old one down.
        for peer in [0, 2] {
            failover.on_event(peer, &Event::Down(false), now);
        }
        failover.on_event(
            1,
            &Event::AgreedDown {
                down: false,
                votes: 0,
            },
            now,
        );
        assert!(!serve(&failover, true, &claim(), Some(LINEAGE)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_majority_may_be_counted_by_one_who_asked_the_others() {
        let now = Instant::now();
        let mut failover = Failover::default();
        failover.on_event(0, &Event::Down(true), now);
        assert!(!failover.is_held_down(3), "one of three");
        let agreed = |votes| Event::AgreedDown { down: true, votes };
        failover.on_event(0, &agreed(2), now);
        assert!(failover.is_held_down(3), "it has asked another");
        assert!(!failover.is_held_down(5), "two of five");
        // By polling alone: o_down means at least the quorum.
        let mut polled = Failover::default();
        let view = View {
            s_down: true,
            o_down: true,
            quorum: 2,
            promoting: Some(spot(2)),
            ..View::default()
        };
        polled.on_view(0, &view, now);
        assert!(polled.is_held_down(3) && polled.may_serve(3, true, &claim(), Some(LINEAGE)));
        polled.on_view(
            0,
            &View {
                o_down: false,
                ..view
            },
            now,
        );
        assert!(!polled.is_held_down(3));
    }

    #[tokio::test(start_paused = true)]
    async fn in_an_ordered_failover_the_leaders_word_and_the_candidates_own_are_enough() {
        let now = Instant::now();
        let mut failover = Failover::default();
        let ordered = View {
            ordered: true,
            ..View::default()
        };
        failover.on_view(0, &ordered, now);
        failover.on_event(1, &Event::Named(spot(2)), now);
        let serve = |failover: &Failover, claim: &Claim, lineage| {
            failover.may_serve(3, false, claim, lineage)
        };
        assert!(
            !serve(&failover, &claim(), Some(LINEAGE)),
            "another one leads"
        );
        failover.on_event(0, &Event::Named(spot(2)), now);
        assert!(serve(&failover, &claim(), Some(LINEAGE)));
        assert!(!serve(&failover, &claim(), Some("another")));
        let replica = Claim {
            is_primary: false,
            ..claim()
        };
        assert!(!serve(&failover, &replica, Some(LINEAGE)));
        failover.on_view(0, &View::default(), now);
        assert!(!serve(&failover, &claim(), Some(LINEAGE)), "it is over");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_gives_up_takes_its_word_back_and_nobody_elses() {
        let now = Instant::now();
        let mut failover = led(now);
        failover.on_event(0, &Event::Aborted, now);
        assert_eq!(failover.candidate(now), Some(spot(2)), "not its own");
        failover.on_event(0, &Event::Named(spot(3)), now);
        assert_eq!(
            failover.candidate(now),
            Some(spot(3)),
            "the last word counts"
        );
        failover.on_event(0, &Event::Aborted, now);
        assert_eq!(failover.candidate(now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_dies_is_silent_but_its_word_stands_for_a_while() {
        let now = Instant::now();
        let mut failover = led(now);
        failover.on_silence(1);
        assert!(failover.is_held_down(3), "the two others suffice");
        assert!(failover.may_serve(3, true, &claim(), Some(LINEAGE)));
        failover.on_silence(0);
        assert!(!failover.is_held_down(3));
        assert_eq!(failover.candidate(now + NAMED_FOR), Some(spot(2)));
        assert_eq!(
            failover.candidate(now + NAMED_FOR + Duration::from_millis(1)),
            None
        );
    }
}
