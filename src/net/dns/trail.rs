//! Where on its search list a name was found, and how far a walk down the list has come.
//!
//! Owns [`Trails`], one [`Trail`] per list of candidates. Promises: a name that was found is not looked for further down, so a
//! name server that fails cannot hand us to whoever answers to a longer name; it may be found further up, where it would have been
//! found first; one that does not exist any more where it was found, by all answers of ten minutes, is looked for everywhere again; a walk
//! that was cut short is taken up where it ended. A list that changes, as when resolv.conf does, is another
//! list, and what was known of the old one is still there if it comes back.
//! Leaves asking to [`hickory`](super::hickory). Pure: time is an argument. Bounded; cannot fail.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hickory_proto::rr::Name;
use tokio::time::Instant;

use super::{Answer, Resolution};

/// The trails walked last.
#[derive(Default)]
pub(super) struct Trails(Mutex<Vec<Arc<Trail>>>);

pub(super) struct Trail {
    candidates: Vec<Name>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The place of the candidate that has addresses.
    home: Option<usize>,
    /// Since when it has been said that there is none there, without a break.
    bare_since: Option<Instant>,
    looked_above: Option<Instant>,
    /// Places where there is none, as heard in a walk that has not come to its end.
    none: HashMap<usize, (Instant, Resolution)>,
}

impl Trails {
    pub(super) fn of(&self, candidates: Vec<Name>) -> Arc<Trail> {
        let mut trails = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = trails.iter().position(|it| it.candidates == candidates);
        let trail = known.map_or_else(|| Trail::new(candidates), |place| trails.remove(place));
        trails.push(trail.clone());
        if trails.len() > MOST_TRAILS {
            trails.remove(0);
        }
        trail
    }
}

