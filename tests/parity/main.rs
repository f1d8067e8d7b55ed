//! What is typed against a `MultiplexedConnection` gives the same against ours: values, error kinds, codes and words, over both
//! protocols, on every server. Each case is written once, for any connection, and played three times on a server of its own: on the bare
//! connection, on a [`Client`] over our link, and on a [`ServiceConnection`] over `redis`' connection in our hands.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

#[path = "../common/mod.rs"]
mod common;

/// One typed helper, its arguments, the type that the reply shall have: what came of it is compared.
macro_rules! say {
    ($log:expr, $con:ident.$helper:ident($($argument:expr),* $(,)?) -> $type:ty) => {{
        let result: redis_holdfast::redis::RedisResult<$type> = $con.$helper($($argument),*).await;
        $log.helper(stringify!($helper), stringify!($($argument),*), &result);
    }};
}

/// The same for a reply that depends on the clock: compared is whether it is what it may be.
macro_rules! say_near {
    ($log:expr, $con:ident.$helper:ident($($argument:expr),* $(,)?) -> $type:ty, $likely:expr) => {{
        let result: redis_holdfast::redis::RedisResult<$type> = $con.$helper($($argument),*).await;
        $log.helper(stringify!($helper), stringify!($($argument),*), &result.map($likely));
    }};
}

mod differs;
mod hashes;
mod iterators;
mod keys;
mod lines;
mod lists;
mod log;
mod pipelines;
mod pushes;
mod scripts;
mod server;
mod sets;
mod streams;
mod strings;
mod transactions;
mod values;
mod zsets;

use std::collections::BTreeSet;

use common::*;
use holdfast_lab::{Find, Server};
use log::{Con, Log};
use redis_holdfast::layer::ResilienceLayer;
use redis_holdfast::redis::aio::MultiplexedConnection;
use redis_holdfast::redis::{self, AsyncConnectionConfig, ProtocolVersion};
use redis_holdfast::{Client, Config, RedisConnector, ServiceConnection};
use tower::Layer;

/// Time enough for 64 MiB on a busy machine: what is compared is not how fast it is.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
/// A database of its own, so that each connection has to choose it.
const DB: i64 = 3;
/// Commands of the typed helpers that even the newest server lacks.
const TOO_NEW: &[&str] = &["del_ex", "digest"];

/// Where a case is played.
struct World {
    server: Server,
    resp3: bool,
}

impl World {
    fn url(&self) -> String {
        let protocol = if self.resp3 { "resp3" } else { "resp2" };
        format!("{}{DB}?protocol={protocol}", self.server.url())
    }

    async fn bare(&self, config: AsyncConnectionConfig) -> MultiplexedConnection {
        let client = redis::Client::open(self.url().as_str()).unwrap();
        let config = config.set_response_timeout(Some(PATIENCE));
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .unwrap()
    }

    fn name(&self) -> String {
        let protocol = if self.resp3 {
            ProtocolVersion::RESP3
        } else {
            ProtocolVersion::RESP2
        };
        format!(
            "{} {} {protocol:?}",
            self.server.kind(),
            self.server.version()
        )
    }
}

macro_rules! cases {
    ($($room:ident: $($case:ident),+;)+) => {
        const CASES: &[&str] = &[$($(concat!(stringify!($room), "::", stringify!($case))),+),+];

        async fn play<C: Con>(case: &str, con: C, world: &World) -> Log {
            let mut log = Log::default();
            $($(if case == concat!(stringify!($room), "::", stringify!($case)) {
                Box::pin($room::$case(con, &mut log, world)).await;
                return log;
            })+)+
            panic!("no case {case}");
        }
    };
}

