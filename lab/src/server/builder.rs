//! How a server is to be started.
//!
//! Owns the options. Promises an address nobody else has, unless one is named, and a retry where its port was taken in
//! between. Leaves finding to [`super::find`] and running to [`super::process`]. Fails with a [`LabError`]; a missing
//! server is a failure where `CI` or `REQUIRE_SERVERS` is set. Next: [`Server`].

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU64;

use super::find::{self, Binary, Find};
use super::process::Process;
use super::{Server, is_set};
use crate::LabError;
use crate::net::free_port;

/// How to start a [`Server`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    find: Find,
    ip: Option<IpAddr>,
    port: Option<u16>,
    args: Vec<String>,
    password: Option<String>,
    replica_of: Option<(String, u16)>,
    sentinel: Option<String>,
}

impl Builder {
    /// Which binary; any by default.
    #[must_use]
    pub fn kind(mut self, find: Find) -> Self {
        self.find = find;
        self
    }

    /// The address to listen at; one of its own by default.
    ///
    /// # Panics
    /// When it is no address.
    #[must_use]
    pub fn ip(mut self, ip: impl ToString) -> Self {
        let text = ip.to_string();
        match text.parse() {
            Ok(ip) => self.ip = Some(ip),
            Err(_) => panic!("{text} is not an IP address"),
        }
        self
    }

    /// The port; a free one by default.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// One more option and its value: `("--maxclients", "10")`.
    #[must_use]
    pub fn arg(mut self, option: impl Into<String>, value: impl Into<String>) -> Self {
        self.args.push(option.into());
        self.args.push(value.into());
        self
    }

    /// Requires a password.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// A replica of the server at this host or address.
    #[must_use]
    pub fn replica_of(mut self, host: impl ToString, port: u16) -> Self {
        self.replica_of = Some((host.to_string(), port));
        self
    }

    /// A Sentinel with these lines of configuration beside where it listens. It keeps its state in the file, as
    /// Sentinels do: [`Server::restart`] finds it, [`Server::rewrite`] replaces it.
    #[must_use]
    pub fn sentinel(mut self, lines: impl Into<String>) -> Self {
        self.sentinel = Some(lines.into());
        self
    }

    /// Starts it and waits for its first answer.
    ///
    /// # Errors
    /// When there is no such server, or it does not answer within ten seconds.
    pub async fn start(self) -> Result<Server, LabError> {
        let find = self.find.clone();
        // Fetching takes seconds: not on a runtime thread.
        let binary = tokio::task::spawn_blocking(move || find::find(&find))
            .await
            .map_err(|error| LabError::new("the search for a server died").because(error))??;
        let mut last = None;
        // The port was free a moment ago; someone else may have it by now.
        for _ in 0..5 {
            let server = self.make(&binary)?;
            server.process.start(&server.binary.path, &server.args)?;
            match server.until_ready().await {
                Ok(()) => return Ok(server),
                Err(error) => last = Some(error),
            }
            if self.port.is_some() {
                break;
            }
        }
        Err(last.unwrap_or_else(|| LabError::new("the server did not start")))
    }

    /// As [`start`](Self::start); `None` after a loud line where no server can be had.
    ///
    /// # Panics
    /// Where `CI` or `REQUIRE_SERVERS` is set.
    pub async fn start_or_skip(self) -> Option<Server> {
        or_skip(self.start().await)
    }

    fn make(&self, binary: &Binary) -> Result<Server, LabError> {
        let ip = self.ip.unwrap_or_else(|| crate::ip().into());
        let unbound =
            |error: std::io::Error| LabError::new(format!("cannot bind {ip}")).because(error);
        let addr = match self.port {
            Some(port) => SocketAddr::new(ip, port),
            None => free_port(ip).map_err(unbound)?,
        };
        let process = Process::in_new_folder(&addr.to_string().replace([':', '.'], "-"))?;
        let folder = process.folder().to_string_lossy().into_owned();
        let (ip, port) = (ip.to_string(), addr.port().to_string());
        if let Some(lines) = &self.sentinel {
            let head = format!(
                "bind {ip}\nport {port}\ndir {folder}\nprotected-mode no\nloglevel verbose\n"
            );
            let file = process.write(CONF, &format!("{head}{lines}"))?;
            return Ok(Server {
                process,
                binary: binary.clone(),
                addr,
                args: vec![file, "--sentinel".to_owned()],
                password: self.password.clone(),
                own: AtomicU64::new(0),
                head,
            });
        }
        let mut words = vec!["--bind", &ip, "--port", &port, "--dir", &folder];
        words.extend(["--save", "", "--appendonly", "no", "--protected-mode", "no"]);
        if binary.major() >= 7 {
            words.extend(["--enable-debug-command", "yes"]);
        }
        if let Some(password) = &self.password {
            words.extend(["--requirepass", password]);
        }
        let mut args: Vec<String> = words.into_iter().map(str::to_owned).collect();
        if let Some((host, port)) = &self.replica_of {
            args.extend(["--replicaof".to_owned(), host.clone(), port.to_string()]);
        }
        args.extend(self.args.iter().cloned());
        Ok(Server {
            process,
            binary: binary.clone(),
            addr,
            args,
            password: self.password.clone(),
            own: AtomicU64::new(0),
            head: String::new(),
        })
    }
}

/// Where a Sentinel keeps its configuration and its state.
pub(super) const CONF: &str = "sentinel.conf";

/// What was started; nothing, after a loud line, where a missing server is no failure.
pub(crate) fn or_skip<T>(started: Result<T, LabError>) -> Option<T> {
    let must_have = is_set("CI") || is_set("REQUIRE_SERVERS");
    match started {
        Ok(started) => Some(started),
        Err(error) if must_have => panic!("a server is required here: {error}"),
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}
