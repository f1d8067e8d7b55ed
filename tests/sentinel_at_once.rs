//! What sends a client back to its Sentinels at once, and no more often than it must: a server that says it is no primary, in whatever
//! words and however often, and word that one was started again.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use std::time::Duration;

use common::sentinel::*;
use common::*;
use holdfast_lab::load::LagMeter;
use holdfast_lab::sentinel::FakeSentinel;
use holdfast_lab::{Embedded, Server, server_or_skip};
use redis_holdfast::Client;
use redis_holdfast::redis::{RedisResult, Value, cmd, pipe};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// They are asked every second anyway: this is ten times sooner, and holds a hundred refusals, five times at once on a busy machine.
const AT_ONCE: Duration = ms(100);
/// As long as nobody else is named they are asked again every 250 ms, less a fifth.
const AGAIN: Duration = ms(200);
/// Of a younger link an error *inside* a reply may be a script's own: its server was asked for its role a moment ago.
const SETTLED: Duration = SECOND;
/// Calls that are refused together.
const CALLS: usize = 100;

const QUESTION: &str = "SENTINEL GET-MASTER-ADDR-BY-NAME";
const CENSUS: &str = "SENTINEL SENTINELS";

/// Waits until all of them have just been asked as they are every second: what they are asked next has a reason.
async fn just_asked(all: &[FakeSentinel]) {
    let before: Vec<usize> = all.iter().map(|one| one.count(QUESTION)).collect();
    until("all are asked", SECOND * 3, async || {
        let asked = all.iter().map(|one| one.count(QUESTION));
        asked.zip(&before).all(|(now, before)| now > *before)
    })
    .await;
}

/// When one of them was asked this, from `from` on.
fn asked_since(one: &FakeSentinel, what: &str, from: Instant) -> Vec<Instant> {
    let asked = one.asked().into_iter();
    let asked = asked.filter(|(at, asked)| *at >= from && asked == what);
    asked.map(|(at, _)| at).collect()
}

/// In whose words a server says that it is no primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    ReadOnly,
    ReadOnlyInExec,
    ReadOnlyOfScript,
    ReadOnlyInResultOfScript,
    MasterDown,
}

impl Words {
    /// A call that a replica refuses so.
    async fn call(self, mut client: Client, nth: usize) -> RedisResult<Value> {
        let key = format!("canary:{nth}");
        let script = |text: &str| cmd("EVAL").arg(text).arg(1).arg(&key).take();
        match self {
            Self::ReadOnly => {
                let set = cmd("SET").arg(&key).arg(1).take();
                set.query_async(&mut client).await
            }
            Self::ReadOnlyInExec => {
                let mut set = pipe();
                set.atomic().set(&key, 1).query_async(&mut client).await
            }
            Self::ReadOnlyOfScript => {
                let set = script("return redis.call('SET', KEYS[1], 1)");
                set.query_async(&mut client).await
            }
            Self::ReadOnlyInResultOfScript => {
                let set = script("return {1, redis.pcall('SET', KEYS[1], 1)}");
                set.query_async(&mut client).await
            }
            Self::MasterDown => cmd("GET").arg(&key).query_async(&mut client).await,
        }
    }

    /// A call that was refused as a whole has not run anywhere: it follows to the next primary.
    fn follows(self) -> bool {
        matches!(self, Self::ReadOnly | Self::MasterDown)
    }

    /// From now on it is a replica, of a primary that it does not hear.
    async fn demote(self, server: &Server) {
        let nowhere = holdfast_lab::net::free_port(holdfast_lab::ip()).unwrap();
        let (ip, port) = (nowhere.ip().to_string(), nowhere.port().to_string());
        let stale = if self == Self::MasterDown {
            "no"
        } else {
            "yes"
        };
        for words in [
            ["CONFIG", "SET", "replica-serve-stale-data", stale].as_slice(),
            &["REPLICAOF", &ip, &port],
        ] {
            assert_eq!(server.tell(words).await.unwrap(), "+OK", "{words:?}");
        }
    }
}

