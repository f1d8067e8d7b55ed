//! The closed sets that labels come from.
//!
//! Owns one small enum per set. Promises: a set is a list in the source, so that no run of any program can add a series to it.
//! Leaves counting to [`metrics`](super::metrics). Cannot fail.

use super::names;
use crate::ErrorKind;

/// A closed set of label values.
pub(crate) trait Label: Copy {
    /// The label's name.
    const KEY: &'static str;
    /// The values, in the order of [`index`](Self::index).
    const TEXT: &'static [&'static str];

    /// The place of this value in [`TEXT`](Self::TEXT).
    fn index(self) -> usize;

    fn as_str(self) -> &'static str {
        Self::TEXT.get(self.index()).copied().unwrap_or("other")
    }

    /// Name and value of each label of the value at `index`.
    fn pairs(index: usize) -> Vec<(&'static str, &'static str)> {
        let text = Self::TEXT.get(index).copied().unwrap_or("other");
        vec![(Self::KEY, text)]
    }
}

/// How a call or a dial ended: `None` is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome(pub(crate) Option<ErrorKind>);

impl Label for Outcome {
    const KEY: &'static str = names::OUTCOME;
    const TEXT: &'static [&'static str] = &[
        "ok",
        "timeout",
        "circuit_open",
        "overloaded",
        "connection_lost",
        "dns",
        "no_primary",
        "no_replica",
        "role_mismatch",
        "auth",
        "tls",
        "protocol",
        "refused",
        "redis",
    ];

    fn index(self) -> usize {
        match self.0 {
            None => 0,
            Some(ErrorKind::Timeout) => 1,
            Some(ErrorKind::CircuitOpen) => 2,
            Some(ErrorKind::Overloaded) => 3,
            Some(ErrorKind::ConnectionLost) => 4,
            Some(ErrorKind::Dns) => 5,
            Some(ErrorKind::NoPrimary) => 6,
            Some(ErrorKind::NoReplica) => 7,
            Some(ErrorKind::RoleMismatch) => 8,
            Some(ErrorKind::Auth) => 9,
            Some(ErrorKind::Tls) => 10,
            Some(ErrorKind::Protocol) => 11,
            Some(ErrorKind::Refused) => 12,
            Some(ErrorKind::Redis) => 13,
        }
    }
}

/// Why the breaker changed its state, and to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    /// Open: the endpoint owes replies and is silent, and so is the probe.
    Unresponsive,
    /// Open: hard evidence, a reset, refused or unreachable endpoint.
    Dead,
    /// Open: too many failures of distinct links or dials in a row.
    Consecutive,
    /// Open: too many failed calls within the window.
    Window,
    /// Closed: a probe verified the endpoint.
    Verified,
    /// Open: somebody said so.
    Forced,
    /// Closed: somebody said so.
    Released,
}

impl Transition {
    /// Whether the circuit is open now.
    pub(crate) fn is_open(self) -> bool {
        !matches!(self, Self::Verified | Self::Released)
    }

    /// The new state's name.
    pub(crate) fn to(self) -> &'static str {
        if self.is_open() { "open" } else { "closed" }
    }

    const ALL: [Self; 7] = [
        Self::Unresponsive,
        Self::Dead,
        Self::Consecutive,
        Self::Window,
        Self::Verified,
        Self::Forced,
        Self::Released,
    ];
}

impl Label for Transition {
    const KEY: &'static str = names::REASON;
    const TEXT: &'static [&'static str] = &[
        "unresponsive",
        "dead",
        "consecutive",
        "window",
        "verified",
        "forced",
        "released",
    ];

    fn index(self) -> usize {
        self as usize
    }

    fn pairs(index: usize) -> Vec<(&'static str, &'static str)> {
        let to = Self::ALL.get(index).map_or("open", |at| at.to());
        let text = Self::TEXT.get(index).copied().unwrap_or("other");
        vec![(names::TO, to), (Self::KEY, text)]
    }
}

/// What a link is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// Takes new calls.
    Active,
    /// Takes new calls, and owes replies for longer than it should.
    Suspect,
    /// Replaced; waits for what it owes.
    Benched,
    /// Left on purpose (a move, a shutdown); waits for what it owes.
    Draining,
}

impl Label for LinkState {
    const KEY: &'static str = names::STATE;
    const TEXT: &'static [&'static str] = &["active", "suspect", "benched", "draining"];

    fn index(self) -> usize {
        self as usize
    }
}

/// Why a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkEnd {
    /// The peer closed it.
    Closed,
    /// The kernel reported it dead: reset, unreachable, timed out.
    Io,
    /// Silent for `detect_within` while it owed replies.
    Silent,
    /// The peer broke the protocol.
    Protocol,
    /// It was benched and then ended.
    Benched,
    /// It was drained: a move, a shutdown.
    Drained,
}

