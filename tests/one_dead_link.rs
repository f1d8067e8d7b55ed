//! Promises 3 and 4: one silent link of a live endpoint is benched, swapped and fenced, and costs no call that could be saved.
//! That nothing is run twice for it is the matter of `at_most_once.rs`.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use std::time::Duration;

use common::baseline::{Baseline, leaves_nothing};
use common::*;
use holdfast_lab::load::{Kind, Sample};
use holdfast_lab::{Load, Mode, Op, Outcome};
use redis_holdfast::layer::{Connect, LinkConnector};
use redis_holdfast::redis::{self, aio::ConnectionLike};
use redis_holdfast::telemetry::names;
use redis_holdfast::{BreakerPolicy, Client, HealthState, RedisConnector};
use tokio::time::sleep;

/// 150 ms of silence, up to 50 of jitter, 20 of grace, a dial and a fence.
const SWAPPED_WITHIN: Duration = ms(250);
/// How long the old path keeps what it holds, once its client is gone: beyond every replay.
const LATE: Duration = ms(400);
/// Ways of a path to go silent while its endpoint lives.
const SILENT: [Mode; 4] = [
    Mode::Stall,
    Mode::StallDown,
    Mode::FreezeOpen,
    Mode::DeliverAfterClose(LATE),
];
/// More than the kernel takes of a path whose window is closed, some 200 KiB: what comes after it is not sent.
const PLUG: usize = 1 << 20;
/// The quick and the full number of times each mode is tried.
const fn times(full: bool) -> u32 {
    if full { 10 } else { 1 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_link_fails_no_read_and_no_plain_set_while_its_endpoint_lives() {
    for mode in SILENT {
        for _ in 0..times(is_full()) {
            swapped(LinkConnector::new(), mode).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_redis_own_connection_that_falls_silent() {
    for mode in SILENT.into_iter().take(if is_full() { 4 } else { 1 }) {
        swapped(RedisConnector::new(), mode).await;
    }
}

/// A client whose circuit opens at a second link that fails, and at the first call that does: one breaker failure at most stays unseen.
async fn touchy<C: Connect>(over: C, url: &str, name: &str) -> Client<C> {
    watch();
    let policy = BreakerPolicy::default().consecutive_failures(2);
    let client = Client::builder(url)
        .unwrap()
        .call_timeout(CALL_TIMEOUT)
        .breaker(policy.min_calls(1).failure_rate_basis_points(1))
        .name(name)
        .connector(over)
        .build()
        .unwrap();
    client.wait_ready(SECOND * 5).await.unwrap();
    client
}

async fn swapped<C: Connect>(over: C, mode: Mode) {
    let Some(stage) = stage_over(over.clone()).await else {
        return;
    };
    let name = format!("swap-{}", fastrand::u64(..));
    let baseline = Baseline::take().await;
    let client = touchy(over, &stage.proxy.url(), &name).await;
    let before = stage.server.accepts().await;
    let running = start(client.clone(), RATE, SECOND * 2);
    sleep(ms(500)).await;
    stage.proxy.set_for_old(mode);
    let onset = running.mark("onset");
    let report = running.finish().await;
    println!("{mode:?}: {}", show(&report));
    always(&report);
    assert_eq!(report.failed(), 0, "{mode:?}: {}", show(&report));
    // Every call that was stuck was moved to the new link in the moment of the swap: the slowest tells when.
    let slowest = report.percentile(100.0);
    let lag = report.lag().max_between(onset, onset + SECOND);
    assert!(
        slowest <= SWAPPED_WITHIN + lag,
        "{mode:?}: {}",
        show(&report)
    );
    let stuck = report
        .samples()
        .iter()
        .filter(|call| call.latency() > ms(20));
    let writes = stuck
        .clone()
        .filter(|call| call.kind == Kind::Write)
        .count();
    let reads = stuck.filter(|call| call.kind == Kind::Read).count();
    assert!(
        writes > 20 && reads > 20,
        "the fault hit {writes} writes and {reads} reads"
    );
    let dialled = stage.server.accepts().await - before;
    // The idle client of the stage is behind the same proxy and replaces its silent link as well.
    assert!(dialled <= 2, "{dialled} connections for one swap");
    stage.proxy.set(Mode::Pass);
    leaves_nothing(&client, &name, baseline).await;
    one_swap(&name);
    println!(
        "FIGURE one dead link {mode:?}{}: served again {slowest:?} after the first unanswered call, 0 failed of {} ({reads} reads and \
         {writes} plain SETs moved behind the fence), breaker never open, sockets, tasks and permits as before",
        by::<C>(),
        report.total()
    );
}

/// Of a touchy client, which was shut down.
fn one_swap(name: &str) {
    assert_eq!(gauges::counter(name, names::SWAPS, ""), 1);
    assert_eq!(gauges::counter(name, names::FENCES, "raised"), 1);
    let opened = gauges::counter(name, names::BREAKER_TRANSITIONS, "open");
    assert_eq!(opened, 0, "more than one breaker failure");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_link_that_takes_no_bytes_fails_no_call_that_was_not_sent() {
    for _ in 0..times(is_full()) {
        plugged().await;
    }
}

/// Of the writes, every other one counts.
fn is_count(seq: u64) -> bool {
    seq.is_multiple_of(4)
}

/// `INCR` of a key of its own, so that a second run of it is seen.
async fn count(mut client: impl ConnectionLike, op: Op) -> Outcome {
    let key = format!("count:{}", op.key);
    let incr = redis::cmd("INCR").arg(key).take();
    match incr.query_async::<u64>(&mut client).await {
        Ok(1) => Outcome::Ok,
        Ok(_) => Outcome::Wrong,
        Err(error) => Outcome::failed(class(&error)),
    }
}

/// The window of the link is closed, and what the kernel still takes is full.
async fn plugged() {
    let Some(stage) = stage().await else { return };
    let name = format!("plug-{}", fastrand::u64(..));
    let baseline = Baseline::take().await;
    let client = touchy(LinkConnector::new(), &stage.proxy.url(), &name).await;
    let load = Load::new(RATE).duration(ms(1200)).deadline(CALL_TIMEOUT);
    let running = load.start({
        let client = client.clone();
        move |op| {
            let client = client.clone();
            async move {
                match is_count(op.seq) {
                    true => count(client, op).await,
                    false => call(client, op).await,
                }
            }
        }
    });
    sleep(ms(400)).await;
    stage.proxy.set_for_old(Mode::FreezeClosed);
    let onset = running.mark("onset");
    // Its own deadline is not the matter here: it is written in part, and goes again behind the fence.
    let mut plug = client.with_call_timeout(SECOND);
    let set = redis::cmd("SET")
        .arg("canary:plug")
        .arg(vec![b'x'; PLUG])
        .take();
    let plugged = set.query_async::<String>(&mut plug).await;
    let report = running.finish().await;
    println!("closed window: {}", show(&report));
    assert_eq!(plugged.unwrap(), "OK");
    always(&report);
    // What went before the plug was written: of that an INCR alone may fail, and says that it may have run.
    let is_written =
        |outcome: &Outcome| matches!(outcome, Outcome::Failed(class) if class.ends_with('?'));
    let failed = report
        .samples()
        .iter()
        .filter(|call| call.outcome != Outcome::Ok);
    for call in failed {
        assert!(is_count(call.seq) && is_written(&call.outcome), "{call:?}");
    }
    let slowest = report.percentile(100.0);
    let lag = report.lag().max_between(onset, onset + SECOND);
    assert!(slowest <= SWAPPED_WITHIN + lag, "{}", show(&report));
    stage.proxy.set(Mode::Pass);
    drop(plug);
    leaves_nothing(&client, &name, baseline).await;
    one_swap(&name);
    let unsent = gauges::counter(&name, names::REPLAYS, "not_sent");
    let is_stuck = |call: &&Sample| {
        call.ended > onset && call.latency() > ms(20) && call.outcome == Outcome::Ok
    };
    let stuck = report.samples().iter().filter(is_stuck);
    let counts = stuck.filter(|call| is_count(call.seq)).count();
    // Some 150 calls fell due meanwhile, a quarter of them INCRs. One of those that was answered after the swap was not sent before it.
    assert!(
        unsent > 50 && counts > 10,
        "{unsent} not sent, {counts} INCRs"
    );
    println!(
        "FIGURE one dead link that takes no bytes: served again {slowest:?} after the first unanswered call, {unsent} calls not sent, {counts} INCRs \
         among them, none of them failed, {} INCRs written and typed; sockets, tasks and permits as before",
        report.failed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_twice_a_second_on_a_live_server_make_no_call_wait_for_the_next() {
    let Some(stage) = stage().await else { return };
    let baseline = Baseline::take().await;
    let running = start(stage.client.clone(), RATE, SECOND * 3);
    // One less than opens the circuit.
    for _ in 0..4 {
        sleep(ms(500)).await;
        let said = stage
            .server
            .tell(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        assert!(said.await.unwrap().starts_with(':'));
    }
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    let slowest = report.percentile(100.0);
    // A connection that lasted longer than the pause between two has had it: a dial and a handshake are all that a call waits for.
    assert!(slowest <= ms(50) + report.lag().max(), "{}", show(&report));
    let failed = report
        .samples()
        .iter()
        .filter(|call| call.outcome != Outcome::Ok);
    for call in failed.clone() {
        assert_eq!(call.outcome, Outcome::failed("connection_lost"), "{call:?}");
        assert_eq!(call.kind, Kind::Write, "a read goes again: {call:?}");
    }
    // One link is left, as before.
    baseline.is_restored().await;
    println!(
        "FIGURE links cut 4 times, 500 ms apart: slowest call {slowest:?}, {} of {} failed, writes that were under way",
        failed.count(),
        report.total()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_fence_is_permitted_the_plain_rules_hold_and_health_says_so() {
    for mode in [Mode::Stall, Mode::StallDown] {
        let Some(stage) = stage().await else { return };
        for rule in ["-client|kill", "-client|list"] {
            let said = stage
                .server
                .tell(&["ACL", "SETUSER", USER, rule])
                .await
                .unwrap();
            assert_eq!(said.trim(), "+OK");
        }
        let client = stage.client.clone();
        let baseline = Baseline::take().await;
        let running = start(client.clone(), RATE, SECOND * 3);
        sleep(SECOND).await;
        stage.proxy.set_for_old(mode);
        let onset = running.mark("onset");
        let report = running.finish().await;
        println!("{mode:?} without a fence: {}", show(&report));
        always(&report);
        let failed = report
            .samples()
            .iter()
            .filter(|call| call.outcome != Outcome::Ok);
        for call in failed {
            // Written and with an effect: they may have run, and say so.
            let Outcome::Failed(class) = &call.outcome else {
                panic!("{call:?}")
            };
            assert!(call.kind == Kind::Write && class.ends_with('?'), "{call:?}");
        }
        let lag = report.lag().max_between(onset, onset + SECOND);
        let reads = report.percentile_of(100.0, |call| call.kind == Kind::Read);
        assert!(reads <= SWAPPED_WITHIN + lag, "{}", show(&report));
        assert!(report.failed() > 0, "written SETs are not sent again");
        let health = client.health();
        assert_eq!(health.state(), HealthState::Degraded, "{health}");
        assert!(health.reason().contains("fenced off"), "{health}");
        stage.proxy.set(Mode::Pass);
        baseline.is_restored().await;
        println!(
            "FIGURE one dead link without permission to fence, {mode:?}: 0 failed reads, slowest {reads:?}; {} written SETs ended typed; \
             health: {}",
            report.failed(),
            health.reason()
        );
    }
}
