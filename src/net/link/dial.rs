//! Opens a hardened connection to one address.
//!
//! Owns socket options, all set *before* connecting: no delay, keepalive 5/1/3 s, `TCP_USER_TIMEOUT` 2.5 s as the kernel's backstop
//! (it bounds the time that written bytes stay unacknowledged; below a second one lost ACK would kill healthy connections), and a
//! small unsent window so that a blocked write moves on in small steps. Promises: it ends within `connect_timeout`.
//! Leaves names to [`dns`](crate::net::dns), the first words to [`handshake`](super::handshake). Fails with phase `connect`.

use std::{net::SocketAddr, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpSocket, time::timeout};

use super::socket::Stream;
use crate::{Error, ErrorKind, Phase, net::address::Address};

const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(5))
    .with_interval(Duration::from_secs(1));
const KEEPALIVE_PROBES: u32 = 3;
#[cfg(any(target_os = "linux", target_os = "android"))]
const USER_TIMEOUT: Duration = Duration::from_millis(2500);
/// Bytes the kernel holds beyond what the peer's window lets it send. Keeps "a blocked write moved on" a sign of life: it does when half of
/// them have gone, by arithmetic 50 to 110 ms on a path of 10 Mbit/s, for the kernel may take one more segment than it is asked to.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_WINDOW: u32 = 128 * 1024;

/// The system, or this process, has no descriptor to spare. They have no kind of their own; the numbers are the same on every Unix.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// Connects to `address` within `connect_timeout`.
pub(crate) async fn dial(address: &Address, connect_timeout: Duration) -> Result<Stream, Error> {
    let connecting = async {
        match address {
            Address::Tcp(addr) => connect_tcp(*addr).await.map(Stream::Tcp),
            #[cfg(unix)]
            Address::Unix(path) => tokio::net::UnixStream::connect(path)
                .await
                .map(Stream::Unix),
            #[cfg(not(unix))]
            Address::Unix(_) => Err(std::io::ErrorKind::Unsupported.into()),
        }
    };
    match timeout(connect_timeout, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            let detail = match error.kind() {
                std::io::ErrorKind::ConnectionRefused => "connection refused",
                std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable => {
                    "server unreachable"
                }
                std::io::ErrorKind::TimedOut => "server did not accept the connection",
                _ if cfg!(unix) && matches!(error.raw_os_error(), Some(ENFILE | EMFILE)) => {
                    "no file descriptors left"
                }
                _ => "could not connect",
            };
            Err(Error::new(ErrorKind::ConnectionLost, Phase::Connect, detail).because(error))
        }
        Err(_) => Err(Error::new(
            ErrorKind::ConnectionLost,
            Phase::Connect,
            "server did not accept the connection",
        )
        .after(connect_timeout)),
    }
}

async fn connect_tcp(addr: SocketAddr) -> std::io::Result<tokio::net::TcpStream> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    let options = SockRef::from(&socket);
    options.set_tcp_nodelay(true)?;
    options.set_tcp_keepalive(&keepalive())?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        options.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        options.set_tcp_notsent_lowat(UNSENT_WINDOW)?;
    }
    socket.connect(addr).await
}

fn keepalive() -> TcpKeepalive {
    #[cfg(not(windows))]
    let keepalive = KEEPALIVE.with_retries(KEEPALIVE_PROBES);
    #[cfg(windows)]
    let keepalive = KEEPALIVE;
    keepalive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn options_are_in_place_and_a_closed_port_is_refused_by_name() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let addr = listener.local_addr().expect("an address");
        let Ok(Stream::Tcp(stream)) = dial(&addr.into(), Duration::from_secs(1)).await else {
            panic!("connects")
        };
        let options = SockRef::from(&stream);
        assert!(options.tcp_nodelay().expect("readable") && options.keepalive().expect("readable"));
        #[cfg(target_os = "linux")]
        assert_eq!(
            options.tcp_user_timeout().expect("readable"),
            Some(USER_TIMEOUT)
        );
        drop((stream, listener));
        let error = dial(&addr.into(), Duration::from_secs(1))
            .await
            .expect_err("nobody listens");
        assert_eq!(
            (error.kind(), error.phase()),
            (ErrorKind::ConnectionLost, Phase::Connect)
        );
        assert!(
            error.to_string().starts_with("connection refused"),
            "{error}"
        );
    }
}
