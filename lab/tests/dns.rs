//! The DNS server says what was written, over UDP and TCP.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use holdfast_lab::net::dial;
use holdfast_lab::{Answer, Dns};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

const A: u16 = 1;
const AAAA: u16 = 28;
const SHORT: Duration = Duration::from_millis(200);

/// What came back.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    code: u8,
    truncated: bool,
    ips: Vec<IpAddr>,
    ttl: Option<u32>,
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

fn read(question: &[u8], reply: &[u8]) -> Seen {
    assert_eq!(&reply[..2], &question[..2], "the id");
    assert_eq!(reply[2] & 0x80, 0x80, "a response");
    assert_eq!(&reply[12..question.len()], &question[12..], "the question");
    let count = u16::from_be_bytes([reply[6], reply[7]]);
    let (mut ips, mut ttl, mut at) = (Vec::new(), None, question.len());
    for _ in 0..count {
        let data = &reply[at + 12..];
        let size = usize::from(reply[at + 11]);
        ttl = Some(u32::from_be_bytes(
            reply[at + 6..at + 10].try_into().unwrap(),
        ));
        ips.push(match size {
            4 => IpAddr::from(<[u8; 4]>::try_from(&data[..4]).unwrap()),
            _ => IpAddr::from(<[u8; 16]>::try_from(&data[..16]).unwrap()),
        });
        at += 12 + size;
    }
    Seen {
        code: reply[3] & 0xf,
        truncated: reply[2] & 2 != 0,
        ips,
        ttl,
    }
}

async fn udp(server: SocketAddr, name: &str, kind: u16) -> Option<Seen> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let question = query(name, kind);
    socket.send_to(&question, server).await.unwrap();
    let mut buffer = [0; 2048];
    let size = timeout(SHORT, socket.recv(&mut buffer))
        .await
        .ok()?
        .unwrap();
    Some(read(&question, &buffer[..size]))
}

async fn tcp(server: SocketAddr, name: &str, kind: u16) -> Seen {
    let mut stream = dial(server, SHORT).await.unwrap();
    let question = query(name, kind);
    stream
        .write_u16(u16::try_from(question.len()).unwrap())
        .await
        .unwrap();
    stream.write_all(&question).await.unwrap();
    let size = timeout(SHORT, stream.read_u16()).await.unwrap().unwrap();
    let mut reply = vec![0; usize::from(size)];
    stream.read_exact(&mut reply).await.unwrap();
    read(&question, &reply)
}

