//! Promise 6 across failovers: whatever happens to primary, replicas and leader, nothing that has an effect runs twice, and calls are
//! served again each time.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::sentinel::*;
use common::*;
use holdfast_lab::load::{Kind, Report, Running};
use holdfast_lab::sentinel::{FakeSentinel, Monitor, Promotion, View};
use holdfast_lab::{Load, Mode, Op, Outcome, SentinelSet};
use redis_holdfast::{Client, redis};
use tokio::time::{Instant, sleep};

/// What the caller of `INCR key` was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Acked,
    Maybe,
    Never,
}

#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<HashMap<String, Told>>>);

impl Ledger {
    /// One `INCR` of a key of its own per call.
    fn start(&self, client: &Client) -> Running {
        let (ledger, client) = (self.clone(), client.clone());
        Load::new(RATE)
            .duration(SECOND * 120)
            .deadline(CALL_TIMEOUT)
            .start(move |op| ledger.clone().one(client.clone(), op))
    }

    async fn one(self, mut client: Client, op: Op) -> Outcome {
        let key = format!("{}:{}", op.key, op.seq);
        let asked = redis::cmd("INCR")
            .arg(&key)
            .query_async::<u64>(&mut client)
            .await;
        let (told, outcome) = match asked {
            Ok(1) => (Told::Acked, Outcome::Ok),
            Ok(_) => (Told::Acked, Outcome::Wrong),
            Err(error) => {
                let ours = redis_holdfast::Error::find_in(&error);
                let maybe = ours.is_none_or(redis_holdfast::Error::may_have_executed);
                (
                    if maybe { Told::Maybe } else { Told::Never },
                    Outcome::failed(class(&error)),
                )
            }
        };
        self.0.lock().unwrap().insert(key, told);
        outcome
    }

    /// Holds it against every node's own record of what clients had it run, and against what the one that was promoted last has kept: a
    /// promotion cuts every connection, a monitor's too.
    async fn is_exact(&self, set: &SentinelSet, promoted: usize, monitors: &[Monitor]) -> String {
        let mut runs: HashMap<String, u32> = HashMap::new();
        for monitor in monitors {
            for write in monitor.seen() {
                if write.name == "INCR" && write.client.starts_with("127.0.0.1:") {
                    *runs.entry(write.first).or_default() += 1;
                }
            }
        }
        let kept = self.kept(set, promoted).await;
        let told = self.0.lock().unwrap();
        let (mut maybe, mut maybe_ran) = (0, 0);
        for (key, told) in told.iter() {
            let ran = runs
                .get(key)
                .copied()
                .unwrap_or(0)
                .max(kept.get(key).copied().unwrap_or(0));
            assert!(ran <= 1, "{key} ran {ran} times and was told {told:?}");
            assert!(
                *told != Told::Acked || ran == 1,
                "{key} was acknowledged and never ran"
            );
            assert!(
                *told != Told::Never || ran == 0,
                "{key} ran and was told it never did"
            );
            maybe += u32::from(*told == Told::Maybe);
            maybe_ran += u32::from(*told == Told::Maybe && ran == 1);
        }
        let acked = told.values().filter(|told| **told == Told::Acked).count();
        assert!(acked > 500, "hardly anything was served");
        format!(
            "{} calls, {acked} answered, {maybe} perhaps ({maybe_ran} ran), none twice",
            told.len()
        )
    }
}

impl Ledger {
    /// The values that a node has.
    async fn kept(&self, set: &SentinelSet, nth: usize) -> HashMap<String, u32> {
        let keys: Vec<String> = self.0.lock().unwrap().keys().cloned().collect();
        let mut connection = set.node(nth).server().control().await.unwrap();
        let mut kept = HashMap::new();
        for some in keys.chunks(500) {
            let values: Vec<Option<u32>> = redis::cmd("MGET")
                .arg(some)
                .query_async(&mut connection)
                .await
                .unwrap();
            kept.extend(
                some.iter()
                    .cloned()
                    .zip(values)
                    .filter_map(|(key, value)| Some((key, value?))),
            );
        }
        kept
    }
}

