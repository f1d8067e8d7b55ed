//! When a replica became the primary: its own word, asked every millisecond.
//!
//! Owns one thread per node, outside the runtime whose lag is measured. Promises an instant no later than the promotion
//! plus one question: that of the last answer that still said *replica*. Leaves what clients make of it to the tests.
//! Fails by panicking where a node cannot be asked at the start. Next: [`super::Monitor`].

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Waits for one of several replicas to be promoted; ends with this handle.
#[derive(Debug)]
pub struct Promotion {
    stop: Arc<AtomicBool>,
    found: mpsc::Receiver<(SocketAddr, Instant)>,
}

impl Promotion {
    /// Asks these replicas from now on.
    pub fn watch(replicas: impl IntoIterator<Item = SocketAddr>) -> Self {
        let (tell, found) = mpsc::channel(16);
        let stop = Arc::<AtomicBool>::default();
        for replica in replicas {
            let (tell, stop) = (tell.clone(), Arc::clone(&stop));
            thread::spawn(move || {
                if let Some(at) = ask(replica, &stop) {
                    let _ = tell.blocking_send((replica, at));
                }
            });
        }
        Self { stop, found }
    }

    /// The first that was promoted, and when.
    pub async fn within(&mut self, limit: Duration) -> Option<(SocketAddr, Instant)> {
        timeout(limit, self.found.recv()).await.ok()?
    }
}

impl Drop for Promotion {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A node that is lost is asked anew: a new primary closes its connections.
fn ask(replica: SocketAddr, stop: &AtomicBool) -> Option<Instant> {
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if let Ok(mut stream) = TcpStream::connect_timeout(&replica, PATIENCE)
            && let Some(at) = ask_on(&mut stream, stop, &mut last)
        {
            return Some(at);
        }
        thread::sleep(STEP);
    }
    None
}

fn ask_on(stream: &mut TcpStream, stop: &AtomicBool, last: &mut Instant) -> Option<Instant> {
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        stream.write_all(b"*1\r\n$4\r\nROLE\r\n").ok()?;
        // One small reply is one segment on loopback; its first 14 bytes say it all.
        let size = stream.read(&mut buffer).ok()?;
        let reply = buffer.get(..size)?;
        if reply.is_empty() {
            return None;
        }
        if reply.windows(8).take(16).any(|word| word == b"master\r\n") {
            return Some(*last);
        }
        *last = asked;
        thread::sleep(STEP);
    }
    None
}

const STEP: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_millis(200);
