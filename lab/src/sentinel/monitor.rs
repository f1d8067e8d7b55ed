//! What a server was really told: `MONITOR`, for claims like "not one write after that instant".
//!
//! Owns a connection past every proxy and a thread that reads it. Promises every command the server executed while
//! the monitor was attached, with the server's own time of it; one that is cut (a promotion closes all connections, a
//! killed server too) is attached again at once, and what ran in between is missing. Leaves judging to the tests. Fails
//! with a [`LabError`] when it cannot attach at first. Next: [`super::Promotion`].

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::LabError;

/// A monitor of one server; detached when dropped.
#[derive(Debug)]
pub struct Monitor {
    stream: Arc<Mutex<TcpStream>>,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// One command that a server executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When it ran, by the server's clock.
    pub at: Instant,
    /// From whom: an address, `lua`, or `unix:…`.
    pub client: String,
    /// The command, in capitals.
    pub name: String,
    /// Its first argument, or nothing.
    pub first: String,
}

impl Monitor {
    /// Attaches to the server at `addr`.
    ///
    /// # Errors
    /// When it does not answer within a second.
    pub fn attach(addr: SocketAddr) -> Result<Self, LabError> {
        let cannot =
            |error: std::io::Error| LabError::new(format!("no MONITOR at {addr}")).because(error);
        let (mut reader, stream) = open(addr).map_err(cannot)?;
        let monitor = Self {
            stream: Arc::new(Mutex::new(stream)),
            stop: Arc::default(),
            seen: Arc::default(),
        };
        let (log, stop) = (Arc::clone(&monitor.seen), Arc::clone(&monitor.stop));
        let current = Arc::clone(&monitor.stream);
        let (anchor, wall) = (Instant::now(), since_epoch());
        thread::spawn(move || {
            loop {
                for line in (&mut reader).lines().map_while(Result::ok) {
                    if let Some(one) = parse(&line, anchor, wall) {
                        lock(&log).push(one);
                    }
                }
                reader = loop {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Ok((reader, stream)) = open(addr) {
                        *lock(&current) = stream;
                        break reader;
                    }
                    thread::sleep(Duration::from_millis(1));
                };
            }
        });
        Ok(monitor)
    }

    /// Everything so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }

    /// Commands that change data and were not the server's own, from `from` on.
    pub fn writes_since(&self, from: Instant) -> Vec<Seen> {
        let mut all = self.seen();
        all.retain(|one| one.at >= from && WRITES.contains(&one.name.as_str()));
        all
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = lock(&self.stream).shutdown(Shutdown::Both);
    }
}

fn open(addr: SocketAddr) -> io::Result<(BufReader<TcpStream>, TcpStream)> {
    let second = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&addr, second)?;
    stream.set_read_timeout(Some(second))?;
    stream.write_all(b"MONITOR\r\n")?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if !line.starts_with("+OK") {
        return Err(io::Error::other(line));
    }
    stream.set_read_timeout(None)?;
    Ok((reader, stream))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `+1700000000.123456 [0 127.0.0.1:50000] "SET" "k" "v"`.
fn parse(line: &str, anchor: Instant, wall: Duration) -> Option<Seen> {
    let (time, rest) = line.strip_prefix('+')?.split_once(' ')?;
    let (seconds, micros) = time.split_once('.')?;
    let time =
        Duration::from_secs(seconds.parse().ok()?) + Duration::from_micros(micros.parse().ok()?);
    let (head, words) = rest.strip_prefix('[')?.split_once("] ")?;
    let (_, client) = head.split_once(' ')?;
    let mut words = words.split('"').skip(1).step_by(2);
    let at = if time >= wall {
        anchor + (time - wall)
    } else {
        anchor.checked_sub(wall - time)?
    };
    Some(Seen {
        at,
        client: client.to_owned(),
        name: words.next()?.to_uppercase(),
        first: words.next().unwrap_or_default().to_owned(),
    })
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// What the scenarios write with.
const WRITES: [&str; 8] = [
    "SET", "INCR", "INCRBY", "APPEND", "DEL", "LPUSH", "RPUSH", "HSET",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_command_at_an_instant() {
        let anchor = Instant::now();
        let wall = Duration::from_secs(1_700_000_000);
        let line = r#"+1700000001.500000 [0 127.0.0.1:50000] "set" "a \"b" "v""#;
        let seen = parse(line, anchor, wall).unwrap();
        assert_eq!(seen.at, anchor + Duration::from_millis(1500));
        assert_eq!(
            (seen.name.as_str(), seen.client.as_str()),
            ("SET", "127.0.0.1:50000")
        );
        assert_eq!(parse("+OK", anchor, wall), None);
    }
}
