//! Whom to believe: the Sentinels' answers in, a primary out.
//!
//! Owns [`vote`]. Promises: one Sentinel that is silent, stale or mistaken decides nothing; an older epoch never wins over a living
//! primary, and over a dead one only by the word of more than half of all Sentinels, or of those that lost their state (their epochs
//! start again at 0). A strict majority of those who answer wins, then the higher epoch; the role on the link itself has the last word,
//! elsewhere. Leaves the faster way to [`failover`](super::failover), what was heard to [`belief`](super::belief), who has begun anew to
//! [`generation`](super::generation). Pure. Cannot fail. The tests at the bottom read as the specification.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    generation::Generation,
    wire::{Spot, View},
};

/// One Sentinel's place at the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seat {
    pub(crate) word: Word,
    /// A question is out, and an answer may be hoped for.
    pub(crate) asked: bool,
}

/// What a Sentinel said last.
#[derive(Clone, Debug, Default)]
pub(crate) enum Word {
    /// Nothing, or nothing in time.
    #[default]
    Silent,
    /// It does not take our credentials.
    Refused,
    /// It is no Sentinel.
    Stranger,
    /// It knows no primary of this name.
    Unknown,
    Says(View),
}

/// The primary that is followed.
#[derive(Clone, Debug)]
pub(crate) struct Followed {
    pub(crate) spot: Spot,
    pub(crate) epoch: u64,
    /// Nothing was heard from it for so long that an older epoch may be believed.
    pub(crate) lost: bool,
}

/// What the votes come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Answers that matter are still out.
    Wait,
    /// This one; it may be the one that is followed already.
    Follow { spot: Spot, epoch: u64 },
    /// What is said is not believed against what is followed.
    Keep,
    /// None answers.
    Nobody,
    /// Those who answer know no primary of this name.
    Unknown,
    /// Those who answer refuse our credentials.
    Refused,
    /// Those who answer are no Sentinels.
    Strangers,
}

/// Counts. `known`: how many Sentinels there are, heard or not; `generation`: those whose epochs can be compared with the one that is
/// followed. `turn` breaks ties in turn: the role on the link decides them.
pub(crate) fn vote<'a>(
    seats: impl Iterator<Item = &'a Seat>,
    known: usize,
    followed: Option<&Followed>,
    generation: &Generation,
    turn: usize,
) -> Verdict {
    let mut table = Table::default();
    seats.for_each(|seat| table.add(seat));
    let Some(choice) = table.choose(known, followed, turn) else {
        return if table.waiting > 0 {
            Verdict::Wait
        } else {
            table.nobody()
        };
    };
    let (spot, group) = choice;
    let Some(followed) = followed else {
        return group.follow(spot);
    };
    let agreed = group.votes * 2 > known;
    if group.epoch >= followed.epoch || (*spot == followed.spot && agreed) {
        group.follow(spot)
    } else if *spot == followed.spot {
        // One that is behind, or has begun anew, makes it no older: the next stale one would be believed.
        Verdict::Follow {
            spot: spot.clone(),
            epoch: followed.epoch,
        }
    } else if followed.lost && table.is_believed(group, agreed, generation) {
        group.follow(spot)
    } else {
        Verdict::Keep
    }
}

/// Those who name the same address.
#[derive(Default)]
struct Group {
    votes: usize,
    epoch: u64,
    ids: Vec<Arc<str>>,
}

impl Group {
    fn follow(&self, spot: &Spot) -> Verdict {
        Verdict::Follow {
            spot: spot.clone(),
            epoch: self.epoch,
        }
    }
}

#[derive(Default)]
struct Table<'a> {
    groups: BTreeMap<&'a Spot, Group>,
    answers: usize,
    unknown: usize,
    refused: usize,
    strangers: usize,
    waiting: usize,
}

