//! Promise 9: writes flow soon after the promotion, whatever became of the old primary and of some Sentinels, and never to the old
//! primary again.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use std::time::Duration;

use common::sentinel::*;
use common::*;
use holdfast_lab::sentinel::{FakeSentinel, View};
use holdfast_lab::{Answer, Dns, Mode, SentinelSet};
use redis_holdfast::Client;
use redis_holdfast::dns::Hickory;
use tokio::time::sleep;

/// Told by Pub/Sub who it will be, asked every 50 ms whether it is: measured, 300 ms hold a lost question and a handshake.
const WITH_EVENTS: Duration = ms(300);
/// Nobody tells: Sentinels are asked each second, and at once and often while the primary is suspected.
const WITHOUT_EVENTS: Duration = ms(600);

/// What is wrong with the Sentinels, beside the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Also {
    Nothing,
    NoEvents,
    OneSilent,
    LeaderSilent,
    Readdressed,
    OnlyLeaderAndSilent,
    FirstStale,
}

impl Also {
    fn limit(self) -> Duration {
        match self {
            Self::NoEvents => WITHOUT_EVENTS,
            _ => WITH_EVENTS,
        }
    }
}

/// One failover, from a set of its own to the first write after it.
async fn one(fault: Fault, also: Also) -> Option<Failover> {
    let set = fault.set().start_or_skip().await?;
    let (client, _kept) = troubled(&set, also).await;
    let seen = fail_over(&set, &client, fault).await;
    always(&seen.report);
    assert!(
        seen.strayed.is_empty(),
        "{fault:?} {also:?}: the old primary was handed {:?}",
        seen.strayed
    );
    println!(
        "{fault:?} {also:?}: promoted {:?} after the onset, first write {:?} later",
        seen.promoted - seen.onset,
        seen.first_write - seen.promoted
    );
    Some(seen)
}

/// A client that has connected, and Sentinels as they are said to be; what must live as long comes along.
async fn troubled(set: &SentinelSet, also: Also) -> (Client, (Option<FakeSentinel>, Option<Dns>)) {
    let forbid = async |words: &[&str]| {
        for one in set.sentinels() {
            let said = SentinelSet::tell(one, words).await.unwrap();
            assert_eq!(said, "+OK");
        }
    };
    match also {
        Also::Nothing => (connect_to(set).await, (None, None)),
        Also::NoEvents => {
            forbid(&[
                "ACL",
                "SETUSER",
                "default",
                "-subscribe",
                "-psubscribe",
                "resetchannels",
            ])
            .await;
            (connect_to(set).await, (None, None))
        }
        Also::OneSilent | Also::LeaderSilent => {
            let client = connect_to(set).await;
            // Nobody hears it, and it hears all: it may still lead. Without a quorum of its own a Sentinel starts no failover, and votes.
            let followers = if also == Also::OneSilent {
                vec![0]
            } else {
                vec![1, 2]
            };
            for nth in followers {
                let words = ["SENTINEL", "SET", set.name(), "quorum", "9"];
                SentinelSet::tell(set.sentinel(nth), &words).await.unwrap();
            }
            set.sentinel(0).proxy().set(Mode::Stall);
            (client, (None, None))
        }
        Also::Readdressed => readdressed(set).await,
        Also::OnlyLeaderAndSilent => {
            for nth in [1, 2] {
                // Without a quorum of its own it starts no failover, and still votes.
                let words = ["SENTINEL", "SET", set.name(), "quorum", "9"];
                SentinelSet::tell(set.sentinel(nth), &words).await.unwrap();
            }
            // Sentinels keep the links they have with each other.
            set.sentinel(1).proxy().set_for_new(Mode::Stall);
            set.sentinel(2).proxy().set_for_new(Mode::Blackhole);
            (connect_to(set).await, (None, None))
        }
        Also::FirstStale => {
            let old = set.node(0).addr();
            let stale = FakeSentinel::start(View::of(set.name(), old.ip(), old.port()))
                .await
                .unwrap();
            let url = set
                .url()
                .replacen("://", &format!("://{},", stale.addr()), 1);
            (connect(&url).await, (Some(stale), None))
        }
    }
}

