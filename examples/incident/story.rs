//! Which incident is told, and in which words; or which single fault of `benches/faults.rs`.
//!
//! Owns the words that differ from one scenario to the other. Promises that whatever is said of a run, on the terminal,
//! on the page or in the result, says the same. Pure. Next: [`super::timeline`], which plays it.

/// What happens, and how it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Story {
    pub scenario: Scenario,
    pub fault: Fault,
    pub ending: Ending,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Everything moves, the old range is a black hole, DNS fails.
    Incident,
    /// Open connections fall silent for good; new ones are served.
    DeadLink,
    /// Nothing passes, nobody is refused.
    BlackHole,
    /// The server accepts, and answers nothing.
    Frozen,
    /// The server is gone: open connections are reset, new ones refused.
    Down,
    /// The primary is a black hole for good; Sentinels promote a replica.
    Failover,
}

/// What moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Three Redis and three Sentinels, each with its probe.
    Sentinel,
    /// One Redis behind a name.
    Move,
}

/// What ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// DNS learns the new addresses.
    Healed,
    /// The old range comes back.
    RolledBack,
}

impl Story {
    /// For `result.json`: a contract, as the fields there are.
    pub fn id(self) -> &'static str {
        if self.fault != Fault::Incident {
            return self.fault.lead();
        }
        match (self.scenario, self.ending) {
            (Scenario::Sentinel, Ending::Healed) => {
                "all pods move, old range black-holed, DNS fails, Sentinels freeze and restart, then heals"
            }
            (Scenario::Sentinel, Ending::RolledBack) => {
                "all pods move, old range black-holed, DNS fails, Sentinels freeze and restart, then is rolled back"
            }
            (Scenario::Move, Ending::Healed) => {
                "pod moves, old range black-holed, DNS fails, then heals"
            }
            (Scenario::Move, Ending::RolledBack) => {
                "pod moves, old range black-holed, DNS fails, then is rolled back"
            }
        }
    }

    pub fn title(self) -> &'static str {
        if self.fault != Fault::Incident {
            return self.fault.title();
        }
        match self.scenario {
            Scenario::Sentinel => "Redis and its Sentinels move, and DNS fails",
            Scenario::Move => "A Redis moves, and DNS fails",
        }
    }

    /// The first paragraph of the page, up to who went through it.
    pub fn lead(self) -> &'static str {
        if self.fault != Fault::Incident {
            return self.fault.lead();
        }
        match self.scenario {
            Scenario::Sentinel => {
                "Three Redis and three Sentinel pods were cycled onto a new address range. The old range became a black \
                 hole and DNS did not know the new one; Sentinels hung in their lookups, their probes killed them, and \
                 the next ones hung too"
            }
            Scenario::Move => {
                "A Redis pod moved to a new address range. The old range became a black hole, and DNS did not know the \
                 new one"
            }
        }
    }

    pub fn onset(self) -> &'static str {
        if self.fault != Fault::Incident {
            return self.fault.lead();
        }
        match self.scenario {
            Scenario::Sentinel => {
                "every pod moves to a new range, the old one is a black hole, the DNS server is silent, Sentinels hang"
            }
            Scenario::Move => {
                "the pod moves to a new range, the old one is a black hole, the DNS server is silent"
            }
        }
    }

    pub fn end(self) -> &'static str {
        if self.fault != Fault::Incident {
            return self.fault.end();
        }
        match (self.ending, self.scenario) {
            (Ending::Healed, Scenario::Sentinel) => {
                "the DNS server tells the new addresses, and Sentinels start that find their primary"
            }
            (Ending::Healed, Scenario::Move) => "the DNS server tells the new address",
            (Ending::RolledBack, _) => "rolled back: the old range is there again, DNS tells it",
        }
    }

    /// After "back 0.4 s".
    pub fn after(self) -> &'static str {
        match (self.fault, self.ending) {
            (Fault::Incident, Ending::Healed) => "after DNS healed",
            (Fault::Incident, Ending::RolledBack) => "after the rollback",
            (Fault::DeadLink, _) => "after its onset",
            (Fault::Failover, _) => "after the promotion",
            _ => "after its end",
        }
    }
}

impl Fault {
    fn title(self) -> &'static str {
        match self {
            Self::Incident => "An incident",
            Self::DeadLink => "A dead link",
            Self::BlackHole => "A black hole",
            Self::Frozen => "A frozen server",
            Self::Down => "A server that is gone",
            Self::Failover => "A failover",
        }
    }

    fn lead(self) -> &'static str {
        match self {
            Self::Incident => "Everything moved",
            Self::DeadLink => "Open connections fell silent for good, new ones were served",
            Self::BlackHole => "Nothing passed, and nobody was refused",
            Self::Frozen => "The server accepted, and answered nothing",
            Self::Down => "Open connections were reset, new ones refused",
            Self::Failover => "The primary became a black hole, and Sentinels promoted a replica",
        }
    }

    fn end(self) -> &'static str {
        match self {
            Self::Incident => "it is over",
            Self::DeadLink => "Redis was served over new connections all the time",
            Self::BlackHole | Self::Frozen | Self::Down => "it is over: everything passes",
            Self::Failover => "a replica has been promoted",
        }
    }
}
