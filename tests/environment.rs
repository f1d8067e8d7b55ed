//! What becomes of the promises when this process itself is in trouble: no descriptor left, or stopped for seconds.
//! Half a processor and short stops are in `slow_is_not_dead.rs`.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::baseline::is_child;
use common::*;
use holdfast_lab::load::LagMeter;
use holdfast_lab::starve::NoDescriptors;
use holdfast_lab::{Answer, Dns, Server, server_or_skip};
use redis_holdfast::dns::{DnsPolicy, Hickory};
use redis_holdfast::redis::{self, aio::MultiplexedConnection};
use redis_holdfast::{Client, telemetry::names};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

// ── no descriptor left ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_what_is_connected_serves_and_what_is_not_is_told_so_and_heals() {
    if !is_child(
        "without_descriptors_what_is_connected_serves_and_what_is_not_is_told_so_and_heals",
    ) {
        return;
    }
    gauges::listen();
    let Some(server) = server_or_skip().await else {
        return;
    };
    let dns = Dns::start().await.unwrap();
    dns.set("redis.lab.", Answer::addrs([server.ip()], 1));
    let builder = Client::builder(&format!("redis://redis.lab.:{}/", server.port())).unwrap();
    let often = DnsPolicy::default().min_refresh(SECOND).max_refresh(SECOND);
    let client = builder
        .call_timeout(CALL_TIMEOUT)
        .name("descriptors")
        .dns(often)
        .resolver(Hickory::servers([dns.addr()]))
        .build()
        .unwrap();
    client.wait_ready(SECOND * 5).await.unwrap();
    let mut control = server.control().await.unwrap();
    let span = SECOND * 3;

    let none = NoDescriptors::begin().unwrap();
    assert!(
        std::fs::File::open("/dev/null").is_err(),
        "a descriptor is left"
    );
    // Lookups fail, each second, and nobody notices.
    let report = start(client.clone(), 200, span).finish().await;
    always(&report);
    assert_eq!(report.failed(), 0, "{}", show(&report));
    let lookups = gauges::counter("descriptors", names::DNS_LOOKUPS, "transient");
    assert!(lookups > 0, "no lookup has failed");

    // The link is lost, and there is none to be had.
    kill_links(&mut control).await;
    let cut = Instant::now();
    let before = gauges::counter("descriptors", names::DIALS, "");
    let report = start(client.clone(), 200, span).finish().await;
    println!("without descriptors: {}", show(&report));
    always(&report);
    assert_eq!(
        report.ok(),
        0,
        "served without a connection: {}",
        show(&report)
    );
    let dials = gauges::counter("descriptors", names::DIALS, "") - before;
    // Gaps of 100 to 270 ms, ± 50 %.
    assert!(
        (1..=3 * 10).contains(&dials),
        "{dials} dials in {:?}",
        cut.elapsed()
    );
    let health = client.health();
    assert!(
        health.reason().contains("no file descriptors left"),
        "{health}"
    );

    drop(none);
    let healed = Instant::now();
    let lag = LagMeter::start();
    while redis::cmd("PING")
        .query_async::<String>(&mut client.clone())
        .await
        .is_err()
    {
        sleep(ms(1)).await;
    }
    let took = healed.elapsed();
    // Promise 10.
    assert!(
        took <= ms(500) + lag.finish().max(),
        "served {took:?} after there are descriptors again"
    );
    println!(
        "FIGURE no descriptors left: 0 failed calls in {span:?} on the link that is there, {lookups} lookups failed; without a link {dials} dials in \
         {span:?}, every call ended in time ({}), health: {}; served {took:?} after there are some again",
        report
            .latencies()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
            .join(", "),
        health.reason()
    );
}

async fn kill_links(control: &mut MultiplexedConnection) {
    let kill = redis::cmd("CLIENT")
        .arg("KILL")
        .arg("SKIPME")
        .arg("yes")
        .take();
    let killed: u64 = kill.query_async(control).await.unwrap();
    assert_eq!(killed, 1, "the one link");
}

// ── stopped for seconds ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

const STOPPED: Duration = Duration::from_secs(5);
const CALLERS: usize = 30;

#[derive(Default)]
struct Ends {
    ok: usize,
    /// Calls that were under way while we were stopped, however they ended.
    spanned: usize,
    /// By class, and whether the call was under way while we were stopped.
    failed: BTreeMap<(String, bool), usize>,
}

