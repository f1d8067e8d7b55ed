//! A server whose replies a test writes byte by byte: for hostile peers and odd timings.
//!
//! Owns the sockets. Promises that what the test returns is sent as it is. Leaves RESP to the test. Fails with a
//! [`LabError`] when it cannot bind. Next: [`super::Embedded`] for a server that behaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::LabError;
use crate::task::{Owned, own};

/// A scripted peer; ends with this handle.
#[derive(Debug)]
pub struct RespFake {
    addr: SocketAddr,
    accepts: Arc<AtomicU64>,
    _task: Owned,
}

impl RespFake {
    /// Answers every chunk of bytes that arrives with what `script(connection number from 0, bytes)` returns; an
    /// empty answer is silence. Chunks are what one read gave, which may be half a command or ten.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start<F>(script: F) -> Result<Self, LabError>
    where
        F: Fn(u64, &[u8]) -> Vec<u8> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind((crate::ip(), 0)).await;
        let cannot =
            |error: std::io::Error| LabError::new("no port for a fake server").because(error);
        let listener = listener.map_err(cannot)?;
        let addr = listener.local_addr().map_err(cannot)?;
        let accepts = Arc::<AtomicU64>::default();
        let task = own(serve(listener, Arc::new(script), Arc::clone(&accepts)));
        Ok(Self {
            addr,
            accepts,
            _task: task,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections accepted so far.
    pub fn accepts(&self) -> u64 {
        self.accepts.load(Ordering::Relaxed)
    }
}

async fn serve<F>(listener: TcpListener, script: Arc<F>, accepts: Arc<AtomicU64>)
where
    F: Fn(u64, &[u8]) -> Vec<u8> + Send + Sync + 'static,
{
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = open.join_next() => continue,
        };
        let Ok((mut stream, _)) = accepted else {
            continue;
        };
        let number = accepts.fetch_add(1, Ordering::Relaxed);
        let script = Arc::clone(&script);
        open.spawn(async move {
            let _ = stream.set_nodelay(true);
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(size @ 1..) = stream.read(&mut buffer).await {
                let reply = script(number, buffer.get(..size).unwrap_or_default());
                if stream.write_all(&reply).await.is_err() {
                    break;
                }
            }
        });
    }
}
