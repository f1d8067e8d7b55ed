//! A real cluster: three primaries, each behind a proxy of its own.
//!
//! Owns the nodes, the slots that each was given, and their meeting. Promises that every node calls the cluster whole,
//! and names every node by its proxy, before `start` returns: a client that follows the cluster's own map meets the
//! faults of the proxies. The nodes talk to each other past them, so a fault there is the client's alone. Leaves faults
//! to [`crate::proxy`] and processes to [`crate::server`]. Fails with a [`LabError`]. No replicas.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::net::free_port;
use crate::server::or_skip;
use crate::{LabError, Mode, Proxy, Server};

/// Three primaries that share all slots; ends with this handle.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
}

/// One primary, and the proxy by which the cluster names it.
#[derive(Debug)]
pub struct Node {
    server: Server,
    proxy: Proxy,
    slots: RangeInclusive<u16>,
}

impl Cluster {
    /// Starts three nodes, makes them meet, and waits until each calls the cluster whole.
    ///
    /// # Errors
    /// When there is no server, or the nodes do not agree within twenty seconds.
    pub async fn start() -> Result<Self, LabError> {
        let mut nodes = Vec::with_capacity(NODES);
        for number in 0..NODES {
            nodes.push(Node::start(number).await?);
        }
        let cluster = Self { nodes };
        let (first, others) = cluster.ends()?;
        let (ip, port) = (
            first.ip().to_string(),
            first.proxy.addr().port().to_string(),
        );
        for node in others {
            let bus = first.bus().to_string();
            node.told(&["CLUSTER", "MEET", &ip, &port, &bus]).await?;
        }
        cluster.until_whole().await?;
        Ok(cluster)
    }

    /// As [`start`](Self::start); `None` after a loud line where no server can be had.
    ///
    /// # Panics
    /// Where `CI` or `REQUIRE_SERVERS` is set.
    pub async fn start_or_skip() -> Option<Self> {
        or_skip(Self::start().await)
    }

