//! Promise 7: DNS that fails, however long and in whatever way, fails no call; neither does DNS that never says the same twice. Over our
//! link and over `redis`' own connection, side by side.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::baseline::{Baseline, ends};
use common::*;
use holdfast_lab::{Answer, Dns, Mode, Proxy, Server, ip, server_or_skip};
use redis_holdfast::dns::{DnsPolicy, Hickory};
use redis_holdfast::layer::{Connect, LinkConnector};
use redis_holdfast::{Client, ErrorKind, Health, HealthState, RedisConnector};
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

/// A server behind doors, and who says which of them the name leads to.
struct Scene {
    _server: Server,
    doors: Vec<Proxy>,
    dns: Dns,
}

impl Scene {
    async fn set_up(doors: usize) -> Option<Self> {
        watch();
        let server = server_or_skip().await?;
        let first = Proxy::start(server.addr()).await.unwrap();
        let port = first.addr().port();
        let mut all = vec![first];
        for _ in 1..doors {
            let addr = SocketAddr::from((ip(), port));
            all.push(Proxy::start_on(addr, server.addr()).await.unwrap());
        }
        Some(Self {
            _server: server,
            doors: all,
            dns: Dns::start().await.unwrap(),
        })
    }

    /// A client by this name, which has asked DNS where the server is, and is ready.
    async fn connect<C: Connect>(&self, over: C, name: &str) -> Client<C> {
        let port = self.doors[0].addr().port();
        let client = Client::builder(&format!("redis://{NAME}:{port}/"))
            .unwrap()
            .resolver(Hickory::servers([self.dns.addr()]))
            .dns(policy())
            .call_timeout(CALL_TIMEOUT)
            .name(name)
            .connector(over)
            .build()
            .unwrap();
        client.wait_ready(SECOND * 5).await.unwrap();
        client
    }
}

/// Waits until health says `state`.
async fn until<C: Connect>(client: &Client<C>, state: HealthState, within: Duration) -> Health {
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
    let (Some(link), Some(redis)) = (Scene::set_up(1).await, Scene::set_up(1).await) else {
        return;
    };
    let baseline = Baseline::take().await;
    tokio::join!(
        link.dns_says(LinkConnector::new(), "link", row, &answer, reason),
        redis.dns_says(RedisConnector::new(), "redis", row, &answer, reason),
    );
    baseline.is_restored().await;
}

impl Scene {
    async fn dns_says<C: Connect>(
        &self,
        over: C,
        name: &str,
        row: &str,
        answer: &Answer,
        reason: &str,
    ) {
        let (door, dns) = (&self.doors[0], &self.dns);
        let good = Answer::addrs([door.addr().ip()], 1);
        dns.set(NAME, good.clone());
        let client = self.connect(over, name).await;
        let dead = if is_full() { SECOND * 60 } else { SECOND * 3 };

        let running = start(client.clone(), RATE, SECOND + dead + SECOND * 2);
        sleep(SECOND).await;
        dns.set(NAME, answer.clone());
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
        door.set_for_old(Mode::Reset);
        let cut = running.mark("link cut");
        let report = running.finish().await;
        println!("{}", show(&report));
        always(&report);

        let failed = report.failed_between(onset, cut);
        assert_eq!(failed, 0, "while DNS was dead: {}", show(&report));
        // The cut is promise 4's: the endpoint lives, so reads and plain SETs go on over the next link.
        let recovered = recovered_within(&report, cut, ms(500));
        assert_eq!(report.failed(), 0, "after the cut: {}", show(&report));
        assert_eq!(door.accepts(), 2, "one link, and one in its place");
        dns.set(NAME, good);
        until(&client, HealthState::Ready, next_lookup()).await;
        ends(&client, name).await;
        println!(
            "FIGURE dns_outage {row}{} for {dead:?}: {failed} failed of {}, degraded after {noticed:?}, \
             link cut meanwhile: {} failed, 99 % ok {recovered:?} after",
            by::<C>(),
            report.total(),
            report.failed_between(cut, cut + SECOND * 3)
        );
    }
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
    let (Some(link), Some(redis)) = (Scene::set_up(4).await, Scene::set_up(4).await) else {
        return;
    };
    let baseline = Baseline::take().await;
    tokio::join!(
        link.rotates(LinkConnector::new(), "link", row, ttl, at_once),
        redis.rotates(RedisConnector::new(), "redis", row, ttl, at_once),
    );
    baseline.is_restored().await;
}

impl Scene {
    async fn rotates<C: Connect>(&self, over: C, name: &str, row: &str, ttl: u32, at_once: usize) {
        let (doors, dns) = (&self.doors, &self.dns);
        let ip_of = |n: usize| doors[n % 4].addr().ip();
        let sets = (0..4).map(|first| (first..first + at_once).map(ip_of).collect());
        let sets = sets.collect();
        dns.set(NAME, Answer::Rotate { sets, ttl });
        let client = self.connect(over, name).await;

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
        ends(&client, name).await;
        println!(
            "FIGURE dns_outage rotating, {row}, for {span:?}{}: {} failed of {}, {} swaps, {lookups} lookups",
            by::<C>(),
            report.failed(),
            report.total(),
            accepts - 1
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_gives_one_of_four_live_addresses_in_turn_fails_no_call() {
    rotating("one of four, TTL 0", 0, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_gives_two_of_four_live_addresses_in_turn_fails_no_call() {
    rotating("two of four, TTL 1 s", 1, 2).await;
}