/// Error replies that a server has given.
async fn refusals(server: &Server) -> usize {
    let stats = server.tell(&["INFO", "stats"]).await.unwrap();
    let mut lines = stats.lines();
    let count = lines.find_map(|line| line.strip_prefix("total_error_replies:"));
    count.unwrap().trim().parse().unwrap()
}

async fn is_left_at_once(words: Words) {
    let (Some(old), Some(new)) = (server_or_skip().await, server_or_skip().await) else {
        return;
    };
    let all = fakes(3, old.addr()).await;
    let client = connect(&url(&all)).await;
    let meter = LagMeter::start();
    sleep(SETTLED).await;
    just_asked(&all).await;
    words.demote(&old).await;
    // No event tells of it.
    all_believe(&all, new.addr(), 1);
    let before = refusals(&old).await;
    // Stopped meanwhile, so that all calls are under way when the first is refused.
    old.freeze();
    let mut calls = JoinSet::new();
    for nth in 0..CALLS {
        calls.spawn(words.call(client.clone(), nth));
    }
    sleep(ms(10)).await;
    let thawed = Instant::now();
    old.thaw();
    let answers = calls.join_all().await;
    until("the new primary serves", SECOND, async || {
        let last = Words::ReadOnly.call(client.clone(), CALLS);
        last.await.is_ok()
    })
    .await;
    let served = thawed.elapsed();
    let lag = meter.log().max();

    let refused = refusals(&old).await - before;
    assert!(refused >= CALLS / 2, "{words:?}: {refused} refusals");
    let failed = answers.iter().filter(|answer| answer.is_err()).count();
    if words.follows() {
        assert_eq!(failed, 0, "{words:?}: {answers:?}");
    }
    let at = new.tell(&["EXISTS", &format!("canary:{CALLS}")]).await;
    assert_eq!(at.unwrap(), ":1", "{words:?}");
    let mut slowest = Duration::ZERO;
    let most = 1 + (served + lag).as_millis() / AGAIN.as_millis();
    for one in &all {
        let questions = asked_since(one, QUESTION, thawed);
        let questions: Vec<Duration> = questions.into_iter().map(|at| at - thawed).collect();
        let until_served = questions.iter().filter(|after| **after <= served).count();
        let first = *questions.first().unwrap();
        assert!(
            first <= AT_ONCE + lag && until_served as u128 <= most,
            "{words:?}: asked after {questions:?}, served after {served:?}, lag {lag:?}"
        );
        slowest = slowest.max(first);
    }
    println!(
        "FIGURE P9 {words:?}: {refused} refusals, {failed} failed of {CALLS}; each Sentinel asked at most {most} times, first within \
         {slowest:?}, the new primary serves after {served:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_refuses_as_a_replica_is_left_after_one_question_to_each_sentinel() {
    // Nearly all of it is waiting for the moment: all at once.
    tokio::join!(
        is_left_at_once(Words::ReadOnly),
        is_left_at_once(Words::ReadOnlyInExec),
        is_left_at_once(Words::ReadOnlyOfScript),
        is_left_at_once(Words::ReadOnlyInResultOfScript),
        is_left_at_once(Words::MasterDown),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn word_of_a_server_that_was_started_again_leads_to_a_census_at_once() {
    let redis = Embedded::start().await.unwrap();
    let all = fakes(3, redis.addr()).await;
    let _client = connect(&url(&all)).await;
    let meter = LagMeter::start();
    just_asked(&all).await;
    let told = Instant::now();
    let (ip, port) = (redis.addr().ip(), redis.addr().port());
    all[0].tell("+reboot", format!("master orders {ip} {port}"));
    // Ten seconds before the next would be due.
    until("all are asked who there is", SECOND, async || {
        let asked = |one| !asked_since(one, CENSUS, told).is_empty();
        all.iter().all(asked)
    })
    .await;
    let lag = meter.log().max();
    for one in &all {
        let took = *asked_since(one, CENSUS, told).first().unwrap() - told;
        assert!(took <= AT_ONCE + lag, "{took:?}, lag {lag:?}");
    }
}
