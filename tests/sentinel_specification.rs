//! The Sentinel client specification, rule by rule: one test each, named after it (C1 to C12).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

mod common;

use std::time::Duration;

use common::sentinel::*;
use common::*;
use holdfast_lab::load::LagMeter;
use holdfast_lab::sentinel::{FakeSentinel, Mood};
use holdfast_lab::{Embedded, SentinelSet, server_or_skip};
use redis_holdfast::{Client, ErrorKind, ReadFrom};
use tokio::time::{Instant, sleep};

/// "A few hundred milliseconds": what one silent Sentinel may cost, and a handshake.
const A_FEW_HUNDRED: Duration = ms(400);

async fn ready_within(url: &str, limit: Duration) -> (Client, Duration) {
    let meter = LagMeter::start();
    let begun = Instant::now();
    let client = connect(url).await;
    let took = begun.elapsed();
    assert!(took <= limit + meter.log().max(), "ready after {took:?}");
    (client, took)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_sentinels_are_asked_with_a_timeout_of_a_few_hundred_ms() {
    let redis = Embedded::start().await.unwrap();
    let all = fakes(3, redis.addr()).await;
    all[0].mood(Mood::Silent);
    all[1].mood(Mood::Silent);
    let (_client, took) = ready_within(&url(&all), A_FEW_HUNDRED).await;
    println!("FIGURE C1 two of three Sentinels silent: ready after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c2_a_sentinel_that_answered_is_not_kept_waiting_behind_one_that_did_not() {
    let old = Embedded::start().await.unwrap();
    let all = fakes(3, old.addr()).await;
    all[0].mood(Mood::Silent);
    let client = connect(&url(&all)).await;
    // Asked again and again the silent first one costs no more than once: nobody stands behind it.
    for epoch in 1..4 {
        let new = Embedded::start().await.unwrap();
        all_believe(&all, new.addr(), epoch);
        for one in &all {
            one.tell(
                "+switch-master",
                format!(
                    "orders {} {} {} {}",
                    old.addr().ip(),
                    1,
                    new.addr().ip(),
                    new.addr().port()
                ),
            );
        }
        let meter = LagMeter::start();
        let told = Instant::now();
        until("the new primary serves", SECOND * 3, async || {
            ask(&client).await.is_ok() && new.clients() > 0
        })
        .await;
        let took = told.elapsed();
        assert!(took <= A_FEW_HUNDRED + meter.log().max(), "{took:?}");
        // Kept to the end: a name that leads nowhere is another test.
        Box::leak(Box::new(new));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c3_a_null_reply_leads_to_the_next_sentinel() {
    let redis = Embedded::start().await.unwrap();
    let all = fakes(3, redis.addr()).await;
    all[0].mood(Mood::Null);
    all[1].mood(Mood::Null);
    ready_within(&url(&all), A_FEW_HUNDRED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_the_role_is_asked_of_the_server_itself_with_info_where_role_is_forbidden() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let all = fakes(1, server.addr()).await;
    let forbid = async |what: &str| {
        assert_eq!(
            server
                .tell(&["ACL", "SETUSER", "default", what])
                .await
                .unwrap(),
            "+OK"
        );
    };
    forbid("-role").await;
    let client = connect(&url(&all)).await;
    assert!(ask(&client).await.is_ok());
    // Neither: it might be a replica, and nobody would know.
    forbid("-info").await;
    let client = Client::builder(&url(&all))
        .unwrap()
        .call_timeout(CALL_TIMEOUT)
        .build()
        .unwrap();
    let mut last = String::new();
    until("the reason is told", SECOND * 3, async || {
        let error = ask(&client).await.unwrap_err();
        last = told(&error);
        redis_holdfast::Error::find_in(&error)
            .is_some_and(|ours| ours.kind() == ErrorKind::RoleMismatch)
    })
    .await;
    assert!(last.contains("server does not tell its role"), "{last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c5_a_server_that_is_no_primary_is_left_and_the_sentinels_are_asked_again() {
    let Some(set) = SentinelSet::builder()
        .sentinels(0)
        .bare_nodes()
        .start_or_skip()
        .await
    else {
        return;
    };
    let (primary, replica) = (set.node(0).server().addr(), set.node(1).server().addr());
    let all = fakes(3, replica).await;
    let client = Client::builder(&url(&all))
        .unwrap()
        .call_timeout(CALL_TIMEOUT)
        .build()
        .unwrap();
    let mut last = String::new();
    until("the wrong role is told", SECOND * 3, async || {
        last = told(&ask(&client).await.unwrap_err());
        last.contains("server is a replica, not a primary")
    })
    .await;
    let (from, asked) = (
        Instant::now(),
        all[0].count("SENTINEL GET-MASTER-ADDR-BY-NAME"),
    );
    sleep(SECOND).await;
    let more = all[0].count("SENTINEL GET-MASTER-ADDR-BY-NAME") - asked;
    // Again and again, a few hundred milliseconds apart.
    assert!(
        (1..=10).contains(&more),
        "asked {more} times within {:?}",
        from.elapsed()
    );
    all_believe(&all, primary, 1);
    let known = Instant::now();
    until("the primary serves", SECOND * 3, async || {
        ask(&client).await.is_ok()
    })
    .await;
    let took = known.elapsed();
    assert!(took <= SECOND + A_FEW_HUNDRED, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c6_every_reconnect_asks_the_sentinels_first() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let all = fakes(3, server.addr()).await;
    let client = connect(&url(&all)).await;
    for _ in 0..3 {
        let asked = |one: &FakeSentinel| one.count("SENTINEL GET-MASTER-ADDR-BY-NAME");
        let before: Vec<usize> = all.iter().map(asked).collect();
        // Long enough that the poll of each second is not the one that is counted.
        until("a poll has just been", SECOND * 3, async || {
            all.iter().zip(&before).all(|(one, n)| asked(one) > *n)
        })
        .await;
        let before: Vec<usize> = all.iter().map(asked).collect();
        let cut = Instant::now();
        server
            .tell(&["CLIENT", "KILL", "TYPE", "normal"])
            .await
            .unwrap();
        until("all are asked again", ms(600), async || {
            all.iter().zip(&before).all(|(one, n)| asked(one) > *n)
        })
        .await;
        println!("asked {:?} after the cut", cut.elapsed());
        until("served again", SECOND, async || ask(&client).await.is_ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c7_client_kill_type_normal_fails_nothing_that_was_not_in_flight() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let all = fakes(3, server.addr()).await;
    let client = connect(&url(&all)).await;
    let running = start(client, RATE, SECOND * 3);
    for _ in 0..3 {
        sleep(ms(500)).await;
        server
            .tell(&["CLIENT", "KILL", "TYPE", "normal"])
            .await
            .unwrap();
    }
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    let classes = report.latencies();
    let others: Vec<&String> = classes
        .keys()
        .filter(|class| !["ok", "connection_lost/reply?"].contains(&class.as_str()))
        .collect();
    assert!(others.is_empty(), "{others:?}");
    // In flight at three cuts: at this rate hardly ever more than a handful.
    assert!(report.failed() <= 30, "{}", show(&report));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c8_after_a_change_no_connection_stays_at_the_old_primary() {
    let (old, new) = (
        Embedded::start().await.unwrap(),
        Embedded::start().await.unwrap(),
    );
    let all = fakes(3, old.addr()).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(connect(&url(&all)).await);
    }
    assert_eq!(old.clients(), 8);
    all_believe(&all, new.addr(), 1);
    for one in &all {
        let (from, to) = (old.addr(), new.addr());
        one.tell(
            "+switch-master",
            format!(
                "orders {} {} {} {}",
                from.ip(),
                from.port(),
                to.ip(),
                to.port()
            ),
        );
    }
    // What is under way ends at once; a link that is let go looks every 25 ms.
    until("all have left", SECOND, async || {
        old.clients() == 0 && new.clients() == 8
    })
    .await;
    for client in &clients {
        assert!(ask(client).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c9_nobody_reachable_and_name_unknown_are_two_errors() {
    let redis = Embedded::start().await.unwrap();
    let all = fakes(3, redis.addr()).await;
    let first = async |url: &str| {
        let client = Client::builder(url)
            .unwrap()
            .call_timeout(CALL_TIMEOUT)
            .build()
            .unwrap();
        let mut last = String::new();
        until("the reason is told", SECOND * 3, async || {
            last = told(&ask(&client).await.unwrap_err());
            last.starts_with("no_primary")
        })
        .await;
        last
    };
    let unknown = first(&url(&all).replace("/orders", "/orderz")).await;
    let hosts = url(&all);
    drop(all);
    let unreachable = first(&hosts).await;
    assert!(
        unknown.contains("no Sentinel knows a primary of this name"),
        "{unknown}"
    );
    assert!(unreachable.contains("no Sentinel answers"), "{unreachable}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c10_sentinels_that_are_not_in_the_list_are_learned_and_the_seeds_kept() {
    let redis = Embedded::start().await.unwrap();
    let all = fakes(3, redis.addr()).await;
    for one in &all {
        let others = all.iter().filter(|other| other.addr() != one.addr());
        let others = others
            .map(|other| (other.addr().ip().to_string(), other.addr().port()))
            .collect();
        one.believe(|view| view.others = others);
    }
    let client = connect(&url(&all[..1])).await;
    until("the others are asked too", SECOND * 3, async || {
        all.iter()
            .all(|one| one.count("SENTINEL GET-MASTER-ADDR-BY-NAME") > 0)
    })
    .await;
    // The only one that was named falls silent: the learned ones know as well.
    let next = Embedded::start().await.unwrap();
    all[0].mood(Mood::Silent);
    all_believe(&all, next.addr(), 1);
    until("they are believed", SECOND * 4, async || {
        ask(&client).await.is_ok() && next.clients() > 0 && redis.clients() == 0
    })
    .await;
    // And the other way round: what was learned does not replace the seed.
    all[0].mood(Mood::Well);
    all[1].mood(Mood::Silent);
    all[2].mood(Mood::Silent);
    all_believe(&all, redis.addr(), 2);
    until("the seed is believed", SECOND * 4, async || {
        ask(&client).await.is_ok() && redis.clients() > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_an_event_hurries_and_never_decides() {
    let (old, new) = (
        Embedded::start().await.unwrap(),
        Embedded::start().await.unwrap(),
    );
    let all = fakes(3, old.addr()).await;
    let client = connect(&url(&all)).await;
    // A lie: no Sentinel believes it.
    for one in &all {
        let (from, to) = (old.addr(), new.addr());
        one.tell(
            "+switch-master",
            format!(
                "orders {} {} {} {}",
                from.ip(),
                from.port(),
                to.ip(),
                to.port()
            ),
        );
    }
    for _ in 0..50 {
        let asked = ask(&client).await;
        assert!(asked.is_ok(), "{}", told(&asked.unwrap_err()));
        sleep(ms(10)).await;
    }
    assert_eq!((old.clients(), new.clients()), (1, 0));
    // The truth, of which no event tells: the poll of each second finds it.
    all_believe(&all, new.addr(), 1);
    let changed = Instant::now();
    until("found without an event", SECOND * 3, async || {
        new.clients() == 1 && old.clients() == 0
    })
    .await;
    println!(
        "FIGURE C11 a change without an event is followed after {:?}",
        changed.elapsed()
    );
    assert!(ask(&client).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c12_replicas_are_those_that_the_sentinels_list_and_that_say_so_themselves() {
    let set = SentinelSet::builder().sentinels(0).bare_nodes();
    let (Some(set), Some(stranger)) = (set.start_or_skip().await, server_or_skip().await) else {
        return;
    };
    let (primary, replica) = (set.node(0).server().addr(), set.node(1).server().addr());
    let all = fakes(3, primary).await;
    let list = |servers: &[std::net::SocketAddr]| {
        let row = |at: &std::net::SocketAddr| (at.ip().to_string(), at.port(), "slave".to_owned());
        for one in &all {
            one.believe(|view| view.replicas = servers.iter().map(row).collect());
        }
    };
    // They have not noticed yet that one of the two is a replica no more.
    list(&[replica, stranger.addr()]);
    let writer = connect(&url(&all)).await;
    let put: redis_holdfast::redis::RedisResult<()> = redis_holdfast::redis::cmd("SET")
        .arg("canary-asked")
        .arg("ours")
        .query_async(&mut writer.clone())
        .await;
    put.unwrap();
    let reader = writer.with_read_from(ReadFrom::Replica);
    // Half a second of reads; a limit on a test that hangs, and no promise.
    let (mut answered, end) = (0, Instant::now() + SECOND * 30);
    // From the very first read on: nobody has asked either of them yet.
    while answered < 200 {
        assert!(Instant::now() < end, "{answered} answers");
        match ask(&reader).await {
            Ok(found) => {
                // What has not been replicated yet is missing; what another one holds is another's.
                assert!(found.is_none_or(|found| found == "ours"));
                answered += 1;
            }
            // Until one is connected.
            Err(error) => assert!(told(&error).starts_with("no_replica"), "{}", told(&error)),
        }
        sleep(ms(2)).await;
    }
    let reads = stranger.tell(&["INFO", "commandstats"]).await.unwrap();
    assert!(!reads.contains("cmdstat_get:"), "{reads}");
    assert!(all.iter().all(|one| one.count("SENTINEL REPLICAS") > 0));
    // A replica that no Sentinel lists is none, whatever it says.
    list(&[]);
    until("none is left", SECOND * 15, async || {
        ask(&reader)
            .await
            .is_err_and(|error| told(&error).starts_with("no_replica"))
    })
    .await;
}
