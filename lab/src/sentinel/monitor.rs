//! What a server was really told: `MONITOR`, for claims like "not one write after that instant".
//!
//! Owns one connection past every proxy and a thread that reads it. Promises every command the server executed while
//! the monitor was attached, with the server's own time of it. Leaves judging to the tests. Fails with a [`LabError`]
//! when it cannot attach; afterwards its end is the server's end. Next: [`super::Promotion`].

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::LabError;

/// A monitor of one server; detached when dropped.
#[derive(Debug)]
pub struct Monitor {
    stream: TcpStream,
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
        let second = Duration::from_secs(1);
        let mut stream = TcpStream::connect_timeout(&addr, second).map_err(cannot)?;
        stream.set_read_timeout(Some(second)).map_err(cannot)?;
        stream.write_all(b"MONITOR\r\n").map_err(cannot)?;
        let mut reader = BufReader::new(stream.try_clone().map_err(cannot)?);
        let mut line = String::new();
        reader.read_line(&mut line).map_err(cannot)?;
        if !line.starts_with("+OK") {
            return Err(LabError::new(format!(
                "no MONITOR at {addr}: {}",
                line.trim()
            )));
        }
        stream.set_read_timeout(None).map_err(cannot)?;
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let log = Arc::clone(&seen);
        let (anchor, wall) = (Instant::now(), since_epoch());
        thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                if let Some(one) = parse(&line, anchor, wall) {
                    log.lock().unwrap_or_else(PoisonError::into_inner).push(one);
                }
            }
        });
        Ok(Self { stream, seen })
    }

    /// Everything so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
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
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
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
