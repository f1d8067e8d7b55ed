//! Sentinels that are away or useless: a healthy primary is kept, the reason is told, and nobody is asked more often than allowed.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use std::time::Duration;

use common::sentinel::*;
use common::*;
use holdfast_lab::sentinel::{FakeSentinel, Mood, View};
use holdfast_lab::{Embedded, SentinelSet};
use redis_holdfast::{Client, ErrorKind, HealthState};
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

async fn fakes() -> Fakes {
    let redis = Embedded::start().await.unwrap();
    let view = View::of("orders", redis.addr().ip(), redis.addr().port());
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(FakeSentinel::start(view.clone()).await.unwrap());
    }
    let client = connect(&url(&all)).await;
    Fakes {
        all,
        client,
        _redis: redis,
    }
}

fn url(all: &[FakeSentinel]) -> String {
    let hosts: Vec<String> = all.iter().map(|one| one.addr().to_string()).collect();
    format!("redis+sentinel://{}/orders", hosts.join(","))
}

/// While Sentinels are in this mood: no failed call, few questions, and health as expected; afterwards it is well again.
async fn in_the_mood(name: &str, mood: Mood, expected: HealthState) {
    let stage = fakes().await;
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

/// What the first call of a client is told when no Sentinel ever helped, and that it is served soon after one does.
async fn at_the_start(mood: Mood, kind: ErrorKind, words: &str) {
    let redis = Embedded::start().await.unwrap();
    let view = View::of("orders", redis.addr().ip(), redis.addr().port());
    let mut all = Vec::new();
    for _ in 0..3 {
        let one = FakeSentinel::start(view.clone()).await.unwrap();
        one.mood(mood.clone());
        all.push(one);
    }
    let client = Client::builder(&url(&all))
        .unwrap()
        .call_timeout(CALL_TIMEOUT)
        .build()
        .unwrap();
    let mut last = None;
    until("a call fails with the reason", SECOND * 3, async || {
        let error = ask(&client).await.unwrap_err();
        let ours = redis_holdfast::Error::find_in(&error).cloned().unwrap();
        let fits = ours.kind() == kind && told(&error).contains(words);
        last = Some(told(&error));
        fits
    })
    .await;
    println!("{}", last.unwrap());
    for one in &all {
        one.mood(Mood::Well);
    }
    until("served once they help", SECOND * 2, async || {
        ask(&client).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_useless_sentinel_is_told_apart_at_the_start() {
    at_the_start(Mood::Silent, ErrorKind::NoPrimary, "no Sentinel answers").await;
    at_the_start(
        Mood::Null,
        ErrorKind::NoPrimary,
        "no Sentinel knows a primary of this name",
    )
    .await;
    let refuses = Mood::Refuses("NOAUTH Authentication required.".to_owned());
    at_the_start(refuses, ErrorKind::Auth, "Sentinel refused our credentials").await;
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
        first.expect("writes flow again") - promoted
    };
    assert!(seen <= ms(600) + SECOND, "{seen:?}");
    println!(
        "FIGURE sentinels wiped: 0 failed calls while the primary was healthy, first write {seen:?} after their next promotion"
    );
}