/// Every Sentinel moves to a new address, the old ones become black holes, and DNS tells of the new ones.
async fn readdressed(set: &SentinelSet) -> (Client, (Option<FakeSentinel>, Option<Dns>)) {
    let dns = Dns::start().await.unwrap();
    let tell = || {
        for (nth, one) in set.sentinels().iter().enumerate() {
            dns.set(&format!("s{nth}.lab"), Answer::addrs([one.addr().ip()], 5));
        }
    };
    tell();
    let hosts = set.sentinels().iter().enumerate();
    let hosts: Vec<String> = hosts
        .map(|(nth, one)| format!("s{nth}.lab:{}", one.addr().port()))
        .collect();
    let client = Client::builder(&format!(
        "redis+sentinel://{}/{}",
        hosts.join(","),
        set.name()
    ))
    .unwrap()
    .resolver(Hickory::servers([dns.addr()]))
    .call_timeout(CALL_TIMEOUT)
    .build()
    .unwrap();
    client.wait_ready(SECOND * 5).await.unwrap();
    for one in set.sentinels() {
        one.readdress(holdfast_lab::ip()).await.unwrap();
    }
    tell();
    set.settled(0, 1, SECOND * 30).await.unwrap();
    // Their names are looked up every 5 s, or at once when one falls silent.
    sleep(SECOND).await;
    (client, (None, Some(dns)))
}

/// So many failovers of one kind, and the bound on their p90 and their slowest. How long each took.
async fn row(fault: Fault, also: Also, runs: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..runs {
        match one(fault, also).await {
            Some(seen) => times.push(seen.took()),
            None => return Vec::new(),
        }
    }
    let (p90, max) = p90_and_max(&mut times);
    assert!(max <= also.limit(), "{fault:?} {also:?}: {times:?}");
    println!(
        "FIGURE P9 {fault:?}, {also:?}: first write p90 {p90:?}, max {max:?} after the promotion ({runs} failovers)"
    );
    times
}

/// Seven of each fault beside what troubles the Sentinels, and what all of them took together.
async fn whatever_the_fault(also: Also) {
    let mut times = Vec::new();
    for fault in faults() {
        times.extend(row(fault, also, runs(7)).await);
    }
    if times.len() > 1 {
        let (p90, max) = p90_and_max(&mut times);
        println!(
            "FIGURE P9 {also:?}, whatever the fault: first write p90 {p90:?}, max {max:?} after the promotion ({} failovers)",
            times.len()
        );
    }
}

fn runs(full: usize) -> usize {
    if is_full() { full } else { 1 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_killed_primary_writes_flow_within_300_ms_of_the_promotion() {
    row(Fault::Killed, Also::Nothing, runs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_black_holed_primary_writes_flow_within_300_ms_of_the_promotion() {
    row(Fault::BlackHoled, Also::Nothing, runs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_frozen_primary_writes_flow_within_300_ms_of_the_promotion() {
    row(Fault::Frozen, Also::Nothing, runs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_events_writes_flow_within_600_ms_of_the_promotion() {
    for fault in faults() {
        row(fault, Also::NoEvents, runs(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_sentinel_costs_nothing() {
    whatever_the_fault(Also::OneSilent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_silent_to_us_costs_nothing_either() {
    whatever_the_fault(Also::LeaderSilent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_all_moved_are_found_again_by_name() {
    whatever_the_fault(Also::Readdressed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_and_a_silent_one_are_enough() {
    whatever_the_fault(Also::OnlyLeaderAndSilent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_first_sentinel_misleads_nobody() {
    whatever_the_fault(Also::FirstStale).await;
}

/// All three in full, seven times each where it is Sentinels that are troubled; else the one that tells the least by itself.
fn faults() -> Vec<Fault> {
    if is_full() {
        Fault::ALL.to_vec()
    } else {
        vec![Fault::BlackHoled]
    }
}
