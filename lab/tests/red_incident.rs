//! Today's clients, put through the lab, look as bad as they are: if this test fails, the lab has lost its teeth.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

use std::net::Ipv4Addr;
use std::time::Duration;

use holdfast_lab::load::{Kind, Lag, Report, Running};
use holdfast_lab::netns::{self, Place};
use holdfast_lab::{Answer, Dns, Load, Mode, Op, Outcome, Proxy, Server, server_or_skip};
use redis::aio::{ConnectionLike, ConnectionManager, MultiplexedConnection};
use redis::{Client, ErrorKind, RedisError};
use tokio::time::sleep;

const BUDGET: Duration = Duration::from_millis(250);
const SECOND: Duration = Duration::from_secs(1);

/// Half SET, half GET, 1,000 a second, whatever the client does.
fn start<C>(client: C, seconds: u32) -> Running
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    let load = Load::new(1000).duration(SECOND * seconds).deadline(BUDGET);
    load.start(move |op| call(client.clone(), op))
}

async fn call<C: ConnectionLike>(mut client: C, op: Op) -> Outcome {
    let (get, set) = (redis::cmd("GET"), redis::cmd("SET"));
    let ended = match op.kind {
        Kind::Write => {
            let mut set = set;
            let done = set.arg(&op.key).arg(&op.value);
            let done = done.query_async::<String>(&mut client).await;
            done.map(|reply| match reply.as_str() {
                "OK" => Outcome::Ok,
                _ => Outcome::Wrong,
            })
        }
        _ => {
            let mut get = get;
            let found = get.arg(&op.key).query_async::<Option<String>>(&mut client);
            found.await.map(|found| op.judge(found.as_deref()))
        }
    };
    ended.unwrap_or_else(|error| Outcome::failed(class(&error)))
}

fn class(error: &RedisError) -> &'static str {
    match error.kind() {
        _ if error.is_timeout() => "timeout",
        ErrorKind::Io => "io",
        _ => "other",
    }
}

fn show(who: &str, what: &str, report: &Report) {
    println!(
        "FIGURE red {who} {what}: {} calls, {} failed, {} over {BUDGET:?}, slowest {:?}, {} outstanding, {} wrong",
        report.total(),
        report.failed(),
        report.over(BUDGET, Lag::Counted),
        report.percentile(100.0),
        report.peak_outstanding(),
        report.wrong(),
    );
}

/// A server behind a proxy, or nothing where there is no server.
async fn stage() -> Option<(Server, Proxy)> {
    let server = server_or_skip().await?;
    let proxy = Proxy::start(server.addr()).await.unwrap();
    Some((server, proxy))
}

/// One second of health, three of a dead network, two of health.
async fn black_hole<C>(who: &str, client: C, proxy: &Proxy) -> Report
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    let running = start(client, 6);
    sleep(SECOND).await;
    proxy.set(Mode::Stall);
    running.mark("fault");
    sleep(SECOND * 3).await;
    proxy.set(Mode::Pass);
    running.mark("heal");
    let report = running.finish().await;
    show(who, "in a black hole of 3 s", &report);
    report
}

fn looks_as_bad_as_measured(report: &Report) {
    let fault = report.at("fault").unwrap();
    assert_eq!(report.failed_between(report.start(), fault - BUDGET), 0);
    assert!(report.over(BUDGET, Lag::Counted) > 2500);
    assert!(report.peak_outstanding() > 400);
    assert_eq!(report.wrong(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bare_multiplexed_connection_makes_thousands_wait_in_a_black_hole() {
    let Some((_server, proxy)) = stage().await else {
        return;
    };
    let client = Client::open(proxy.url()).unwrap();
    let bare: MultiplexedConnection = client.get_multiplexed_async_connection().await.unwrap();
    looks_as_bad_as_measured(&black_hole("MultiplexedConnection", bare, &proxy).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_manager_makes_thousands_wait_in_a_black_hole() {
    let Some((_server, proxy)) = stage().await else {
        return;
    };
    let client = Client::open(proxy.url()).unwrap();
    let manager = ConnectionManager::new(client).await.unwrap();
    looks_as_bad_as_measured(&black_hole("ConnectionManager", manager, &proxy).await);
}

/// The endpoint moves, its old address is a black hole, DNS tells the new one after a second: `ConnectionManager`
/// fails until the end, for its silent link is never given up.
#[test]
fn a_connection_manager_never_follows_an_endpoint_that_moved() {
    if netns::reexec("a_connection_manager_never_follows_an_endpoint_that_moved") == Place::Done {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(move_away());
}

async fn move_away() {
    const NAME: &str = "redis.lab";
    const PORT: u16 = 6379;
    let at = |range, host| Ipv4Addr::new(127, 0, range, host);
    let dns = Dns::start_on((at(3, 53), 53)).await.unwrap();
    netns::resolv_conf(&format!("nameserver {}\n", at(3, 53)));
    dns.set(NAME, Answer::addrs([at(1, 1)], 1));
    let builder = Server::builder().ip(at(1, 1)).port(PORT);
    let Some(_old) = builder.start_or_skip().await else {
        return;
    };
    let client = Client::open(format!("redis://{NAME}:{PORT}/")).unwrap();
    let manager = ConnectionManager::new(client).await.unwrap();

    let running = start(manager, 8);
    sleep(SECOND).await;
    netns::drop_addr(at(1, 1));
    running.mark("fault");
    let builder = Server::builder().ip(at(2, 1)).port(PORT);
    let _new = builder.start().await.unwrap();
    sleep(SECOND).await;
    dns.set(NAME, Answer::addrs([at(2, 1)], 1));
    let moved = running.mark("moved");
    let report = running.finish().await;
    show("ConnectionManager", "whose endpoint moved", &report);
    assert_eq!(report.first_ok_after(moved), None);
    assert_eq!(report.recovered_after(moved, 0.99), None);
    assert!(report.failed_between(moved, moved + SECOND * 5) > 4900);
}
