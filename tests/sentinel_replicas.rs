//! Reads from replicas: spread over those that keep up, never a write, and no dead one costs a caller more than its deadline.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use std::collections::HashSet;
use std::time::Duration;

use common::sentinel::*;
use common::*;
use holdfast_lab::load::LagMeter;
use holdfast_lab::sentinel::{FakeSentinel, View};
use holdfast_lab::{Mode, SentinelSet};
use redis_holdfast::redis::{AsyncCommands, RedisResult, cmd, pipe};
use redis_holdfast::telemetry::names;
use redis_holdfast::{Client, Error, ErrorKind, Phase, ReadFrom, Replay, Request};
use tokio::time::{Instant, sleep};
use tower::Service;

/// What a replica may lag behind, which it tells in whole seconds, and the second after which it is asked again.
const LEFT_OUT: Duration = ms(5_000 + 3_000);
/// Between a deadline and the answer: a timer's turn.
const TURN: Duration = ms(10);

async fn set(replicas: usize) -> Option<SentinelSet> {
    SentinelSet::builder()
        .replicas(replicas)
        .start_or_skip()
        .await
}

async fn reader(set: &SentinelSet, read_from: ReadFrom) -> Client {
    watch();
    let builder = Client::builder(&set.url()).unwrap();
    let builder = builder.call_timeout(CALL_TIMEOUT).read_from(read_from);
    let client = builder.build().unwrap();
    client.wait_ready(SECOND * 5).await.unwrap();
    client
}

async fn get(client: &Client) -> RedisResult<Option<String>> {
    cmd("GET")
        .arg("canary-asked")
        .query_async(&mut client.clone())
        .await
}

async fn put(client: &Client) -> RedisResult<()> {
    cmd("SET")
        .arg("canary-asked")
        .arg("1")
        .query_async(&mut client.clone())
        .await
}

/// How often a server ran a command, by its own count; never where it is away.
async fn ran(set: &SentinelSet, nth: usize, command: &str) -> usize {
    let stats = SentinelSet::tell(set.node(nth), &["INFO", "commandstats"]).await;
    let stats = stats.unwrap_or_default();
    let name = format!("cmdstat_{command}:calls=");
    let line = stats.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

/// How many commands a server refused because it is a replica.
async fn refused(set: &SentinelSet, nth: usize) -> usize {
    let stats = SentinelSet::tell(set.node(nth), &["INFO", "errorstats"])
        .await
        .unwrap();
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("errorstat_READONLY:count="));
    line.map_or(0, |line| line.trim().parse().unwrap())
}

