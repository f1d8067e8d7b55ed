//! Promise 7: DNS that fails, however long and in whatever way, fails no call; neither does DNS that never says the same twice.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::baseline::{Baseline, leaves_nothing};
use common::*;
use holdfast_lab::{Answer, Dns, Mode, Proxy, Server, ip, server_or_skip};
use redis_holdfast::dns::{DnsPolicy, Hickory};
use redis_holdfast::{Client, ErrorKind, Health, HealthState};
use tokio::time::{Instant, sleep, timeout};

const NAME: &str = "orders.lab";

/// In a short test names are looked up each second, so that the outage is noticed at all; else as it comes.
fn policy() -> DnsPolicy {
    let usual = DnsPolicy::default();
    if is_full() {
        usual
    } else {
        usual.min_refresh(SECOND).max_refresh(SECOND)
    }
}

/// The longest time until a name is looked up again while lookups fail, and the time a lookup takes to fail.
fn next_lookup() -> Duration {
    let gap = if is_full() { SECOND * 30 } else { SECOND };
    gap + ms(2_200)
}

async fn connect_by_name(dns: &Dns, port: u16) -> Client {
    let client = Client::builder(&format!("redis://{NAME}:{port}/"))
        .unwrap()
        .resolver(Hickory::servers([dns.addr()]))
        .dns(policy())
        .call_timeout(CALL_TIMEOUT)
        .build()
        .unwrap();
    client.wait_ready(SECOND * 5).await.unwrap();
    client
}

/// Waits until health says `state`.
async fn until(client: &Client, state: HealthState, within: Duration) -> Health {
    let mut watch = client.watch_health();
    let reached = async {
        let mut health = watch.current();
        while health.state() != state {
            health = watch.changed().await.expect("the client lives");
        }
        health
    };
    match timeout(within, reached).await {
        Ok(health) => health,
        Err(_) => panic!("not {state:?} within {within:?}: {}", client.health()),
    }
}

/// DNS says `answer` from the first second on. Later the link is cut as well, and the last address that was good is dialled.
async fn dns_says(row: &str, answer: Answer, reason: &str) {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let dns = Dns::start().await.unwrap();
    let good = Answer::addrs([proxy.addr().ip()], 1);
    dns.set(NAME, good.clone());
    let baseline = Baseline::take().await;
    let client = connect_by_name(&dns, proxy.addr().port()).await;
    let dead = if is_full() { SECOND * 60 } else { SECOND * 3 };

    let running = start(client.clone(), RATE, SECOND + dead + SECOND * 2);
    sleep(SECOND).await;
    dns.set(NAME, answer);
    let onset = running.mark("DNS dead");
    let degraded = until(&client, HealthState::Degraded, next_lookup()).await;
    let noticed = onset.elapsed();
    assert_eq!(degraded.kind(), Some(ErrorKind::Dns), "{degraded}");
    assert!(
        degraded.reason().contains(reason),
        "health says {:?}, DNS was {row}",
        degraded.reason()
    );
    sleep((onset + dead).saturating_duration_since(Instant::now())).await;
    assert_eq!(client.health().state(), HealthState::Degraded);
    proxy.set_for_old(Mode::Reset);
    let cut = running.mark("link cut");
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);

    let failed = report.failed_between(onset, cut);
    assert_eq!(failed, 0, "while DNS was dead: {}", show(&report));
    // The cut is promise 4's: the endpoint lives, so reads and plain SETs go on over the next link.
    let recovered = recovered_within(&report, cut, ms(500));
    assert_eq!(report.failed(), 0, "after the cut: {}", show(&report));
    assert_eq!(proxy.accepts(), 2, "one link, and one in its place");
    dns.set(NAME, good);
    until(&client, HealthState::Ready, next_lookup()).await;
    leaves_nothing(&client, "redis", baseline).await;
    println!(
        "FIGURE dns_outage {row} for {dead:?}: {failed} failed of {}, degraded after {noticed:?}, link cut meanwhile: {} failed, 99 % ok {recovered:?} after",
        report.total(),
        report.failed_between(cut, cut + SECOND * 3)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_dns_fails_no_call() {
    dns_says("silent", Answer::Silent, "answer").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dns_that_fails_fails_no_call() {
    dns_says("SERVFAIL", Answer::ServFail, "failed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dns_that_refuses_fails_no_call() {
    dns_says("REFUSED", Answer::Refused, "refused").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_exists_no_longer_fails_no_call() {
    dns_says("NXDOMAIN", Answer::NxDomain, "no such name").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_without_an_address_fails_no_call() {
    dns_says("empty", Answer::Empty, "no address").await;
}

/// Four doors to one server, and a name that leads to some of them in turn.
async fn rotating(row: &str, ttl: u32, at_once: usize) {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let doors = four_doors(&server).await;
    let ips = [0, 1, 2, 3].map(|n| doors[n].addr().ip());
    let sets = (0..4).map(|first| (0..at_once).map(|n| ips[(first + n) % 4]).collect());
    let dns = Dns::start().await.unwrap();
    let sets = sets.collect();
    dns.set(NAME, Answer::Rotate { sets, ttl });
    let baseline = Baseline::take().await;
    let client = connect_by_name(&dns, doors[0].addr().port()).await;

    let span = if is_full() { SECOND * 60 } else { SECOND * 6 };
    let report = start(client.clone(), RATE, span).finish().await;
    println!("{}", show(&report));
    always(&report);
    assert_eq!(report.failed(), 0, "{}", show(&report));
    let lookups = dns.lookups(NAME);
    assert!(lookups >= 5, "the name went round: {lookups} lookups");
    let accepts: u64 = doors.iter().map(Proxy::accepts).sum();
    assert!(accepts <= 2, "{} swaps", accepts - 1);
    let open: usize = doors.iter().map(Proxy::open_connections).sum();
    assert_eq!(open, 1, "one link is left");
    leaves_nothing(&client, "redis", baseline).await;
    println!(
        "FIGURE dns_outage rotating, {row}, for {span:?}: {} failed of {}, {} swaps, {lookups} lookups",
        report.failed(),
        report.total(),
        accepts - 1
    );
}

async fn four_doors(server: &Server) -> Vec<Proxy> {
    let mut doors = vec![Proxy::start(server.addr()).await.unwrap()];
    let port = doors[0].addr().port();
    for _ in 0..3 {
        let addr = SocketAddr::from((ip(), port));
        doors.push(Proxy::start_on(addr, server.addr()).await.unwrap());
    }
    doors
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_gives_one_of_four_live_addresses_in_turn_fails_no_call() {
    rotating("one of four, TTL 0", 0, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_gives_two_of_four_live_addresses_in_turn_fails_no_call() {
    rotating("two of four, TTL 1 s", 1, 2).await;
}
