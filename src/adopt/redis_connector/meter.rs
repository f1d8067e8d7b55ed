//! The socket as `redis`' driver sees it: counted, rationed, and closed hard when told.
//!
//! Owns [`Metered`], the stream below `redis`, and [`Meter`], what [`driver`](super::driver) reads of it. Promises: every byte that came
//! or went is counted, the first end is remembered with its cause, whatever `redis` makes of it; one turn reads no more than its ration.
//! Leaves what silence means to the driver. Fails as the socket does.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::link::socket::Socket;

/// Reads in one turn before other tasks get theirs. `redis` reads until it finds nothing.
const RATION: u32 = 64;

/// What passed over the socket so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) read: u64,
    pub(super) written: u64,
    /// The last read found nothing.
    pub(super) drained: bool,
    /// The last write found no room.
    pub(super) blocked: bool,
}

/// Shared by a [`Metered`] socket and who watches it; both live in one task.
#[derive(Default)]
pub(super) struct Meter(Mutex<State>);

#[derive(Default)]
struct State {
    seen: Seen,
    ration: u32,
    hard: bool,
    end: Option<io::Error>,
}

impl Meter {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn seen(&self) -> Seen {
        self.state().seen
    }

    /// A turn begins: it may read again.
    pub(super) fn turn(&self) {
        self.state().ration = RATION;
    }

    /// Why the socket ended, if it has. Told once.
    pub(super) fn take_end(&self) -> Option<io::Error> {
        self.state().end.take()
    }

    /// The socket is to be closed hard, when `redis` lets go of it.
    pub(super) fn abort(&self) {
        self.state().hard = true;
    }

    fn ended(&self, error: &io::Error) {
        // An error of the kernel has a number, and keeps it.
        let copy = match error.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => error.kind().into(),
        };
        self.state().end.get_or_insert(copy);
    }
}

/// A socket that tells its [`Meter`] what passes.
pub(super) struct Metered<S: Socket> {
    socket: S,
    /// Bytes that came with the handshake.
    inbox: BytesMut,
    meter: Arc<Meter>,
}

impl<S: Socket> Metered<S> {
    pub(super) fn new(socket: S, inbox: BytesMut, meter: Arc<Meter>) -> Self {
        Self {
            socket,
            inbox,
            meter,
        }
    }
}

impl<S: Socket> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        {
            let mut state = this.meter.state();
            state.seen.drained = false;
            let Some(left) = state.ration.checked_sub(1) else {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            };
            state.ration = left;
        }
        if !this.inbox.is_empty() {
            let count = this.inbox.len().min(buffer.remaining());
            buffer.put_slice(&this.inbox.split_to(count));
            this.meter.state().seen.read += count as u64;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.socket).poll_read(cx, buffer);
        match &read {
            Poll::Pending => this.meter.state().seen.drained = true,
            Poll::Ready(Err(error)) => this.meter.ended(error),
            Poll::Ready(Ok(())) => match buffer.filled().len() - before {
                0 => this.meter.ended(&io::ErrorKind::UnexpectedEof.into()),
                count => this.meter.state().seen.read += count as u64,
            },
        }
        read
    }
}

impl<S: Socket> AsyncWrite for Metered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.socket).poll_write(cx, bytes);
        this.meter.state().seen.blocked = written.is_pending();
        let count = match ready!(written) {
            Ok(count) => count,
            Err(error) => {
                this.meter.ended(&error);
                return Poll::Ready(Err(error));
            }
        };
        this.meter.state().seen.written += count as u64;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

impl<S: Socket> Drop for Metered<S> {
    fn drop(&mut self) {
        if self.meter.state().hard {
            self.socket.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn bytes_are_counted_those_of_the_handshake_first_and_an_end_is_remembered() {
        let (near, mut far) = duplex(16);
        let meter = Meter::new();
        let mut socket = Metered::new(near, BytesMut::from(&b"early "[..]), meter.clone());
        far.write_all(b"late").await.expect("room");
        let mut heard = [0; 10];
        meter.turn();
        socket.read_exact(&mut heard).await.expect("both");
        assert_eq!(&heard, b"early late");
        socket.write_all(b"0123456789").await.expect("room");
        let seen = meter.seen();
        assert_eq!((seen.read, seen.written, seen.blocked), (10, 10, false));
        assert!(meter.take_end().is_none());
        drop(far);
        assert_eq!(socket.read(&mut heard).await.expect("an end"), 0);
        let end = meter.take_end().expect("it ended");
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_turn_reads_its_ration_and_an_empty_socket_is_told_from_a_spent_one() {
        let (near, mut far) = duplex(1024);
        let meter = Meter::new();
        let mut socket = Metered::new(near, BytesMut::new(), meter.clone());
        far.write_all(&[7; 200]).await.expect("room");
        let mut read = || {
            let mut byte = [0; 1];
            let mut byte = ReadBuf::new(&mut byte);
            Pin::new(&mut socket).poll_read(&mut Context::from_waker(Waker::noop()), &mut byte)
        };
        meter.turn();
        for _ in 0..RATION {
            assert!(read().is_ready());
        }
        assert!(read().is_pending() && !meter.seen().drained, "spent");
        for _ in 0..3 {
            meter.turn();
            while read().is_ready() {}
        }
        meter.turn();
        while read().is_ready() {}
        assert!(meter.seen().drained, "empty");
    }
}
