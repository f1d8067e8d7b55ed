//! Promises 1, 2, 3, 10 and 12: silence is found, calls are refused, recovery needs no help, and nothing is left behind.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may end here, and tokio::spawn is at home in it"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::baseline::{Baseline, is_child};
use common::flood::{Tally, flood};
use common::*;
use holdfast_lab::load::Report;
use holdfast_lab::{Mode, Proxy, Server, census, server_or_skip};
use redis_holdfast::{Client, HealthState};
use tokio::time::{Instant, sleep, timeout};

/// Healthy calls before a fault: a link that dies before it was a second old is not replaced at once.
const LEAD: Duration = SECOND;
/// Load after the heal: what recovery may take, and as long again to see that it lasts.
const TAIL: Duration = ms(1500);
/// Silence is told from slowness, and the endpoint from the link, in this time.
const REFUSED_WITHIN: Duration = ms(600);
/// A reset or a refused connection needs no such patience: one dial, and the machine's own grain.
const REFUSED_AT_ONCE: Duration = ms(100);
const RECOVERED_WITHIN: Duration = ms(500);
/// A refusal costs its caller no more, end to end.
const REFUSAL: Duration = ms(1);

/// The length of an outage: as promised, or short.
fn lasting(full_seconds: u64, quick: Duration) -> Duration {
    if is_full() {
        Duration::from_secs(full_seconds)
    } else {
        quick
    }
}

