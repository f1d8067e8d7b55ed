//! Who serves, and where: a [`Map`] that changes while the world does.
//!
//! Owns the trait [`Topology`] and what it tells. Promises: the current map is always there without waiting; addresses that once
//! worked are never forgotten because a name server is down. Leaves dialling to `channel`, lookups to [`dns`](crate::net::dns).

pub(crate) mod fixed;
pub(crate) mod named;
pub(crate) mod sentinel;

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    Error,
    net::{address::Address, dns::Lookups},
};

/// What is known of the servers at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Map {
    /// The server that takes writes.
    pub(crate) primary: Node,
    /// Grows with each change of the map.
    pub(crate) epoch: u64,
    /// Grows with each change of the *server* that is meant: from then on no byte goes to the one before. Always 0 where only
    /// addresses are known.
    pub(crate) term: u64,
    /// The last term that began because the server before it was deposed. Those after it began with a name: what they mean may be the
    /// server that was meant before.
    pub(crate) deposed: u64,
    /// Somebody holds the primary down: a link to it should look for itself.
    pub(crate) doubted: bool,
    /// The servers that may be read from instead of it.
    pub(crate) replicas: Arc<[Replica]>,
}

/// A server that has the primary's data, or had them a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replica {
    /// A name or an IP literal, an IPv6 literal without brackets.
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

/// One server, and the addresses it may be dialled at.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Addresses to dial now, in order of preference. Empty only while none was ever known.
    pub(crate) addresses: Arc<[Address]>,
    /// How many of them, at the end, are dialled only after the others: the newest answer does not name them.
    pub(crate) former: usize,
    /// Addresses whose links must be replaced and drained: they left the name (absent from two positive answers), and the name
    /// does not rotate, or has not named them for long.
    pub(crate) gone: Arc<[Address]>,
    /// Why `addresses` is empty or out of date: the last failed lookup, if the last lookup failed.
    pub(crate) trouble: Option<Error>,
}

impl Node {
    /// A server of which nothing is known yet.
    pub(crate) fn unknown() -> Self {
        Self {
            addresses: [].into(),
            former: 0,
            gone: [].into(),
            trouble: None,
        }
    }
}

/// Whether the links made from a map work: a topology looks harder while one is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// All is well: refresh at leisure.
    Calm,
    /// A link is silent, down or cannot be made: look again now, and then twice a second until it is calm.
    Urgent,
}

/// What a supervisor knows, by its own link, of the primary of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Witness {
    /// The term of that map.
    pub(crate) term: u64,
    pub(crate) link: LinkWord,
    /// The replication id of its data, where it was told.
    pub(crate) lineage: Option<Arc<str>>,
}

/// How a supervisor's link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkWord {
    /// It serves, silent for a moment at most.
    Works,
    /// It is dead or silent, or there is none.
    Down,
    /// Its server says that it is no primary.
    Demoted,
}

/// How Sentinels have fared, since they are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) answered: u64,
    pub(crate) unknown: u64,
    pub(crate) silent: u64,
    pub(crate) refused: u64,
    /// Another primary was followed: by vote, or before that because four witnesses agreed.
    pub(crate) voted: u64,
    pub(crate) promoted: u64,
    /// Those that answer now.
    pub(crate) reachable: usize,
}

/// A source of maps.
pub(crate) trait Topology: Send + Sync + 'static {
    /// The current map, and word of each change.
    fn map(&self) -> watch::Receiver<Arc<Map>>;
    /// Says how badly a fresh map is needed. Cheap; may be repeated.
    fn need(&self, need: Need);
    /// Says how the link to the primary is. Cheap; may be repeated.
    fn witness(&self, _: Witness) {}
    /// Says that calls read from replicas: from then on it is looked how far they lag behind. Cheap; may be repeated.
    fn read_replicas(&self) {}
    /// Whether it may end before its client does, because another client's runtime keeps it.
    fn is_shared(&self) -> bool {
        false
    }
    /// How the Sentinels behind it have fared, where there are some.
    fn tally(&self) -> Option<Tally> {
        None
    }
    /// How the lookups behind it have fared; nothing where there are none.
    fn lookups(&self) -> Lookups {
        Lookups::default()
    }
}