async fn finish(running: Running) -> Report {
    running.stop();
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    report
}

fn monitors(set: &SentinelSet) -> Vec<Monitor> {
    set.truth()
        .into_iter()
        .map(|at| Monitor::attach(at).unwrap())
        .collect()
}

/// Waits until calls are served again, and says how long after `from` that was.
async fn served(running: &Running, from: Instant, limit: Duration) -> Duration {
    let before = running.counts().ok;
    until("calls are served again", limit, async || {
        running.counts().ok > before + 20
    })
    .await;
    from.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_failovers_in_a_row_run_nothing_twice() {
    let Some(set) = SentinelSet::builder().start_or_skip().await else {
        return;
    };
    let client = connect_to(&set).await;
    let (ledger, monitors) = (Ledger::default(), monitors(&set));
    let running = ledger.start(&client);
    let (mut now, rounds) = (0, if is_full() { 5 } else { 2 });
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let next = 1 - now;
        let mut promotion = Promotion::watch([set.node(next).server().addr()]);
        // By turns planned and cut off, so that the old one acknowledges what it is handed.
        if round % 2 == 0 {
            SentinelSet::tell(set.sentinel(0), &["SENTINEL", "FAILOVER", set.name()])
                .await
                .unwrap();
        } else {
            set.node(now).proxy().set(Mode::Blackhole);
        }
        let (_, promoted) = promotion.within(PROMOTED).await.expect("promoted");
        slowest = slowest.max(served(&running, promoted, SECOND * 3).await);
        set.node(now).proxy().set(Mode::Pass);
        now = next;
        set.settled(now, 1, SECOND * 40).await.unwrap();
    }
    finish(running).await;
    println!(
        "FIGURE P6 {rounds} failovers in a row: {}, served again at most {slowest:?} after a promotion",
        ledger.is_exact(&set, now, &monitors).await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_after_the_promotion_holds_nobody_up() {
    let Some(set) = SentinelSet::builder()
        .failover_timeout(SECOND * 3)
        .start_or_skip()
        .await
    else {
        return;
    };
    let client = connect_to(&set).await;
    let (ledger, monitors) = (Ledger::default(), monitors(&set));
    for one in set.sentinels() {
        let words = ["SENTINEL", "SIMULATE-FAILURE", "crash-after-promotion"];
        SentinelSet::tell(one, &words).await.unwrap();
    }
    let running = ledger.start(&client);
    sleep(ms(500)).await;
    let mut promotion = Promotion::watch([set.node(1).server().addr()]);
    set.node(0).proxy().set(Mode::Blackhole);
    let (_, promoted) = promotion.within(PROMOTED).await.expect("promoted");
    // The Sentinels that are left name the old primary for another 2 x failover-timeout.
    let took = served(&running, promoted, SECOND * 20).await;
    until("the leader is dead", SECOND * 5, async || {
        set.sentinels().iter().any(|one| !one.server().is_running())
    })
    .await;
    set.node(0).proxy().set(Mode::Pass);
    sleep(SECOND).await;
    finish(running).await;
    println!(
        "FIGURE P6 leader dies after the promotion: {}, served again {took:?} after it",
        ledger.is_exact(&set, 1, &monitors).await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_after_its_election_costs_a_second_election_and_no_more() {
    let Some(set) = SentinelSet::builder()
        .failover_timeout(SECOND * 3)
        .start_or_skip()
        .await
    else {
        return;
    };
    let client = connect_to(&set).await;
    let (ledger, monitors) = (Ledger::default(), monitors(&set));
    let tell = async |nth: usize, words: &[&str]| {
        let said = SentinelSet::tell(set.sentinel(nth), words).await.unwrap();
        assert_eq!(said, "+OK", "{words:?}");
    };
    tell(0, &["SENTINEL", "SIMULATE-FAILURE", "crash-after-election"]).await;
    let others_need = async |quorum: &str| {
        for nth in [1, 2] {
            tell(nth, &["SENTINEL", "SET", set.name(), "quorum", quorum]).await;
        }
    };
    // Without a quorum of their own they start no failover, and still vote: the first one leads.
    others_need("9").await;
    let running = ledger.start(&client);
    sleep(ms(500)).await;
    let mut promotion = Promotion::watch([set.node(1).server().addr()]);
    set.node(0).proxy().set(Mode::Blackhole);
    let onset = Instant::now();
    until("the leader is dead", PROMOTED, async || {
        !set.sentinel(0).server().is_running()
    })
    .await;
    others_need("2").await;
    // Whoever voted waits for 2 x failover-timeout before it asks to be elected itself.
    let (_, promoted) = promotion.within(PROMOTED).await.expect("promoted");
    let took = served(&running, promoted, SECOND * 3).await;
    set.node(0).proxy().set(Mode::Pass);
    sleep(SECOND).await;
    finish(running).await;
    println!(
        "FIGURE P6 leader dies after its election: {}, another promoted {:?} after the onset, served again {took:?} after it",
        ledger.is_exact(&set, 1, &monitors).await,
        promoted - onset
    );
}

/// Whether one of the Sentinels has begun a failover that it has not ended.
async fn is_under_way(set: &SentinelSet) -> bool {
    for one in set.sentinels() {
        let mut connection = one.server().control().await.unwrap();
        let asked = redis::cmd("SENTINEL").arg("MASTER").arg(set.name()).take();
        let said: HashMap<String, String> = asked.query_async(&mut connection).await.unwrap();
        let flags = said.get("flags").unwrap();
        if flags.contains("failover_in_progress") {
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconfiguration_stretched_to_five_seconds_holds_nobody_up() {
    let Some(set) = SentinelSet::builder()
        .replicas(2)
        .failover_timeout(SECOND * 10)
        .start_or_skip()
        .await
    else {
        return;
    };
    let client = connect_to(&set).await;
    let (ledger, monitors) = (Ledger::default(), monitors(&set));
    // The replica that is not promoted is refused by the new primary: the leader waits for it.
    let as_user = async |name: &str| {
        for nth in [1, 2] {
            for option in ["masteruser", "masterauth"] {
                let words = ["CONFIG", "SET", option, name];
                let said = SentinelSet::tell(set.node(nth), &words).await.unwrap();
                assert_eq!(said, "+OK", "{words:?}");
            }
        }
    };
    as_user("nobody").await;
    let running = ledger.start(&client);
    sleep(ms(500)).await;
    let mut promotion = Promotion::watch(set.truth().into_iter().skip(1));
    set.node(0).proxy().set(Mode::Blackhole);
    let (at, promoted) = promotion.within(PROMOTED).await.expect("promoted");
    let at = set.truth().iter().position(|node| *node == at).unwrap();
    let took = served(&running, promoted, SECOND * 5).await;
    sleep(if is_full() { SECOND * 5 } else { SECOND * 2 }).await;
    assert!(
        is_under_way(&set).await,
        "the leader has ended its failover meanwhile"
    );
    as_user("").await;
    let report = finish(running).await;
    // Served once, served for good: the leader's odd answers meanwhile mislead nobody.
    let lost = report.failed_between(promoted + took, report.start() + SECOND * 120);
    assert_eq!(lost, 0, "{}", show(&report));
    println!(
        "FIGURE P6 reconfiguration stretched: {}, served again {took:?} after the promotion",
        ledger.is_exact(&set, at, &monitors).await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_promoted_empty_is_served_like_any_other() {
    let Some(set) = SentinelSet::builder().start_or_skip().await else {
        return;
    };
    let client = connect_to(&set).await;
    let (ledger, monitors) = (Ledger::default(), monitors(&set));
    // It lost its data and its past on the way: another replication id, nothing in it.
    let mut promotion = Promotion::watch([set.node(1).server().addr()]);
    let running = ledger.start(&client);
    sleep(ms(300)).await;
    set.node(0).proxy().set(Mode::Blackhole);
    for words in [
        ["CONFIG", "SET", "replica-read-only", "no"].as_slice(),
        &["FLUSHALL"],
        &["DEBUG", "CHANGE-REPL-ID"],
    ] {
        let said = SentinelSet::tell(set.node(1), words).await.unwrap();
        assert_eq!(said, "+OK", "{words:?}");
    }
    let (_, promoted) = promotion.within(PROMOTED).await.expect("promoted");
    let took = served(&running, promoted, SECOND * 5).await;
    sleep(SECOND).await;
    finish(running).await;
    println!(
        "FIGURE P6 unsynced replica promoted: {}, served again {took:?} after the promotion",
        ledger.is_exact(&set, 1, &monitors).await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_primary_that_nobody_demotes_is_handed_nothing() {
    let Some(set) = SentinelSet::builder().start_or_skip().await else {
        return;
    };
    let old = set.node(0).addr();
    let stale = FakeSentinel::start(View::of(set.name(), old.ip(), old.port()))
        .await
        .unwrap();
    let others = set.sentinels().iter().map(|one| one.addr());
    let others = others.map(|at| (at.ip().to_string(), at.port())).collect();
    stale.believe(|view| view.others = others);
    let first = format!("://{},", stale.addr());
    let client = connect(&set.url().replacen("://", &first, 1)).await;
    let monitor = Monitor::attach(set.node(0).server().addr()).unwrap();
    let running = start(client, RATE, SECOND * 60);
    sleep(ms(500)).await;
    let mut promotion = Promotion::watch([set.node(1).server().addr()]);
    set.node(0).proxy().set(Mode::Blackhole);
    let (_, promoted) = promotion.within(PROMOTED).await.expect("promoted");
    served(&running, promoted, SECOND * 5).await;
    // The promotion cut every connection to the new one: a monitor of before would be gone.
    let new = Monitor::attach(set.node(1).server().addr()).unwrap();
    let evidence = Instant::now();
    // Nobody is left to tell the old one, one Sentinel is left that heard of no promotion, and all links to the new one are cut: whoever
    // believes the first that says `master` is lost.
    for one in set.sentinels() {
        one.freeze();
    }
    set.node(0).proxy().set(Mode::Pass);
    until("the old one answers", SECOND, async || {
        holdfast_lab::sentinel::is_primary(set.node(0).addr(), SECOND).await
    })
    .await;
    for _ in 0..3 {
        set.node(1).proxy().set(Mode::Reset);
        set.node(1).proxy().set(Mode::Pass);
        sleep(ms(500)).await;
    }
    // Long enough for an older epoch to be believed, if more than one said so.
    set.node(1).proxy().set(Mode::Blackhole);
    sleep(SECOND * 5).await;
    set.node(1).proxy().set(Mode::Pass);
    let back = served(&running, Instant::now(), SECOND * 2).await;
    for one in set.sentinels() {
        one.thaw();
    }
    sleep(ms(500)).await;
    running.stop();
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    let strayed = handed_after(&monitor, &report, evidence);
    assert!(strayed.is_empty(), "{strayed:?}");
    let answered = report
        .samples()
        .iter()
        .filter(|sample| sample.scheduled > evidence && sample.outcome == Outcome::Ok);
    let acknowledged = answered
        .clone()
        .filter(|sample| sample.kind == Kind::Write)
        .count();
    let served = answered.count();
    let ran = || {
        let writes = new.writes_since(evidence);
        let ours = writes
            .iter()
            .filter(|write| write.client.starts_with("127.0.0.1:"));
        ours.count()
    };
    // A monitor reads a little later than the caller is answered.
    until(
        "the new one ran all that was acknowledged",
        SECOND,
        async || ran() >= acknowledged,
    )
    .await;
    assert!(back <= SECOND, "{back:?}");
    println!(
        "FIGURE P9 old primary back and never demoted: 0 writes handed to it, {served} calls served by the new one, which ran {} \
         writes where {acknowledged} were acknowledged; {back:?} after 5 s in a black hole",
        ran()
    );
    assert!(served > 500, "{}", show(&report));
}
