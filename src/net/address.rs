//! Where a server can be reached: an IP address and port, or the path of a Unix socket.
//!
//! Owns [`Address`]. Leaves names to [`dns`](super::dns). Cannot fail.

use std::{fmt, net::SocketAddr, path::Path, sync::Arc};

/// A place that can be dialled without asking anybody.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(Arc<Path>),
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}