    /// All of them, in the order of their slots.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// `redis://…` of each node's proxy: what a client is given to start with.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.proxy.url()).collect()
    }

    /// The node that was given the slot of `key`.
    pub fn node_of(&self, key: &str) -> Option<&Node> {
        let slot = slot(key.as_bytes());
        self.nodes.iter().find(|node| node.slots.contains(&slot))
    }

    /// Waits until every node has all slots served and knows every node by its proxy.
    ///
    /// # Errors
    /// After twenty seconds, with what the last node said.
    pub async fn until_whole(&self) -> Result<(), LabError> {
        let end = Instant::now() + FORM_LIMIT;
        loop {
            let Some(doubt) = self.doubt().await else {
                return Ok(());
            };
            if Instant::now() > end {
                return Err(LabError::new(format!("the cluster is not whole: {doubt}")));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What is missing, in the words of the first node that misses it.
    async fn doubt(&self) -> Option<String> {
        for node in &self.nodes {
            let info = match node.server.tell(&["CLUSTER", "INFO"]).await {
                Ok(info) => info,
                Err(error) => return Some(error.to_string()),
            };
            let is_whole = ["cluster_state:ok", "cluster_slots_ok:16384"]
                .iter()
                .all(|line| info.contains(line));
            if !is_whole {
                return Some(info);
            }
            let known = node.server.tell(&["CLUSTER", "NODES"]).await;
            let known = known.unwrap_or_default();
            let names = self.nodes.iter().map(|node| node.proxy.addr());
            if !names
                .into_iter()
                .all(|name| known.contains(&format!("{name}@")))
            {
                return Some(known);
            }
        }
        None
    }

    fn ends(&self) -> Result<(&Node, &[Node]), LabError> {
        let ends = self.nodes.split_first();
        ends.ok_or_else(|| LabError::new("a cluster has nodes"))
    }
}

impl Node {
    async fn start(number: usize) -> Result<Self, LabError> {
        let mut begun = Self::begin().await;
        // Its ports were free a moment ago; someone else may have one by now, its own proxy among them.
        for _ in 0..4 {
            if begun.is_err() {
                begun = Self::begin().await;
            }
        }
        let (server, proxy) = begun?;
        let node = Self {
            server,
            proxy,
            slots: share(number),
        };
        // Each an epoch of its own: of two with the same one, one would have to give way first.
        let epoch = (number + 1).to_string();
        node.told(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await?;
        // One by one: Redis 6 knows no ranges here.
        let slots: Vec<String> = node.slots.clone().map(|slot| slot.to_string()).collect();
        let mut words = vec!["CLUSTER", "ADDSLOTS"];
        words.extend(slots.iter().map(String::as_str));
        node.told(&words).await?;
        Ok(node)
    }

    /// A node without slots, behind its proxy.
    async fn begin() -> Result<(Server, Proxy), LabError> {
        let addr = addr_of_node()?;
        // Before the server: it announces itself at its proxy.
        let proxy = Proxy::start_on(addr.ip(), addr).await?;
        let server = Server::builder()
            .ip(addr.ip())
            .port(addr.port())
            .arg("--cluster-enabled", "yes")
            .arg("--cluster-config-file", "nodes.conf")
            .arg("--cluster-node-timeout", "2000")
            // So that the others go on when one has gone.
            .arg("--cluster-require-full-coverage", "no")
            .arg("--cluster-announce-ip", addr.ip().to_string())
            .arg("--cluster-announce-port", proxy.addr().port().to_string())
            .arg(
                "--cluster-announce-bus-port",
                (addr.port() + BUS).to_string(),
            );
        Ok((server.start().await?, proxy))
    }

    /// The process behind the proxy.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Where clients reach it, and what the cluster calls it by.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// The slots that it was given.
    pub fn slots(&self) -> RangeInclusive<u16> {
        self.slots.clone()
    }

    /// A tag that puts whatever key it is a part of on this node: `{tag}`, the `nth` of as many as one likes.
    pub fn tag(&self, nth: usize) -> String {
        let tags = (0_u32..).map(|n| n.to_string());
        let mut own = tags.filter(|tag| self.slots.contains(&slot(tag.as_bytes())));
        own.nth(nth).unwrap_or_default()
    }

    /// Breaks the way to it, for clients alone.
    pub fn set(&self, mode: Mode) {
        self.proxy.set(mode);
    }

    fn ip(&self) -> IpAddr {
        self.server.ip()
    }

    fn bus(&self) -> u16 {
        self.server.port() + BUS
    }

    async fn told(&self, words: &[&str]) -> Result<(), LabError> {
        let reply = self.server.tell(words).await?;
        if reply == "+OK" {
            return Ok(());
        }
        let what = words.iter().take(2).copied().collect::<Vec<_>>().join(" ");
        Err(LabError::new(format!("{what}: {reply}")))
    }
}

/// The slot of a key, or of the tag in braces within it.
pub fn slot(key: &[u8]) -> u16 {
    let open = key.iter().position(|byte| *byte == b'{');
    let tag = open.and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|byte| *byte == b'}')?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    // CRC-16/XMODEM, bit by bit: a laboratory has the time.
    let crc = tag.unwrap_or(key).iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            let next = crc << 1;
            if crc & 0x8000 == 0 {
                next
            } else {
                next ^ 0x1021
            }
        })
    });
    crc % SLOTS
}

/// A free address whose bus, so many ports above, is a port too.
fn addr_of_node() -> Result<SocketAddr, LabError> {
    let ip = crate::ip();
    let unbound = |error: std::io::Error| LabError::new(format!("cannot bind {ip}")).because(error);
    loop {
        let addr = free_port(ip).map_err(unbound)?;
        if addr.port() <= u16::MAX - BUS {
            return Ok(addr);
        }
    }
}

/// An even part of all slots.
fn share(number: usize) -> RangeInclusive<u16> {
    let bound = |number: usize| number * usize::from(SLOTS) / NODES;
    let slot = |slot: usize| u16::try_from(slot).unwrap_or(SLOTS);
    slot(bound(number))..=slot(bound(number + 1) - 1)
}

const NODES: usize = 3;
const SLOTS: u16 = 16_384;
/// How far the nodes' own port is above that for clients, unless one says otherwise.
const BUS: u16 = 10_000;
/// A node that starts waits two seconds before it calls a cluster whole; meeting takes one or two more.
const FORM_LIMIT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_given_once_and_a_tag_counts_for_its_key() {
        let given: Vec<u16> = (0..NODES).flat_map(share).collect();
        assert_eq!(given, (0..SLOTS).collect::<Vec<_>>());
        // From the cluster specification.
        assert_eq!(slot(b"123456789"), 0x31c3 % SLOTS);
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"));
        assert_ne!(slot(b"foo{}{bar}"), slot(b"bar"));
    }
}
