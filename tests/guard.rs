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
use redis_holdfast::{
    ConnectionService, ErrorKind, Phase, PoolService, Replay, Reply, Request, ServiceConnection,
};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceExt};

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

fn pool(proxy: &Proxy, connections: usize) -> Pool {
    let mut config = Config::from_url(proxy.url());
    // Nothing of its own is bounded: the guard has to be enough.
    config.pool = Some(PoolConfig::new(connections));
    config.create_pool(Some(Runtime::Tokio1)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_under_guard_is_never_later_than_its_deadline() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let guard = guard("pool", PoolService::new(pool(&proxy, 16)));
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
    let pool = pool(&proxy, 1);
    let mut connection = ServiceConnection::new(guard("late", PoolService::new(pool)));
    let id = redis::cmd("CLIENT").arg("ID").to_owned();
    for turn in 0..10 {
        let () = connection.set("late", turn).await.unwrap();
        let lent: i64 = id.query_async(&mut connection).await.unwrap();
        // Past the deadline, and over before the probe that follows has been silent for 150 ms: the circuit stays closed.
        server
            .tell(&["CLIENT", "PAUSE", "330", "ALL"])
            .await
            .unwrap();
        let began = Instant::now();
        let late: redis::RedisResult<i64> = connection.get("late").await;
        assert!(late.is_err() && began.elapsed() >= CALL_TIMEOUT);
        let found: i64 = connection.get("late").await.unwrap();
        assert_eq!(found, turn, "somebody else's reply");
        let next: i64 = id.query_async(&mut connection).await.unwrap();
        assert_ne!(next, lent, "turn {turn}: it was kept");
    }
}

/// What the guard says of one call, which is late.
async fn late(guard: &Guard<PoolService>) -> (Phase, bool) {
    let request = Request::from(redis::cmd("GET").arg("late"));
    let error = guard.clone().oneshot(request).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    (error.phase(), error.may_have_executed())
}

/// Somebody else has the only connection: the server was not asked, and its circuit does not hear of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_a_pools_connection_says_nothing_of_the_server() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let pool = pool(&proxy, 1);
    let lent = pool.get().await.unwrap();
    let guard = guard("waits", PoolService::new(pool.clone()));
    // As many as open a circuit in a row, and one more.
    for _ in 0..6 {
        assert_eq!(late(&guard).await, (Phase::Queue, false));
        assert_eq!(guard.circuit().state(), CircuitState::Closed);
    }
    drop(lent);
    let mut connection = ServiceConnection::new(guard);
    let none: Option<u64> = connection.get("late").await.unwrap();
    assert_eq!(none, None);
}

/// A pool tries each connection before it lends it: who waits for that waits for the server, whether it found a place free or had to wait for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_turn_in_the_pool_has_come_says_that_the_server_is_silent() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    for has_to_wait in [false, true] {
        let proxy = Proxy::start(server.addr()).await.unwrap();
        let pool = pool(&proxy, 1);
        let guard = guard("its-turn", PoolService::new(pool.clone()));
        let mut watch = guard.circuit().watch();
        let lent = pool.get().await.unwrap();
        proxy.set(Mode::Blackhole);
        let told = if has_to_wait {
            let returned = async {
                sleep(CALL_TIMEOUT / 5).await;
                drop(lent);
            };
            tokio::join!(late(&guard), returned).0
        } else {
            drop(lent);
            late(&guard).await
        };
        assert_eq!(told, (Phase::Connect, false), "{has_to_wait}");
        assert_eq!(watch.changed().await, Some(CircuitState::Open));
    }
}

/// H20: by itself a pool hands on a database that was selected, and a connection on which somebody no longer waits for an answer.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_pool_hands_on_by_itself_it_does_not_hand_on_under_guard() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let stock = pool(&proxy, 16);
    let mut first = stock.get().await.unwrap();
    let select = redis::cmd("SELECT").arg(3).to_owned();
    let () = select.query_async(&mut first).await.unwrap();
    drop(first);
    let mut next = stock.get().await.unwrap();
    assert_eq!(database(&mut next).await, 3, "the trap");
    let wait = redis::cmd("BLPOP").arg("nobody").arg(0).to_owned();
    let dropped = timeout(ms(50), wait.query_async::<redis::Value>(&mut next));
    assert!(dropped.await.is_err());
    drop(next);
    assert!(
        timeout(CALL_TIMEOUT, stock.get()).await.is_err(),
        "the trap"
    );

    let pool = pool(&proxy, 16);
    let mut guarded = ServiceConnection::new(guard("handed-on", PoolService::new(pool.clone())));
    for harmful in [select, wait] {
        let refused: redis::RedisResult<redis::Value> = harmful.query_async(&mut guarded).await;
        let error = refused.unwrap_err();
        let ours = redis_holdfast::Error::find_in(&error).unwrap();
        assert_eq!(ours.kind(), ErrorKind::Refused, "{ours}");
    }
    assert_eq!(database(&mut guarded).await, 0);
    let sleep = redis::cmd("DEBUG").arg("SLEEP").arg("0.1").to_owned();
    let dropped = timeout(ms(50), sleep.query_async::<redis::Value>(&mut guarded));
    assert!(dropped.await.is_err());
    assert_eq!(pool.status().size, 0, "it was kept");
    assert_eq!(database(&mut guarded).await, 0, "somebody else's reply");
}

/// The database that the connection's commands are for, by the server's word.
async fn database(connection: &mut impl ConnectionLike) -> u32 {
    let info = redis::cmd("CLIENT").arg("INFO").to_owned();
    let info: String = info.query_async(connection).await.unwrap();
    let db = info.split(' ').find_map(|field| field.strip_prefix("db="));
    db.unwrap().parse().unwrap()
}

/// What a script says of itself is no word of the server's: by then it has done what it did.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_answers_as_a_busy_server_would_runs_once() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let client = redis::Client::open(server.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let guard = GuardLayer::builder().name("script").call_timeout(SECOND);
    let guard = guard.build().unwrap();
    let mut guarded = guard.layer(ConnectionService::new(connection.clone()));
    let mut bare = connection;
    let script = "redis.call('INCR', KEYS[1]); return redis.error_reply('TRYAGAIN busy')";
    let eval = redis::cmd("EVAL").arg(script).arg(1).arg("k").to_owned();
    let answer = guarded.call(Request::from(&eval)).await.unwrap();
    let said = answer.parse::<()>().unwrap_err();
    assert_eq!(said.kind(), ErrorKind::Redis, "{said}");
    assert_eq!(bare.get::<_, u64>("k").await.unwrap(), 1);
    // Its sender knows that it may run again.
    let tagged = Request::from(&eval).with_replay(Replay::Overwrite);
    guarded.call(tagged).await.unwrap();
    assert!(bare.get::<_, u64>("k").await.unwrap() > 2);
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
