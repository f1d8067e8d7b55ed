//! Whether anybody is at home at an address, asked over a connection of our own.
//!
//! Owns [`knock`]. Promises: it ends in time; needs no password and no TLS: who refuses in words is there too. Leaves what follows to
//! [`probe`](super::probe). Cannot fail: who does not answer is not there.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{Reply, layer::breaker::is_answer, net::link::dial::dial};

/// A round trip or two, and a SYN that is not repeated.
const WITHIN: Duration = Duration::from_millis(250);
/// Longer than the first words of any server.
const MOST: u64 = 512;
/// With which a server of TLS answers what is none: an alert.
const ALERT: u8 = 0x15;

/// Whether a server answers there.
pub(super) async fn knock(address: SocketAddr) -> bool {
    let knocking = async {
        let mut stream = dial(&address.into(), WITHIN).await.ok()?;
        stream.write_all(b"PING\r\n").await.ok()?;
        let (mut said, mut left) = (Vec::new(), stream.take(MOST));
        while !said.ends_with(b"\n") && said.first() != Some(&ALERT) {
            if left.read_buf(&mut said).await.ok()? == 0 {
                break;
            }
        }
        Some(is_life(&said))
    };
    let knocked = timeout(WITHIN, knocking).await;
    knocked.ok().flatten().unwrap_or(false)
}

fn is_life(said: &[u8]) -> bool {
    match said.first() {
        Some(&ALERT) => true,
        Some(b'+' | b'-') => {
            let is_full = said.starts_with(b"-ERR max number of clients");
            let reply = redis::parse_redis_value(said);
            !is_full && reply.is_ok_and(|reply| is_answer(&Reply::from(reply)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn who_answers_in_the_protocol_is_there_and_who_cannot_serve_is_not() {
        for (said, is) in [
            (&b"+PONG\r\n"[..], true),
            (b"-NOAUTH Authentication required.\r\n", true),
            (b"-NOPERM x\r\n", true),
            (b"\x15\x03\x01\x00\x02", true),
            (b"-LOADING x\r\n", false),
            (b"-BUSY x\r\n", false),
            (b"-ERR max number of clients reached\r\n", false),
            (b"-ERR", false),
            (b"HTTP/1.1 400 Bad Request\r\n", false),
            (b"", false),
        ] {
            assert_eq!(is_life(said), is, "{:?}", String::from_utf8_lossy(said));
        }
    }

    #[tokio::test]
    async fn it_ends_in_time_whoever_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        // Completed by the kernel, and never answered.
        let begun = tokio::time::Instant::now();
        assert!(!knock(address).await);
        assert!(begun.elapsed() >= WITHIN);
        let server = async {
            let (mut old, _) = listener.accept().await.expect("the one before");
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut said = [0; 6];
            let _ = old.read(&mut said).await;
            stream.read_exact(&mut said).await.expect("the question");
            assert_eq!(&said, b"PING\r\n");
            stream.write_all(b"+PO").await.expect("sent");
            stream.write_all(b"NG\r\n").await.expect("sent");
            stream
        };
        let (is_there, _held) = tokio::join!(knock(address), server);
        assert!(is_there);
        drop(listener);
        assert!(!knock(address).await, "refused");
    }
}
