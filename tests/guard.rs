//! Connections that somebody else made, under guard: bounded in a black hole, and microseconds once the circuit is open.
#![cfg(feature = "deadpool")]
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use std::time::Duration;

use deadpool_redis::{Config, Pool, PoolConfig, Runtime};
use holdfast_lab::{Mode, Proxy, server_or_skip};
use redis_holdfast::layer::{CircuitState, Guard, GuardLayer};
use redis_holdfast::redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis_holdfast::redis::{self, AsyncCommands};
use redis_holdfast::{ConnectionService, PoolService, Reply, Request, ServiceConnection};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service};

use common::*;

/// The first deadline that passes, kept with its grace, and the probe's silence: then the circuit is open.
const TOLD_WITHIN: Duration = ms(250 + 10 + 150);
/// The probe's gap at its longest and half as much, its own time, and the ramp: recovery of a connection that is there again. What the connection
/// itself takes to dial is its own affair, and comes on top: a manager waits up to its own timeouts.
const BACK_WITHIN: Duration = ms(3000);

fn guard<S>(name: &str, service: S) -> Guard<S>
where
    S: Service<Request, Response = Reply, Error = redis_holdfast::Error> + Clone + Send + 'static,
    S::Future: Send,
{
    let guard = GuardLayer::builder().name(name).call_timeout(CALL_TIMEOUT);
    guard.build().unwrap().layer(service)
}

/// Load through `connection` while the network below it becomes a black hole and heals.
async fn black_hole<S, C>(row: &str, proxy: &Proxy, guard: &Guard<S>, connection: C)
where
    S: Clone,
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    let hole = if is_full() { SECOND * 10 } else { SECOND * 3 };
    let running = start(connection, RATE, SECOND + hole + BACK_WITHIN + SECOND);
    sleep(SECOND).await;
    proxy.set(Mode::Blackhole);
    let onset = running.mark("onset");
    sleep(hole).await;
    assert_eq!(guard.circuit().state(), CircuitState::Open);
    proxy.set(Mode::Pass);
    let healed = running.mark("heal");
    let report = running.finish().await;
    println!("{}", show(&report));
    // No call later than its deadline, and the pile no higher than rate × deadline.
    always(&report);
    assert_eq!(
        report.failed_between(report.start(), onset - CALL_TIMEOUT),
        0
    );
    let lag = report.lag().max_between(onset, onset + SECOND);
    let refused = refused_within(&report, onset, TOLD_WITHIN + lag, healed);
    let refusal = refusals_p99(&report, onset + TOLD_WITHIN, healed);
    assert!(refusal <= ms(1), "refusals took {refusal:?}");
    let back = recovered_within(&report, healed, BACK_WITHIN);
    println!(
        "FIGURE guard, {row} in a black hole: refusing after {refused:?}, a refusal {refusal:?} (p99), serving {back:?} after the heal"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_manager_under_guard_is_never_later_than_its_deadline() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let client = redis::Client::open(proxy.url()).unwrap();
    let config = ConnectionManagerConfig::new();
    let manager = ConnectionManager::new_with_config(client, config)
        .await
        .unwrap();
    let guard = guard("manager", ConnectionService::new(manager));
    let connection = ServiceConnection::new(guard.clone());
    black_hole("ConnectionManager", &proxy, &guard, connection).await;
}

fn pool(proxy: &Proxy) -> Pool {
    let mut config = Config::from_url(proxy.url());
    // Nothing of its own is bounded: the guard has to be enough.
    config.pool = Some(PoolConfig::new(16));
    config.create_pool(Some(Runtime::Tokio1)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_under_guard_is_never_later_than_its_deadline() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let guard = guard("pool", PoolService::new(pool(&proxy)));
    let connection = ServiceConnection::new(guard.clone());
    black_hole("deadpool", &proxy, &guard, connection).await;
}

/// A late reply belongs to nobody: its connection must not serve the next caller.
#[tokio::test(flavor = "multi_thread")]
async fn a_pools_connection_that_was_late_is_closed_and_never_lent_again() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let pool = pool(&proxy);
    let guard = guard("late", PoolService::new(pool.clone()));
    let mut connection = ServiceConnection::new(guard);
    for turn in 0..10 {
        let () = connection.set("late", turn).await.unwrap();
        assert_eq!(pool.status().size, 1);
        server
            .tell(&["CLIENT", "PAUSE", "400", "ALL"])
            .await
            .unwrap();
        let began = Instant::now();
        let late: redis::RedisResult<i64> = connection.get("late").await;
        assert!(late.is_err() && began.elapsed() >= CALL_TIMEOUT);
        assert_eq!(pool.status().size, 0, "turn {turn}: it was kept");
        server.tell(&["CLIENT", "UNPAUSE"]).await.unwrap();
        let found: i64 = connection.get("late").await.unwrap();
        assert_eq!(found, turn, "somebody else's reply");
    }
}

/// Under guard and bare, the same values and the same words.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_pipelines_and_errors_are_those_of_the_connection() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let client = redis::Client::open(server.url()).unwrap();
    let bare = client.get_multiplexed_async_connection().await.unwrap();
    let guarded = guard("same", ConnectionService::new(bare.clone()));
    let (mut bare, mut guarded) = (bare, ServiceConnection::new(guarded));
    let mut atomic = redis::pipe();
    atomic.atomic().set("k", 1).incr("k", 2).ignore().get("k");
    let mut plain = redis::pipe();
    plain.set("k", 7).ignore().get("k").cmd("TYPE").arg("k");
    let mut wrong = redis::pipe();
    wrong.set("k", "x").cmd("INCR").arg("k").get("k");
    let mut aborted = redis::pipe();
    aborted.atomic().set("k", 1).cmd("NO.SUCH");
    for pipeline in [atomic, plain, wrong, aborted] {
        let here: Result<redis::Value, _> = pipeline.query_async(&mut bare).await;
        let there: Result<redis::Value, _> = pipeline.query_async(&mut guarded).await;
        assert_eq!(
            here.map_err(|error| error.to_string()),
            there.map_err(|error| error.to_string())
        );
    }
    let mut pop = redis::cmd("BLPOP");
    let refused: redis::RedisResult<redis::Value> =
        pop.arg("l").arg(0).query_async(&mut guarded).await;
    assert!(refused.unwrap_err().to_string().contains("BLPOP"));
}
