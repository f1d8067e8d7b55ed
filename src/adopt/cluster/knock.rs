//! Whether anybody is at home at an address, asked over a connection of our own.
//!
//! Owns [`Knocker`]. Promises: it ends in time; needs no password and no TLS: who refuses in words, or with an alert, is there too; a node that
//! accepts and says nothing has one connection of ours, and not one more for each knock. Leaves what follows to [`probe`](super::probe) and
//! [`reader`](super::reader). Cannot fail: who does not answer is not there.

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    Reply,
    layer::breaker::is_answer,
    net::link::{dial::dial, socket::Stream},
};

/// A round trip or two, and a SYN that is not repeated.
const WITHIN: Duration = Duration::from_millis(250);
/// Longer than the first words of any server.
const MOST: usize = 512;
const PING: &[u8] = b"PING\r\n";
/// A record of a handshake that says nothing. A server of TLS closes on a `PING`, or resets, without a word; to this it says what it is.
const HELLO: &[u8] = b"\x16\x03\x01\x00\x04\x00\x00\x00\x00";
/// With which that begins: an alert.
const ALERT: u8 = 0x15;

/// Knocks at one address.
#[derive(Debug, Default)]
pub(super) struct Knocker {
    /// On which an answer is owed.
    owed: Mutex<Option<Stream>>,
}

/// A connection that is listened to: owed again, unless it has answered or closed.
struct Listening<'a> {
    owed: &'a Mutex<Option<Stream>>,
    stream: Option<Stream>,
}

impl Knocker {
    /// Whether a server answers at `address`, the same each time.
    ///
    /// # Cancel safety
    /// What is owed stays owed.
    pub(super) async fn knock(&self, address: SocketAddr) -> bool {
        let knocked = timeout(WITHIN, self.hear(address)).await;
        knocked.ok().flatten().unwrap_or(false)
    }

    /// Whether it was accepted there, and is not answered yet.
    pub(super) fn is_owed(&self) -> bool {
        lock(&self.owed).is_some()
    }

    async fn hear(&self, address: SocketAddr) -> Option<bool> {
        let owed = lock(&self.owed).take();
        let said = match owed {
            Some(stream) => self.listen(stream).await,
            None => Vec::new(),
        };
        if !said.is_empty() {
            return Some(is_life(&said));
        }
        let said = self.say(PING, address).await?;
        if !said.is_empty() {
            return Some(is_life(&said));
        }
        let said = self.say(HELLO, address).await?;
        Some(is_life(&said))
    }

    /// What is answered to these words, over a new connection: nothing where that is closed.
    async fn say(&self, words: &[u8], address: SocketAddr) -> Option<Vec<u8>> {
        let mut stream = dial(&address.into(), WITHIN).await.ok()?;
        Some(match stream.write_all(words).await {
            Ok(()) => self.listen(stream).await,
            Err(_) => Vec::new(),
        })
    }

    async fn listen(&self, stream: Stream) -> Vec<u8> {
        let mut listening = Listening {
            owed: &self.owed,
            stream: Some(stream),
        };
        let mut said = Vec::new();
        while let Some(stream) = &mut listening.stream
            && said.len() < MOST
            && !said.ends_with(b"\n")
            && said.first() != Some(&ALERT)
        {
            let left = MOST - said.len();
            let read = (&mut *stream).take(left as u64).read_buf(&mut said).await;
            if !read.is_ok_and(|read| read > 0) {
                break;
            }
        }
        listening.stream = None;
        said
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            *lock(self.owed) = Some(stream);
        }
    }
}

