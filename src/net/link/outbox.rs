//! Bytes on their way to the kernel, and how far they got.
//!
//! Owns the write side's buffer: small jobs are copied together so that one write carries a batch, large ones are kept by reference.
//! Promises: [`Outbox::written`] counts exactly the bytes that the kernel took, which is what *sent* means; bytes that were not
//! taken can be [withdrawn](Outbox::withdraw). Leaves which job a byte belongs to to [`owed`](super::owed). Fails as the socket does.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// Jobs up to this size are copied into a shared chunk: a copy is cheaper than a system call of its own.
const COPIED: usize = 16 * 1024;

/// Chunks handed to the kernel in one call: one by one, each would wake a server that had gone back to sleep.
const SLICES: usize = 8;

/// No more jobs are begun while this many bytes of small ones wait for the kernel: what is not begun can still be taken back.
const HIGH_WATER: u64 = 64 * 1024;
/// The same with large ones, some of which leave together.
const LARGE_HIGH_WATER: u64 = 256 * 1024;

#[derive(Default)]
pub(crate) struct Outbox {
    chunks: VecDeque<Chunk>,
    /// A spent chunk, kept so that a steady stream of small batches allocates nothing.
    spare: BytesMut,
    accepted: u64,
    written: u64,
}

enum Chunk {
    Copied(BytesMut),
    Whole(Bytes),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Whole(bytes) => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Copied(bytes) => bytes.advance(count),
            Self::Whole(bytes) => bytes.advance(count),
        }
    }

    fn truncate(&mut self, len: usize) {
        match self {
            Self::Copied(bytes) => bytes.truncate(len),
            Self::Whole(bytes) => bytes.truncate(len),
        }
    }
}

impl Outbox {
    /// All bytes ever put in and not withdrawn.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// All bytes that the kernel took.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Bytes that wait for the kernel.
    pub(crate) fn waiting(&self) -> u64 {
        self.accepted - self.written
    }

    /// Whether another job may be begun.
    pub(crate) fn has_room(&self) -> bool {
        let copied = |chunk: &Chunk| match chunk {
            Chunk::Copied(bytes) => bytes.len() as u64,
            Chunk::Whole(_) => 0,
        };
        self.waiting() < HIGH_WATER
            || (self.waiting() < LARGE_HIGH_WATER
                && self.chunks.iter().map(copied).sum::<u64>() < HIGH_WATER)
    }

    pub(crate) fn push(&mut self, bytes: &Bytes) {
        self.accepted += bytes.len() as u64;
        if bytes.len() > COPIED {
            self.chunks.push_back(Chunk::Whole(bytes.clone()));
            return;
        }
        if let Some(Chunk::Copied(last)) = self.chunks.back_mut() {
            last.extend_from_slice(bytes);
            return;
        }
        let mut chunk = std::mem::take(&mut self.spare);
        chunk.extend_from_slice(bytes);
        self.chunks.push_back(Chunk::Copied(chunk));
    }

    /// Takes back every byte from position `from` on; none of them may have been written.
    pub(crate) fn withdraw(&mut self, from: u64) {
        debug_assert!(from >= self.written, "a written byte cannot be taken back");
        let mut end = self.accepted;
        while end > from {
            let Some(last) = self.chunks.back_mut() else {
                break;
            };
            let start = end - last.bytes().len() as u64;
            if start >= from {
                self.chunks.pop_back();
            } else {
                last.truncate(usize::try_from(from - start).unwrap_or(usize::MAX));
            }
            end = start.max(from);
        }
        self.accepted = end;
    }

    /// Hands bytes to `socket` until it is full or nothing waits.
    pub(crate) fn poll_write<S>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        S: AsyncWrite + Unpin,
    {
        while self.waiting() > 0 {
            match self.poll_some(Pin::new(&mut *socket), cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => self.advance(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_some<S: AsyncWrite>(
        &self,
        socket: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let (Some(only), 1) = (self.chunks.front(), self.chunks.len()) {
            return socket.poll_write(cx, only.bytes());
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(chunk.bytes());
        }
        socket.poll_write_vectored(cx, &slices)
    }

    /// The kernel took so many bytes more.
    fn advance(&mut self, mut count: usize) {
        self.written += count as u64;
        while let Some(front) = self.chunks.front_mut() {
            let step = count.min(front.bytes().len());
            front.advance(step);
            count -= step;
            if !front.bytes().is_empty() {
                return;
            }
            if let Some(Chunk::Copied(mut spent)) = self.chunks.pop_front() {
                spent.clear();
                self.spare = spent;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn write(outbox: &mut Outbox, socket: &mut tokio::io::DuplexStream) -> Poll<io::Result<()>> {
        outbox.poll_write(socket, &mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn counts_what_the_kernel_took_and_withdraws_the_rest() {
        let (mut near, _far) = tokio::io::duplex(10);
        let mut outbox = Outbox::default();
        outbox.push(&Bytes::from_static(b"12345678"));
        let second = outbox.accepted();
        outbox.push(&Bytes::from_static(b"abcdefgh"));
        let third = outbox.accepted();
        outbox.push(&Bytes::from(vec![0; COPIED + 1]));
        assert!(write(&mut outbox, &mut near).is_pending());
        assert_eq!(outbox.written(), 10);
        assert!(
            second < outbox.written(),
            "the second job is begun and must be finished"
        );
        outbox.withdraw(third);
        assert_eq!((outbox.accepted(), outbox.waiting()), (16, 6));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn small_and_large_leave_together_and_in_order_however_little_the_kernel_takes() {
        use crate::net::link::socket::Stream;
        use tokio::io::AsyncReadExt;
        let (near, mut far) = tokio::net::UnixStream::pair().expect("a pair");
        let mut near = Stream::Unix(near);
        let jobs: Vec<Bytes> = (0..3 * SLICES)
            .map(|nth| vec![nth as u8; if nth % 3 == 0 { 10 } else { 3 * COPIED }].into())
            .collect();
        let mut outbox = Outbox::default();
        jobs.iter().for_each(|job| outbox.push(job));
        let mut seen = Vec::new();
        let writes = std::future::poll_fn(|cx| outbox.poll_write(&mut near, cx));
        let wanted = jobs.concat();
        let reads = async {
            while seen.len() < wanted.len() {
                far.read_buf(&mut seen).await.expect("readable");
            }
        };
        let (written, ()) = tokio::join!(writes, reads);
        written.expect("writable");
        assert!(seen == wanted, "bytes were lost or left out of order");
        assert_eq!((outbox.waiting(), outbox.written()), (0, seen.len() as u64));
    }

    #[tokio::test]
    async fn every_byte_leaves_in_order_whatever_was_withdrawn_behind_it() {
        use tokio::io::AsyncReadExt;
        let (mut near, mut far) = tokio::io::duplex(64 * 1024);
        let mut outbox = Outbox::default();
        for job in [&b"one "[..], b"two ", b"three "] {
            outbox.push(&Bytes::copy_from_slice(job));
        }
        outbox.withdraw(8);
        outbox.push(&Bytes::from_static(b"four"));
        assert!(write(&mut outbox, &mut near).is_ready());
        drop(near);
        let mut seen = String::new();
        far.read_to_string(&mut seen).await.expect("readable");
        assert_eq!(seen, "one two four");
    }
}
