//! How a set is to be started, and when it is ready.
//!
//! Owns the options and the order: primary, replicas in step with it, Sentinels, until each knows all. Promises the
//! promotion of a synced replica: `repl-diskless-sync-delay 0`, and no Sentinel before the link is up (every server
//! from 7 on promoted an empty replica otherwise). Leaves faults to [`super::Member`]. Fails with a [`LabError`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::member::Member;
use super::{SentinelSet, said};
use crate::server::is_set;
use crate::{Find, LabError, Proxy, Server};

/// Who is told a name and its address.
#[derive(Clone)]
struct Names(Arc<Tell>);

type Tell = dyn Fn(&str, IpAddr) + Send + Sync;

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Names")
    }
}

/// How to start a [`SentinelSet`].
#[derive(Clone, Debug)]
pub struct Builder {
    find: Find,
    name: String,
    replicas: usize,
    sentinels: usize,
    quorum: usize,
    down_after: Duration,
    failover_timeout: Duration,
    proxied: (bool, bool),
    domain: Option<(String, Names)>,
    node_args: Vec<(String, String)>,
    sentinel_lines: String,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            find: Find::Any,
            name: "orders".to_owned(),
            replicas: 1,
            sentinels: 3,
            quorum: 2,
            down_after: Duration::from_secs(1),
            failover_timeout: Duration::from_secs(5),
            proxied: (true, true),
            domain: None,
            node_args: Vec::new(),
            sentinel_lines: String::new(),
        }
    }
}

impl Builder {
    /// Which binary; any by default.
    #[must_use]
    pub fn kind(mut self, find: Find) -> Self {
        self.find = find;
        self
    }

    /// The primary's name. Default `orders`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Replicas beside the primary. Default 1.
    #[must_use]
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sentinels. Default 3.
    #[must_use]
    pub fn sentinels(mut self, sentinels: usize) -> Self {
        self.sentinels = sentinels;
        self
    }

    /// `failover-timeout`. Default 5 s.
    #[must_use]
    pub fn failover_timeout(mut self, limit: Duration) -> Self {
        self.failover_timeout = limit;
        self
    }

    /// No proxy before the nodes: a killed one refuses.
    #[must_use]
    pub fn bare_nodes(mut self) -> Self {
        self.proxied.0 = false;
        self
    }

    /// No proxy before the Sentinels.
    #[must_use]
    pub fn bare_sentinels(mut self) -> Self {
        self.proxied.1 = false;
        self
    }

    /// Names everything, `redis-0.DOMAIN` and `sentinel-0.DOMAIN`, and lets Sentinels resolve and announce the names.
    /// Before a process starts, `tell` is given its name and address: it should be in the caller's DNS from then on.
    #[must_use]
    pub fn domain(
        mut self,
        domain: impl Into<String>,
        tell: impl Fn(&str, IpAddr) + Send + Sync + 'static,
    ) -> Self {
        self.domain = Some((domain.into(), Names(Arc::new(tell))));
        self
    }

    /// One more option of every node: `("--requirepass", "…")`.
    #[must_use]
    pub fn node_arg(mut self, option: impl Into<String>, value: impl Into<String>) -> Self {
        self.node_args.push((option.into(), value.into()));
        self
    }

    /// One more line of every Sentinel's configuration.
    #[must_use]
    pub fn sentinel_line(mut self, line: impl AsRef<str>) -> Self {
        self.sentinel_lines.push_str(line.as_ref());
        self.sentinel_lines.push('\n');
        self
    }

    /// As [`start`](Self::start); `None` after a loud line where no server can be had.
    ///
    /// # Panics
    /// Where a server is required, or one is there and the set does not come up.
    pub async fn start_or_skip(self) -> Option<SentinelSet> {
        let must = is_set("CI") || is_set("REQUIRE_SERVERS");
        match Server::builder().kind(self.find.clone()).start().await {
            Ok(found) => drop(found),
            Err(error) if must => panic!("a server is required here: {error}"),
            Err(error) => {
                eprintln!("SKIPPED: {error}");
                return None;
            }
        }
        match self.start().await {
            Ok(set) => Some(set),
            Err(error) => panic!("the Sentinel set did not come up: {error}"),
        }
    }

    /// Starts everything and waits until it is settled.
    ///
    /// # Errors
    /// When a process does not start, or the set is not settled within 30 s.
    pub async fn start(self) -> Result<SentinelSet, LabError> {
        let primary = self.node(0, None).await?;
        let mut nodes = vec![Arc::new(primary)];
        for nth in 1..=self.replicas {
            let node = self.node(nth, nodes.first().map(|node| &**node)).await?;
            nodes.push(Arc::new(node));
        }
        self.in_step(&nodes).await?;
        let mut sentinels = Vec::new();
        for nth in 0..self.sentinels {
            let one = self.sentinel(nth, &nodes).await?;
            sentinels.push(Arc::new(one));
        }
        let set = SentinelSet {
            name: self.name.clone(),
            nodes,
            sentinels,
        };
        set.settled(0, self.replicas, SETTLE).await?;
        set.linked(SETTLE).await?;
        Ok(set)
    }