fn ips(all: &[&str]) -> Vec<IpAddr> {
    all.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn only(code: u8) -> Seen {
    Seen {
        code,
        truncated: false,
        ips: vec![],
        ttl: None,
    }
}

#[tokio::test]
async fn addresses_are_answered_by_family_and_names_match_in_any_case() {
    let dns = Dns::start().await.unwrap();
    dns.set(
        "Redis.Lab.",
        Answer::addrs(ips(&["10.0.0.1", "10.0.0.2"]), 30),
    );
    dns.set("six.lab", Answer::addrs(ips(&["::1"]), 5));
    let both = Seen {
        code: 0,
        truncated: false,
        ips: ips(&["10.0.0.1", "10.0.0.2"]),
        ttl: Some(30),
    };
    assert_eq!(udp(dns.addr(), "rEdIs.lab", A).await.unwrap(), both);
    assert_eq!(tcp(dns.addr(), "redis.lab.", A).await, both);
    assert_eq!(udp(dns.addr(), "redis.lab", AAAA).await.unwrap(), only(0));
    assert_eq!(
        udp(dns.addr(), "six.lab", AAAA).await.unwrap().ips,
        ips(&["::1"])
    );
    assert_eq!(udp(dns.addr(), "six.lab", A).await.unwrap(), only(0));
    assert_eq!(
        (dns.queries("redis.lab"), dns.lookups("REDIS.lab.")),
        (3, 2)
    );
    let log = dns.query_log();
    assert_eq!(log.len(), 5);
    assert_eq!(
        (log[0].name.as_str(), log[0].kind.as_str(), log[0].tcp),
        ("redis.lab", "A", false)
    );
    assert!(log[1].tcp);
}

#[tokio::test]
async fn failures_have_their_codes_for_every_type() {
    let dns = Dns::start().await.unwrap();
    for (answer, code) in [
        (Answer::Empty, 0),
        (Answer::ServFail, 2),
        (Answer::NxDomain, 3),
        (Answer::Refused, 5),
    ] {
        dns.set("x.lab", answer);
        for kind in [A, AAAA, 16] {
            assert_eq!(udp(dns.addr(), "x.lab", kind).await.unwrap(), only(code));
        }
    }
}

#[tokio::test]
async fn an_unknown_name_gets_the_default() {
    let dns = Dns::start().await.unwrap();
    assert_eq!(udp(dns.addr(), "no.lab", A).await.unwrap(), only(3));
    dns.default(Answer::ServFail);
    assert_eq!(udp(dns.addr(), "no.lab", A).await.unwrap(), only(2));
}

#[tokio::test]
async fn silence_is_silence_and_a_change_is_in_force_at_once() {
    let dns = Dns::start().await.unwrap();
    dns.set("x.lab", Answer::Silent);
    assert_eq!(udp(dns.addr(), "x.lab", A).await, None);
    dns.set("x.lab", Answer::addrs(ips(&["10.0.0.9"]), 1));
    assert_eq!(
        udp(dns.addr(), "x.lab", A).await.unwrap().ips,
        ips(&["10.0.0.9"])
    );
    assert_eq!(dns.lookups("x.lab"), 2);
}

#[tokio::test]
async fn a_rotation_turns_at_each_lookup() {
    let dns = Dns::start().await.unwrap();
    let sets = vec![ips(&["10.0.0.1"]), ips(&["10.0.0.2"]), ips(&["10.0.0.3"])];
    dns.set(
        "x.lab",
        Answer::Rotate {
            sets: sets.clone(),
            ttl: 1,
        },
    );
    for turn in 0..7 {
        udp(dns.addr(), "x.lab", AAAA).await.unwrap();
        assert_eq!(
            udp(dns.addr(), "x.lab", A).await.unwrap().ips,
            sets[turn % 3]
        );
    }
}

#[tokio::test]
async fn a_slow_answer_holds_up_no_other() {
    let dns = Dns::start().await.unwrap();
    let slow = Duration::from_millis(100);
    let then = Answer::addrs(ips(&["10.0.0.1"]), 1);
    dns.set("slow.lab", Answer::Slow(slow, Box::new(then.clone())));
    dns.set("fast.lab", then);
    let start = Instant::now();
    let (slowly, quickly) = tokio::join!(
        async { (udp(dns.addr(), "slow.lab", A).await, start.elapsed()) },
        async { (udp(dns.addr(), "fast.lab", A).await, start.elapsed()) },
    );
    assert_eq!(slowly.0, quickly.0);
    assert!(slowly.1 >= slow, "{:?}", slowly.1);
    assert!(quickly.1 < slow, "{:?}", quickly.1);
}

#[tokio::test]
async fn a_truncated_answer_is_whole_over_tcp() {
    let dns = Dns::start().await.unwrap();
    let whole = Answer::addrs(ips(&["10.0.0.1"]), 1);
    dns.set("x.lab", Answer::Truncated(Box::new(whole)));
    let cut = udp(dns.addr(), "x.lab", A).await.unwrap();
    assert!(cut.truncated && cut.ips.is_empty());
    let whole = tcp(dns.addr(), "x.lab", A).await;
    assert!(!whole.truncated);
    assert_eq!(whole.ips, ips(&["10.0.0.1"]));
}

#[tokio::test]
async fn nonsense_is_ignored() {
    let dns = Dns::start().await.unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for size in [0, 1, 11, 12, 13, 200] {
        socket.send_to(&vec![0x41; size], dns.addr()).await.unwrap();
    }
    assert_eq!(udp(dns.addr(), "no.lab", A).await.unwrap(), only(3));
}
