//! Promises 1, 2, 3, 10 and 12: silence is found, calls are refused, recovery needs no help, and nothing is left behind. Over our link,
//! and over `redis`' own connection in our hands.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may end here, and tokio::spawn is at home in it"
)]

#[path = "../common/mod.rs"]
mod common;
mod leaks;
mod outages;

use common::baseline::is_child;
use common::is_full;
use redis_holdfast::RedisConnector;
use redis_holdfast::layer::LinkConnector;

const LINK: fn() -> LinkConnector = LinkConnector::new;
const REDIS: fn() -> RedisConnector = RedisConnector::new;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

// ── over our link ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthy_calls_are_served() {
    outages::healthy(LINK()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_refused_at_once_and_served_again_within_500_ms() {
    outages::killed(LINK()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_and_then_unanswered_syns_are_refused_and_survived() {
    outages::reset_and_unanswered_syns(LINK()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_refused_and_finds_no_pile_in_its_accept_queue() {
    outages::frozen(LINK()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_server_is_refused_and_served_again_within_500_ms() {
    outages::paused(LINK()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_without_reset_is_refused_and_survived() {
    outages::black_hole(LINK()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_acknowledges_and_delivers_nothing_is_refused_and_survived() {
    outages::silent_path(LINK()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_black_hole_is_found_within_3_s() {
    outages::idle(LINK()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_calls_a_second_are_refused_within_600_ms_of_a_total_loss() {
    outages::ten_calls_a_second(LINK()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_thaws_before_its_link_is_given_up_is_served_again() {
    outages::thawed_early(LINK()).await;
}

#[test]
fn ten_times_the_load_on_a_black_hole_stays_bounded() {
    if is_child("ten_times_the_load_on_a_black_hole_stays_bounded") {
        runtime().block_on(leaks::ten_times_the_load(LINK()));
    }
}

#[test]
fn memory_sockets_tasks_and_permits_are_what_they_were_after_every_fault() {
    if is_child("memory_sockets_tasks_and_permits_are_what_they_were_after_every_fault") {
        runtime().block_on(leaks::every_fault_in_turn(LINK()));
    }
}

// ── over redis' own connection ─────────────────────────────────────────────────────────────────────────────────────────────────────────
// The quick run takes the rows in which a connection is kept, dropped and made again; the rest are for the full one.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_own_connection_serves_healthy_calls() {
    if is_full() {
        outages::healthy(REDIS()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_own_connection_survives_a_killed_server() {
    outages::killed(REDIS()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_own_connection_survives_a_reset_and_then_unanswered_syns() {
    if is_full() {
        outages::reset_and_unanswered_syns(REDIS()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_own_connection_survives_a_frozen_server() {
    outages::frozen(REDIS()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_own_connection_survives_a_paused_server() {
    if is_full() {
        outages::paused(REDIS()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_own_connection_survives_a_black_hole_without_reset() {
    outages::black_hole(REDIS()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_own_connection_survives_a_path_that_delivers_nothing() {
    if is_full() {
        outages::silent_path(REDIS()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_own_connection_is_found_in_an_idle_black_hole() {
    if is_full() {
        outages::idle(REDIS()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_own_connection_is_refused_soon_at_ten_calls_a_second() {
    if is_full() {
        outages::ten_calls_a_second(REDIS()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_own_connection_is_kept_when_its_server_thaws_in_time() {
    if is_full() {
        outages::thawed_early(REDIS()).await;
    }
}

#[test]
fn redis_own_connection_stays_bounded_under_ten_times_the_load() {
    if is_full() && is_child("redis_own_connection_stays_bounded_under_ten_times_the_load") {
        runtime().block_on(leaks::ten_times_the_load(REDIS()));
    }
}

#[test]
fn redis_own_connection_leaves_nothing_behind() {
    if is_full() && is_child("redis_own_connection_leaves_nothing_behind") {
        runtime().block_on(leaks::every_fault_in_turn(REDIS()));
    }
}