fn lock(owed: &Mutex<Option<Stream>>) -> MutexGuard<'_, Option<Stream>> {
    owed.lock().unwrap_or_else(PoisonError::into_inner)
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
    use holdfast_lab::{Find, Server, Servers};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn who_answers_in_the_protocol_is_there_and_who_cannot_serve_is_not() {
        for (said, is) in [
            (&b"+PONG\r\n"[..], true),
            (b"-NOAUTH Authentication required.\r\n", true),
            (b"-NOPERM x\r\n", true),
            (b"\x15\x03\x03\x00\x02\x02\x0a", true),
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

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        (listener, address)
    }

    #[tokio::test]
    async fn who_accepts_and_is_silent_has_one_connection_of_ours_until_it_answers() {
        let (listener, address) = listener().await;
        let knocker = Knocker::default();
        let begun = tokio::time::Instant::now();
        for _ in 0..3 {
            // Completed by the kernel, and never answered.
            assert!(!knocker.knock(address).await);
            assert!(knocker.is_owed());
        }
        assert!(begun.elapsed() >= WITHIN * 3);
        // Cancelled, as by a doubt that has been dispelled.
        assert!(timeout(WITHIN / 5, knocker.knock(address)).await.is_err());
        let server = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut said = [0; 6];
            stream.read_exact(&mut said).await.expect("the question");
            assert_eq!(&said, PING);
            stream.write_all(b"+PO").await.expect("sent");
            stream.write_all(b"NG\r\n").await.expect("sent");
            assert_eq!(stream.read(&mut said).await.expect("closed"), 0, "once");
        };
        let (is_there, ()) = tokio::join!(knocker.knock(address), server);
        assert!(is_there);
        let another = timeout(WITHIN / 5, listener.accept()).await;
        assert!(another.is_err(), "another connection");
        drop(listener);
        assert!(!knocker.knock(address).await, "refused");
        assert!(!knocker.is_owed());
    }

    /// What a Redis 7.0 with TLS and an `openssl s_server` do: each closes without a word on a `PING`, and answers an empty record with an alert.
    #[tokio::test]
    async fn a_server_of_tls_is_there_and_one_that_only_closes_is_not() {
        for (says, is) in [(&b"\x15\x03\x03\x00\x02\x02\x0a"[..], true), (b"", false)] {
            let (listener, address) = listener().await;
            let server = async {
                for (question, answer) in [(PING, &b""[..]), (HELLO, says)] {
                    let (mut stream, _) = listener.accept().await.expect("a connection");
                    let mut said = vec![0; question.len()];
                    stream.read_exact(&mut said).await.expect("the question");
                    assert_eq!(said, question);
                    stream.write_all(answer).await.expect("sent");
                }
            };
            let knocker = Knocker::default();
            let (is_there, ()) = tokio::join!(knocker.knock(address), server);
            assert_eq!(is_there, is, "{says:?}");
        }
    }

    /// The real one, where this machine has a server that was built with TLS, and `openssl` for a certificate.
    #[tokio::test]
    async fn a_redis_with_tls_is_there() {
        let directory = std::env::temp_dir().join(format!("holdfast-knock-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let file = |name: &str| directory.join(name).display().to_string();
        let (key, certificate) = (file("key.pem"), file("certificate.pem"));
        let made = tokio::process::Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
            ])
            .args(["-subj", "/CN=knock", "-keyout", &key, "-out", &certificate])
            .output()
            .await;
        let is_made = made.is_ok_and(|made| made.status.success());
        let seventh = Servers::find_all()
            .into_iter()
            .find(|binary| is_made && binary.version.starts_with("7.0"));
        let Some(seventh) = seventh else {
            println!("SKIPPED: no openssl, or no Redis 7.0");
            return;
        };
        let (listener, address) = listener().await;
        drop(listener);
        let server = Server::builder()
            .kind(Find::Path(seventh.path))
            .arg("--tls-port", address.port().to_string())
            .arg("--tls-cert-file", &certificate)
            .arg("--tls-key-file", &key)
            .arg("--tls-ca-cert-file", &certificate)
            .start()
            .await;
        let _ = std::fs::remove_dir_all(&directory);
        let Ok(server) = server else {
            println!("SKIPPED: this Redis 7.0 was built without TLS");
            return;
        };
        let address = SocketAddr::new(server.ip(), address.port());
        assert!(Knocker::default().knock(address).await, "with TLS");
        assert!(Knocker::default().knock(server.addr()).await, "without");
    }
}
