//! Users that may do what the README says they need, and nothing else, are served, hear the Sentinels' events, and are fenced off; one
//! who lacks what the handshake cannot do without is told so.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may end here, and its own peer dials as it likes"
)]

mod common;

use std::error::Error as _;
use std::time::Duration;

use common::fake::Peer;
use common::*;
use holdfast_lab::load::{LagLog, LagMeter};
use holdfast_lab::{Mode, SentinelSet, Server, server_or_skip};
use redis_holdfast::telemetry::names;
use redis_holdfast::{Client, Error, ErrorKind, HealthState, Phase, Request, redis};
use tokio::time::{Instant, sleep};
use tower::Service;

const PASSWORD: &str = "canary-password";
const AT_SENTINELS: &str = "&* +sentinel +psubscribe +hello +ping +info";
/// The last two are the load's.
const AT_REDIS: &str = "+ping +info +client|info +client|list +client|kill +role ~* +get +set";

/// Makes a user of these rights and no others.
async fn permit(server: &Server, user: &str, rights: &str) {
    let password = format!(">{PASSWORD}");
    let mut words = vec!["ACL", "SETUSER", user, "reset", "on", &password];
    words.extend(rights.split(' '));
    let said = server.tell(&words).await.unwrap();
    assert_eq!(said, "+OK");
    // Servers before 7.2 know no such command.
    let words = ["ACL", "SETUSER", user, "+client|setinfo"];
    server.tell(&words).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_permissions_that_are_documented_are_enough() {
    let Some(set) = SentinelSet::builder().start_or_skip().await else {
        return;
    };
    for one in set.sentinels() {
        permit(one.server(), "watcher", AT_SENTINELS).await;
    }
    for node in set.nodes() {
        permit(node.server(), "app", AT_REDIS).await;
    }
    let url = set.url().replace("://", &format!("://app:{PASSWORD}@"));
    let url = format!("{url}?sentinel_user=watcher&sentinel_password={PASSWORD}");
    watch();
    // Without a name: to bear one takes another permission.
    let client = Client::builder(&url).unwrap().call_timeout(CALL_TIMEOUT);
    let client = client.build().unwrap();
    client.wait_ready(SECOND * 5).await.unwrap();
    until(
        "every Sentinel's events are heard",
        SECOND * 3,
        async || {
            let mut heard = 0;
            for one in set.sentinels() {
                let list = SentinelSet::tell(one, &["CLIENT", "LIST"]).await.unwrap();
                let mut ours = list.lines().filter(|line| line.contains("user=watcher"));
                heard += usize::from(ours.any(|line| line.contains("psub=1")));
            }
            heard == set.sentinels().len()
        },
    )
    .await;
    let running = start(client.clone(), RATE / 4, SECOND * 3);
    tokio::time::sleep(SECOND).await;
    set.node(0).proxy().set_for_old(Mode::Stall);
    let report = running.finish().await;
    always(&report);
    until("the swap was fenced", SECOND * 2, async || {
        gauges::counter("redis", names::FENCES, "raised") > 0
    })
    .await;
    assert!(client.health().is_ready(), "{}", client.health());
    for member in set.sentinels().iter().chain(set.nodes()) {
        let log = SentinelSet::tell(member, &["ACL", "LOG"]).await.unwrap();
        assert!(log.starts_with("*0"), "refused: {log}");
    }
}

/// What the first attempts shall be apart, and may be beside their spread of a quarter: a dial and a handshake, with room for a busy machine.
const APART: Duration = SECOND;
const AT_ONCE: Duration = ms(100);
/// A connection that takes longer to be made than the shortest gap between probes is tried once more: no wonder on a machine that is late.
const PUNCTUAL: Duration = ms(50);

async fn ping(client: &Client) -> Result<(), Error> {
    let request = Request::from(redis::cmd("PING"));
    client.service().call(request).await.map(drop)
}

/// The gaps between attempts that began while the machine was in time.
fn gaps(peer: &Peer, lag: &LagLog) -> Vec<Duration> {
    let dialled = peer.dialled();
    let pairs = dialled.iter().zip(dialled.iter().skip(1));
    pairs
        .filter(|(from, _)| lag.max_between(**from - AT_ONCE, **from + AT_ONCE) < PUNCTUAL)
        .map(|(from, to)| *to - *from)
        .collect()
}

/// Of the first words `SELECT` alone can be forbidden and is missed: servers let everybody say `AUTH` and `HELLO`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_that_the_handshake_needs_is_asked_for_once_a_second_until_it_is_given() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    watch();
    tokio::join!(
        lacks_select(&server, "resp2"),
        lacks_select(&server, "resp3")
    );
}

async fn lacks_select(server: &Server, protocol: &str) {
    // A user and a name for each, so that they can be told apart.
    let user = format!("app-{protocol}");
    permit(server, &user, AT_REDIS).await;
    let addr = server.addr();
    let peer = Peer::start(move |mut socket, _| async move {
        let mut to = tokio::net::TcpStream::connect(addr).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut socket, &mut to).await;
    })
    .await;
    let url = format!(
        "redis://{user}:{PASSWORD}@{}/3?protocol={protocol}",
        peer.addr
    );
    let lag = LagMeter::thread();
    let builder = Client::builder(&url).unwrap().call_timeout(CALL_TIMEOUT);
    let client = builder.name(&user).build().unwrap();
    let error = ping(&client).await.expect_err("SELECT is forbidden");
    let what = (ErrorKind::Auth, Phase::Handshake);
    assert_eq!((error.kind(), error.phase()), what, "{error}");
    let why = error.source().map(ToString::to_string).unwrap_or_default();
    assert!(why.contains("NoPerm") && why.contains("'select'"), "{why}");

    until("three gaps that tell", SECOND * 20, async || {
        gaps(&peer, &lag.log()).len() >= 3
    })
    .await;
    let apart = gaps(&peer, &lag.log());
    let latest = APART * 5 / 4 + AT_ONCE + lag.log().max();
    assert!(
        apart.iter().all(|gap| (APART..=latest).contains(gap)),
        "{protocol}: attempts {apart:?} apart"
    );
    let health = client.health();
    assert_eq!(health.state(), HealthState::Down, "{health}");
    assert_eq!(
        (health.kind(), health.phase()),
        (Some(what.0), Some(what.1))
    );
    // Published once a second.
    until(
        "the attempts are counted as `auth`",
        SECOND * 3,
        async || gauges::counter(&user, names::DIALS, "auth") >= 3,
    )
    .await;

    let said = server.tell(&["ACL", "SETUSER", &user, "+select"]).await;
    assert_eq!(said.unwrap(), "+OK");
    let cured = Instant::now();
    while ping(&client).await.is_err() {
        assert!(cured.elapsed() < SECOND * 10, "{}", client.health());
        sleep(ms(5)).await;
    }
    let healed = cured.elapsed();
    let late = lag.log().max_between(cured, Instant::now());
    assert!(
        healed <= APART * 5 / 4 + AT_ONCE + late,
        "healed only after {healed:?}"
    );
    println!(
        "FIGURE permissions, {protocol} without SELECT: {error} ({why}), attempts {apart:?} apart, healed {healed:?} after the cure"
    );
}
