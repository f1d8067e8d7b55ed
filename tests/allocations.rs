//! What a call allocates: nothing through a service if it is refused, next to nothing through redis' trait.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

#[path = "common/ears.rs"]
mod ears;

use std::alloc::System;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use holdfast_lab::server_or_skip;
use redis_holdfast::layer::GuardLayer;
use redis_holdfast::redis::{self, AsyncCommands, Value, aio::ConnectionLike};
use redis_holdfast::{Client, Error, Reply, Request, ServiceConnection};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::{Layer, Service, service_fn};

/// Counts what all threads allocate: this file has one test, in a runtime of one thread.
#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CALLS: usize = 1_000;
/// Secrets, like those of the other suites.
const KEY: &str = "canary-key";
const VALUE: &str = "canary-value";

fn poll_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a refusal does not wait"),
    }
}

/// Allocations of so many refused calls, the requests themselves apart: of the best of a few rounds, for once a second a recorder is told.
fn through_service<S>(service: S) -> usize
where
    S: Service<Request, Response = Reply, Error = Error>,
{
    of_refused(service, || Request::from(redis::cmd("GET").arg(KEY)))
}

fn of_refused<S>(mut service: S, request: impl Fn() -> Request) -> usize
where
    S: Service<Request, Response = Reply, Error = Error>,
{
    let rounds = (0..5).map(|_| round(&mut service, &request));
    rounds.min().unwrap()
}

fn round<S>(service: &mut S, request: impl Fn() -> Request) -> usize
where
    S: Service<Request, Response = Reply, Error = Error>,
{
    drop(poll_once(service.call(request())));
    let requests: Vec<Request> = (0..CALLS).map(|_| request()).collect();
    let region = Region::new(COUNTED);
    for request in requests {
        let error = poll_once(service.call(request)).unwrap_err();
        assert!(!error.may_have_executed() && error.waited().is_zero());
    }
    region.change().allocations
}

/// The same through `ConnectionLike`, packing included.
fn through_connection(mut connection: impl ConnectionLike) -> usize {
    let mut get = redis::cmd("GET");
    get.arg(KEY);
    assert!(poll_once(connection.req_packed_command(&get)).is_err());
    let region = Region::new(COUNTED);
    for _ in 0..CALLS {
        let _: redis::RedisResult<Value> = poll_once(connection.req_packed_command(&get));
    }
    region.change().allocations
}

/// Allocations of a `GET` that is served: as users write it, and below that, in `req_packed_command`.
async fn of_a_get(mut connection: impl AsyncCommands) -> [f64; 2] {
    let mut get = redis::cmd("GET");
    get.arg(KEY);
    let () = connection.set(KEY, VALUE).await.unwrap();
    connection.req_packed_command(&get).await.unwrap();
    let region = Region::new(COUNTED);
    for _ in 0..CALLS {
        let found: String = connection.get(KEY).await.unwrap();
        assert_eq!(found, VALUE);
    }
    let written = region.change().allocations;
    let region = Region::new(COUNTED);
    for _ in 0..CALLS {
        connection.req_packed_command(&get).await.unwrap();
    }
    let below = region.change().allocations;
    [written, below].map(|count| count as f64 / CALLS as f64)
}

/// H19: what is above `req_packed_command` is redis' own, whoever is below; there we need less than its connection does.
async fn beside_bare() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let client = Client::builder(&server.url()).unwrap().build().unwrap();
    client.wait_ready(Duration::from_secs(5)).await.unwrap();
    let bare = redis::Client::open(server.url()).unwrap();
    let bare = bare.get_multiplexed_async_connection().await.unwrap();
    let (ours, bare) = (of_a_get(client).await, of_a_get(bare).await);
    println!(
        "FIGURE allocations of a served GET: {:.1} through AsyncCommands and {:.1} in req_packed_command, where bare takes {:.1} and {:.1}",
        ours[0], ours[1], bare[0], bare[1]
    );
    assert!(bare[0] >= 7.0 && bare[1] >= 4.0, "no longer so: {bare:?}");
    assert!(
        ours[1] < bare[1] && ours[0] < bare[0],
        "{ours:?} of {bare:?}"
    );
}

