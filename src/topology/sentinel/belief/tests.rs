//! What is believed, as a specification: what is heard, and what follows from it.

use super::*;
use crate::topology::sentinel::{
    failover::Data,
    wire::{Event, Listed, Other},
};

fn spot(port: u16) -> Spot {
    Spot::new("10.0.0.1", port)
}

fn says(port: u16, epoch: u64) -> Word {
    Word::Says(View {
        primary: Some(spot(port)),
        epoch,
        others: 2,
        id: Some(format!("at {epoch}").into()),
        ..View::default()
    })
}

/// Three Sentinels that have named port 1.
fn found(now: Instant) -> Belief {
    let mut belief = Belief::new(3, true);
    for peer in 0..3 {
        belief.meet(peer, true);
        belief.on_word(peer, says(1, 3), now);
    }
    let turn = belief.decide(now).expect("found");
    assert_eq!((turn.spot, turn.why), (spot(1), Why::Found));
    belief
}

fn testimony(down: bool) -> Testimony {
    Testimony {
        works: !down,
        down,
        ..Testimony::default()
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_said_after_a_second_and_takes_nothing_away() {
    let now = Instant::now();
    let mut belief = found(now);
    for peer in 0..3 {
        belief.on_word(peer, Word::Silent, now);
    }
    assert_eq!(belief.decide(now), None);
    assert_eq!(belief.trouble(), None, "a hiccup is not worth a word");
    let later = now + UNANSWERED;
    assert_eq!(belief.decide(later), None);
    assert_eq!(belief.trouble(), Some(Trouble::Nobody));
    assert_eq!(belief.followed().map(|at| at.spot.clone()), Some(spot(1)));
    belief.on_word(1, says(1, 3), later);
    assert_eq!((belief.decide(later), belief.trouble()), (None, None));
}

#[tokio::test(start_paused = true)]
async fn who_never_answered_is_named_at_once() {
    let now = Instant::now();
    let mut belief = Belief::new(2, true);
    belief.meet(0, true);
    belief.meet(1, true);
    belief.on_word(0, Word::Silent, now);
    belief.decide(now);
    assert_eq!(belief.trouble(), None, "the other may still answer");
    belief.on_word(1, Word::Silent, now);
    belief.decide(now);
    assert_eq!(belief.trouble(), Some(Trouble::Nobody));
}

#[tokio::test(start_paused = true)]
async fn one_that_knows_of_no_others_decides_nothing_while_they_may_answer() {
    let now = Instant::now();
    let started = |peers| {
        let mut belief = Belief::new(3, true);
        (0..peers).for_each(|peer| belief.meet(peer, true));
        let Word::Says(view) = says(1, 0) else {
            return belief;
        };
        let alone = Word::Says(View { others: 0, ..view });
        belief.on_word(0, alone, now);
        belief
    };
    let mut belief = started(3);
    assert_eq!(belief.decide(now), None);
    belief.on_word(1, says(2, 4), now);
    assert_eq!(belief.decide(now), None);
    belief.on_word(2, says(2, 4), now);
    assert_eq!(belief.decide(now).map(|turn| turn.spot), Some(spot(2)));
    // Two that were named may be gone for ever.
    let mut belief = started(3);
    belief.on_word(1, Word::Silent, now);
    assert_eq!(belief.decide(now), None);
    belief.on_word(2, Word::Silent, now);
    assert_eq!(belief.decide(now).map(|turn| turn.spot), Some(spot(1)));
}

#[tokio::test(start_paused = true)]
async fn a_dead_primary_is_left_for_an_older_epoch_only_after_a_while() {
    let now = Instant::now();
    let mut belief = found(now);
    for peer in 0..3 {
        belief.on_word(peer, says(2, 0), now);
    }
    belief.on_testimony(&testimony(false), now);
    assert_eq!((belief.decide(now), belief.trouble()), (None, None));
    let now = now + LOST;
    assert_eq!(belief.decide(now), None);
    assert_eq!(belief.trouble(), Some(Trouble::Older));
    belief.on_testimony(&testimony(true), now);
    assert_eq!(belief.decide(now + LOST - Duration::from_millis(1)), None);
    let turn = belief.decide(now + LOST).expect("believed");
    assert_eq!((turn.spot, turn.epoch, turn.why), (spot(2), 0, Why::Vote));
}

#[tokio::test(start_paused = true)]
async fn another_name_at_the_same_epoch_is_no_failover() {
    let now = Instant::now();
    let named = Spot::new("redis-0", 1);
    for (to, epoch, expected) in [
        (&named, 3, Why::Rename),
        (&named, 4, Why::Vote),
        (&spot(2), 3, Why::Vote),
    ] {
        let mut belief = found(now);
        for peer in 0..3 {
            let Word::Says(view) = says(2, epoch) else {
                unreachable!("it says something");
            };
            let primary = Some(to.clone());
            belief.on_word(peer, Word::Says(View { primary, ..view }), now);
        }
        let turn = belief.decide(now).expect("followed");
        assert_eq!((&turn.spot, turn.why), (to, expected));
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_behind_leads_back_to_nobody_and_one_that_has_begun_anew_does() {
    let now = Instant::now();
    let mut belief = Belief::new(3, true);
    (0..3).for_each(|peer| belief.meet(peer, true));
    let named = |word: Word, id: &str, others: &[&str]| match word {
        Word::Says(view) => Word::Says(View {
            id: Some(id.into()),
            sentinels: Some(others.iter().map(|id| other(id)).collect()),
            ..view
        }),
        other => other,
    };
    // The first is cut off from the others, which know it.
    belief.on_word(0, Word::Silent, now);
    belief.on_word(1, named(says(2, 5), "b", &["a", "c"]), now);
    belief.on_word(2, named(says(2, 5), "c", &["a", "b"]), now);
    let turn = belief.decide(now).expect("found");
    assert_eq!((turn.spot, turn.why), (spot(2), Why::Found));
    // It is back, and they are away, with the primary.
    belief.on_testimony(&testimony(true), now);
    belief.on_word(1, Word::Silent, now);
    belief.on_word(2, Word::Silent, now);
    let now = now + LOST * 10;
    belief.on_word(0, named(says(1, 3), "a", &["b", "c"]), now);
    assert_eq!(belief.decide(now), None);
    assert_eq!(belief.trouble(), Some(Trouble::Older));
    belief.on_word(0, named(says(1, 0), "x", &[]), now);
    let turn = belief.decide(now).expect("believed");
    assert_eq!((turn.spot, turn.epoch, turn.why), (spot(1), 0, Why::Vote));
}

fn other(id: &str) -> Other {
    Other {
        spot: spot(9),
        id: id.into(),
        down: false,
    }
}

fn listed(port: u16) -> Listed {
    let (spot, well) = (spot(port), true);
    Listed { spot, well }
}

/// What `port` says of itself: its role, and whose data it has.
fn claim(belief: &mut Belief, port: u16, is_primary: bool, parent: &str) {
    let parent = Some(parent.to_owned());
    let data = Data::default();
    let claim = Claim {
        is_primary,
        parent,
        data,
    };
    belief.on_claim(&spot(port), claim, Instant::now());
}

/// A failover whose leader nobody hears: two of three hold port 1 down, and so do we. Ports 2 and 3 have said that they are replicas.
fn unled(now: Instant, early: bool) -> Belief {
    let mut belief = Belief::new(3, early);
    for peer in 0..3 {
        belief.meet(peer, true);
        let Word::Says(view) = says(1, 3) else {
            return belief;
        };
        let replicas = Some([1, 2, 3].map(listed).to_vec());
        belief.on_word(peer, Word::Says(View { replicas, ..view }), now);
    }
    belief.decide(now).expect("found");
    let works = Testimony {
        lineage: Some("ours".to_owned()),
        ..testimony(false)
    };
    belief.on_testimony(&works, now);
    belief.on_word(0, Word::Silent, now);
    for peer in [1, 2] {
        let down = Told {
            of: Some(spot(1)),
            event: Event::Down(true),
        };
        belief.on_told(peer, &down, now);
    }
    assert!(belief.candidates(now).is_empty(), "our own link works");
    belief.on_testimony(&testimony(true), now);
    if early {
        assert_eq!(belief.candidates(now), [spot(2), spot(3)]);
        claim(&mut belief, 2, false, "");
        claim(&mut belief, 3, false, "");
    }
    assert_eq!(belief.decide(now), None);
    belief
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_turned_primary_is_followed_though_its_leader_is_silent() {
    let now = Instant::now();
    let mut belief = unled(now, true);
    claim(&mut belief, 2, true, "ours");
    let turn = belief.decide(now).expect("promoted");
    assert_eq!((turn.spot, turn.why), (spot(2), Why::Promotion));
    assert!(belief.candidates(now).is_empty(), "it is over");
}

#[tokio::test(start_paused = true)]
async fn replicas_are_read_while_half_of_the_sentinels_call_them_well() {
    let now = Instant::now();
    let mut belief = unled(now, true);
    let may = |belief: &Belief| belief.replicas(now).into_iter().collect::<Vec<_>>();
    assert_eq!(may(&belief), [(spot(2), false), (spot(3), false)], "deaf");
    belief.lag.turn();
    assert_eq!(may(&belief), [(spot(2), true), (spot(3), true)]);
    for peer in [1, 2] {
        let Word::Says(view) = says(1, 3) else { return };
        let mut rows = [1, 2, 3].map(listed).to_vec();
        rows[2].well = false;
        let view = View {
            replicas: Some(rows),
            s_down: true,
            ..view
        };
        belief.on_word(peer, Word::Says(view), now);
    }
    assert_eq!(may(&belief), [(spot(2), true), (spot(3), false)]);
    claim(&mut belief, 2, false, "");
    claim(&mut belief, 2, true, "ours");
    assert_eq!(belief.decide(now).map(|turn| turn.spot), Some(spot(2)));
    // Known before the Sentinels tell them anew.
    assert_eq!(may(&belief), [(spot(3), false)], "one is the primary now");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_guessed_on_less_than_all_four() {
    let now = Instant::now();
    let event = |event| Told {
        of: Some(spot(1)),
        event,
    };
    type Change = fn(&mut Belief, Instant, &dyn Fn(Event) -> Told);
    let changes: [(&str, Change); 7] = [
        ("other data", |belief, _, _| {
            claim(belief, 2, true, "theirs")
        }),
        ("two of them", |belief, _, _| {
            claim(belief, 2, true, "ours");
            claim(belief, 3, true, "ours");
        }),
        ("never seen as a replica", |belief, now, _| {
            belief.claims.clear();
            claim(belief, 2, true, "ours");
            belief.decide(now);
            claim(belief, 2, true, "ours");
        }),
        ("not a majority", |belief, now, event| {
            belief.on_told(2, &event(Event::Down(false)), now);
            claim(belief, 2, true, "ours");
        }),
        ("our link works", |belief, now, _| {
            belief.on_testimony(&testimony(false), now);
            claim(belief, 2, true, "ours");
        }),
        ("a leader was heard to give up", |belief, now, event| {
            belief.on_told(1, &event(Event::Named(spot(2))), now);
            belief.on_told(1, &event(Event::Aborted), now);
            claim(belief, 2, true, "ours");
        }),
        ("another one was named", |belief, now, event| {
            belief.on_told(1, &event(Event::Named(spot(3))), now);
            claim(belief, 2, true, "ours");
        }),
    ];
    for (what, change) in changes {
        let mut belief = unled(now, true);
        change(&mut belief, now, &event);
        assert_eq!(belief.decide(now), None, "{what}");
    }
    let mut slow = unled(now, false);
    assert!(slow.candidates(now).is_empty(), "it was switched off");
    claim(&mut slow, 2, true, "ours");
    assert_eq!(slow.decide(now), None);
}

#[tokio::test(start_paused = true)]
async fn what_was_said_in_one_failover_says_nothing_in_the_next() {
    let now = Instant::now();
    let mut belief = unled(now, true);
    belief.on_testimony(&testimony(false), now);
    belief.decide(now);
    belief.on_testimony(&testimony(true), now);
    claim(&mut belief, 2, true, "ours");
    assert_eq!(belief.decide(now), None, "it has to be seen turning");
}

#[tokio::test(start_paused = true)]
async fn news_of_a_former_primary_are_none_of_the_present_one() {
    let now = Instant::now();
    let mut belief = found(now);
    let down = |of: u16| Told {
        of: Some(spot(of)),
        event: Event::Down(true),
    };
    belief.on_told(0, &down(7), now);
    assert!(!belief.is_doubted());
    belief.on_told(0, &down(1), now);
    assert!(belief.is_doubted());
}
