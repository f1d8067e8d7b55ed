//! Promise 2 and 12: calls and bytes in flight never exceed their caps, one more is refused at once, and every permit comes back.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may end here, and tokio::spawn is at home in it"
)]

mod common;

use std::future::Future;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::*;
use holdfast_lab::server_or_skip;
use redis_holdfast::telemetry::names;
use redis_holdfast::{Client, Error, ErrorKind, Phase, Request, redis};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower::Service;

/// A refusal costs its caller no more, end to end.
const REFUSAL: Duration = ms(1);

/// How a call ended, after how long.
type Ended = (Option<Error>, Duration);

async fn ready(url: &str, name: &str, cap: usize, bytes: usize) -> Client {
    let client = Client::builder(url)
        .unwrap()
        .call_timeout(CALL_TIMEOUT)
        .max_in_flight(cap)
        .max_buffered_bytes(bytes)
        .name(name)
        .build()
        .unwrap();
    client.wait_ready(SECOND * 5).await.unwrap();
    client
}

async fn call(client: &Client, request: Request) -> Ended {
    let started = Instant::now();
    let result = client.service().call(request).await;
    (result.err(), started.elapsed())
}

/// So many calls at once, and how each ended.
async fn at_once(client: &Client, calls: usize, request: &Request) -> Vec<Ended> {
    let mut under_way = JoinSet::new();
    for _ in 0..calls {
        let (client, request) = (client.clone(), request.clone());
        under_way.spawn(async move { call(&client, request).await });
    }
    under_way.join_all().await
}

