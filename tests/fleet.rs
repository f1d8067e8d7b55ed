//! Promises 10 and 11: many clients of one process knock gently, and come back together.
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
use holdfast_lab::{Mode, Proxy, server_or_skip};
use redis_holdfast::layer::{Connect, LinkConnector};
use redis_holdfast::{Client, RedisConnector, redis};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// Each client asks this often.
const ASKS_EVERY: Duration = ms(20);

/// One call at a time, until `end`; when calls were served.
async fn ask<C: Connect>(mut client: Client<C>, end: Instant) -> Vec<Instant> {
    let mut served = Vec::new();
    // A fleet does not ask in step.
    sleep(ASKS_EVERY.mul_f32(fastrand::f32())).await;
    while Instant::now() < end {
        if redis::cmd("PING")
            .query_async::<String>(&mut client)
            .await
            .is_ok()
        {
            served.push(Instant::now());
        }
        sleep(ASKS_EVERY).await;
    }
    served
}

async fn fleet<C: Connect>(over: fn() -> C, url: &str, size: usize) -> Vec<Client<C>> {
    let mut connecting = JoinSet::new();
    for _ in 0..size {
        let url = url.to_owned();
        connecting.spawn(async move { connect_over(over(), &url, "redis").await });
    }
    connecting.join_all().await
}

async fn one_stall<C: Connect>(over: fn() -> C, frozen: bool) {
    const CLIENTS: usize = 200;
    const STALL: Duration = ms(300);
    let Some(server) = server_or_skip().await else {
        return;
    };
    let clients = fleet(over, &server.url(), CLIENTS).await;
    let before = server.accepts().await;
    let end = Instant::now() + SECOND * 2;
    let mut asking = JoinSet::new();
    for client in &clients {
        asking.spawn(ask(client.clone(), end));
    }
    sleep(ms(500)).await;
    if frozen {
        server.freeze();
        let until = Instant::now() + STALL;
        sleep_until(until).await;
        server.thaw();
    } else {
        let millis = STALL.as_millis().to_string();
        server
            .tell(&["CLIENT", "PAUSE", &millis, "ALL"])
            .await
            .unwrap();
    }
    let served = asking.join_all().await;
    // Each of them hears from its link again: nobody was dropped.
    let last = end - ms(500);
    assert!(
        served
            .iter()
            .all(|times| times.iter().any(|at| *at >= last))
    );
    let accepted = server.accepts().await - before;
    let each = accepted as f64 / CLIENTS as f64;
    println!(
        "FIGURE fleet{}: {CLIENTS} clients, one stall of {STALL:?} ({}): {each:.3} accepts per client",
        by::<C>(),
        if frozen { "frozen" } else { "paused" }
    );
    assert!(each <= 0.5, "{accepted} connections accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_and_one_frozen_moment_cost_less_than_half_a_connection_each() {
    one_stall(LinkConnector::new, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_and_one_pause_cost_less_than_half_a_connection_each() {
    one_stall(LinkConnector::new, false).await;
}

/// A hundred clients, an outage, and when each of them was served again.
async fn all_back<C: Connect>(over: fn() -> C, what: &str, mode: Option<Mode>) {
    const CLIENTS: usize = 100;
    let Some(server) = server_or_skip().await else {
        return;
    };
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let url = if mode.is_some() {
        proxy.url()
    } else {
        server.url()
    };
    let clients = fleet(over, &url, CLIENTS).await;
    let length = if is_full() { SECOND * 10 } else { SECOND * 3 };
    let lag = LagMeter::start();
    let end = Instant::now() + SECOND * 3 + length;
    let mut asking = JoinSet::new();
    for client in &clients {
        asking.spawn(ask(client.clone(), end));
    }
    sleep(ms(500)).await;
    let before = server.accepts().await;
    match mode {
        Some(mode) => proxy.set(mode),
        None => server.freeze(),
    }
    sleep(length).await;
    match mode {
        Some(_) => proxy.set(Mode::Pass),
        None => server.thaw(),
    }
    let healed = Instant::now();
    let served = asking.join_all().await;
    let mut back: Vec<Duration> = served
        .iter()
        .map(|times| {
            let first = times.iter().find(|at| **at >= healed);
            *first.expect("everybody is back") - healed
        })
        .collect();
    let slow = p95(&mut back);
    let accepted = server.accepts().await - before;
    println!(
        "FIGURE fleet{}: {CLIENTS} clients, {what} for {length:?}: all back p95 {slow:?}, the last {:?}; {:.2} connections each",
        by::<C>(),
        back[CLIENTS - 1],
        accepted as f64 / CLIENTS as f64
    );
    assert!(
        slow <= ms(500) + lag.log().max_between(healed, healed + SECOND),
        "{back:?}"
    );
    // One each; and a few whose second attempt was on its way when the first was answered.
    assert!(
        accepted <= 105,
        "{accepted} connections for {CLIENTS} clients"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_clients_of_a_frozen_server_are_back_with_one_connection_each() {
    all_back(LinkConnector::new, "frozen", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_clients_of_a_black_hole_are_back_with_one_connection_each() {
    all_back(LinkConnector::new, "black hole", Some(Mode::Blackhole)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_over_redis_own_connection_bear_one_stall_alike() {
    if is_full() {
        one_stall(RedisConnector::new, true).await;
        one_stall(RedisConnector::new, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_clients_over_redis_own_connection_are_back_with_one_connection_each() {
    if is_full() {
        all_back(RedisConnector::new, "frozen", None).await;
        let hole = Some(Mode::Blackhole);
        all_back(RedisConnector::new, "black hole", hole).await;
    }
}