impl Label for LinkEnd {
    const KEY: &'static str = names::REASON;
    const TEXT: &'static [&'static str] =
        &["closed", "io", "silent", "protocol", "benched", "drained"];

    fn index(self) -> usize {
        self as usize
    }
}

/// What a probe came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeOutcome {
    /// Served, by the same server.
    Served,
    /// Served, by another server.
    Moved,
    /// Alive, and refuses to serve (`LOADING`, `BUSY`, too many clients).
    Refused,
    /// No word in time.
    Silent,
    /// Hard evidence: reset, refused, unreachable.
    Failed,
}

impl Label for ProbeOutcome {
    const KEY: &'static str = names::OUTCOME;
    const TEXT: &'static [&'static str] = &["served", "moved", "refused", "silent", "failed"];

    fn index(self) -> usize {
        self as usize
    }
}

/// What became of a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FenceOutcome {
    /// The server killed the old connection, or says that it is gone.
    Raised,
    /// Not permitted here.
    Refused,
    /// No answer.
    Failed,
}

impl Label for FenceOutcome {
    const KEY: &'static str = names::OUTCOME;
    const TEXT: &'static [&'static str] = &["raised", "refused", "failed"];

    fn index(self) -> usize {
        self as usize
    }
}

/// Which requests were sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplayKind {
    /// They change nothing.
    Read,
    /// No byte of them had left.
    NotSent,
    /// Run twice they leave what they leave run once, and a fence stands before them.
    Overwrite,
}

impl Label for ReplayKind {
    const KEY: &'static str = names::KIND;
    const TEXT: &'static [&'static str] = &["read", "not_sent", "overwrite"];

    fn index(self) -> usize {
        self as usize
    }
}

/// What a lookup came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Addresses.
    Positive,
    /// No such name, or no address.
    Negative,
    /// No word, or a server that failed.
    Transient,
}

impl Label for Lookup {
    const KEY: &'static str = names::RESULT;
    const TEXT: &'static [&'static str] = &["positive", "negative", "transient"];

    fn index(self) -> usize {
        self as usize
    }
}

/// What a question to a Sentinel came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// It named a primary.
    Answered,
    /// It knows none of this name.
    Unknown,
    /// No answer in time, or no connection.
    Silent,
    /// It does not take our credentials, or is no Sentinel.
    Refused,
}

impl Label for Answers {
    const KEY: &'static str = names::RESULT;
    const TEXT: &'static [&'static str] = &["answered", "unknown", "silent", "refused"];

    fn index(self) -> usize {
        self as usize
    }
}

/// Why another primary was followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PrimaryChange {
    /// The Sentinels agreed on it.
    Vote,
    /// It was promoted, and four witnesses agreed before the Sentinels did.
    Promotion,
}

impl Label for PrimaryChange {
    const KEY: &'static str = names::REASON;
    const TEXT: &'static [&'static str] = &["vote", "promotion"];

    fn index(self) -> usize {
        self as usize
    }
}

/// For counters without a label of their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain;

impl Label for Plain {
    const KEY: &'static str = "";
    const TEXT: &'static [&'static str] = &[""];

    fn index(self) -> usize {
        0
    }

    fn pairs(_: usize) -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_reads_as_its_kind() {
        assert_eq!(Outcome(None).as_str(), "ok");
        for kind in [
            ErrorKind::Timeout,
            ErrorKind::CircuitOpen,
            ErrorKind::Overloaded,
            ErrorKind::ConnectionLost,
            ErrorKind::Dns,
            ErrorKind::NoPrimary,
            ErrorKind::NoReplica,
            ErrorKind::RoleMismatch,
            ErrorKind::Auth,
            ErrorKind::Tls,
            ErrorKind::Protocol,
            ErrorKind::Refused,
            ErrorKind::Redis,
        ] {
            assert_eq!(Outcome(Some(kind)).as_str(), kind.as_str());
        }
    }

    #[test]
    fn each_value_has_its_word() {
        fn last<L: Label>(label: L) {
            assert_eq!(label.index() + 1, L::TEXT.len(), "{}", label.as_str());
        }
        last(Outcome(Some(ErrorKind::Redis)));
        last(Transition::Released);
        last(LinkState::Draining);
        last(LinkEnd::Drained);
        last(ProbeOutcome::Failed);
        last(FenceOutcome::Failed);
        last(ReplayKind::Overwrite);
        last(Lookup::Transient);
        last(Answers::Refused);
        last(PrimaryChange::Promotion);
        for (index, at) in Transition::ALL.into_iter().enumerate() {
            assert_eq!(at.index(), index);
        }
        assert_eq!(
            Transition::pairs(Transition::Window.index()),
            [("to", "open"), ("reason", "window")]
        );
    }
}
