//! What silence, probes and addresses mean taken together: is it the link, the endpoint, or a busy server?
//!
//! Owns the three decisions of a supervisor: where to probe ([`aim`]), what to do with a connection that was verified ([`adopt`]),
//! and when to refuse calls ([`refuse`]). Promises: a busy server is neither a dead link nor a dead endpoint; a refused probe is a sign
//! of life; only hard evidence or two silences open the circuit. Pure: ages are arguments. Cannot fail.
//! The tests at the bottom read as the specification.

use std::time::Duration;

/// The serving link, as its own clock sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    Fine,
    Suspect,
    Unresponsive,
    /// There is none, or it is dead.
    Gone,
}

/// Where probes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    Nowhere,
    /// To the address of the silent link: is it the link or the endpoint?
    Same,
    /// To every address that is known.
    Everywhere,
}

/// `moved`: the link's address is no longer its name's.
pub(crate) fn aim(sight: Sight, moved: bool) -> Aim {
    match sight {
        Sight::Fine if !moved => Aim::Nowhere,
        Sight::Suspect if !moved => Aim::Same,
        _ => Aim::Everywhere,
    }
}

/// What becomes of a connection that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adopt {
    /// Nothing serves: it does from now on.
    Replace,
    /// The serving link is silent and its endpoint is not: bench the link, swap this one in.
    Swap,
    /// It leads to where calls should go from now on: the old link is drained, and nothing written on it is sent again.
    Move,
    /// It is not needed.
    Discard,
}

/// `same`: the server that answered is the one behind the serving link. `may_swap`: the ration of swaps allows one now.
pub(crate) fn adopt(sight: Sight, same: bool, moved: bool, may_swap: bool) -> Adopt {
    match sight {
        Sight::Gone => Adopt::Replace,
        Sight::Fine if moved => Adopt::Move,
        Sight::Fine => Adopt::Discard,
        Sight::Suspect | Sight::Unresponsive if !same => Adopt::Move,
        Sight::Suspect | Sight::Unresponsive if may_swap => Adopt::Swap,
        Sight::Suspect | Sight::Unresponsive => Adopt::Discard,
    }
}

/// What the probes of this trouble have shown so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// None has been out long enough to mean anything.
    Early,
    /// No answer, though there was time for one.
    Silent,
    /// The server answered that it will not serve now: it is alive.
    Refused,
    /// Refused, unreachable; or hung up, where no link is held: nobody is there.
    Failed,
}

/// Whether new calls are to be refused. `gone_for`: how long there has been no link.
pub(crate) fn refuse(
    sight: Sight,
    probe: Probe,
    gone_for: Duration,
    unresponsive_after: Duration,
) -> bool {
    match (sight, probe) {
        (Sight::Fine, _) => false,
        (Sight::Suspect | Sight::Unresponsive, Probe::Failed) => true,
        (Sight::Suspect, _) => false,
        (Sight::Unresponsive, probe) => probe == Probe::Silent,
        (Sight::Gone, Probe::Failed | Probe::Refused) => true,
        (Sight::Gone, Probe::Early | Probe::Silent) => gone_for >= unresponsive_after,
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_millis(450);

    #[test]
    fn a_silent_link_is_probed_at_its_own_address_and_a_dead_one_everywhere() {
        assert_eq!(aim(Sight::Fine, false), Aim::Nowhere);
        assert_eq!(aim(Sight::Suspect, false), Aim::Same);
        for (sight, moved) in [
            (Sight::Unresponsive, false),
            (Sight::Gone, false),
            (Sight::Fine, true),
            (Sight::Suspect, true),
        ] {
            assert_eq!(aim(sight, moved), Aim::Everywhere, "{sight:?} {moved}");
        }
    }

    #[test]
    fn a_verified_connection_is_used_only_where_it_is_needed() {
        for (sight, same, moved, may_swap, expected) in [
            (Sight::Gone, true, false, false, Adopt::Replace),
            (Sight::Gone, false, false, false, Adopt::Replace),
            (Sight::Fine, true, false, true, Adopt::Discard),
            (Sight::Fine, true, true, false, Adopt::Move),
            (Sight::Fine, false, true, false, Adopt::Move),
            (Sight::Suspect, true, false, true, Adopt::Swap),
            (Sight::Suspect, true, false, false, Adopt::Discard),
            (Sight::Suspect, false, false, true, Adopt::Move),
            (Sight::Unresponsive, true, false, true, Adopt::Swap),
            (Sight::Unresponsive, false, true, false, Adopt::Move),
        ] {
            assert_eq!(
                adopt(sight, same, moved, may_swap),
                expected,
                "{sight:?} same={same} moved={moved} may_swap={may_swap}"
            );
        }
    }

    #[test]
    fn calls_are_refused_on_hard_evidence_or_two_silences_and_never_while_the_server_shows_life() {
        let zero = Duration::ZERO;
        for (sight, probe, gone_for, expected) in [
            (Sight::Fine, Probe::Failed, zero, false),
            (Sight::Suspect, Probe::Silent, zero, false),
            (Sight::Suspect, Probe::Refused, zero, false),
            (Sight::Suspect, Probe::Failed, zero, true),
            (Sight::Unresponsive, Probe::Early, zero, false),
            (Sight::Unresponsive, Probe::Silent, zero, true),
            (Sight::Unresponsive, Probe::Refused, zero, false),
            (Sight::Unresponsive, Probe::Failed, zero, true),
            (Sight::Gone, Probe::Early, zero, false),
            (Sight::Gone, Probe::Early, AFTER, true),
            (Sight::Gone, Probe::Silent, zero, false),
            (Sight::Gone, Probe::Failed, zero, true),
            (Sight::Gone, Probe::Refused, zero, true),
        ] {
            assert_eq!(
                refuse(sight, probe, gone_for, AFTER),
                expected,
                "{sight:?} {probe:?} {gone_for:?}"
            );
        }
    }
}
