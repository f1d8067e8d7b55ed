//! What a refusal allocates: nothing through a service, next to nothing through redis' trait.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

use std::alloc::System;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use redis_holdfast::layer::GuardLayer;
use redis_holdfast::redis::{self, Value, aio::ConnectionLike};
use redis_holdfast::{Client, Error, Reply, Request, ServiceConnection};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::{Layer, Service, service_fn};

/// Counts what all threads allocate: this file has one test, in a runtime of one thread.
#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CALLS: usize = 1_000;

fn poll_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a refusal does not wait"),
    }
}

/// Allocations of a refused call, the request itself apart.
fn through_service<S>(mut service: S) -> usize
where
    S: Service<Request, Response = Reply, Error = Error>,
{
    let request = || Request::from(redis::cmd("GET").arg("key"));
    drop(poll_once(service.call(request())));
    let requests: Vec<Request> = (0..CALLS).map(|_| request()).collect();
    let region = Region::new(COUNTED);
    for request in requests {
        let error = poll_once(service.call(request)).unwrap_err();
        assert!(error.is_circuit_open());
    }
    region.change().allocations
}

/// The same through `ConnectionLike`, packing included.
fn through_connection(mut connection: impl ConnectionLike) -> usize {
    let mut get = redis::cmd("GET");
    get.arg("key");
    assert!(poll_once(connection.req_packed_command(&get)).is_err());
    let region = Region::new(COUNTED);
    for _ in 0..CALLS {
        let _: redis::RedisResult<Value> = poll_once(connection.req_packed_command(&get));
    }
    region.change().allocations
}

#[tokio::test]
async fn a_refusal_allocates_nothing_through_a_service_and_four_times_at_most_through_redis_trait()
{
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
    let guard = GuardLayer::builder()
        .build()
        .unwrap()
        .layer(service_fn(async |_: Request| {
            Ok::<_, Error>(Reply::from(Value::Nil))
        }));
    guard.circuit().force_open();

    let (link, guarded) = (
        through_service(client.service()),
        through_service(guard.clone()),
    );
    assert_eq!((link, guarded), (0, 0), "allocations in {CALLS} refusals");

    let (link, guarded) = (
        through_connection(client.clone()),
        through_connection(ServiceConnection::new(guard)),
    );
    println!(
        "FIGURE allocations of a refusal: 0 through a service, {} through a client's ConnectionLike, {} through a guard's",
        link / CALLS,
        guarded / CALLS
    );
    assert!(
        link <= 4 * CALLS && guarded <= 4 * CALLS,
        "{link}, {guarded} in {CALLS} refusals"
    );
}
