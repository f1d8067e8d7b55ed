//! Promises 3, 4 and 6: one silent link of a live endpoint is benched, swapped and fenced, and costs no call that could be saved.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may end here, and tokio::spawn is at home in it"
)]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::*;
use holdfast_lab::load::Kind;
use holdfast_lab::{Mode, Outcome, Server};
use redis_holdfast::telemetry::names;
use redis_holdfast::{Client, Error, HealthState, redis};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// 150 ms of silence, up to 50 of jitter, 20 of grace, a dial and a fence.
const SWAPPED_WITHIN: Duration = ms(250);
/// How long the old path keeps what it holds, once its client is gone: beyond every replay.
const LATE: Duration = ms(400);
const WRITERS: u32 = 20;
/// The quick and the full number of times each mode is tried.
const fn times(full: bool) -> u32 {
    if full { 10 } else { 1 }
}

/// What the writers of one run were told.
#[derive(Debug, Default)]
struct Ledger {
    /// INCRs that answered.
    acked: u64,
    /// INCRs that ended with "it may have run".
    maybe: u64,
    /// INCRs that ended otherwise, by what they said.
    never: BTreeMap<String, u64>,
    /// Times that a key went back behind an acknowledged write, as a read saw it.
    back: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_link_fails_no_read_and_no_plain_set_while_its_endpoint_lives() {
    for mode in [
        Mode::Stall,
        Mode::StallDown,
        Mode::FreezeOpen,
        Mode::DeliverAfterClose(LATE),
    ] {
        for _ in 0..times(is_full()) {
            let Some(stage) = stage().await else { return };
            swapped(stage, mode).await;
        }
    }
}

async fn swapped(stage: Stage, mode: Mode) {
    gauges::listen();
    let name = format!("swap-{}", fastrand::u64(..));
    let client = connect_as(&stage.proxy.url(), &name).await;
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
    assert!(client.shutdown(SECOND).await);
    assert_eq!(gauges::counter(&name, names::SWAPS, ""), 1);
    assert_eq!(gauges::counter(&name, names::FENCES, "raised"), 1);
    assert_eq!(
        gauges::counter(&name, names::BREAKER_TRANSITIONS, "open"),
        0
    );
    println!(
        "FIGURE one dead link {mode:?}: served again {slowest:?} after the first unanswered call, 0 failed of {} ({reads} reads and {writes} \
         plain SETs moved behind the fence), breaker never open",
        report.total()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_the_old_path_delivers_later_runs() {
    for mode in [
        Mode::Stall,
        Mode::StallUp,
        Mode::StallDown,
        Mode::DeliverAfterClose(LATE),
    ] {
        for _ in 0..times(is_full()) {
            let Some(stage) = stage().await else { return };
            ledger_is_exact(stage, mode, true).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_fence_is_permitted_the_plain_rules_hold_and_health_says_so() {
    for mode in [Mode::Stall, Mode::StallDown] {
        let Some(stage) = stage().await else { return };
        for rule in ["-client|kill", "-client|list"] {
            let said = stage
                .server
                .tell(&["ACL", "SETUSER", "default", rule])
                .await
                .unwrap();
            assert_eq!(said.trim(), "+OK");
        }
        let client = stage.client.clone();
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
        println!(
            "FIGURE one dead link without permission to fence, {mode:?}: 0 failed reads, slowest {reads:?}; {} written SETs ended typed; \
             health: {}",
            report.failed(),
            health.reason()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_fence_no_call_is_run_twice_either() {
    let Some(stage) = stage().await else { return };
    let said = stage
        .server
        .tell(&["ACL", "SETUSER", "default", "-client|kill"])
        .await
        .unwrap();
    assert_eq!(said.trim(), "+OK");
    ledger_is_exact(stage, Mode::DeliverAfterClose(LATE), false).await;
}

/// INCRs and monotonic writers over a link that falls silent, and over the next: what the server holds in the end is what they were told.
async fn ledger_is_exact(stage: Stage, mode: Mode, fenced: bool) {
    let end = Instant::now() + SECOND * 3;
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        writers.spawn(count(stage.client.clone(), end));
        writers.spawn(rise(stage.client.clone(), format!("rise:{number}"), end));
    }
    sleep(SECOND).await;
    stage.proxy.set_for_old(mode);
    sleep(SECOND).await;
    // What the old path still holds it may deliver now, to a connection that the server has killed.
    stage.proxy.set_for_old(match mode {
        Mode::DeliverAfterClose(_) => mode,
        _ => Mode::Pass,
    });
    let mut ledger = Ledger::default();
    for part in writers.join_all().await {
        ledger.acked += part.acked;
        ledger.maybe += part.maybe;
        ledger.back += part.back;
        for (class, number) in part.never {
            *ledger.never.entry(class).or_default() += number;
        }
    }
    // Beyond the lab's own delay nothing comes late any more.
    sleep(LATE * 2).await;
    let counted = stored(&stage.server, "counter").await;
    println!("{mode:?} fenced {fenced}: {counted} counted, {ledger:?}");
    assert!(ledger.maybe > 0, "the fault hit no INCR");
    assert!(
        ledger.never.is_empty(),
        "not written, and not saved either: {ledger:?}"
    );
    assert!(
        (ledger.acked..=ledger.acked + ledger.maybe).contains(&counted),
        "{counted} of {ledger:?}"
    );
    if !fenced {
        // The control: here late bytes do run, so the path is one that delivers them.
        assert!(
            counted > ledger.acked,
            "nothing was delivered late: {ledger:?}"
        );
    } else {
        assert_eq!(ledger.back, 0, "a key went back: {ledger:?}");
        for number in 0..WRITERS {
            let (key, last) = (format!("rise:{number}"), format!("last:{number}"));
            let (held, acked) = (
                stored(&stage.server, &key).await,
                stored(&stage.server, &last).await,
            );
            assert!(held >= acked, "{key} went back from {acked} to {held}");
        }
    }
    println!(
        "FIGURE late delivery {mode:?}{}: counter {counted} of {} acknowledged + {} that may have run; {} keys went back",
        if fenced {
            ""
        } else {
            " without permission to fence"
        },
        ledger.acked,
        ledger.maybe,
        ledger.back
    );
}

/// INCRs one after the other.
async fn count(mut client: Client, end: Instant) -> Ledger {
    let mut ledger = Ledger::default();
    while Instant::now() < end {
        let called = Instant::now();
        match redis::cmd("INCR")
            .arg("counter")
            .query_async::<u64>(&mut client)
            .await
        {
            Ok(_) => ledger.acked += 1,
            Err(error) => {
                assert!(
                    called.elapsed() <= CALL_TIMEOUT + ms(50),
                    "{:?}",
                    called.elapsed()
                );
                match Error::find_in(&error) {
                    Some(ours) if ours.may_have_executed() => ledger.maybe += 1,
                    _ => *ledger.never.entry(class(&error)).or_default() += 1,
                }
            }
        }
        sleep(ms(5)).await;
    }
    ledger
}

/// Rising values of one key, each written after the one before was acknowledged, and read back.
async fn rise(mut client: Client, key: String, end: Instant) -> Ledger {
    let (mut ledger, mut acked) = (Ledger::default(), 0_u64);
    let mut value = 0_u64;
    while Instant::now() < end {
        value += 1;
        let set = redis::cmd("SET").arg(&key).arg(value).take();
        if set.query_async::<String>(&mut client).await.is_ok() {
            acked = value;
        }
        let get = redis::cmd("GET").arg(&key).take();
        if let Ok(found) = get.query_async::<Option<u64>>(&mut client).await
            && found.unwrap_or(0) < acked
        {
            ledger.back += 1;
        }
        sleep(ms(5)).await;
    }
    let last = redis::cmd("SET")
        .arg(key.replace("rise", "last"))
        .arg(acked)
        .take();
    last.query_async::<String>(&mut client)
        .await
        .expect("all is well in the end");
    ledger
}

async fn stored(server: &Server, key: &str) -> u64 {
    let mut control = server.control().await.unwrap();
    let get = redis::cmd("GET").arg(key).take();
    let found: Option<u64> = get.query_async(&mut control).await.unwrap();
    found.unwrap_or(0)
}
