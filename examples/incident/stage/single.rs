//! One Redis, and two address ranges before it.
//!
//! Owns the server and a proxy per range. Promises the same port in both. Leaves DNS to [`super`]. Fails with a
//! [`LabError`] when no server can be had.

use std::net::{Ipv4Addr, SocketAddr};

use holdfast_lab::{Embedded, LabError, Mode, Proxy, Server, Servers, net};
use tokio::time::Instant;

use super::EMBEDDED;
use crate::options::Choice;
use crate::story::Fault;

pub struct Single {
    backend: Backend,
    old: Proxy,
    new: Proxy,
    /// Where it is.
    moved: bool,
}

enum Backend {
    Real(Server),
    Embedded(Embedded),
}

impl Single {
    pub async fn start(choice: Choice) -> Result<Self, LabError> {
        let backend = Backend::start(choice).await?;
        let (old, new) = ranges(backend.addr()).await?;
        Ok(Self {
            backend,
            old,
            new,
            moved: false,
        })
    }

    pub fn fall(&mut self, fault: Fault) {
        match fault {
            Fault::Incident | Fault::Failover => {
                self.old.set(Mode::Blackhole);
                self.moved = true;
            }
            Fault::DeadLink => self.old.set_for_old(Mode::Stall),
            Fault::BlackHole => self.old.set(Mode::Blackhole),
            Fault::Frozen => self.old.set(Mode::Stall),
            Fault::Down => self.old.set(Mode::Down),
        }
    }

    /// The end of a fault that moved nothing, and from when on Redis could be reached: links that are dead stay so, and are no
    /// reason not to be served.
    pub fn end(&mut self, fault: Fault, fell: Option<Instant>) -> Instant {
        if let (Fault::DeadLink, Some(fell)) = (fault, fell) {
            return fell;
        }
        self.old.set(Mode::Pass);
        Instant::now()
    }

    /// Connections that were open to the old range are reset: whoever is there now has never heard of them.
    pub fn roll_back(&mut self) {
        self.new.set(Mode::Blackhole);
        self.old.set_for_old(Mode::Reset);
        self.old.set_for_new(Mode::Pass);
        self.moved = false;
    }

    pub fn addr(&self) -> SocketAddr {
        if self.moved {
            self.new.addr()
        } else {
            self.old.addr()
        }
    }

    pub fn server(&self) -> String {
        match &self.backend {
            Backend::Real(server) => format!("{} {}", server.kind(), server.version()),
            Backend::Embedded(_) => EMBEDDED.to_owned(),
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
