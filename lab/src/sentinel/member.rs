//! One process of a Sentinel set, and what stands before it.
//!
//! Owns the server and its proxy, if it has one. Promises that what others are told of it leads through that proxy:
//! a fault set there is met by clients, replicas and Sentinels alike. Leaves the process to [`crate::server`] and the
//! fault to [`crate::proxy`]. Fails with a [`LabError`]. Next: [`super::Builder`].

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{LabError, Mode, Proxy, Server};

/// A Redis or a Sentinel of a set.
#[derive(Debug)]
pub struct Member {
    server: Server,
    front: Mutex<Front>,
    host: Option<String>,
    /// A Sentinel's configuration before it knew anything.
    blank: Option<String>,
}

#[derive(Debug, Default)]
struct Front {
    now: Option<Arc<Proxy>>,
    /// Where it was before it moved: kept, so that the addresses stay black holes.
    left: Vec<Arc<Proxy>>,
}

impl Member {
    pub(super) fn new(
        server: Server,
        proxy: Option<Proxy>,
        host: Option<String>,
        blank: Option<String>,
    ) -> Self {
        let front = Front {
            now: proxy.map(Arc::new),
            left: Vec::new(),
        };
        Self {
            server,
            front: Mutex::new(front),
            host,
            blank,
        }
    }

    /// The process.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The proxy before it.
    ///
    /// # Panics
    /// When there is none.
    pub fn proxy(&self) -> Arc<Proxy> {
        match &self.front().now {
            Some(proxy) => Arc::clone(proxy),
            None => panic!("{} stands behind no proxy", self.server.addr()),
        }
    }

    /// Its host name, if it has one.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Where everybody else finds it.
    pub fn addr(&self) -> SocketAddr {
        match &self.front().now {
            Some(proxy) => proxy.addr(),
            None => self.server.addr(),
        }
    }

    /// The same as text, by name where it has one.
    pub fn endpoint(&self) -> String {
        let addr = self.addr();
        match &self.host {
            Some(host) => format!("{host}:{}", addr.port()),
            None => addr.to_string(),
        }
    }

    /// SIGKILL.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// SIGSTOP.
    pub fn freeze(&self) {
        self.server.freeze();
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.server.thaw();
    }

    /// Starts it again where it was: a Sentinel with the state on its disk, a Redis as it was first told to be.
    ///
    /// # Errors
    /// When it does not answer within ten seconds.
    pub async fn restart(&self) -> Result<(), LabError> {
        self.server.restart().await
    }

    /// Starts a Sentinel again without the state it had, to watch this primary: its volume was empty, and whatever writes
    /// its first configuration has looked who is the primary now.
    ///
    /// # Errors
    /// When it does not answer within ten seconds, or is no Sentinel.
    pub async fn wipe(&self, primary: &Member) -> Result<(), LabError> {
        self.server.kill();
        let Some(blank) = &self.blank else {
            return Err(LabError::new("only a Sentinel has a state to lose"));
        };
        let (addr, own, mut lines) = (primary.addr(), self.addr().ip(), String::new());
        let at = primary
            .host()
            .map_or_else(|| addr.ip().to_string(), str::to_owned);
        for line in blank.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["sentinel", "monitor", name, _, _, quorum] => {
                    lines += &format!("sentinel monitor {name} {at} {} {quorum}\n", addr.port());
                }
                // It may have moved since.
                ["sentinel", "announce-ip", _] if self.host.is_none() => {
                    lines += &format!("sentinel announce-ip {own}\n");
                }
                _ => lines += &format!("{line}\n"),
            }
        }
        self.server.rewrite(&lines)?;
        self.server.restart().await
    }

    /// Gives it a new address with the same port; the old one is a black hole from now on. A Sentinel is started again
    /// and announces the new address, as a pod that was cycled does; a Redis announces it and lives on.
    ///
    /// # Errors
    /// When it stands behind no proxy, or does not come back.
    pub async fn readdress(&self, ip: impl Into<IpAddr>) -> Result<(), LabError> {
        let old = self.proxy();
        let at = SocketAddr::new(ip.into(), old.addr().port());
        let new = Proxy::start_on(at, self.server.addr()).await?;
        old.set(Mode::Blackhole);
        {
            let mut front = self.front();
            front.now = Some(Arc::new(new));
            front.left.push(old);
        }
        let ip = at.ip().to_string();
        if self.host.is_some() {
            return Ok(());
        }
        if self.blank.is_none() {
            let words = ["CONFIG", "SET", "replica-announce-ip", &ip];
            return self.server.tell(&words).await.map(drop);
        }
        self.server.kill();
        let conf = self.server.conf()?;
        let lines = conf
            .lines()
            .map(|line| match line.split_once("announce-ip") {
                Some((head, _)) => format!("{head}announce-ip {ip}\n"),
                None => format!("{line}\n"),
            });
        let lines: String = lines.collect();
        self.server.rewrite(&lines)?;
        self.server.restart().await
    }

    /// Gives it back the address that it left last; the one it leaves now is a black hole. The proxy there is what it
    /// was, a black hole: whoever opens it says what becomes of connections that were open to it. A Sentinel announces
    /// what it did; a Redis announces its address again.
    ///
    /// # Errors
    /// When it never moved, or a Redis does not answer.
    pub async fn step_back(&self) -> Result<(), LabError> {
        let ip = {
            let mut front = self.front();
            let Some(before) = front.left.pop() else {
                return Err(LabError::new("it never moved"));
            };
            let ip = before.addr().ip().to_string();
            if let Some(left) = front.now.replace(before) {
                left.set(Mode::Blackhole);
                front.left.push(left);
            }
            ip
        };
        if self.host.is_some() || self.blank.is_some() {
            return Ok(());
        }
        let words = ["CONFIG", "SET", "replica-announce-ip", &ip];
        self.server.tell(&words).await.map(drop)
    }

    fn front(&self) -> std::sync::MutexGuard<'_, Front> {
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