fn ping() -> Request {
    Request::from(redis::cmd("PING"))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Those refused for want of room: all at once, and by name.
fn refused(ended: &[Ended]) -> Vec<Duration> {
    let refused = ended
        .iter()
        .filter_map(|(error, took)| Some((error.as_ref()?, *took)));
    let refused = refused.filter(|(error, _)| error.is_overloaded());
    refused
        .map(|(error, took)| {
            assert_eq!(
                (error.kind(), error.phase()),
                (ErrorKind::Overloaded, Phase::Queue)
            );
            assert!(!error.may_have_executed());
            took
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_on_a_frozen_server_holds_exactly_as_many_calls_as_it_may() {
    const CAP: usize = 100;
    let Some(server) = server_or_skip().await else {
        return;
    };
    let client = ready(&server.url(), "calls", CAP, 1 << 20).await;
    server.freeze();
    let ended = at_once(&client, CAP * 10, &ping()).await;
    let refusals = refused(&ended);
    let waited: Vec<_> = ended
        .iter()
        .filter_map(|(error, took)| Some((error.as_ref()?, took)))
        .collect();
    let waited: Vec<_> = waited
        .into_iter()
        .filter(|(error, _)| error.is_timeout())
        .collect();
    assert_eq!(
        (waited.len(), refusals.len()),
        (CAP, CAP * 9),
        "held and refused"
    );
    assert!(
        waited
            .iter()
            .all(|(_, took)| **took >= CALL_TIMEOUT && **took <= CALL_TIMEOUT + GRACE * 5)
    );
    let (half, last) = (
        median(refusals.clone()),
        refusals.iter().max().copied().unwrap(),
    );
    assert!(half <= REFUSAL, "a refusal took {half:?}");
    server.thaw();
    // Everything came back: as many calls as before go through at once.
    client.wait_ready(SECOND * 2).await.unwrap();
    sleep_until_served(&client, CAP).await;
    println!(
        "FIGURE bounded: {CAP} of {} calls held on a frozen server, the rest refused in {half:?} (median, slowest {last:?})",
        ended.len()
    );
}

/// Until the cap's worth of calls is served at once; the ramp after an open circuit takes 200 ms.
async fn sleep_until_served(client: &Client, cap: usize) {
    let end = Instant::now() + SECOND;
    loop {
        let ended = at_once(client, cap, &ping()).await;
        let failed: Vec<_> = ended
            .iter()
            .filter_map(|(error, _)| error.as_ref())
            .collect();
        if failed.is_empty() {
            return;
        }
        assert!(
            failed.iter().all(|error| !error.is_overloaded()),
            "{failed:?}"
        );
        assert!(
            Instant::now() < end,
            "{} of {cap} fail: {:?}",
            failed.len(),
            failed[0]
        );
        sleep(ms(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_held_never_exceed_their_budget_and_a_command_larger_than_it_goes_alone() {
    const BUDGET: usize = 1 << 20;
    const VALUE: usize = 100_000;
    let Some(server) = server_or_skip().await else {
        return;
    };
    let client = ready(&server.url(), "bytes", 1000, BUDGET).await;
    let set = |bytes: usize| Request::from(redis::cmd("SET").arg("big").arg(vec![b'x'; bytes]));
    server.freeze();
    let ended = at_once(&client, 200, &set(VALUE)).await;
    let held = ended.len() - refused(&ended).len();
    // With its few bytes of protocol the eleventh does not fit.
    assert_eq!(held, BUDGET / VALUE, "held {held}");
    server.thaw();
    client.wait_ready(SECOND * 2).await.unwrap();
    sleep_until_served(&client, 100).await;
    let (alone, _) = call(&client, set(BUDGET * 2)).await;
    assert!(alone.is_none(), "{alone:?}");
    println!(
        "FIGURE bounded: {held} commands of {VALUE} B held in a budget of {BUDGET} B; one of {} B goes alone",
        BUDGET * 2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_calls_give_their_permits_back_at_once() {
    const CAP: usize = 50;
    let Some(server) = server_or_skip().await else {
        return;
    };
    let client = ready(&server.url(), "dropped", CAP, 1 << 20).await;
    server.freeze();
    // More than once the cap: what is dropped makes room for the next, whether or not a byte of it was written.
    for _ in 0..3 {
        let mut held: Vec<_> = (0..CAP).map(|_| Box::pin(call(&client, ping()))).collect();
        for one in &mut held {
            assert!(poll_once(one).is_pending(), "there is room");
        }
        let (refusal, _) = call(&client, ping()).await;
        assert!(
            refusal.is_some_and(|error| error.is_overloaded()),
            "the cap is full"
        );
        drop(held);
    }
    let mut next = Box::pin(call(&client, ping()));
    assert!(poll_once(&mut next).is_pending(), "there is room again");
    server.thaw();
    let (error, _) = next.await;
    assert!(error.is_none(), "{error:?}");
}

fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_random_drops_leave_nothing_in_flight() {
    const CAP: usize = 64;
    let drops: u32 = if is_full() { 1_000_000 } else { 100_000 };
    gauges::listen();
    let Some(server) = server_or_skip().await else {
        return;
    };
    let client = ready(&server.url(), "drops", CAP, 1 << 20).await;
    let started = Instant::now();
    let mut droppers = JoinSet::new();
    // Half the cap: nobody is refused, so that every call is one that was under way.
    for _ in 0..CAP / 2 {
        droppers.spawn(drop_at_random(client.clone(), drops / (CAP as u32 / 2)));
    }
    let served: u32 = droppers.join_all().await.into_iter().sum();
    let took = started.elapsed();
    assert!(
        served > 0 && served < drops,
        "{served} of {drops} were served before they could be dropped"
    );
    let ended = at_once(&client, CAP, &ping()).await;
    assert!(ended.iter().all(|(error, _)| error.is_none()), "{ended:?}");
    assert!(client.shutdown(SECOND).await);
    assert_eq!(gauges::gauge("drops", names::IN_FLIGHT, ""), 0.0);
    assert_eq!(
        gauges::counter("drops", names::BREAKER_TRANSITIONS, "open"),
        0
    );
    println!(
        "FIGURE bounded: {drops} calls, {} dropped at random in {took:?}: 0 in flight, the next {CAP} served at once",
        drops - served
    );
}

/// Calls of a value of their own, each dropped unpolled, polled or late; a reply of somebody else's would be seen. How many were served.
async fn drop_at_random(client: Client, calls: u32) -> u32 {
    let mut served = 0;
    for number in 0..calls {
        let mine = format!("{number}:{}", fastrand::u64(..));
        let echo = Request::from(redis::cmd("ECHO").arg(&mine));
        let mut service = client.service();
        let mut calling = Box::pin(service.call(echo));
        let patience = match fastrand::u8(0..4) {
            0 => continue,
            1 => 0,
            _ => fastrand::u64(0..500),
        };
        tokio::select! {
            biased;
            reply = &mut calling => {
                assert_eq!(reply.unwrap().parse::<String>().unwrap(), mine);
                served += 1;
            }
            () = pause(patience) => {}
        }
    }
    served
}

/// Finer than a timer: so many turns of the runtime.
async fn pause(turns: u64) {
    for _ in 0..turns / 10 {
        tokio::task::yield_now().await;
    }
}