/// A client under load, hit by a fault that lasts `length`, then healed; with what must hold each time.
async fn outage(
    row: &str,
    client: &Client,
    length: Duration,
    refused_limit: Duration,
    hit: impl AsyncFnOnce(),
    heal: impl AsyncFnOnce(),
) -> Report {
    let warm = start(client.clone(), RATE, ms(300)).finish().await;
    assert_eq!(warm.failed(), 0, "{}", show(&warm));
    let baseline = Baseline::take().await;
    let running = start(client.clone(), RATE, LEAD + length + TAIL);
    sleep(LEAD).await;
    hit().await;
    let onset = running.mark("onset");
    sleep(length).await;
    heal().await;
    let healed = running.mark("heal");
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    let refused = refused_within(&report, onset, refused_limit, healed);
    let lag = report.lag().max_between(onset, healed);
    let refusal = refusals_p99(&report, onset + refused_limit, healed);
    assert!(refusal <= REFUSAL + lag, "refusals took {refusal:?}");
    let recovered = recovered_within(&report, healed, RECOVERED_WITHIN);
    baseline.is_restored().await;
    println!(
        "FIGURE {row} {length:?}: refused {refused:?} after the onset, a refusal {refusal:?} (p99), 99 % ok {recovered:?} after the heal, \
         slowest call {:?}, most outstanding {}, sockets and tasks as before",
        report.percentile(100.0),
        report.peak_outstanding(),
    );
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthy_calls_are_served() {
    let Some(stage) = stage().await else { return };
    let report = start(stage.client.clone(), RATE, SECOND * 2).finish().await;
    println!("{}", show(&report));
    always(&report);
    assert_eq!(report.failed(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_refused_at_once_and_served_again_within_500_ms() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let client = connect(&server.url()).await;
    let kill = async || server.kill();
    let restart = async || server.restart().await.unwrap();
    outage(
        "killed",
        &client,
        lasting(3, SECOND * 2),
        REFUSED_AT_ONCE,
        kill,
        restart,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_and_then_unanswered_syns_are_refused_and_survived() {
    let Some(stage) = stage().await else { return };
    let Stage { proxy, client, .. } = &stage;
    let hit = async || {
        proxy.set(Mode::Down);
        proxy.set_for_new(Mode::Blackhole);
    };
    let heal = async || proxy.set(Mode::Pass);
    let length = lasting(8, SECOND * 2);
    outage("syn black hole", client, length, REFUSED_WITHIN, hit, heal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_refused_and_finds_no_pile_in_its_accept_queue() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let client = connect(&server.url()).await;
    let freeze = async || server.freeze();
    let thaw = async || {
        let left = server.accept_queue();
        server.thaw();
        assert!(
            left <= 2,
            "{left} connections of ours waited to be accepted"
        );
        println!("FIGURE frozen: {left} in the accept queue before the thaw");
    };
    outage(
        "frozen",
        &client,
        lasting(10, SECOND * 2),
        REFUSED_WITHIN,
        freeze,
        thaw,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_server_is_refused_and_served_again_within_500_ms() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let client = connect(&server.url()).await;
    let length = lasting(3, SECOND * 2);
    let millis = length.as_millis().to_string();
    let pause = async || {
        let said = server.tell(&["CLIENT", "PAUSE", &millis, "ALL"]).await;
        assert_eq!(said.unwrap().trim(), "+OK");
    };
    let accepted = server.accepts().await;
    outage(
        "paused",
        &client,
        length,
        REFUSED_WITHIN,
        pause,
        async || {},
    )
    .await;
    let accepted = server.accepts().await - accepted;
    // It accepts while it is paused: whatever it holds of ours, each is one that was dialled. One probe, and no second one after it.
    assert!(accepted <= 2, "{accepted} connections to a paused server");
    println!("FIGURE paused: {accepted} connections made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_without_reset_is_refused_and_survived() {
    let Some(stage) = stage().await else { return };
    let Stage { proxy, client, .. } = &stage;
    let hit = async || proxy.set(Mode::Blackhole);
    let heal = async || proxy.set(Mode::Pass);
    let length = lasting(20, SECOND * 3);
    outage("black hole", client, length, REFUSED_WITHIN, hit, heal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_acknowledges_and_delivers_nothing_is_refused_and_survived() {
    let Some(stage) = stage().await else { return };
    let Stage { proxy, client, .. } = &stage;
    let hit = async || proxy.set(Mode::Stall);
    let heal = async || proxy.set(Mode::Pass);
    let length = lasting(20, SECOND * 2);
    outage("silent path", client, length, REFUSED_WITHIN, hit, heal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_black_hole_is_found_within_3_s() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(connect(&proxy.url()).await);
        // Their clocks differ: a link asks for a sign of life 2 s after it last had one.
        sleep(ms(400)).await;
    }
    proxy.set(Mode::Blackhole);
    let onset = Instant::now();
    let mut found = Vec::new();
    for client in &clients {
        let mut watch = client.watch_health();
        while watch.current().state() != HealthState::Down {
            let left = (onset + SECOND * 5) - Instant::now();
            timeout(left, watch.changed())
                .await
                .expect("is found at all");
        }
        found.push(onset.elapsed());
    }
    let last = found.iter().max().unwrap();
    assert!(*last <= SECOND * 3, "{found:?}");
    println!("FIGURE idle black hole: found within {last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_calls_a_second_are_refused_within_600_ms_of_a_total_loss() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let mut runs = Vec::new();
    for _ in 0..5 {
        let client = connect(&proxy.url()).await;
        runs.push(start(client, 10, SECOND * 4));
        // A fifth of the gap between two calls: five phases.
        sleep(ms(20)).await;
    }
    sleep(SECOND).await;
    proxy.set(Mode::Blackhole);
    let onset = Instant::now();
    let mut slowest = Duration::ZERO;
    for running in runs {
        let report = running.finish().await;
        always(&report);
        let end = onset + SECOND * 2;
        let refused = refused_within(&report, onset, REFUSED_WITHIN, end);
        assert!(
            report.failed_between(onset + REFUSED_WITHIN, end) >= 13,
            "{}",
            show(&report)
        );
        slowest = slowest.max(refused);
    }
    println!("FIGURE 10 calls/s: refused {slowest:?} after the onset");
}

#[test]
fn ten_times_the_load_on_a_black_hole_stays_bounded() {
    if is_child("ten_times_the_load_on_a_black_hole_stays_bounded") {
        runtime().block_on(ten_times_the_load());
    }
}

async fn ten_times_the_load() {
    const CAP: usize = 1024;
    let Some(stage) = stage().await else { return };
    // The same rate, served: what a run needs without any fault.
    let warm = Arc::<Tally>::default();
    flood(stage.client.clone(), RATE, SECOND, Arc::clone(&warm)).await;
    assert_eq!(warm.refused(), 0, "{}", warm.show());
    let (baseline, memory) = (Baseline::take().await, census::peak_rss_bytes());
    let tally = Arc::<Tally>::default();
    stage.proxy.set(Mode::Blackhole);
    let length = lasting(60, SECOND * 5);
    let lag = flood(stage.client.clone(), RATE * 10, length, Arc::clone(&tally)).await;
    println!("{}, lag {:?}", tally.show(), lag.max());
    let grown = (census::peak_rss_bytes() - memory) / 1024;
    assert_eq!(tally.late(&lag), 0, "{}", tally.show());
    assert_eq!(tally.wrong.load(Ordering::Relaxed), 0);
    // Beside those held there may be some that are being refused this moment: a burst of what the runtime was late with.
    let burst = usize::try_from(lag.max().as_millis() + 2).unwrap() * 10;
    assert!(
        tally.peak() <= CAP + burst,
        "{} with bursts of {burst}",
        tally.show()
    );
    assert!(
        tally.refused() > 0 && grown <= 16 * 1024,
        "{grown} KiB more"
    );
    let refusal = tally.refusal_p99();
    assert!(refusal <= REFUSAL, "refusals took {refusal:?}");
    stage.proxy.set(Mode::Pass);
    let healed = Instant::now();
    stage.client.wait_ready(SECOND * 2).await.unwrap();
    let back = healed.elapsed();
    baseline.is_restored().await;
    println!(
        "FIGURE 10× load on a black hole {length:?}: most outstanding {}, a refusal {refusal:?} (p99), memory + {grown} KiB, \
         ready {back:?} after the heal, sockets and tasks as before",
        tally.peak()
    );
}

#[test]
fn memory_sockets_tasks_and_permits_are_what_they_were_after_every_fault() {
    if is_child("memory_sockets_tasks_and_permits_are_what_they_were_after_every_fault") {
        runtime().block_on(every_fault_in_turn());
    }
}

async fn every_fault_in_turn() {
    gauges::listen();
    let Some(server) = server_or_skip().await else {
        return;
    };
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let client = connect_as(&proxy.url(), "census").await;
    let warm = Arc::<Tally>::default();
    flood(client.clone(), RATE, SECOND * 2, Arc::clone(&warm)).await;
    assert_eq!(warm.refused(), 0, "{}", warm.show());
    let (baseline, memory) = (Baseline::take().await, census::peak_rss_bytes());
    let mut peak = 0;
    for fault in [
        Fault::Killed,
        Fault::Frozen,
        Fault::BlackHole,
        Fault::SilentPath,
        Fault::Reset,
    ] {
        let tally = Arc::<Tally>::default();
        let length = lasting(5, SECOND);
        let running = flood(
            client.clone(),
            RATE,
            length + SECOND * 2,
            Arc::clone(&tally),
        );
        let faulty = async {
            sleep(ms(500)).await;
            fault.begin(&server, &proxy);
            sleep(length).await;
            fault.end(&server, &proxy).await;
        };
        let (lag, ()) = tokio::join!(running, faulty);
        println!("{fault:?}: {}", tally.show());
        assert_eq!(tally.late(&lag), 0, "{fault:?}: {}", tally.show());
        assert_eq!(tally.wrong.load(Ordering::Relaxed), 0, "{fault:?}");
        assert!(
            tally.refused() > 0 && tally.ok.load(Ordering::Relaxed) > 0,
            "{fault:?}"
        );
        assert!(tally.peak() <= 300, "{fault:?}: {}", tally.show());
        peak = peak.max(tally.peak());
        baseline.is_restored().await;
    }
    let grown = (census::peak_rss_bytes() - memory) / 1024;
    assert!(grown <= 16 * 1024, "{grown} KiB more");
    assert!(client.shutdown(SECOND).await);
    let held = gauges::gauge("census", redis_holdfast::telemetry::names::IN_FLIGHT, "");
    assert_eq!(held, 0.0, "permits not given back");
    println!(
        "FIGURE all faults: memory + {grown} KiB at its peak, sockets, tasks and permits as before, most outstanding {peak}"
    );
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    Frozen,
    BlackHole,
    SilentPath,
    Reset,
}

impl Fault {
    fn begin(self, server: &Server, proxy: &Proxy) {
        match self {
            Self::Killed => server.kill(),
            Self::Frozen => server.freeze(),
            Self::BlackHole => proxy.set(Mode::Blackhole),
            Self::SilentPath => proxy.set(Mode::Stall),
            Self::Reset => proxy.set(Mode::Down),
        }
    }

    async fn end(self, server: &Server, proxy: &Proxy) {
        match self {
            Self::Killed => server.restart().await.unwrap(),
            Self::Frozen => server.thaw(),
            _ => proxy.set(Mode::Pass),
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_thaws_before_its_link_is_given_up_is_served_again() {
    let Some(stage) = stage().await else { return };
    let running = start(stage.client.clone(), RATE, SECOND * 4);
    sleep(SECOND).await;
    stage.server.freeze();
    running.mark("frozen");
    sleep(ms(700)).await;
    stage.server.thaw();
    let heal = running.mark("thawed");
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    recovered_within(&report, heal, ms(500));
}