/// Reads until one of these servers, and only they, answered twenty in a row.
async fn until_read_from(set: &SentinelSet, client: &Client, wanted: &[usize], limit: Duration) {
    let others: Vec<usize> = (0..set.nodes().len())
        .filter(|nth| !wanted.contains(nth))
        .collect();
    until(
        &format!("reads are answered by {wanted:?} alone"),
        limit,
        async || {
            let mut before = Vec::new();
            for nth in wanted.iter().chain(&others) {
                before.push((*nth, ran(set, *nth, "get").await));
            }
            for _ in 0..20 {
                if get(client).await.is_err() {
                    return false;
                }
            }
            for (nth, before) in before {
                if (ran(set, nth, "get").await > before) != wanted.contains(&nth) {
                    return false;
                }
            }
            true
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_spread_over_the_replicas_and_everything_else_goes_to_the_primary() {
    let Some(set) = set(2).await else { return };
    let client = reader(&set, ReadFrom::PreferReplica).await;
    until_read_from(&set, &client, &[1, 2], SECOND * 2).await;
    let mut before = Vec::new();
    for nth in 0..3 {
        before.push(ran(&set, nth, "get").await);
    }
    let mut shared = client.clone();
    for turn in 0..100 {
        put(&client).await.unwrap();
        get(&client).await.unwrap();
        // A pipeline of reads, and three that are none.
        let mut reads = pipe();
        let _: Vec<Option<String>> = reads
            .get("canary-asked")
            .get("canary-asked")
            .query_async(&mut shared)
            .await
            .unwrap();
        let _: (Option<String>, ()) = pipe()
            .get("canary-asked")
            .set("canary-asked", turn)
            .query_async(&mut shared)
            .await
            .unwrap();
        let _: (Option<String>,) = pipe()
            .atomic()
            .get("canary-asked")
            .query_async(&mut shared)
            .await
            .unwrap();
        let mine = Request::from(cmd("GET").arg("canary-asked")).with_read_from(ReadFrom::Primary);
        client.service().call(mine).await.unwrap();
    }
    // Of 300 reads for replicas each has its half; 300 were for the primary.
    let mut reads = Vec::new();
    for (nth, before) in before.into_iter().enumerate() {
        reads.push(ran(&set, nth, "get").await - before);
        assert_eq!(refused(&set, nth).await, 0, "a write reached {nth}");
    }
    println!("FIGURE replicas: reads answered by the primary and its replicas {reads:?}");
    assert_eq!(reads[0], 300, "{reads:?}");
    assert_eq!(reads[1] + reads[2], 300, "{reads:?}");
    // By lot: 150 each, ± 11.
    assert!(reads[1].min(reads[2]) >= 90, "{reads:?}");
    assert_eq!(ran(&set, 0, "set").await, 200);
}

/// A cursor means something to the server that gave it, and every page is a read of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_finds_every_key_wherever_reads_go() {
    let Some(set) = set(2).await else { return };
    let client = reader(&set, ReadFrom::Replica).await;
    until_read_from(&set, &client, &[1, 2], SECOND * 2).await;
    let mut shared = client.clone();
    let mut fill = pipe();
    for key in 0..3_000 {
        fill.set(format!("canary-{key}"), key).ignore();
    }
    let () = fill.query_async(&mut shared).await.unwrap();
    let mut found = HashSet::new();
    let mut keys = shared.scan::<String>().await.unwrap();
    while let Some(key) = keys.next_item().await {
        found.insert(key.unwrap());
    }
    assert_eq!(found.len(), 3_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_replica_costs_no_caller_more_than_its_deadline_and_the_primary_nothing() {
    let Some(set) = set(2).await else { return };
    let client = reader(&set, ReadFrom::PreferReplica).await;
    until_read_from(&set, &client, &[1, 2], SECOND * 2).await;
    let lag = LagMeter::start();
    set.node(1).proxy().set(Mode::Blackhole);
    let (onset, mut late, mut failed) = (Instant::now(), 0, Vec::new());
    while onset.elapsed() < SECOND * 3 {
        let asked = Instant::now();
        let read = async {
            let read = get(&client).await;
            (read, asked.elapsed())
        };
        let (write, (read, took)) = tokio::join!(put(&client), read);
        if let Err(error) = write {
            panic!("a write failed: {}", told(&error));
        }
        let over = lag.log().max_between(asked, Instant::now());
        late += usize::from(took > CALL_TIMEOUT + TURN + over);
        if let Err(error) = read {
            failed.push((asked - onset, told(&error)));
        }
        sleep(ms(2)).await;
    }
    println!(
        "FIGURE replicas, one black-holed: {} reads failed: {failed:?}",
        failed.len()
    );
    assert_eq!(late, 0, "later than the deadline");
    // One caller at a time: whoever is sent there when it falls silent pays with its deadline, and the next is passed on.
    assert!(failed.len() <= 2, "{failed:?}");
    assert!(client.health().is_ready(), "{}", client.health());
    set.node(1).proxy().set(Mode::Pass);
    // A Sentinel renews a connection that is younger than 15 s no sooner.
    until_read_from(&set, &client, &[1, 2], SECOND * 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_replica_the_primary_answers_or_the_error_says_so() {
    let Some(set) = set(2).await else { return };
    let either = reader(&set, ReadFrom::PreferReplica).await;
    let strict = either.with_read_from(ReadFrom::Replica);
    until_read_from(&set, &strict, &[1, 2], SECOND * 2).await;
    // What one of them takes along goes on to the other, and then to the primary: once, for it may have run. Both at once may take it along
    // one after the other.
    for nth in [1, 2] {
        set.node(nth).kill();
        for _ in 0..50 {
            get(&either).await.unwrap();
            put(&either).await.unwrap();
        }
    }
    until("a strict read is refused at once", SECOND * 2, async || {
        let asked = Instant::now();
        let Err(error) = get(&strict).await else {
            return false;
        };
        let Some(ours) = Error::find_in(&error) else {
            return false;
        };
        ours.kind() == ErrorKind::NoReplica
            && ours.phase() == Phase::Queue
            && !ours.may_have_executed()
            && asked.elapsed() < CALL_TIMEOUT
    })
    .await;
    assert!(either.health().is_ready());
    set.node(2).restart().await.unwrap();
    until_read_from(&set, &strict, &[2], SECOND * 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_may_have_run_is_asked_elsewhere_once_and_only_if_it_may_be_repeated() {
    let Some(set) = set(2).await else { return };
    let client = reader(&set, ReadFrom::PreferReplica).await;
    for (replay, most) in [(Replay::Never, 1), (Replay::Default, 2)] {
        // A Sentinel renews a connection that is younger than 15 s no sooner.
        until_read_from(&set, &client, &[1, 2], SECOND * 30).await;
        let mut before = Vec::new();
        for nth in 0..3 {
            before.push(ran(&set, nth, "get").await);
        }
        // Either one gets the read, runs it, and is cut off within its answer.
        for nth in [1, 2] {
            set.node(nth).proxy().set(Mode::CutDown(1));
        }
        let read = Request::from(cmd("GET").arg("canary-asked")).with_replay(replay);
        let error = client.service().call(read).await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionLost,
            "{replay:?}: {error}"
        );
        assert!(error.may_have_executed(), "{replay:?}: {error}");
        for nth in [1, 2] {
            set.node(nth).proxy().set(Mode::Pass);
        }
        let mut runs = Vec::new();
        for (nth, before) in before.into_iter().enumerate() {
            runs.push(ran(&set, nth, "get").await - before);
        }
        println!("FIGURE replicas, both cut off under a read, {replay:?}: it ran {runs:?} times");
        assert_eq!(runs.iter().sum::<usize>(), most, "{replay:?}: {runs:?}");
        assert_eq!(runs[0], 0, "{replay:?}: {runs:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lags_behind_is_left_out() {
    let Some(set) = set(2).await else { return };
    let client = reader(&set, ReadFrom::PreferReplica).await;
    until_read_from(&set, &client, &[1, 2], SECOND * 2).await;
    // Nobody is there. Sentinels set it right, 8 s and more later.
    let said = SentinelSet::tell(set.node(1), &["REPLICAOF", "127.0.0.1", "1"])
        .await
        .unwrap();
    assert_eq!(said, "+OK");
    until_read_from(&set, &client, &[2], LEFT_OUT).await;
}

/// Its address may be somebody else's by now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_listed_no_more_is_left_alone_though_nobody_reads() {
    const NAME: &str = "unlisted";
    let builder = SentinelSet::builder().sentinels(0);
    let Some(set) = builder.start_or_skip().await else {
        return;
    };
    let (primary, replica) = (set.node(0).addr(), set.node(1).addr());
    let view = View::of(set.name(), primary.ip(), primary.port());
    let sentinel = FakeSentinel::start(view).await.unwrap();
    let url = format!("redis+sentinel://{}/{}", sentinel.addr(), set.name());
    let client = connect_as(&url, NAME).await;
    let client = client.with_read_from(ReadFrom::Replica);
    // From the first read on the primary is asked how far it is.
    get(&client).await.unwrap_err();
    sleep(SECOND * 2).await;
    let baseline = baseline::Baseline::take().await;
    let list = |all: &[_]| sentinel.believe(|view| view.replicas = all.to_vec());
    let listed = [(replica.ip().to_string(), replica.port(), "slave".to_owned())];
    let is_read = async || get(&client).await.is_ok();
    list(&listed);
    until("it is read from", SECOND * 3, is_read).await;
    set.node(1).proxy().set(Mode::Down);
    list(&[]);
    // Sentinels are asked once a second, and a channel counts as often.
    sleep(SECOND * 2).await;
    let dials = || gauges::counter(&format!("{NAME}.replicas"), names::DIALS, "");
    let before = dials();
    sleep(SECOND * 2).await;
    assert_eq!(dials(), before, "it is dialled on and on");
    set.node(1).proxy().set(Mode::Pass);
    list(&listed);
    until("it is read from again", SECOND * 3, is_read).await;
    list(&[]);
    // Nobody reads: those who do would notice.
    sleep(SECOND).await;
    baseline.is_restored().await;
    put(&client).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_through_a_failover_and_find_the_old_primary_as_a_replica() {
    let builder = SentinelSet::builder().replicas(2).bare_nodes();
    let Some(set) = builder.start_or_skip().await else {
        return;
    };
    let client = reader(&set, ReadFrom::PreferReplica).await;
    until_read_from(&set, &client, &[1, 2], SECOND * 2).await;
    set.node(0).kill();
    let (onset, mut reads, mut failed, mut wrote) = (Instant::now(), 0, Vec::new(), None);
    while wrote.is_none_or(|at: Instant| at.elapsed() < SECOND * 2) && onset.elapsed() < PROMOTED {
        reads += 1;
        if let Err(error) = get(&client).await {
            failed.push((onset.elapsed(), told(&error)));
        }
        if wrote.is_none() && put(&client).await.is_ok() {
            wrote = Some(Instant::now());
        }
        sleep(ms(2)).await;
    }
    println!(
        "FIGURE replicas, failover: {} of {reads} reads failed {failed:?}",
        failed.len()
    );
    assert!(wrote.is_some(), "nobody was promoted");
    // Longer than the limit without a primary, and nobody keeps up with it.
    failed.retain(|(at, _)| *at < SECOND * 5);
    assert_eq!(failed.len(), 0, "{failed:?}");
    let new = set.primary().await.unwrap();
    assert_ne!(new, 0);
    set.node(0).restart().await.unwrap();
    // Theirs: a Sentinel looks every 10 s, waits 8 s before it turns an old primary, and calls it well no sooner than the look after that.
    set.settled(new, 2, SECOND * 60).await.unwrap();
    // Ours: we ask once a second.
    let (wanted, settled): (Vec<usize>, _) =
        ((0..3).filter(|nth| *nth != new).collect(), Instant::now());
    until_read_from(&set, &client, &wanted, SECOND * 5).await;
    println!(
        "FIGURE replicas, failover: the old primary is read from {:?} after the Sentinels called it a replica",
        settled.elapsed()
    );
    let before = ran(&set, new, "set").await;
    put(&client).await.unwrap();
    assert_eq!(ran(&set, new, "set").await, before + 1);
}

#[tokio::test]
async fn a_server_that_is_named_itself_has_no_replicas() {
    let given = |read_from| {
        Client::builder("redis://127.0.0.1:1")
            .unwrap()
            .read_from(read_from)
            .build()
    };
    assert!(given(ReadFrom::Primary).is_ok());
    for error in [
        given(ReadFrom::Replica).unwrap_err(),
        given(ReadFrom::PreferReplica).unwrap_err(),
        Client::builder("redis://127.0.0.1:1?read_from=replica")
            .unwrap()
            .build()
            .unwrap_err(),
    ] {
        assert!(
            error
                .to_string()
                .contains("read_from: a replica given for a URL that names one server"),
            "{error}"
        );
    }
    let unknown = Client::builder("redis+sentinel://s/orders?read_from=nearest").unwrap_err();
    assert!(
        unknown
            .to_string()
            .contains("legal: primary, prefer_replica, replica"),
        "{unknown}"
    );
    let client = given(ReadFrom::Primary).unwrap();
    let read = Request::from(cmd("GET").arg("k")).with_read_from(ReadFrom::Replica);
    let error = client.service().call(read).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.phase()),
        (ErrorKind::NoReplica, Phase::Queue)
    );
}