    async fn node(&self, nth: usize, primary: Option<&Member>) -> Result<Member, LabError> {
        let mine = place()?;
        let proxy = front(self.proxied.0, mine).await?;
        // Told even without a proxy: on loopback a replica dials from 127.0.0.1, wherever it listens.
        let seen = proxy.as_ref().map_or(mine, Proxy::addr);
        let host = self.host("redis", nth, seen.ip());
        let announced = host.clone().unwrap_or_else(|| seen.ip().to_string());
        let mut builder = Server::builder()
            .kind(self.find.clone())
            .ip(mine.ip())
            .port(mine.port())
            .arg("--repl-diskless-sync-delay", "0")
            .arg("--repl-diskless-sync", "yes")
            .arg("--replica-announce-ip", announced)
            .arg("--replica-announce-port", seen.port().to_string());
        for (option, value) in &self.node_args {
            builder = builder.arg(option, value);
        }
        if let Some(primary) = primary {
            let (host, port) = where_is(primary);
            builder = builder.replica_of(host, port);
        }
        Ok(Member::new(builder.start().await?, proxy, host, None))
    }

    async fn sentinel(&self, nth: usize, nodes: &[Arc<Member>]) -> Result<Member, LabError> {
        let Some(primary) = nodes.first() else {
            return Err(LabError::new("a set without a primary"));
        };
        let mine = place()?;
        let proxy = front(self.proxied.1, mine).await?;
        let seen = proxy.as_ref().map_or(mine, Proxy::addr);
        let host = self.host("sentinel", nth, seen.ip());
        let announced = host.clone().unwrap_or_else(|| seen.ip().to_string());
        let (at, port) = where_is(primary);
        let Self { name, quorum, .. } = self;
        let (down, limit) = (
            self.down_after.as_millis(),
            self.failover_timeout.as_millis(),
        );
        let mut lines = String::new();
        if self.domain.is_some() {
            lines += "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n";
        }
        lines += &format!(
            "sentinel monitor {name} {at} {port} {quorum}\nsentinel down-after-milliseconds {name} {down}\n\
             sentinel failover-timeout {name} {limit}\nsentinel parallel-syncs {name} 1\n\
             sentinel announce-ip {announced}\nsentinel announce-port {}\n{}",
            seen.port(),
            self.sentinel_lines
        );
        let server = Server::builder()
            .kind(self.find.clone())
            .ip(mine.ip())
            .port(mine.port())
            .sentinel(&lines)
            .start()
            .await?;
        Ok(Member::new(server, proxy, host, Some(lines)))
    }

    /// Waits until the primary counts every replica as online.
    async fn in_step(&self, nodes: &[Arc<Member>]) -> Result<(), LabError> {
        let Some(primary) = nodes.first() else {
            return Ok(());
        };
        let end = Instant::now() + SETTLE;
        let at = primary.server().addr();
        while said::linked_replicas(at, super::ASK).await != Some(self.replicas) {
            if Instant::now() > end {
                let said = |one: &Arc<Member>| {
                    format!("{}:\n{}", one.server().addr(), one.server().last_words())
                };
                let words: Vec<String> = nodes.iter().map(said).collect();
                return Err(LabError::new(format!(
                    "the replicas do not come into step within {SETTLE:?}; the primary and they said last\n{}",
                    words.join("\n")
                )));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn host(&self, kind: &str, nth: usize, at: IpAddr) -> Option<String> {
        let (domain, names) = self.domain.as_ref()?;
        let host = format!("{kind}-{nth}.{domain}");
        names.0(&host, at);
        Some(host)
    }
}

/// A proxy before `upstream`, on an address of its own with the same port: what is announced is an address, and names
/// lead to addresses, not to ports.
async fn front(wanted: bool, upstream: SocketAddr) -> Result<Option<Proxy>, LabError> {
    if !wanted {
        return Ok(None);
    }
    let mut last = None;
    for _ in 0..5 {
        let at = SocketAddr::from((crate::ip(), upstream.port()));
        match Proxy::start_on(at, upstream).await {
            Ok(proxy) => return Ok(Some(proxy)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| LabError::new("no address for a proxy")))
}

fn where_is(member: &Member) -> (String, u16) {
    let addr = member.addr();
    let host = member
        .host()
        .map_or_else(|| addr.ip().to_string(), str::to_owned);
    (host, addr.port())
}

/// An address of its own with a port that is free now.
fn place() -> Result<SocketAddr, LabError> {
    crate::net::free_port(crate::ip()).map_err(|error| LabError::new("no free port").because(error))
}

const SETTLE: Duration = Duration::from_secs(30);
