//! Small things about addresses and sockets which the rest of the lab shares.
//!
//! Owns the numbering of loopback addresses, free ports, and a dial with a deadline. Promises that [`ip`] never gives
//! the same address twice in one process and hardly ever in two. Leaves protocols to others. Fails with `io::Error`.
//! Next: [`crate::server`] and [`crate::proxy`], which live on these addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A loopback address no one else in this process has, mixed with the process id so that parallel runs keep apart.
pub fn ip() -> Ipv4Addr {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let block = spread(std::process::id().wrapping_add((n / 250).wrapping_mul(0x9e37)));
    let [_, _, x, y] = block.to_be_bytes();
    let last = u8::try_from(n % 250).unwrap_or(0) + 1;
    // 127.16 to 127.239: clear of 127.0.0.1, of Debian's 127.0.1.1 and of stub resolvers at 127.0.0.53.
    Ipv4Addr::new(127, 16 + x % 224, y, last)
}

/// `addr` with a port that was free a moment ago.
///
/// # Errors
/// When the address cannot be bound at all.
pub fn free_port(ip: impl Into<IpAddr>) -> io::Result<SocketAddr> {
    TcpListener::bind((ip.into(), 0))?.local_addr()
}

/// Connects with a deadline and without Nagle's delay.
///
/// # Errors
/// As `connect`, or `TimedOut`.
pub async fn dial(addr: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_nodelay(true)?;
    // So that a test may give another connection, to elsewhere, the very same address.
    socket.set_reuseaddr(true)?;
    timeout(limit, socket.connect(addr))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Sends one command as a RESP array and returns the first reply as raw bytes: one line, or one bulk string's body.
pub(crate) async fn ask(stream: &mut TcpStream, words: &[&str]) -> io::Result<String> {
    let mut out = format!("*{}\r\n", words.len());
    for word in words {
        out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(out.as_bytes()).await?;
    let mut seen = Vec::new();
    loop {
        if let Some(reply) = whole(&seen) {
            return Ok(reply);
        }
        if stream.read_buf(&mut seen).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn whole(seen: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(seen);
    let (line, rest) = text.split_once("\r\n")?;
    match line.strip_prefix('$').map(str::parse::<usize>) {
        None => Some(line.to_owned()),
        Some(Err(_)) => Some(String::new()),
        Some(Ok(length)) => (rest.len() >= length + 2).then(|| rest.chars().take(length).collect()),
    }
}

/// Finalizer of a small hash: neighbouring process ids land far apart.
fn spread(mut n: u32) -> u32 {
    n = (n ^ (n >> 16)).wrapping_mul(0x7feb_352d);
    n = (n ^ (n >> 15)).wrapping_mul(0x846c_a68b);
    n ^ (n >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn an_address_is_given_once_and_can_be_bound() {
        let all: HashSet<_> = (0..600).map(|_| ip()).collect();
        assert_eq!(all.len(), 600);
        assert!(free_port(ip()).is_ok());
    }
}
