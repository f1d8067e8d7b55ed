//! Inside a namespace packets vanish as told and the resolver reads what we wrote; outside nothing changes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

use std::net::{Ipv4Addr, ToSocketAddrs};
use std::time::Duration;

use holdfast_lab::net::dial;
use holdfast_lab::netns::{self, Place};
use holdfast_lab::{Answer, Dns, Embedded};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(400);

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

async fn pings(stream: &mut TcpStream) -> bool {
    let mut reply = [0; 7];
    stream.write_all(b"PING\r\n").await.unwrap();
    timeout(SHORT, stream.read_exact(&mut reply))
        .await
        .is_ok_and(|read| read.is_ok())
}

#[test]
fn a_dropped_address_is_silent_and_comes_back() {
    if netns::reexec("a_dropped_address_is_silent_and_comes_back") == Place::Done {
        return;
    }
    block_on(async {
        let ip = Ipv4Addr::new(127, 0, 2, 1);
        let server = Embedded::start_on(ip).await.unwrap();
        let mut old = dial(server.addr(), LONG).await.unwrap();
        assert!(pings(&mut old).await);
        netns::drop_addr(ip);
        assert_eq!(
            dial(server.addr(), SHORT).await.unwrap_err().kind(),
            std::io::ErrorKind::TimedOut
        );
        assert!(!pings(&mut old).await);
        netns::restore_addr(ip);
        assert!(pings(&mut dial(server.addr(), LONG).await.unwrap()).await);
        // The kernel sends again what was dropped: late, not lost.
        let mut reply = [0; 7];
        timeout(LONG, old.read_exact(&mut reply))
            .await
            .unwrap()
            .unwrap();
    });
}

#[test]
fn a_dropped_syn_leaves_open_connections_alone() {
    if netns::reexec("a_dropped_syn_leaves_open_connections_alone") == Place::Done {
        return;
    }
    block_on(async {
        let ip = Ipv4Addr::new(127, 0, 2, 2);
        let server = Embedded::start_on(ip).await.unwrap();
        let mut old = dial(server.addr(), LONG).await.unwrap();
        assert!(pings(&mut old).await);
        netns::drop_syn(ip);
        assert_eq!(
            dial(server.addr(), SHORT).await.unwrap_err().kind(),
            std::io::ErrorKind::TimedOut
        );
        assert!(pings(&mut old).await);
        netns::restore_addr(ip);
        dial(server.addr(), LONG).await.unwrap();
    });
}

#[test]
fn the_resolver_reads_what_we_wrote() {
    if netns::reexec("the_resolver_reads_what_we_wrote") == Place::Done {
        return;
    }
    block_on(async {
        let at = Ipv4Addr::new(127, 0, 2, 53);
        let dns = Dns::start_on((at, 53)).await.unwrap();
        // A process of the same number that was killed left this: it was taken for a mount, and names went to the machine's resolver.
        let left = format!("holdfast-lab-resolv-{}", std::process::id());
        let left = std::env::temp_dir().join(left);
        std::fs::write(&left, "").unwrap();
        netns::resolv_conf("nameserver 127.9.9.9\n");
        assert!(!left.exists(), "one file more in each run");
        netns::resolv_conf(&format!("nameserver {at}\n"));
        dns.set("redis.lab", Answer::addrs([Ipv4Addr::new(127, 0, 2, 9)], 1));
        let found =
            tokio::task::spawn_blocking(|| "redis.lab:6379".to_socket_addrs().unwrap().next());
        assert_eq!(found.await.unwrap().unwrap().to_string(), "127.0.2.9:6379");
        assert!(dns.lookups("redis.lab") > 0);
    });
}

#[test]
#[should_panic(expected = "only inside a namespace")]
fn outside_nothing_can_be_dropped() {
    netns::drop_addr(Ipv4Addr::LOCALHOST);
}