cases! {
    strings: plain, conditional, expiring, numbers, bits, counted;
    keys: names, times, server_side;
    hashes: fields, many, field_times;
    lists: ends, inside, moved;
    sets: members, algebra, random;
    zsets: scores, ranges, lexical, stores, popped;
    streams: entries, groups, claims, trimmed;
    server: questions, places;
    values: shapes, conversions, silent, huge;
    pipelines: plain, broken, slices, by_hand;
    transactions: whole, aborted;
    scripts: loaded, failing, nested;
    iterators: all;
    pushes: between_replies;
    lines: packed, queried;
}

/// Plays every case on each connection, and compares.
async fn the_same_on(find: Find, resp3: bool) {
    let Some(server) = of_canary(find).await else {
        return;
    };
    watch();
    let world = World { server, resp3 };
    let bare = world.bare(AsyncConnectionConfig::new()).await;
    let link = Client::builder(&world.url())
        .unwrap()
        .call_timeout(PATIENCE)
        .build()
        .unwrap();
    link.wait_ready(SECOND * 5).await.unwrap();
    let config = Config::builder(&world.url())
        .call_timeout(PATIENCE)
        .build()
        .unwrap();
    let stack = ResilienceLayer::new(config).layer(RedisConnector::new());
    let adopted = ServiceConnection::new(stack).with_db(DB);

    let (mut differences, mut answers) = (Vec::new(), 0);
    let (mut helpers, mut lacking) = (BTreeSet::new(), BTreeSet::new());
    for case in CASES {
        clean(&world.server).await;
        let theirs = play(case, bare.clone(), &world).await;
        clean(&world.server).await;
        differences.extend(theirs.against(case, "link", &play(case, link.clone(), &world).await));
        clean(&world.server).await;
        let adopted = play(case, adopted.clone(), &world).await;
        differences.extend(theirs.against(case, "redis' own", &adopted));
        answers += theirs.len();
        helpers.extend(theirs.helpers());
        lacking.extend(theirs.lacking());
    }
    differs::refused(link).await;
    let refused = differs::refused(adopted).await;
    assert!(
        differences.is_empty(),
        "{}: {} differences:\n{}",
        world.name(),
        differences.len(),
        differences.join("\n")
    );
    assert!(helpers.len() >= 150, "{} helpers", helpers.len());
    if world.server.kind() == "valkey" {
        assert_eq!(lacking.iter().copied().collect::<Vec<_>>(), TOO_NEW);
    }
    println!(
        "FIGURE parity {}: {} cases, {} commands of the typed helpers{}, {answers} answers each over our link and over redis' own \
         connection: 0 differences from the bare connection in value, kind, code or words; {refused} commands refused by design",
        world.name(),
        CASES.len(),
        helpers.len(),
        if lacking.is_empty() {
            String::new()
        } else {
            format!(
                " (skipped here: {})",
                lacking.into_iter().collect::<Vec<_>>().join(" ")
            )
        },
    );
}

/// With a password that nobody may show. In a full run none may be missing.
async fn of_canary(find: Find) -> Option<Server> {
    let server = Server::builder().kind(find.clone());
    let server = server.password("canary-password").start_or_skip().await;
    assert!(
        server.is_some() || !is_full(),
        "no {find:?}: nothing was compared"
    );
    server
}

/// The newest Valkey that was fetched; whatever is there will do for a quick run.
fn newest() -> Find {
    if is_full() {
        Find::Kind("valkey".to_owned())
    } else {
        Find::Any
    }
}

async fn clean(server: &Server) {
    for words in [&["FLUSHALL"][..], &["SCRIPT", "FLUSH"]] {
        assert_eq!(server.tell(words).await.unwrap(), "+OK");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_answer_as_a_multiplexed_connection_does_over_resp2() {
    the_same_on(newest(), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_answer_as_a_multiplexed_connection_does_over_resp3() {
    the_same_on(newest(), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_so_they_do_on_every_other_server() {
    if !is_full() {
        return;
    }
    for version in ["6.2", "7.0", "8.2"] {
        for resp3 in [false, true] {
            the_same_on(Find::Version(version.to_owned()), resp3).await;
        }
    }
}
