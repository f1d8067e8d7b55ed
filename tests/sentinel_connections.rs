//! Promise 11 towards the Sentinels: one connection to each, by whatever names it is known, and a pause before a Sentinel that hangs up
//! is dialled again.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use std::net::SocketAddr;

use common::sentinel::*;
use common::*;
use holdfast_lab::Embedded;
use holdfast_lab::dns::{Answer, Dns};
use holdfast_lab::sentinel::{FakeSentinel, Mood, View};
use redis_holdfast::Client;
use redis_holdfast::dns::Hickory;
use tokio::time::sleep;

/// Three that know each other by their IPs.
async fn fakes(primary: SocketAddr) -> Vec<FakeSentinel> {
    let mut all = Vec::new();
    for _ in 0..3 {
        let view = View::of("orders", primary.ip(), primary.port());
        all.push(FakeSentinel::start(view).await.unwrap());
    }
    let at: Vec<SocketAddr> = all.iter().map(FakeSentinel::addr).collect();
    for one in &all {
        let others = at.iter().filter(|at| **at != one.addr());
        let others = others.map(|at| (at.ip().to_string(), at.port())).collect();
        one.believe(|view| view.others = others);
    }
    all
}

fn accepts(all: &[FakeSentinel]) -> Vec<u64> {
    all.iter().map(FakeSentinel::accepts).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_is_named_and_announces_its_ip_is_dialled_once() {
    let redis = Embedded::start().await.unwrap();
    let all = fakes(redis.addr()).await;
    let dns = Dns::start().await.unwrap();
    let mut hosts = Vec::new();
    for (nth, one) in all.iter().enumerate() {
        dns.set(&format!("s{nth}.lab"), Answer::addrs([one.addr().ip()], 5));
        hosts.push(format!("s{nth}.lab:{}", one.addr().port()));
    }
    let client = |hosts: &[String]| {
        Client::builder(&format!("redis+sentinel://{}/orders", hosts.join(",")))
            .unwrap()
            .resolver(Hickory::servers([dns.addr()]))
            .call_timeout(CALL_TIMEOUT)
            .build()
            .unwrap()
    };
    let first = client(&hosts);
    first.wait_ready(SECOND * 2).await.unwrap();
    sleep(SECOND * 2).await;
    assert_eq!(accepts(&all), [1, 1, 1]);
    // One that is named by nobody is learned once those that are named have answered, or have not.
    hosts.remove(2);
    dns.set("s1.lab", Answer::ServFail);
    let second = client(&hosts);
    second.wait_ready(SECOND * 2).await.unwrap();
    until("the others are learned", SECOND * 3, async || {
        accepts(&all) == [2, 2, 2]
    })
    .await;
    sleep(SECOND * 2).await;
    assert_eq!(accepts(&all), [2, 2, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_hangs_up_is_not_dialled_in_a_storm() {
    // At the first question, and after the first answers.
    for answered in [0, 5] {
        let redis = Embedded::start().await.unwrap();
        let all = fakes(redis.addr()).await;
        all.iter().for_each(|one| one.mood(Mood::HangsUp(answered)));
        let hosts: Vec<String> = all.iter().map(|one| one.addr().to_string()).collect();
        let client = Client::builder(&format!("redis+sentinel://{}/orders", hosts.join(",")))
            .unwrap()
            .call_timeout(CALL_TIMEOUT)
            .build()
            .unwrap();
        // Calls start it.
        let _ = ask(&client).await;
        sleep(SECOND * 2).await;
        let dialled = accepts(&all);
        assert!(
            dialled.iter().all(|dialled| *dialled <= 8),
            "hang up after {answered}: {dialled:?} within 2 s"
        );
        println!(
            "FIGURE P11 Sentinels that hang up after {answered} answers: {dialled:?} dials in 2 s"
        );
        all.iter().for_each(|one| one.mood(Mood::Well));
        until("served once they stay", SECOND * 2, async || {
            ask(&client).await.is_ok()
        })
        .await;
    }
}
