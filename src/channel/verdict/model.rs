//! The verdict over everything it can be asked, and over random troubles from their beginning to their end.
//!
//! Owns what must hold between [`aim`], [`adopt`] and [`refuse`], which their tables cannot show: each of them alone may be right, and the
//! three together still dial for nothing, or refuse calls while a server shows life. [`Ration`] is tried here as well: it has the last
//! word on a swap.

use std::time::Duration;

use proptest::{collection::vec, prelude::*, sample::select};
use tokio::time::Instant;

use super::{Adopt, Aim, Probe, Sight, adopt, aim, refuse};
use crate::{channel::patience::Ration, models::try_all};

const SIGHTS: [Sight; 4] = [
    Sight::Fine,
    Sight::Suspect,
    Sight::Unresponsive,
    Sight::Gone,
];
const PROBES: [Probe; 4] = [Probe::Early, Probe::Silent, Probe::Refused, Probe::Failed];

fn duration() -> impl Strategy<Value = Duration> {
    (0..120_000_u64).prop_map(Duration::from_millis)
}

#[test]
fn what_is_dialled_may_be_wanted_and_what_is_wanted_is_dialled() {
    let any_sight = (select(&SIGHTS[..]), any::<bool>());
    try_all(200, any_sight, |(sight, moved)| {
        let answers = [(true, true), (true, false), (false, true), (false, false)];
        let wanted = answers.map(|(same, may_swap)| adopt(sight, same, moved, may_swap));
        let is_wanted = wanted.iter().any(|adopt| *adopt != Adopt::Discard);
        assert_eq!(aim(sight, moved) != Aim::Nowhere, is_wanted, "{wanted:?}");
    });
}

#[test]
fn a_link_that_serves_is_left_alone_and_one_that_is_gone_is_always_replaced() {
    let case = (select(&SIGHTS[..]), any::<[bool; 3]>());
    try_all(400, case, |(sight, [same, moved, may_swap])| {
        let verdict = adopt(sight, same, moved, may_swap);
        match sight {
            Sight::Fine if !moved => assert_eq!(verdict, Adopt::Discard),
            Sight::Gone => assert_eq!(verdict, Adopt::Replace),
            // Nothing is replaced that still holds calls; those are moved or swapped, each with its own rules for what was written.
            _ => assert_ne!(verdict, Adopt::Replace),
        }
        // What was written is sent again after a swap alone: so never to another server, never unrationed, never from a link that speaks.
        if verdict == Adopt::Swap {
            assert!(same && may_swap && sight != Sight::Fine);
        }
        // An answer from another server means that calls belong there, ration or not.
        if !same && matches!(sight, Sight::Suspect | Sight::Unresponsive) {
            assert_eq!(verdict, Adopt::Move);
        }
    });
}

#[test]
fn only_hard_evidence_or_two_silences_refuse_and_time_only_adds_to_it() {
    let case = (
        select(&SIGHTS[..]),
        select(&PROBES[..]),
        duration(),
        duration(),
        duration(),
    );
    try_all(2_000, case, |(sight, probe, gone_for, more, after)| {
        let refused = refuse(sight, probe, gone_for, after);
        if refused {
            let hard = probe == Probe::Failed;
            let silent_both = sight == Sight::Unresponsive && probe == Probe::Silent;
            let refusing = sight == Sight::Gone && probe == Probe::Refused;
            let long_gone = sight == Sight::Gone && gone_for >= after;
            assert_ne!(sight, Sight::Fine, "a link that speaks serves");
            assert!(hard || silent_both || refusing || long_gone);
            assert!(
                refuse(sight, probe, gone_for + more, after),
                "it does not get better with time"
            );
        }
        if probe == Probe::Refused && sight != Sight::Gone {
            assert!(!refused, "a server that answers is alive");
        }
        if sight == Sight::Gone && gone_for >= after {
            assert!(refused, "nobody waits longer than that for a link");
        }
    });
}

/// One look of a supervisor at a trouble.
#[derive(Clone, Debug)]
struct Look {
    after: Duration,
    sight: Sight,
    same: bool,
    moved: bool,
}

#[test]
fn however_links_fail_swaps_are_a_second_apart_and_become_rare_while_they_bring_nothing() {
    let gap = prop_oneof![4 => 1..100_u64, 1 => 100..5_000_u64, 1 => 5_000..200_000_u64];
    let look = (gap, select(&SIGHTS[..]), any::<bool>(), any::<bool>()).prop_map(
        |(millis, sight, same, moved)| Look {
            after: Duration::from_millis(millis),
            sight,
            same,
            moved,
        },
    );
    try_all(400, vec(look, 1..300), |looks| {
        let mut now = Instant::now();
        let mut ration = Ration::new();
        let mut swaps: Vec<Instant> = Vec::new();
        for look in looks {
            now += look.after;
            let may_swap = ration.allows(now);
            if adopt(look.sight, look.same, look.moved, may_swap) == Adopt::Swap {
                ration.on_swap(now);
                swaps.push(now);
            } else if look.same && matches!(look.sight, Sight::Suspect | Sight::Unresponsive) {
                let last = *swaps.last().expect("the first swap is free");
                assert!(
                    now - last < Duration::from_secs(30),
                    "never held back for longer than 30 s"
                );
            }
        }
        let gaps: Vec<_> = swaps.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(
            gaps.iter().all(|gap| *gap >= Duration::from_secs(1)),
            "{gaps:?}"
        );
        // One soon after another doubles what the next must wait for.
        let mut least = Duration::from_secs(1);
        for gap in gaps {
            assert!(gap >= least, "{gap:?} after one of at least {least:?}");
            least = if gap < least * 4 {
                (least * 2).min(Duration::from_secs(30))
            } else {
                Duration::from_secs(1)
            };
        }
    });
}
