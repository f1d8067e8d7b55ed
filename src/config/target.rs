//! The server a configuration names: where it listens, who we are, which database, which protocol.
//!
//! Owns [`Target`] and its parts. Promises: no `Debug` shows a password, and a password has no `Display`.
//! Leaves reading to [`url`](super::url), dialling to `net`. Cannot fail.

use std::{fmt, path::PathBuf, sync::Arc};

/// The server a URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) server: Server,
    pub(crate) login: Login,
    pub(crate) db: i64,
    pub(crate) protocol: Protocol,
}

/// Where it listens. `host` is a name or an IP literal, an IPv6 literal without brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Tcp {
        host: String,
        port: u16,
    },
    /// One that must say that it is a replica.
    Replica {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
    Sentinel(Group),
}

/// A primary that Sentinels watch. Hosts as in [`Server::Tcp`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Group {
    /// Where Sentinels listen, as configured.
    pub(crate) seeds: Vec<(String, u16)>,
    /// What they call the primary.
    pub(crate) name: String,
    /// Who we are to them.
    pub(crate) login: Login,
}

impl Server {
    /// `host:port`, the socket's path, or `sentinel:` and the primary's name, for errors and logs.
    pub(crate) fn endpoint(&self) -> Arc<str> {
        match self {
            Self::Tcp { host, port } | Self::Replica { host, port } if host.contains(':') => {
                format!("[{host}]:{port}").into()
            }
            Self::Tcp { host, port } | Self::Replica { host, port } => {
                format!("{host}:{port}").into()
            }
            Self::Unix(path) => path.display().to_string().into(),
            Self::Sentinel(group) => format!("sentinel:{}", group.name).into(),
        }
    }
}

/// Who we are. A user name never comes without a password.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Login {
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
}

/// A password. It has no `Display`, and its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Secret(Arc<str>);

impl Secret {
    pub(crate) fn new(secret: &str) -> Self {
        Self(secret.into())
    }

    /// The password itself, for the one line that sends it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The protocol to speak. RESP3 changes the types of `HGETALL` and friends, so it must be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    #[default]
    Resp2,
    Resp3,
}
