//! A connected byte stream, and the two ways to let it go.
//!
//! Owns [`Socket`] (what the driver needs of a stream) and [`Stream`] (TCP or Unix). Promises: [`Socket::abort`] frees the kernel's
//! buffers at once and tells a living peer with a reset. Leaves opening to [`dial`](super::dial). Fails as the kernel does.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// What a driver needs of a stream.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Makes the close that follows an abort: unsent bytes are dropped, a living peer gets a reset.
    /// Bytes that the peer's kernel already holds may still be read there: an abort never un-sends.
    fn abort(&mut self) {}
}

/// A connection to a server.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

impl Socket for Stream {
    fn abort(&mut self) {
        if let Self::Tcp(stream) = self {
            // It can only fail on a socket that is gone already.
            let _ = stream.set_zero_linger();
        }
    }
}

#[cfg(test)]
impl Socket for tokio::io::DuplexStream {}

macro_rules! forward {
    ($self:ident, $method:ident, $cx:ident $(, $argument:ident)*) => {
        match $self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).$method($cx $(, $argument)*),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).$method($cx $(, $argument)*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        forward!(self, poll_read, cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        forward!(self, poll_write, cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        forward!(self, poll_write_vectored, cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            #[cfg(unix)]
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_flush, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_shutdown, cx)
    }
}