impl Trail {
    fn new(candidates: Vec<Name>) -> Arc<Self> {
        Arc::new(Self {
            candidates,
            known: Mutex::default(),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The candidate that was found, if one was.
    pub(super) fn home(&self) -> Option<&Name> {
        self.candidates.get(self.known().home?)
    }

    /// The candidates to walk, each with its place: all, or those above the one that was found.
    pub(super) fn above(&self) -> impl Iterator<Item = (usize, &Name)> {
        let end = self.known().home.unwrap_or(self.candidates.len());
        self.candidates.iter().enumerate().take(end)
    }

    /// Whether to look above a name that answers: seldom. Saying yes counts as having looked, so that of several lookups under way
    /// one is held up, if a server is silent there.
    pub(super) fn looks_above(&self, now: Instant) -> bool {
        let mut known = self.known();
        let due = !is_recent(known.looked_above, now);
        if due {
            known.looked_above = Some(now);
        }
        due
    }

    /// There are addresses at `place`. No, if another lookup has found some further up meanwhile: those are the right ones.
    pub(super) fn found(&self, place: usize) -> bool {
        let mut known = self.known();
        let first = known.home.is_none_or(|home| place <= home);
        if first {
            known.home = Some(place);
            known.bare_since = None;
            known.none.clear();
        }
        first
    }

    /// What came from where the name was found. Who says for long that it is there no more is believed: it may have moved down the list.
    pub(super) fn heard_at_home(&self, answer: &Resolution, now: Instant) {
        let mut known = self.known();
        if !is_none(answer) {
            known.bare_since = None;
        } else if now.saturating_duration_since(*known.bare_since.get_or_insert(now)) >= BARE {
            (known.home, known.bare_since) = (None, None);
        }
    }

    /// An answer came from `place`; kept if it says that there is no address.
    pub(super) fn heard(&self, place: usize, answer: &Resolution, now: Instant) {
        if is_none(answer) {
            self.known().none.insert(place, (now, answer.clone()));
        }
    }

    /// What was heard at `place` lately, in a walk that was cut short.
    pub(super) fn none(&self, place: usize, now: Instant) -> Option<Resolution> {
        let known = self.known();
        let (at, answer) = known.none.get(&place)?;
        is_recent(Some(*at), now).then(|| answer.clone())
    }

    /// A walk came to its end: the next one asks everybody.
    pub(super) fn ended(&self) {
        self.known().none.clear();
    }
}

/// Whether it says of both families that there is no address.
fn is_none(answer: &Resolution) -> bool {
    let is_none = |answer: &Answer| matches!(answer, Answer::Negative { .. });
    is_none(&answer.v4) && is_none(&answer.v6)
}

fn is_recent(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| now.saturating_duration_since(at) < RECENT)
}

/// Time for a few lookups to come to the end of a list, at the pace of failures.
const RECENT: Duration = Duration::from_secs(30);

/// Longer than a name server that fails is wrong in this way, as far as one can wait: below there may be a stranger.
const BARE: Duration = Duration::from_secs(600);

/// More names than a client follows.
const MOST_TRAILS: usize = 256;

#[cfg(test)]
mod tests {
    use super::super::NoAddress;
    use super::*;

    fn list(name: &str) -> Vec<Name> {
        ["a.test.", "b.test.", "c.test."]
            .map(|domain| Name::from_ascii(format!("{name}.{domain}")).unwrap())
            .to_vec()
    }

    fn places(trail: &Trail) -> Vec<usize> {
        trail.above().map(|(place, _)| place).collect()
    }

    fn none() -> Resolution {
        Resolution::negative(NoAddress::NxDomain, Duration::ZERO)
    }

    #[test]
    fn what_was_found_is_never_looked_for_further_down_and_may_be_found_further_up() {
        let trail = Trail::new(list("redis"));
        assert_eq!((trail.home(), places(&trail)), (None, vec![0, 1, 2]));
        assert!(trail.found(1));
        assert_eq!(trail.home(), list("redis").get(1));
        assert_eq!(places(&trail), [0]);
        assert!(!trail.found(2), "by a walk that began before");
        assert_eq!(trail.home(), list("redis").get(1));
        assert!(trail.found(0));
        assert_eq!(trail.home(), list("redis").first());
        assert_eq!(places(&trail), [0; 0]);
    }

    #[test]
    fn who_is_not_at_home_for_ten_minutes_on_end_is_looked_for_everywhere() {
        let (trail, start) = (Trail::new(list("redis")), Instant::now());
        assert!(trail.found(0));
        let silence = Resolution::transient("silence");
        let second = Duration::from_secs(1);
        trail.heard_at_home(&none(), start);
        trail.heard_at_home(&none(), start + BARE - second);
        trail.heard_at_home(&silence, start + BARE);
        trail.heard_at_home(&none(), start + BARE + second);
        trail.heard_at_home(&none(), start + BARE * 2);
        assert_eq!(trail.home(), list("redis").first());
        trail.heard_at_home(&none(), start + BARE * 2 + second);
        assert_eq!((trail.home(), places(&trail)), (None, vec![0, 1, 2]));
    }

    #[test]
    fn while_a_name_answers_one_lookup_in_a_while_looks_above() {
        let (trail, start) = (Trail::new(list("redis")), Instant::now());
        for (millis, looks) in [(0, true), (1, false), (29_999, false), (30_000, true)] {
            let now = start + Duration::from_millis(millis);
            assert_eq!(trail.looks_above(now), looks, "{millis}");
        }
    }

    #[test]
    fn a_walk_cut_short_is_remembered_for_a_while_and_one_that_ended_is_not() {
        let (trail, start) = (Trail::new(list("redis")), Instant::now());
        trail.heard(0, &none(), start);
        trail.heard(1, &Resolution::transient("silence"), start);
        assert_eq!(trail.none(0, start), Some(none()));
        assert_eq!(trail.none(1, start), None, "nobody said so");
        assert_eq!(trail.none(0, start + RECENT), None);
        trail.ended();
        assert_eq!(trail.none(0, start), None);
    }

    #[test]
    fn a_list_is_known_again_whatever_was_asked_in_between_and_the_oldest_of_many_is_forgotten() {
        let trails = Trails::default();
        let first = trails.of(list("redis"));
        let _ = trails.of(list("other"));
        assert!(Arc::ptr_eq(&first, &trails.of(list("redis"))));
        let mut longer = list("redis");
        longer.insert(0, Name::root());
        assert!(trails.of(longer).home().is_none(), "another search list");
        assert!(Arc::ptr_eq(&first, &trails.of(list("redis"))));
        for number in 0..MOST_TRAILS {
            let _ = trails.of(list(&number.to_string()));
        }
        assert!(!Arc::ptr_eq(&first, &trails.of(list("redis"))));
        assert_eq!(trails.0.lock().unwrap().len(), MOST_TRAILS);
    }
}
