//! The scene: one Redis, two address ranges before it, and the DNS that tells which one is right.
//!
//! Owns the server, the proxies and the name server. Promises that every contender meets the same fault at the same
//! moment, without root: all of it is loopback. Leaves time to [`super::timeline`]. Fails with a [`LabError`].

use std::net::{Ipv4Addr, SocketAddr};

use holdfast_lab::{Answer, Dns, Embedded, LabError, Mode, Proxy, Server, Servers, net};

use crate::options::Choice;

/// Everything outside the clients.
pub struct Stage {
    backend: Backend,
    old: Proxy,
    new: Proxy,
    pub dns: Dns,
}

enum Backend {
    Real(Server),
    Embedded(Embedded),
}

impl Stage {
    /// Starts it all; every name leads to the old range.
    pub async fn raise(choice: Choice) -> Result<Self, LabError> {
        let backend = Backend::start(choice).await?;
        let (old, new) = ranges(backend.addr()).await?;
        let stage = Self {
            backend,
            old,
            new,
            dns: Dns::start().await?,
        };
        stage.dns_says(OLD_RANGE);
        Ok(stage)
    }

    /// The old range falls silent: no SYN is answered, no open connection is reset, nothing comes back.
    pub fn black_hole_old_range(&self) {
        self.old.set(Mode::Blackhole);
    }

    /// The name server itself falls silent.
    pub fn dns_silent(&self) {
        self.dns.default(Answer::Silent);
    }

    /// The name server answers that it failed.
    pub fn dns_servfail(&self) {
        self.dns.default(Answer::ServFail);
    }

    /// The name server tells the new address.
    pub fn dns_heals(&self) {
        self.dns_says(NEW_RANGE);
    }

    // Every name has the same answer: contenders differ in name only so that their lookups can be told apart.
    fn dns_says(&self, address: Ipv4Addr) {
        self.dns.default(Answer::addrs([address], TTL_SECONDS));
    }

    pub fn old_addr(&self) -> SocketAddr {
        self.old.addr()
    }

    pub fn new_addr(&self) -> SocketAddr {
        self.new.addr()
    }

    pub fn port(&self) -> u16 {
        self.old.addr().port()
    }

    /// Such as `valkey 9.1.2`.
    pub fn server(&self) -> String {
        match &self.backend {
            Backend::Real(server) => format!("{} {}", server.kind(), server.version()),
            Backend::Embedded(_) => "embedded".to_owned(),
        }
    }

    /// The same, in words.
    pub fn server_in_words(&self) -> String {
        match &self.backend {
            Backend::Real(_) => format!("{} (a real server process)", self.server()),
            Backend::Embedded(_) => {
                "the embedded server (inside this process; --servers real takes a real one)".into()
            }
        }
    }
}

impl Backend {
    async fn start(choice: Choice) -> Result<Self, LabError> {
        let real = match choice {
            Choice::Any => !Servers::find_all().is_empty(),
            Choice::Real => true,
            Choice::Embedded => false,
        };
        if real {
            Ok(Self::Real(Server::builder().start().await?))
        } else {
            Ok(Self::Embedded(Embedded::start().await?))
        }
    }

    fn addr(&self) -> SocketAddr {
        match self {
            Self::Real(server) => server.addr(),
            Self::Embedded(server) => server.addr(),
        }
    }
}

/// The same port in both ranges: Redis' own where it is free, else any.
async fn ranges(upstream: SocketAddr) -> Result<(Proxy, Proxy), LabError> {
    let mut port = REDIS_PORT;
    let mut last = None;
    for _ in 0..TRIES {
        match pair(port, upstream).await {
            Ok(pair) => return Ok(pair),
            Err(error) => last = Some(error),
        }
        let free = net::free_port(OLD_RANGE);
        port = free
            .map_err(|error| LabError::new("no free port").because(error))?
            .port();
    }
    Err(last.unwrap_or_else(|| LabError::new("no port is free in both ranges")))
}

async fn pair(port: u16, upstream: SocketAddr) -> Result<(Proxy, Proxy), LabError> {
    let old = Proxy::start_on(SocketAddr::from((OLD_RANGE, port)), upstream).await?;
    let new = Proxy::start_on(SocketAddr::from((NEW_RANGE, port)), upstream).await?;
    Ok((old, new))
}

const OLD_RANGE: Ipv4Addr = Ipv4Addr::new(127, 10, 1, 7);
const NEW_RANGE: Ipv4Addr = Ipv4Addr::new(127, 10, 2, 7);
const REDIS_PORT: u16 = 6379;
const TRIES: u32 = 5;
/// What cluster DNS servers commonly give.
const TTL_SECONDS: u32 = 5;
