//! Promise 10: the first call is served soon after the peer is back, however long it was away.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may end here, and tokio::spawn is at home in it"
)]

mod common;

use std::time::Duration;

use common::*;
use holdfast_lab::load::LagMeter;
use holdfast_lab::{Mode, Proxy, Server, server_or_skip};
use redis_holdfast::{Client, redis};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// The longest gap between two probes is 450 ms (300 ms + 50 %); with its answer that is half a second.
const FIRST_SUCCESS: Duration = ms(500);
/// A caller asks this often, alone: what it sees of the recovery is late by at most this.
const ASKS_EVERY: Duration = ms(10);

#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    Frozen,
    SynBlackHole,
    SilentPath,
}

/// A server of its own, an outage of its own: how long after its end a call was served.
async fn one(fault: Fault, length: Duration) -> Option<Duration> {
    let server = server_or_skip().await?;
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let url = match fault {
        Fault::Killed | Fault::Frozen => server.url(),
        Fault::SynBlackHole | Fault::SilentPath => proxy.url(),
    };
    let client = connect(&url).await;
    // The phase: where in the clocks of link and prober the outage begins and ends.
    sleep(ms(fastrand::u64(0..=1000))).await;
    let length = length + ms(fastrand::u64(0..=300));
    let asking = tokio::spawn(ask(client));
    begin(fault, &server, &proxy);
    sleep(length).await;
    let back = end(fault, &server, &proxy).await;
    let mut served = asking.await.unwrap();
    served.retain(|at| *at >= back);
    // Alone with this outage there is nobody else to make it fail.
    let first = served.first().expect("a call is served in the end");
    Some(*first - back)
}

/// When calls were served, until a second of them came after a refusal.
async fn ask(mut client: Client) -> Vec<Instant> {
    let (mut served, mut failed, end) = (Vec::new(), false, Instant::now() + SECOND * 120);
    let mut enough = None;
    while Instant::now() < end && enough.is_none_or(|at| Instant::now() < at) {
        let asked = redis::cmd("PING").query_async::<String>(&mut client).await;
        match asked {
            Ok(_) => {
                served.push(Instant::now());
                if failed && enough.is_none() {
                    enough = Some(Instant::now() + SECOND);
                }
            }
            Err(_) => (failed, enough) = (true, None),
        }
        sleep(ASKS_EVERY).await;
    }
    served
}

fn begin(fault: Fault, server: &Server, proxy: &Proxy) {
    match fault {
        Fault::Killed => server.kill(),
        Fault::Frozen => server.freeze(),
        Fault::SynBlackHole => proxy.set(Mode::Blackhole),
        Fault::SilentPath => proxy.set(Mode::Stall),
    }
}

/// Ends the fault, and says when the peer was back.
async fn end(fault: Fault, server: &Server, proxy: &Proxy) -> Instant {
    match fault {
        Fault::Killed => server.restart().await.unwrap(),
        Fault::Frozen => server.thaw(),
        Fault::SynBlackHole | Fault::SilentPath => proxy.set(Mode::Pass),
    }
    Instant::now()
}

/// Outages of every length, side by side in their phases.
async fn every_length(fault: Fault) {
    let (lengths, phases) = if is_full() {
        (vec![SECOND, SECOND * 10, SECOND * 60], 20)
    } else {
        (vec![ms(700), SECOND * 2], 3)
    };
    let lag = LagMeter::start();
    let mut figures = Vec::new();
    for length in lengths {
        let mut outages = JoinSet::new();
        for _ in 0..phases {
            outages.spawn(one(fault, length));
        }
        let mut took: Vec<Duration> = outages.join_all().await.into_iter().flatten().collect();
        if took.is_empty() {
            return;
        }
        assert_eq!(took.len(), phases);
        let slow = p95(&mut took);
        // The same bound for each length: recovery does not grow with the outage.
        let limit = FIRST_SUCCESS + lag.log().max();
        assert!(slow <= limit, "{fault:?} of {length:?}: {took:?}");
        let (half, last) = (took[took.len() / 2], took[took.len() - 1]);
        figures.push(format!(
            "{length:?}: p50 {half:?}, p95 {slow:?}, max {last:?}"
        ));
    }
    println!(
        "FIGURE recovery {fault:?}: first success after outages of {} ({phases} phases each)",
        figures.join("; ")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_served_within_500_ms_of_its_return_however_long_it_was_away() {
    every_length(Fault::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_served_within_500_ms_of_its_return_however_long_it_was_away() {
    every_length(Fault::Frozen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_behind_unanswered_syns_is_served_within_500_ms_of_its_return_however_long_it_was_away()
 {
    every_length(Fault::SynBlackHole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_behind_a_silent_path_is_served_within_500_ms_of_its_return_however_long_it_was_away()
 {
    every_length(Fault::SilentPath).await;
}
