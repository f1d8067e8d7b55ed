//! Sentinels that announce host names: what was once found of a name outlives failovers and DNS outages, a server that is called something
//! else is the same server, and a name is not asked for more often than it is needed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

mod common;

use std::time::Duration;

use common::*;
use holdfast_lab::load::Sample;
use holdfast_lab::sentinel::{FakeSentinel, View};
use holdfast_lab::{Answer, Dns, Embedded, Mode, Outcome, Proxy};
use redis_holdfast::dns::{DnsPolicy, Hickory};
use redis_holdfast::{Builder, Client, ReadFrom, Sentinels, redis};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

const HOSTS: [&str; 2] = ["r0.lab", "r1.lab"];

/// Two servers, their names, and three Sentinels that follow the first.
struct Named {
    servers: Vec<Embedded>,
    dns: Dns,
    sentinels: Vec<FakeSentinel>,
}

impl Named {
    async fn start() -> Self {
        watch();
        let mut servers = Vec::new();
        for host in HOSTS {
            let server = Embedded::start().await.unwrap();
            set(&connect(&server.url()).await, host).await.unwrap();
            servers.push(server);
        }
        let dns = Dns::start().await.unwrap();
        let port = servers[0].addr().port();
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            let view = View {
                epoch: 1,
                ..View::of("orders", HOSTS[0], port)
            };
            sentinels.push(FakeSentinel::start(view).await.unwrap());
        }
        let named = Self {
            servers,
            dns,
            sentinels,
        };
        named.know();
        named
    }

    /// DNS tells where they are.
    fn know(&self) {
        for (nth, host) in HOSTS.iter().enumerate() {
            self.dns.set(host, self.answer(nth));
        }
    }

    fn answer(&self, nth: usize) -> Answer {
        Answer::addrs([self.servers[nth].addr().ip()], 30)
    }

    /// DNS has failed.
    fn fail(&self) {
        for host in HOSTS {
            self.dns.set(host, Answer::ServFail);
        }
    }

    fn spot(&self, nth: usize) -> (String, u16) {
        (HOSTS[nth].to_owned(), self.servers[nth].addr().port())
    }

    /// Another one is the primary by the word of all.
    fn turn(&self, primary: (String, u16), epoch: u64) {
        for one in &self.sentinels {
            one.believe(|view| (view.primary, view.epoch) = (Some(primary.clone()), epoch));
        }
    }

    fn builder(&self, policy: DnsPolicy) -> Builder {
        let seeds = self.sentinels.iter().map(|one| one.addr().to_string());
        let seeds: Vec<String> = seeds.collect();
        let url = format!("redis+sentinel://{}/orders", seeds.join(","));
        let builder = Client::builder(&url).unwrap().call_timeout(CALL_TIMEOUT);
        let resolver = Hickory::servers([self.dns.addr()]);
        builder.resolver(resolver).dns(policy)
    }

    async fn client(&self, policy: DnsPolicy) -> Client {
        let client = self.builder(policy).build().unwrap();
        client.wait_ready(SECOND * 5).await.unwrap();
        client
    }

    fn accepts(&self) -> u64 {
        self.sentinels.iter().map(FakeSentinel::accepts).sum()
    }
}

async fn set(client: &Client, value: &str) -> redis::RedisResult<()> {
    let mut client = client.clone();
    redis::cmd("SET")
        .arg("who")
        .arg(value)
        .query_async(&mut client)
        .await
}

async fn who(client: &Client) -> redis::RedisResult<String> {
    let mut client = client.clone();
    redis::cmd("GET").arg("who").query_async(&mut client).await
}

async fn until_served_by(client: &Client, host: &str, limit: Duration) {
    let served = async || who(client).await.is_ok_and(|who| who == host);
    until(
        &format!("{host} serves, {}", client.health()),
        limit,
        served,
    )
    .await;
}

