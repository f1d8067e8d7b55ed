//! Real Redis and Valkey processes on loopback addresses of their own.
//!
//! Owns starting, freezing, killing, restarting and asking them. Promises a server that answered before `start`
//! returned and that is dead and reaped after its handle is dropped. Leaves faults of the network to [`crate::proxy`].
//! Fails with a [`LabError`] that says what to do; a missing server is a failure where `CI` or `REQUIRE_SERVERS` is
//! set and a loud skip elsewhere ([`server_or_skip`]). Next: [`find`](self::Find), `process`.

mod builder;
mod find;
mod process;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

pub use self::builder::Builder;
pub(crate) use self::builder::or_skip;
pub use self::find::{Binary, Find, Servers};
use self::process::Process;
use crate::net::{ask, dial};
use crate::{LabError, census};

/// A running server process.
#[derive(Debug)]
pub struct Server {
    process: Process,
    binary: Binary,
    addr: SocketAddr,
    args: Vec<String>,
    password: Option<String>,
    /// Connections the lab itself opened; not counted as the client's.
    own: AtomicU64,
    /// The first lines of a Sentinel's configuration: where it listens.
    head: String,
}

/// A server as it comes, or `None` after a loud line where none can be had.
///
/// # Panics
/// Where `CI` or `REQUIRE_SERVERS` is set and no server can be had.
pub async fn server_or_skip() -> Option<Server> {
    Server::builder().start_or_skip().await
}

impl Server {
    /// Any server, on an address of its own.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.addr.ip()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// `redis://…`, with the password where one is set.
    pub fn url(&self) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@{}/", self.addr),
            None => format!("redis://{}/", self.addr),
        }
    }

    /// Such as `"9.1.2"`.
    pub fn version(&self) -> &str {
        &self.binary.version
    }

    /// `"redis"` or `"valkey"`.
    pub fn kind(&self) -> &str {
        &self.binary.kind
    }

    /// The process, or 0 while killed.
    pub fn pid(&self) -> u32 {
        self.process.pid().unwrap_or(0)
    }

    /// SIGSTOP: the kernel goes on accepting and acknowledging, the process says nothing.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// SIGKILL, and wait: open connections end, new ones are refused.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Starts it again at the same address, empty; kills it first if it still runs.
    ///
    /// # Errors
    /// When it does not answer within ten seconds.
    pub async fn restart(&self) -> Result<(), LabError> {
        self.launch()?;
        self.until_ready().await
    }

    /// A Sentinel's configuration and state as they lie on its disk.
    ///
    /// # Errors
    /// When this is no Sentinel.
    pub fn conf(&self) -> Result<String, LabError> {
        self.process.read(builder::CONF)
    }

    /// Replaces what [`conf`](Self::conf) gives, below where it listens: an earlier state, or none. In force at the next
    /// [`restart`](Self::restart); a running Sentinel would write over it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn rewrite(&self, lines: &str) -> Result<(), LabError> {
        let kept = lines.lines().filter(|line| {
            let first = line.split_whitespace().next();
            !["bind", "port", "dir", "protected-mode", "loglevel"]
                .contains(&first.unwrap_or_default())
        });
        let text = kept.fold(self.head.clone(), |text, line| text + line + "\n");
        self.process.write(builder::CONF, &text).map(drop)
    }

    /// Starts it again, and does not wait for it.
    ///
    /// # Errors
    /// When there is no process to be had.
    pub fn launch(&self) -> Result<(), LabError> {
        self.kill();
        self.own.store(0, Ordering::Relaxed);
        self.process.start(&self.binary.path, &self.args)
    }

    /// Whether its process is there and has not ended by itself.
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// The end of what it printed.
    pub fn last_words(&self) -> String {
        self.process.last_words()
    }

    /// Asks for one PING on a connection of its own.
    ///
    /// # Errors
    /// When nothing comes within five seconds.
    pub async fn ping(&self) -> Result<(), LabError> {
        self.tell(&["PING"]).await.map(drop)
    }

    /// A connection past every proxy, with 5 s timeouts.
    ///
    /// # Errors
    /// As the client reports them.
    pub async fn control(&self) -> Result<MultiplexedConnection, LabError> {
        let broken =
            |error: redis::RedisError| LabError::new("no control connection").because(error);
        let client = Client::open(self.url()).map_err(broken)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        let connection = connection.await.map_err(broken)?;
        self.own.fetch_add(1, Ordering::Relaxed);
        Ok(connection)
    }

    /// Connections the server ever accepted, the lab's own not counted.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn accepts(&self) -> u64 {
        let stats = self.told(&["INFO", "stats"]).await;
        let total = info_field(&stats, "total_connections_received").unwrap_or(0);
        total.saturating_sub(self.own.load(Ordering::Relaxed))
    }

    /// Connections open now, beside the one that asks.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn clients(&self) -> u64 {
        let list = self.told(&["CLIENT", "LIST"]).await;
        let lines = list.lines().filter(|line| !line.is_empty()).count();
        u64::try_from(lines).unwrap_or(0).saturating_sub(1)
    }

    /// Sends one command on a new connection of its own and gives the reply's text.
    ///
    /// # Errors
    /// When nothing comes within five seconds; an error reply is a reply.
    pub async fn tell(&self, words: &[&str]) -> Result<String, LabError> {
        let silent =
            |error: std::io::Error| LabError::new("the server did not answer").because(error);
        let talk = async {
            let mut stream = self.connection().await?;
            ask(&mut stream, words).await
        };
        match timeout(PATIENCE, talk).await {
            Ok(reply) => reply.map_err(silent),
            Err(_) => Err(LabError::new("the server did not answer within 5 s")),
        }
    }

    /// A raw connection past every proxy, with the password said.
    ///
    /// # Errors
    /// When it cannot be made within five seconds.
    pub async fn dial(&self) -> Result<TcpStream, LabError> {
        let cannot = |error: std::io::Error| LabError::new("no raw connection").because(error);
        self.connection().await.map_err(cannot)
    }

    async fn connection(&self) -> std::io::Result<TcpStream> {
        let mut stream = dial(self.addr, PATIENCE).await?;
        self.own.fetch_add(1, Ordering::Relaxed);
        if let Some(password) = &self.password {
            ask(&mut stream, &["AUTH", password]).await?;
        }
        Ok(stream)
    }

    /// Connections completed by the kernel that the process has not accepted: what a frozen server piles up.
    pub fn accept_queue(&self) -> usize {
        census::accept_queue(self.addr)
    }

    async fn told(&self, words: &[&str]) -> String {
        match self.tell(words).await {
            Ok(reply) => reply,
            Err(error) => panic!("{words:?} at {}: {error}", self.addr),
        }
    }

    async fn until_ready(&self) -> Result<(), LabError> {
        let end = Instant::now() + START_LIMIT;
        loop {
            if let Ok(reply) = self.tell(&["PING"]).await
                && !reply.starts_with("-LOADING")
            {
                return Ok(());
            }
            if !self.process.is_running() || Instant::now() > end {
                let words = self.process.last_words();
                return Err(LabError::new(format!("the server did not start: {words}")));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Whether this variable of the environment says yes.
pub(crate) fn is_set(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| !["", "0", "false"].contains(&value.as_str()))
}

fn info_field(info: &str, name: &str) -> Option<u64> {
    let line = info.lines().find_map(|line| line.strip_prefix(name))?;
    line.strip_prefix(':')?.trim().parse().ok()
}

const PATIENCE: Duration = Duration::from_secs(5);
const START_LIMIT: Duration = Duration::from_secs(10);