impl<'a> Table<'a> {
    fn add(&mut self, seat: &'a Seat) {
        self.waiting += usize::from(seat.asked);
        match &seat.word {
            Word::Silent => {}
            Word::Refused => self.refused += 1,
            Word::Stranger => self.strangers += 1,
            Word::Unknown => self.unknown += 1,
            Word::Says(view) => {
                let Some(spot) = &view.primary else { return };
                self.answers += 1;
                let group = self.groups.entry(spot).or_default();
                group.votes += 1;
                group.epoch = group.epoch.max(view.epoch);
                group.ids.extend(view.id.clone());
            }
        }
    }

    fn choose(
        &self,
        known: usize,
        followed: Option<&Followed>,
        turn: usize,
    ) -> Option<(&'a Spot, &Group)> {
        let entry = |(spot, group): (&&'a Spot, _)| (*spot, group);
        let majority_of = |all: usize| {
            let found = self.groups.iter().find(|(_, group)| group.votes * 2 > all);
            found.map(entry)
        };
        // More than half of all there are: who is still out cannot change it.
        if let Some(choice) = majority_of(known.max(self.answers)) {
            return Some(choice);
        }
        if self.waiting > 0 {
            return None;
        }
        if let Some(choice) = majority_of(self.answers) {
            return Some(choice);
        }
        let newest = self.groups.values().map(|group| group.epoch).max()?;
        let tied: Vec<_> = self
            .groups
            .iter()
            .filter(|(_, group)| group.epoch == newest)
            .collect();
        let current = |(spot, _): &&(&&'a Spot, &Group)| {
            followed.is_some_and(|followed| followed.spot == ***spot && !followed.lost)
        };
        let chosen = tied
            .iter()
            .find(current)
            .or_else(|| tied.get(turn % tied.len().max(1)));
        chosen.copied().map(entry)
    }

    /// Whether those are believed who name another primary, of an older epoch, now that the one followed is lost. `agreed`: they are
    /// more than half of all Sentinels.
    fn is_believed(&self, group: &Group, agreed: bool, generation: &Generation) -> bool {
        // Epochs count within one life of the Sentinels. They have begun anew, or nobody is left who says that it was long ago.
        let anew =
            group.ids.len() == group.votes && group.ids.iter().all(|id| generation.is_new(id));
        (agreed && group.votes == self.answers) || (anew && group.votes * 2 > self.answers)
    }

    fn nobody(&self) -> Verdict {
        if self.unknown > 0 {
            Verdict::Unknown
        } else if self.refused > 0 {
            Verdict::Refused
        } else if self.strangers > 0 {
            Verdict::Strangers
        } else {
            Verdict::Nobody
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(port: u16) -> Spot {
        Spot::new("10.0.0.1", port)
    }

    /// Says `port` at `epoch`, as the Sentinel `id`.
    fn says(port: u16, epoch: u64, id: &str) -> Seat {
        Seat {
            word: Word::Says(View {
                primary: Some(spot(port)),
                epoch,
                id: Some(id.into()),
                ..View::default()
            }),
            asked: false,
        }
    }

    /// The same from one that has not said yet who it is.
    fn nameless(port: u16, epoch: u64) -> Seat {
        let mut seat = says(port, epoch, "");
        if let Word::Says(view) = &mut seat.word {
            view.id = None;
        }
        seat
    }

    fn out(mut seat: Seat) -> Seat {
        seat.asked = true;
        seat
    }

    fn silent() -> Seat {
        Seat::default()
    }

    fn word(word: Word) -> Seat {
        Seat { word, asked: false }
    }

    fn follow(port: u16, epoch: u64) -> Verdict {
        Verdict::Follow {
            spot: spot(port),
            epoch,
        }
    }

    fn followed(port: u16, epoch: u64, lost: bool) -> Option<Followed> {
        Some(Followed {
            spot: spot(port),
            epoch,
            lost,
        })
    }

    /// The votes, where "a", "b" and "c" were met before.
    fn vote<'a>(
        seats: impl Iterator<Item = &'a Seat>,
        known: usize,
        current: Option<&Followed>,
        turn: usize,
    ) -> Verdict {
        let mut generation = Generation::default();
        for id in ["a", "b", "c"] {
            generation.meet(&id.into());
        }
        super::vote(seats, known, current, &generation, turn)
    }

    #[test]
    fn a_strict_majority_wins_then_the_higher_epoch() {
        let (old, new) = (1, 2);
        for (seats, current, expected) in [
            // Nothing followed yet.
            (
                vec![says(old, 0, "a"), says(old, 0, "b"), silent()],
                None,
                follow(old, 0),
            ),
            (
                vec![says(old, 0, "a"), silent(), silent()],
                None,
                follow(old, 0),
            ),
            (
                vec![says(old, 9, "a"), says(new, 3, "b"), says(new, 3, "c")],
                None,
                follow(new, 3),
            ),
            // One against one: the higher epoch, never the order.
            (
                vec![says(old, 3, "a"), says(new, 4, "b"), silent()],
                None,
                follow(new, 4),
            ),
            (
                vec![says(new, 4, "b"), says(old, 3, "a"), silent()],
                None,
                follow(new, 4),
            ),
            // The leader is a second ahead of the two others: they decide, and the old one is kept until they come round.
            (
                vec![says(new, 4, "a"), says(old, 3, "b"), says(old, 3, "c")],
                followed(old, 3, false),
                follow(old, 3),
            ),
            (
                vec![says(new, 4, "a"), says(new, 4, "b"), says(old, 3, "c")],
                followed(old, 3, false),
                follow(new, 4),
            ),
            // Only the leader answers.
            (
                vec![says(new, 4, "a"), silent(), silent()],
                followed(old, 3, true),
                follow(new, 4),
            ),
            // The leader and a stale one.
            (
                vec![says(new, 4, "a"), says(old, 3, "b"), silent()],
                followed(old, 3, true),
                follow(new, 4),
            ),
            // A stale one alone does not lead back, whether or not the primary lives.
            (
                vec![says(old, 3, "a"), says(new, 4, "b"), says(new, 4, "c")],
                followed(new, 4, true),
                follow(new, 4),
            ),
            (
                vec![says(old, 3, "a"), silent(), silent()],
                followed(new, 4, false),
                Verdict::Keep,
            ),
            (
                vec![says(old, 3, "a"), silent(), silent()],
                followed(new, 4, true),
                Verdict::Keep,
            ),
        ] {
            assert_eq!(
                vote(seats.iter(), 3, current.as_ref(), 0),
                expected,
                "{seats:?}"
            );
        }
    }

    #[test]
    fn who_is_still_out_is_waited_for_unless_it_cannot_matter() {
        let out_silent = || out(silent());
        for (seats, expected) in [
            (
                vec![says(1, 0, "a"), out_silent(), out_silent()],
                Verdict::Wait,
            ),
            (
                vec![says(1, 0, "a"), says(1, 0, "b"), out_silent()],
                follow(1, 0),
            ),
            (
                vec![says(1, 0, "a"), says(2, 0, "b"), out_silent()],
                Verdict::Wait,
            ),
            (
                vec![out_silent(), out_silent(), out_silent()],
                Verdict::Wait,
            ),
            (vec![silent(), silent(), out_silent()], Verdict::Wait),
            (vec![silent(), silent(), silent()], Verdict::Nobody),
        ] {
            assert_eq!(vote(seats.iter(), 3, None, 0), expected, "{seats:?}");
        }
    }

    #[test]
    fn sentinels_without_their_state_are_believed_once_the_primary_is_lost_and_not_before() {
        let wiped = || vec![says(1, 0, "x"), says(1, 0, "y"), says(1, 0, "z")];
        for (seats, lost, expected) in [
            (wiped(), false, Verdict::Keep),
            (wiped(), true, follow(1, 0)),
            // Two are new, the third still vouches for what is gone.
            (
                vec![says(1, 0, "x"), says(1, 0, "y"), says(2, 4, "c")],
                true,
                follow(1, 0),
            ),
            // Two that once vouched for a newer epoch, and one that still does: they are behind, not new.
            (
                vec![says(1, 0, "a"), says(1, 0, "b"), says(2, 4, "c")],
                true,
                Verdict::Keep,
            ),
            // Only some of them answer yet.
            (
                vec![says(1, 0, "x"), silent(), silent()],
                true,
                follow(1, 0),
            ),
            // One of them says so alone, and one whose name is not known.
            (
                vec![says(1, 0, "x"), nameless(1, 0), silent()],
                true,
                follow(1, 0),
            ),
            (
                vec![nameless(1, 0), silent(), silent()],
                true,
                Verdict::Keep,
            ),
            // All who answer agree, whoever they are, and are more than half of all there are.
            (
                vec![says(1, 0, "a"), says(1, 0, "b"), silent()],
                true,
                follow(1, 0),
            ),
        ] {
            let current = followed(2, 4, lost);
            assert_eq!(
                vote(seats.iter(), 3, current.as_ref(), 0),
                expected,
                "{seats:?} {lost}"
            );
        }
    }

    #[test]
    fn one_that_is_behind_makes_the_primary_no_older() {
        for (seats, expected) in [
            (vec![says(2, 0, "x"), silent(), silent()], follow(2, 4)),
            (vec![says(2, 3, "a"), silent(), silent()], follow(2, 4)),
            (
                vec![says(2, 0, "x"), says(2, 0, "y"), silent()],
                follow(2, 0),
            ),
            (
                vec![says(2, 0, "x"), says(2, 0, "y"), says(2, 4, "c")],
                follow(2, 4),
            ),
            (vec![says(2, 5, "a"), silent(), silent()], follow(2, 5)),
        ] {
            let current = followed(2, 4, false);
            assert_eq!(
                vote(seats.iter(), 3, current.as_ref(), 0),
                expected,
                "{seats:?}"
            );
        }
    }

    #[test]
    fn a_tie_leaves_what_is_followed_and_otherwise_tries_each_in_turn() {
        let seats = [says(1, 5, "a"), says(2, 5, "b")];
        let turn = |turn, current: Option<Followed>| vote(seats.iter(), 2, current.as_ref(), turn);
        assert_eq!(turn(0, None), follow(1, 5));
        assert_eq!(turn(1, None), follow(2, 5));
        assert_eq!(turn(0, followed(2, 5, false)), follow(2, 5));
        assert_eq!(
            turn(0, followed(2, 5, true)),
            follow(1, 5),
            "a lost one has no privilege"
        );
    }

    #[test]
    fn what_is_no_answer_is_told_apart() {
        for (seats, expected) in [
            (vec![], Verdict::Nobody),
            (vec![word(Word::Unknown), silent()], Verdict::Unknown),
            (
                vec![word(Word::Unknown), word(Word::Refused)],
                Verdict::Unknown,
            ),
            (vec![word(Word::Refused), silent()], Verdict::Refused),
            (vec![word(Word::Stranger), silent()], Verdict::Strangers),
            // One that knows it outweighs those that do not: the others may have been reset.
            (
                vec![word(Word::Unknown), word(Word::Unknown), says(1, 0, "a")],
                follow(1, 0),
            ),
        ] {
            assert_eq!(vote(seats.iter(), 3, None, 0), expected, "{seats:?}");
        }
    }

    #[test]
    fn no_order_of_the_seats_changes_the_verdict() {
        let seats = [
            says(1, 3, "a"),
            says(2, 4, "b"),
            silent(),
            word(Word::Unknown),
            says(2, 4, "d"),
        ];
        let first = vote(seats.iter(), 5, None, 0);
        for shift in 0..seats.len() {
            let turned = seats.iter().cycle().skip(shift).take(seats.len());
            assert_eq!(vote(turned, 5, None, 0), first);
            let turned = seats.iter().rev().cycle().skip(shift).take(seats.len());
            assert_eq!(vote(turned, 5, None, 0), first);
        }
    }
}