/// Names are looked up each second, so that it shows.
fn each_second() -> DnsPolicy {
    DnsPolicy::default().min_refresh(SECOND).max_refresh(SECOND)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failback_while_dns_is_away_goes_to_where_the_server_was() {
    let named = Named::start().await;
    let client = named.client(each_second()).await;
    until_served_by(&client, HOSTS[0], SECOND).await;
    named.turn(named.spot(1), 2);
    until_served_by(&client, HOSTS[1], SECOND * 3).await;
    named.fail();
    sleep(SECOND * 2).await;
    assert_eq!(who(&client).await.unwrap(), HOSTS[1]);
    named.turn(named.spot(0), 3);
    until_served_by(&client, HOSTS[0], SECOND * 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_called_by_a_name_from_now_on_fails_no_call() {
    for dns_works in [true, false] {
        let named = Named::start().await;
        let at = named.servers[0].addr();
        named.turn((at.ip().to_string(), at.port()), 1);
        // Whenever it turns, calls are under way.
        named.servers[0].set_service_time(ms(3));
        if dns_works {
            let slow = Answer::Slow(ms(100), Box::new(named.answer(0)));
            named.dns.set(HOSTS[0], slow);
        } else {
            named.fail();
        }
        let client = named.client(DnsPolicy::default()).await;
        let running = start(client.clone(), 200, SECOND * 5);
        sleep(SECOND).await;
        named.turn(named.spot(0), 1);
        sleep(SECOND * 3).await;
        if !dns_works {
            named.know();
        }
        let report = running.finish().await;
        println!(
            "FIGURE names, renamed, DNS works {dns_works}: {}",
            show(&report)
        );
        assert_eq!(
            report.ok(),
            report.total(),
            "{dns_works}: {}",
            show(&report)
        );
        assert_eq!(named.servers[0].accepts(), 2, "the same link serves");
        assert!(named.dns.queries(HOSTS[0]) > 0);
    }
}

/// As long as the new name has no address, the old one is all there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_dies_under_a_name_without_an_address_is_swapped_all_the_same() {
    let named = Named::start().await;
    let proxy = Proxy::start(named.servers[0].addr()).await.unwrap();
    let at = proxy.addr();
    named.turn((at.ip().to_string(), at.port()), 1);
    named.fail();
    let client = named.client(DnsPolicy::default()).await;
    let running = start(client.clone(), 200, SECOND * 4);
    named.turn((HOSTS[0].to_owned(), at.port()), 1);
    sleep(SECOND * 2).await;
    proxy.set(Mode::Stall);
    proxy.set_for_new(Mode::Pass);
    let onset = running.mark("the path of the link is dead");
    let report = running.finish().await;
    println!("FIGURE names, renamed, its link swapped: {}", show(&report));
    // Suspect after 150 ms, a probe within 50, a moment to speak, and what the machine was late.
    let swapped = onset + ms(300) + report.lag().max();
    let late = |sample: &&Sample| sample.scheduled >= swapped && sample.outcome != Outcome::Ok;
    assert_eq!(
        report.samples().iter().filter(late).count(),
        0,
        "{}",
        show(&report)
    );
    assert!(proxy.accepts() <= 3, "{} dials", proxy.accepts());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_ends_with_another_clients_runtime_costs_no_call() {
    let named = Named::start().await;
    named.servers[0].set_service_time(ms(3));
    let sentinels = Sentinels::new();
    let builder = || named.builder(DnsPolicy::default()).sentinels(&sentinels);
    let other = Runtime::new().unwrap();
    let first = builder();
    let first = other.spawn(async move { first.build().unwrap() });
    // Held to the end: without it the follower might be gone before the second client could share it.
    let first = first.await.unwrap();
    first.wait_ready(SECOND * 5).await.unwrap();
    let second = builder().build().unwrap();
    second.wait_ready(SECOND * 5).await.unwrap();
    let asked = named.accepts();
    let running = start(second.clone(), 200, SECOND * 3);
    sleep(SECOND).await;
    other.shutdown_background();
    let report = running.finish().await;
    assert!(named.accepts() > asked, "another follower was made");
    assert_eq!(report.ok(), report.total(), "{}", show(&report));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_was_voted_out_is_left_at_once_wherever_the_new_one_is() {
    let named = Named::start().await;
    let client = named.client(DnsPolicy::default()).await;
    until_served_by(&client, HOSTS[0], SECOND).await;
    named.fail();
    named.turn(named.spot(1), 2);
    let left = async || who(&client).await.is_err();
    until("nobody is written to", SECOND * 3, left).await;
    for _ in 0..50 {
        assert!(who(&client).await.is_err());
        sleep(ms(10)).await;
    }
    named.know();
    until_served_by(&client, HOSTS[1], SECOND * 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_takes_no_lookup_back_that_was_counted() {
    let named = Named::start().await;
    let client = named.client(each_second()).await;
    sleep(SECOND * 4).await;
    let before = named.accepts();
    named.turn(named.spot(1), 2);
    until_served_by(&client, HOSTS[1], SECOND * 3).await;
    let end = Instant::now() + ms(2500);
    while Instant::now() < end {
        assert_eq!(who(&client).await.unwrap(), HOSTS[1]);
        sleep(ms(10)).await;
    }
    assert_eq!(named.accepts(), before, "the connection's keeper was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_read_is_looked_up_at_leisure() {
    let mut named = Named::start().await;
    let replica = Embedded::start_replica(named.servers[0].addr())
        .await
        .unwrap();
    named.servers[1] = replica;
    named.know();
    let (host, port) = named.spot(1);
    for one in &named.sentinels {
        one.believe(|view| view.replicas = vec![(host.clone(), port, "slave".to_owned())]);
    }
    let client = named.client(DnsPolicy::default()).await;
    let client = client.with_read_from(ReadFrom::PreferReplica);
    let asked = async || who(&client).await.is_ok() && named.dns.lookups(HOSTS[1]) > 0;
    until("the replica's name is asked for", SECOND * 5, asked).await;
    sleep(SECOND * 3).await;
    let before = HOSTS.map(|host| named.dns.lookups(host));
    sleep(SECOND * 20).await;
    let after = HOSTS.map(|host| named.dns.lookups(host));
    let asked = [after[0] - before[0], after[1] - before[1]];
    println!("FIGURE P11 A queries for a primary and a replica in 20 s of calm: {asked:?}");
    assert!(asked.iter().all(|asked| *asked <= 5), "{asked:?}");
}