/// As it is, and with someone who hears every word: that costs nothing more, and no word is a key or a value.
#[tokio::test]
async fn a_refusal_allocates_next_to_nothing() {
    counted().await;
    ears::watch();
    counted().await;
}

async fn counted() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let client = Client::builder(&format!("redis://{address}"))
        .unwrap()
        .build()
        .unwrap();
    let mut health = client.watch_health();
    while health.current().kind().is_none() {
        health.changed().await.unwrap();
    }
    let under = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Nil)) });
    let guard = GuardLayer::builder().build().unwrap().layer(under);
    guard.circuit().force_open();

    let (link, guarded) = (
        through_service(client.service()),
        through_service(guard.clone()),
    );
    println!(
        "FIGURE allocations of a refusal through a service: {link} of a client, {guarded} of a guard, in {CALLS}"
    );
    assert_eq!((link, guarded), (0, 0), "in {CALLS} refusals");

    // The packed command and the trait's boxed future; the error was made redis' own when it was told for the first time.
    let (link, guarded) = (
        through_connection(client.clone()),
        through_connection(ServiceConnection::new(guard)),
    );
    println!(
        "FIGURE allocations of a refusal through ConnectionLike: {} of a client, {} of a guard",
        link / CALLS,
        guarded / CALLS
    );
    assert!(
        link <= 4 * CALLS && guarded <= 4 * CALLS,
        "{link}, {guarded} in {CALLS} refusals"
    );
    #[cfg(feature = "cluster")]
    of_a_node().await;
    beside_bare().await;
    served().await;
}

/// A call is refused for one node of those that it concerns, the last that is named.
#[cfg(feature = "cluster")]
async fn of_a_node() {
    let Some(cluster) = holdfast_lab::Cluster::start_or_skip().await else {
        return;
    };
    let client = redis::cluster::ClusterClient::new(cluster.urls()).unwrap();
    let connection = client.get_async_connection().await.unwrap();
    let guard = GuardLayer::builder().build().unwrap().layer(connection);
    while guard.circuits().len() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let tags = cluster
        .nodes()
        .iter()
        .map(|node| format!("{{{}}}", node.tag(0)));
    let tags: Vec<String> = tags.collect();
    guard.circuit_of(&tags[2]).unwrap().force_open();
    let mut get = redis::cmd("GET");
    get.arg(&tags[2]);
    let mut mget = redis::cmd("MGET");
    mget.arg(&tags);
    let mut many = redis::cmd("MGET");
    for nth in 0..1_000 {
        many.arg(format!("{nth}{}", tags[nth % 2]));
    }
    many.arg(&tags[2]);
    for (of, command) in [
        ("GET", get),
        ("MGET of three", mget),
        ("DBSIZE", redis::cmd("DBSIZE")),
    ] {
        let allocated = of_refused(guard.clone(), || Request::from(&command));
        println!(
            "FIGURE allocations of a refusal for a node of a cluster: {allocated} of {of}, in {CALLS}"
        );
        assert_eq!(allocated, 0, "of {of} in {CALLS} refusals");
    }
    let (region, mut guard) = (Region::new(COUNTED), guard);
    let many = Request::from(&many);
    let packed = region.change().allocations;
    assert!(poll_once(guard.call(many)).unwrap_err().is_circuit_open());
    assert_eq!(region.change().allocations, packed, "of a long MGET");
}

/// A served call: what is packed, and the trait's boxed future; an integer has nothing of its own, and the job that caller and link share
/// was another call's before.
async fn served() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let mut client = Client::builder(&server.url()).unwrap().build().unwrap();
    client.wait_ready(Duration::from_secs(5)).await.unwrap();
    let mut incr = redis::cmd("INCR");
    incr.arg(KEY);
    client.req_packed_command(&incr).await.unwrap();
    // The best of a few rounds: the supervisor and the recorder have a few per second of their own.
    let mut least = usize::MAX;
    for _ in 0..5 {
        let region = Region::new(COUNTED);
        for _ in 0..CALLS {
            client.req_packed_command(&incr).await.unwrap();
        }
        least = least.min(region.change().allocations);
    }
    let each = least as f64 / CALLS as f64;
    println!(
        "FIGURE allocations of a served call through ConnectionLike, the reply's own apart: {each:.2}"
    );
    assert!(each < 2.1, "{each} a call");
}
