//! Sentinels that are away or useless: a healthy primary is kept, the reason is told, and nobody is asked more often than allowed.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::sentinel::*;
use common::*;
use holdfast_lab::sentinel::{FakeSentinel, Mood};
use holdfast_lab::{Embedded, Mode, Proxy, SentinelSet};
use redis_holdfast::{Client, ErrorKind, HealthState, redis};
use tokio::time::{Instant, sleep};

fn lasting(full_seconds: u32) -> Duration {
    if is_full() {
        SECOND * full_seconds
    } else {
        SECOND * 3
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_all_sentinels_dead_a_healthy_primary_fails_no_call_and_health_says_why() {
    let Some(set) = SentinelSet::builder().bare_nodes().start_or_skip().await else {
        return;
    };
    let client = connect_to(&set).await;
    let length = lasting(60);
    let running = start(client.clone(), RATE, ms(500) + length + ms(500));
    sleep(ms(500)).await;
    for one in set.sentinels() {
        one.kill();
    }
    running.mark("all Sentinels killed");
    until("health tells", SECOND * 5, async || {
        client.health().state() == HealthState::Degraded
    })
    .await;
    let health = client.health();
    assert_eq!(health.kind(), Some(ErrorKind::NoPrimary), "{health:?}");
    assert!(health.reason().contains("Sentinel"), "{health:?}");
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    assert_eq!(report.failed(), 0, "{}", show(&report));
    assert_eq!(client.health().state(), HealthState::Degraded);
    // And back: names and addresses are tried for ever.
    for one in set.sentinels() {
        one.restart().await.unwrap();
    }
    let back = Instant::now();
    until("health is well again", SECOND * 5, async || {
        client.health().is_ready()
    })
    .await;
    println!(
        "FIGURE sentinels dead for {length:?}: {} failed of {}, health degraded with the reason, ready {:?} after their return",
        report.failed(),
        report.total(),
        back.elapsed()
    );
}

/// Three Sentinels of our own before an embedded Redis, and a client that is ready.
struct Fakes {
    all: Vec<FakeSentinel>,
    client: Client,
    _redis: Embedded,
}

async fn stage() -> Fakes {
    let redis = Embedded::start().await.unwrap();
    let all = fakes(3, redis.addr()).await;
    let client = connect(&url(&all)).await;
    Fakes {
        all,
        client,
        _redis: redis,
    }
}

/// While Sentinels are in this mood: no failed call, few questions, and health as expected; afterwards it is well again.
async fn in_the_mood(name: &str, mood: Mood, expected: HealthState) {
    let stage = stage().await;
    let length = lasting(30);
    let running = start(stage.client.clone(), RATE, length + SECOND);
    sleep(ms(500)).await;
    let connections: u64 = stage.all.iter().map(FakeSentinel::accepts).sum();
    for one in &stage.all {
        one.mood(mood.clone());
    }
    let onset = running.mark("mood");
    sleep(length).await;
    let (asked, connected) = (
        most_asked(&stage.all, onset),
        stage.all.iter().map(FakeSentinel::accepts).sum::<u64>() - connections,
    );
    assert_eq!(
        stage.client.health().state(),
        expected,
        "{:?}",
        stage.client.health()
    );
    for one in &stage.all {
        one.mood(Mood::Well);
    }
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    assert_eq!(report.failed(), 0, "{}", show(&report));
    until("health is well again", SECOND * 5, async || {
        stage.client.health().is_ready()
    })
    .await;
    // The primary is well: nothing is urgent. One question each second, jittered, and one PING each second at most.
    assert!(
        asked <= 4,
        "{asked} commands within one second at one Sentinel"
    );
    // A new connection to each may be tried each second, by turns.
    let most = 3 * (length.as_secs() + 1);
    assert!(
        connected <= most,
        "{connected} connections within {length:?}"
    );
    println!(
        "FIGURE sentinels {name} for {length:?}: 0 failed of {}, at most {asked} commands/s at a Sentinel, {connected} new connections",
        report.total()
    );
}

/// The most discoveries and `PING`s that one of them got within one second.
fn most_asked(all: &[FakeSentinel], from: Instant) -> usize {
    let busiest = |one: &FakeSentinel| {
        let times: Vec<Instant> = one
            .asked()
            .into_iter()
            .filter(|(at, what)| {
                *at >= from && ["SENTINEL GET-MASTER-ADDR-BY-NAME", "PING"].contains(&what.as_str())
            })
            .map(|(at, _)| at)
            .collect();
        let within = |start: &Instant| {
            times
                .iter()
                .filter(|at| **at >= *start && **at - *start < SECOND)
                .count()
        };
        times.iter().map(within).max().unwrap_or(0)
    };
    all.iter().map(busiest).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_sentinels_cost_a_healthy_primary_nothing() {
    in_the_mood("frozen", Mood::Silent, HealthState::Degraded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_in_tilt_cost_a_healthy_primary_nothing() {
    in_the_mood("in TILT", Mood::Tilt, HealthState::Ready).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_forgot_the_primary_do_not_take_it_away() {
    in_the_mood("answering null", Mood::Null, HealthState::Degraded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_refuse_our_credentials_do_not_take_the_primary_away() {
    let refuses = Mood::Refuses("NOAUTH Authentication required.".to_owned());
    in_the_mood("answering NOAUTH", refuses, HealthState::Degraded).await;
}

/// What a client is told to which Sentinels in this mood have named nobody but the server at `named`, beside that its time was up: this
/// alone. And that it is served soon after they help.
async fn at_the_start(mood: Mood, named: SocketAddr, expected: &str) {
    let redis = Embedded::start().await.unwrap();
    let all = fakes(3, named).await;
    all.iter().for_each(|one| one.mood(mood.clone()));
    let client = Client::builder(&url(&all))
        .unwrap()
        .call_timeout(CALL_TIMEOUT)
        .build()
        .unwrap();
    let mut last = String::new();
    until("a call fails with the reason", SECOND * 3, async || {
        last = told(&ask(&client).await.unwrap_err());
        !last.starts_with("timeout · queue")
    })
    .await;
    println!("{last}");
    assert!(last.starts_with(expected), "{last}, not {expected}");
    all_believe(&all, redis.addr(), 1);
    all.iter().for_each(|one| one.mood(Mood::Well));
    until("served once they help", SECOND * 2, async || {
        ask(&client).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_useless_sentinel_is_told_apart_at_the_start() {
    let redis = Embedded::start().await.unwrap();
    for (mood, expected) in [
        (Mood::Silent, "no_primary · discovery · no Sentinel answers"),
        (
            Mood::Null,
            "no_primary · discovery · no Sentinel knows a primary of this name",
        ),
        (
            Mood::Refuses("NOAUTH Authentication required.".to_owned()),
            "auth · discovery · Sentinel refused our credentials",
        ),
    ] {
        at_the_start(mood, redis.addr(), expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_nobody_reaches_or_that_is_none_is_told_apart_from_useless_sentinels() {
    let redis = Embedded::start().await.unwrap();
    let nobody = holdfast_lab::net::free_port(holdfast_lab::ip()).unwrap();
    let far = Proxy::start(redis.addr()).await.unwrap();
    far.set(Mode::Blackhole);
    let replica = Embedded::start_replica(redis.addr()).await.unwrap();
    for (named, expected) in [
        (nobody, "connection_lost · connect · connection refused"),
        (
            far.addr(),
            "connection_lost · connect · server did not accept the connection",
        ),
        (
            replica.addr(),
            "role_mismatch · handshake · server is a replica, not a primary",
        ),
    ] {
        at_the_start(Mood::Well, named, expected).await;
    }
}

/// Whether all of them say that they are in TILT.
async fn tilted(set: &SentinelSet) -> bool {
    for one in set.sentinels() {
        let info = SentinelSet::tell(one, &["INFO", "sentinel"]).await.unwrap();
        if !info.contains("sentinel_tilt:1") {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_sentinels_that_hung_and_are_in_tilt_cost_a_healthy_primary_nothing() {
    let Some(set) = SentinelSet::builder().bare_nodes().start_or_skip().await else {
        return;
    };
    let client = connect_to(&set).await;
    let running = start(client.clone(), RATE, SECOND * 60);
    sleep(ms(500)).await;
    for one in set.sentinels() {
        one.freeze();
    }
    running.mark("all Sentinels frozen");
    // Their timer is 2 s late then, and more: they trust nothing that they measured for 30 s.
    sleep(SECOND * 3).await;
    assert_eq!(client.health().state(), HealthState::Degraded);
    for one in set.sentinels() {
        one.thaw();
    }
    let thawed = running.mark("thawed");
    until("all are in TILT", SECOND * 2, async || tilted(&set).await).await;
    // They answer what they are asked, and what they say is believed.
    until("health is well again", SECOND * 5, async || {
        client.health().is_ready()
    })
    .await;
    let ready = thawed.elapsed();
    // A poll of each, and some.
    sleep(SECOND * 2).await;
    assert!(client.health().is_ready(), "{:?}", client.health());
    assert!(tilted(&set).await, "in TILT all the while");
    running.stop();
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    assert_eq!(report.failed(), 0, "{}", show(&report));
    println!(
        "FIGURE real sentinels frozen for 3 s, then in TILT: 0 failed of {}, health degraded and ready {ready:?} after they were thawed",
        report.total()
    );
}

/// Tells it to each Sentinel.
async fn tell_all(set: &SentinelSet, words: &[&str]) {
    for one in set.sentinels() {
        assert_eq!(SentinelSet::tell(one, words).await.unwrap(), "+OK");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_sentinels_that_forget_the_name_cost_a_healthy_primary_nothing() {
    let Some(set) = SentinelSet::builder().bare_nodes().start_or_skip().await else {
        return;
    };
    let client = connect_to(&set).await;
    let running = start(client.clone(), RATE, SECOND * 60);
    sleep(ms(500)).await;
    tell_all(&set, &["SENTINEL", "REMOVE", set.name()]).await;
    until("health tells", SECOND * 5, async || {
        client.health().kind() == Some(ErrorKind::NoPrimary)
    })
    .await;
    assert_eq!(client.health().state(), HealthState::Degraded);
    let at = set.node(0).addr();
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    tell_all(&set, &["SENTINEL", "MONITOR", set.name(), &ip, &port, "2"]).await;
    until("health is well again", SECOND * 5, async || {
        client.health().is_ready()
    })
    .await;
    running.stop();
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    assert_eq!(report.failed(), 0, "{}", show(&report));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_sentinels_that_want_a_password_cost_a_healthy_primary_nothing() {
    let Some(set) = SentinelSet::builder().bare_nodes().start_or_skip().await else {
        return;
    };
    let client = connect_to(&set).await;
    let running = start(client.clone(), RATE, SECOND * 60);
    sleep(ms(500)).await;
    let mut inside = Vec::new();
    for one in set.sentinels() {
        let mut connection = one.server().control().await.unwrap();
        let mut closed = redis::pipe();
        closed
            .cmd("ACL")
            .arg(&["SETUSER", "default", "resetpass", ">canary-password"]);
        // Whoever was let in before would stay in.
        for kind in ["pubsub", "normal"] {
            closed
                .cmd("CLIENT")
                .arg(&["KILL", "TYPE", kind, "SKIPME", "yes"]);
        }
        closed.exec_async(&mut connection).await.unwrap();
        inside.push(connection);
    }
    until("health tells", SECOND * 5, async || {
        client.health().kind() == Some(ErrorKind::Auth)
    })
    .await;
    assert_eq!(client.health().state(), HealthState::Degraded);
    for connection in &mut inside {
        let mut open = redis::cmd("ACL");
        open.arg(&["SETUSER", "default", "nopass"]);
        open.exec_async(connection).await.unwrap();
    }
    until("health is well again", SECOND * 5, async || {
        client.health().is_ready()
    })
    .await;
    running.stop();
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    assert_eq!(report.failed(), 0, "{}", show(&report));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_lost_their_state_are_believed_again() {
    let Some(set) = SentinelSet::builder().bare_nodes().start_or_skip().await else {
        return;
    };
    let client = connect_to(&set).await;
    // An epoch that the wiped ones know nothing of.
    SentinelSet::tell(set.sentinel(0), &["SENTINEL", "FAILOVER", set.name()])
        .await
        .unwrap();
    until("the old primary is a replica", PROMOTED, async || {
        set.primary().await == Some(1)
    })
    .await;
    set.settled(1, 1, PROMOTED).await.unwrap();
    let running = start(client.clone(), RATE, SECOND * 60);
    for one in set.sentinels() {
        one.wipe(set.node(1)).await.unwrap();
    }
    running.mark("all wiped");
    set.settled(1, 1, PROMOTED).await.unwrap();
    let before = running.counts();
    assert_eq!(before.failed, 0, "the primary was healthy all the time");
    // And now they are needed: at epoch 0 and after.
    let seen = {
        let mut promotion = holdfast_lab::sentinel::Promotion::watch([set.node(0).server().addr()]);
        set.node(1).kill();
        let (_, promoted) = promotion
            .within(PROMOTED)
            .await
            .expect("a replica is promoted");
        sleep(SECOND * 2).await;
        running.stop();
        let report = running.finish().await;
        println!("{}", show(&report));
        always(&report);
        let first = answered_after(&report, holdfast_lab::load::Kind::Write, promoted);
        let first = first.expect("writes flow again");
        (first - promoted).saturating_sub(report.lag().max_between(promoted, first))
    };
    // As where no events arrive: nobody has told them all yet who we are, nor us who they are.
    assert!(seen <= ms(600), "{seen:?}");
    println!(
        "FIGURE sentinels wiped: 0 failed calls while the primary was healthy, first write {seen:?} after their next promotion"
    );
}
