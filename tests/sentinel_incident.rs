//! The incident: every Redis and Sentinel pod moves to a new address range, DNS fails for ten seconds, Sentinels hang in lookups and are
//! killed by their probes; then it heals. Real servers with host names, in a network and with a resolver of their own.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may end here, and tokio::spawn is at home in it"
)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use holdfast_lab::netns::{self, Place};
use holdfast_lab::sentinel::{Liveness, Probe};
use holdfast_lab::{Answer, Dns, SentinelSet};
use redis_holdfast::Client;
use tokio::time::sleep;

const DOMAIN: &str = "lab";

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

fn outage() -> Duration {
    if is_full() { SECOND * 10 } else { SECOND * 5 }
}

/// A hurried kubelet: within the outage a Sentinel that hangs in a lookup is killed and started again, more than once.
const PROBE: Probe = Probe {
    period: ms(300),
    timeout: ms(300),
    failures: 3,
    pause: ms(300),
};

/// Once through it all; DNS answers so while it fails.
async fn once(meanwhile: Answer) {
    let dns = Arc::new(Dns::start_on(([127, 0, 0, 53], 53)).await.unwrap());
    netns::resolv_conf("nameserver 127.0.0.53\n");
    let names = Arc::clone(&dns);
    let set = SentinelSet::builder()
        .replicas(2)
        .domain(DOMAIN, move |host, ip| {
            names.set(host, Answer::addrs([ip], 5))
        })
        .start_or_skip()
        .await;
    let Some(set) = set else { return };
    let client = Client::builder(&set.url())
        .unwrap()
        .call_timeout(CALL_TIMEOUT)
        .build()
        .unwrap();
    client.wait_ready(SECOND * 5).await.unwrap();
    let all: Vec<_> = set.nodes().iter().chain(set.sentinels()).collect();
    let probes: Vec<Liveness> = all.iter().map(|one| Liveness::of(one, PROBE)).collect();

    let running = start(client, RATE, SECOND + outage() + SECOND * 3);
    sleep(SECOND).await;
    for one in &all {
        dns.set(one.host().unwrap(), meanwhile.clone());
    }
    for one in &all {
        one.readdress(holdfast_lab::ip()).await.unwrap();
    }
    let onset = running.mark("everything moved, DNS fails");
    // As a Sentinel that looks a name up in its event loop does (measured with 7.0; newer ones keep what they have): it hangs,
    // its probe kills it, and the next process begins with the same lookup.
    for one in set.sentinels() {
        one.freeze();
    }
    sleep(outage()).await;
    for one in &all {
        dns.set(one.host().unwrap(), Answer::addrs([one.addr().ip()], 5));
    }
    let healed = running.mark("DNS is right");
    let report = running.finish().await;
    println!("{}", show(&report));
    let kills: usize = probes[set.nodes().len()..]
        .iter()
        .map(|probe| probe.kills().len())
        .sum();
    always(&report);
    assert!(
        kills >= set.sentinels().len(),
        "{kills} Sentinels were killed"
    );
    refused_within(&report, onset, ms(600), healed);
    let refusal = refusals_p99(&report, onset + ms(700), healed);
    assert!(refusal <= ms(1), "a refusal took {refusal:?}");
    let recovered = recovered_within(&report, healed, ms(500));
    println!(
        "FIGURE incident {meanwhile:?} for {:?}: 0 calls late, refusals p99 {refusal:?}, 99 % ok {recovered:?} after DNS was right, \
         {kills} Sentinels killed by their probes",
        outage()
    );
}

fn test(name: &str, meanwhile: &Answer, runs: usize) {
    if netns::reexec(name) == Place::Done {
        return;
    }
    for _ in 0..if is_full() { 20 } else { runs } {
        block_on(once(meanwhile.clone()));
    }
}

#[test]
fn the_incident_with_a_dns_that_fails_is_over_half_a_second_after_it_heals() {
    const NAME: &str = "the_incident_with_a_dns_that_fails_is_over_half_a_second_after_it_heals";
    test(NAME, &Answer::ServFail, 1);
}

#[test]
fn the_incident_with_a_silent_dns_is_over_half_a_second_after_it_heals() {
    const NAME: &str = "the_incident_with_a_silent_dns_is_over_half_a_second_after_it_heals";
    test(NAME, &Answer::Silent, 2);
}
