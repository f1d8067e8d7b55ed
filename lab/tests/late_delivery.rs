//! The hazard behind the fence, shown with a real server: bytes of a connection that was given up run later, unless
//! the server was told to kill that connection first.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

use std::time::Duration;

use holdfast_lab::net::dial;
use holdfast_lab::{Mode, Proxy, server_or_skip};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const LONG: Duration = Duration::from_secs(5);
const LATE: Duration = Duration::from_millis(200);

async fn says(stream: &mut TcpStream, line: &str) -> String {
    stream
        .write_all(format!("{line}\r\n").as_bytes())
        .await
        .unwrap();
    let mut reply = vec![0; 1024];
    let size = timeout(LONG, stream.read(&mut reply))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8_lossy(&reply[..size]).trim().to_owned()
}

/// What `k` holds after an old path delivered `SET k old` late, with or without a fence before `SET k new`.
async fn race(fenced: bool) -> Option<String> {
    let server = server_or_skip().await?;
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let mut old = dial(proxy.addr(), LONG).await.unwrap();
    let id = says(&mut old, "CLIENT ID").await;
    proxy.set_for_old(Mode::DeliverAfterClose(LATE));
    old.write_all(b"SET k old\r\n").await.unwrap();
    socket2::SockRef::from(&old)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(old);

    let mut new = dial(proxy.addr(), LONG).await.unwrap();
    if fenced {
        let killed = says(&mut new, &format!("CLIENT KILL ID {}", &id[1..])).await;
        assert_eq!(killed, ":1");
    }
    assert_eq!(says(&mut new, "SET k new").await, "+OK");
    sleep(LATE * 2).await;
    Some(says(&mut new, "GET k").await)
}

#[tokio::test]
async fn what_a_lost_connection_sent_overwrites_a_later_write() {
    if let Some(found) = race(false).await {
        assert_eq!(found, "$3\r\nold");
    }
}

#[tokio::test]
async fn a_fence_keeps_it_from_running() {
    if let Some(found) = race(true).await {
        assert_eq!(found, "$3\r\nnew");
    }
}