/// One call after the other, until `end`.
async fn caller(mut client: Client, number: usize, end: Instant, ends: Arc<Mutex<Ends>>) {
    while Instant::now() < end {
        let begun = Instant::now();
        let set = redis::cmd("SET").arg(number).arg(number).take();
        let ended = set.query_async::<String>(&mut client).await;
        let took = begun.elapsed();
        let stopped = took > SECOND;
        {
            let mut ends = ends.lock().unwrap();
            ends.spanned += usize::from(stopped);
            match ended {
                Ok(_) => ends.ok += 1,
                Err(error) => *ends.failed.entry((class(&error), stopped)).or_default() += 1,
            }
        }
        assert!(took <= STOPPED + SECOND, "a call hung for {took:?}");
        sleep(ms(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_stopped_for_5_s_goes_on_without_a_storm_or_a_false_verdict() {
    if !is_child("a_client_that_was_stopped_for_5_s_goes_on_without_a_storm_or_a_false_verdict") {
        return;
    }
    gauges::listen();
    let Some(server) = server_or_skip().await else {
        return;
    };
    let client = connect_as(&server.url(), "stopped").await;
    for round in 0..if is_full() { 5 } else { 1 } {
        stop_once(&server, &client, round).await;
    }
    assert!(client.shutdown(SECOND).await);
    let (swaps, opened) = (
        gauges::counter("stopped", names::SWAPS, ""),
        gauges::counter("stopped", names::BREAKER_TRANSITIONS, "open"),
    );
    assert_eq!((swaps, opened), (0, 0), "a false verdict");
}

async fn stop_once(server: &Server, client: &Client, round: u32) {
    let (accepts, ends) = (server.accepts().await, Arc::<Mutex<Ends>>::default());
    let (lag, mut health) = (LagMeter::start(), client.watch_health());
    let mut callers = JoinSet::new();
    let end = Instant::now() + SECOND * 2 + STOPPED;
    for number in 0..CALLERS {
        callers.spawn(caller(client.clone(), number, end, ends.clone()));
    }
    let own = std::process::id();
    let script = format!(
        "kill -STOP {own}; sleep {}; kill -CONT {own}",
        STOPPED.as_secs()
    );
    sleep(SECOND).await;
    // So that every caller has a call under way when we are stopped. The server answers while we are.
    let paused = server.tell(&["CLIENT", "PAUSE", "300", "ALL"]).await;
    assert_eq!(paused.unwrap(), "+OK");
    sleep(ms(40)).await;
    let mut shell = Command::new("sh").args(["-c", &script]).spawn().unwrap();
    callers.join_all().await;
    shell.wait().unwrap();
    let lag = lag.finish().max();
    assert!(lag >= STOPPED - ms(100), "it was not stopped: lag {lag:?}");
    let downs = tokio::time::timeout(ms(1), health.changed())
        .await
        .ok()
        .flatten();
    let dialled = server.accepts().await - accepts;
    let ends = ends.lock().unwrap();
    println!("round {round}: {} ok, {:?}", ends.ok, ends.failed);
    // Whose deadline passed in the meantime is told so; nobody who called later notices.
    let later: Vec<_> = ends.failed.keys().filter(|(_, stopped)| !stopped).collect();
    assert!(later.is_empty(), "failed afterwards: {:?}", ends.failed);
    let classes: Vec<_> = ends.failed.keys().map(|(class, _)| class.clone()).collect();
    assert!(
        classes.iter().all(|class| class.starts_with("timeout/")),
        "{classes:?}"
    );
    let late: usize = ends.failed.values().sum();
    assert!(
        (CALLERS / 2..=CALLERS).contains(&ends.spanned),
        "{} calls were under way",
        ends.spanned
    );
    assert!(dialled <= 1, "{dialled} connections after one stop");
    assert!(
        downs.is_none_or(|health| health.is_ready()),
        "a false verdict"
    );
    println!(
        "FIGURE client stopped for {STOPPED:?}: {late} of the {} calls under way were told that their deadline had passed, 0 failed afterwards, \
         {dialled} connections dialled, 0 links replaced, circuit never open",
        ends.spanned
    );
}
