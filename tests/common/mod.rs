//! What the scenarios share: a stage, the load on it, and the promises that hold in every one of them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "each test file uses its part, and a test may end here"
)]

pub mod baseline;
pub mod ears;
pub mod fake;
pub mod flood;
pub mod gauges;
pub mod sentinel;

use std::error::Error as _;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use holdfast_lab::load::{Kind, Lag, LagLog, Report, Running};
use holdfast_lab::{Load, Op, Outcome, Proxy, Server};
use redis_holdfast::layer::{Connect, LinkConnector};
use redis_holdfast::redis::{self, RedisError, aio::ConnectionLike};
use redis_holdfast::{Client, Error, ErrorKind};
use tokio::time::{Instant, sleep};

pub const SECOND: Duration = Duration::from_secs(1);
/// The budget of a call in all scenarios.
pub const CALL_TIMEOUT: Duration = Duration::from_millis(250);
/// Promise 1: no call is later than its deadline and this, beside the machine's own lag.
pub const GRACE: Duration = Duration::from_millis(10);
pub const RATE: u32 = 1000;

pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Whether the long figures are asked for.
pub fn is_full() -> bool {
    std::env::var_os("HOLDFAST_FULL").is_some()
}

/// From now on nothing that a client of this process says or counts may show a secret: its test ends where it does.
pub fn watch() {
    ears::watch();
    gauges::listen();
}

/// Who the client of a stage is on its server; others need no password there.
pub const USER: &str = "canary";

/// A server behind a proxy, and a client that has connected through it.
pub struct Stage<C: Connect = LinkConnector> {
    pub server: Server,
    pub proxy: Proxy,
    pub client: Client<C>,
}

/// Nothing where there is no server.
pub async fn stage() -> Option<Stage> {
    stage_over(LinkConnector::new()).await
}

/// The same, over the connections that `connector` makes.
pub async fn stage_over<C: Connect>(connector: C) -> Option<Stage<C>> {
    let options = [("--user", USER), ("on", ">canary-password")];
    let rights = [("allkeys", "allchannels"), ("+@all", "+@all")];
    let server = options.into_iter().chain(rights);
    let server = server.fold(Server::builder(), |server, (one, two)| server.arg(one, two));
    let server = server.start_or_skip().await?;
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let url = format!("redis://{USER}:canary-password@{}/", proxy.addr());
    let client = connect_over(connector, &url, "redis").await;
    Some(Stage {
        server,
        proxy,
        client,
    })
}

/// A client with the scenarios' call timeout and every other default, ready.
pub async fn connect(url: &str) -> Client {
    connect_as(url, "redis").await
}

/// The same, under a name by which its metrics are found.
pub async fn connect_as(url: &str, name: &str) -> Client {
    connect_over(LinkConnector::new(), url, name).await
}

/// The same, over the connections that `connector` makes.
pub async fn connect_over<C: Connect>(connector: C, url: &str, name: &str) -> Client<C> {
    watch();
    let client = Client::builder(url)
        .unwrap()
        .call_timeout(CALL_TIMEOUT)
        .name(name)
        .connector(connector)
        .build()
        .unwrap();
    client.wait_ready(SECOND * 5).await.unwrap();
    ears::discreet(format_args!("{client:?} {:?}", client.service()));
    client
}

/// Whose connection it was, for a figure: nothing for our link.
pub fn by<C: Connect>() -> &'static str {
    if std::any::type_name::<C>() == std::any::type_name::<LinkConnector>() {
        ""
    } else {
        " over redis' own connection"
    }
}

/// Half SET, half GET, unique values, at a constant rate, whatever the client does.
pub fn start<C>(client: C, rate: u32, duration: Duration) -> Running
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    watch();
    Load::new(rate)
        .duration(duration)
        .deadline(CALL_TIMEOUT)
        .start(move |op| call(client.clone(), op))
}

pub async fn call<C: ConnectionLike>(mut client: C, op: Op) -> Outcome {
    let ended = match op.kind {
        Kind::Write => {
            let done = redis::cmd("SET")
                .arg(&op.key)
                .arg(&op.value)
                .query_async::<String>(&mut client)
                .await;
            done.map(|reply| {
                if reply == "OK" {
                    Outcome::Ok
                } else {
                    Outcome::Wrong
                }
            })
        }
        _ => {
            let found = redis::cmd("GET")
                .arg(&op.key)
                .query_async::<Option<String>>(&mut client)
                .await;
            // A write that failed left nothing to read: that is not a wrong reply.
            found.map(|found| {
                if found.is_none() {
                    Outcome::Ok
                } else {
                    op.judge(found.as_deref())
                }
            })
        }
    };
    ended.unwrap_or_else(|error| Outcome::failed(class(&error)))
}

/// The kind of our error, or of redis'. That it shows no secret is looked at as often as at calls.
pub fn class(error: &RedisError) -> String {
    match Error::find_in(error) {
        Some(ours) => {
            static SEEN: AtomicU64 = AtomicU64::new(0);
            if ears::is_looked_at(&SEEN) {
                look_at(error, ours);
            }
            format!(
                "{}/{}{}",
                ours.kind().as_str(),
                ours.phase(),
                if ours.may_have_executed() { "?" } else { "" }
            )
        }
        None if error.is_timeout() => "timeout".to_owned(),
        None => format!("redis {:?}", error.kind()),
    }
}

fn look_at(error: &RedisError, ours: &Error) {
    ears::discreet(format_args!("{error} {error:?} {ours} {ours:?}"));
    // Of a server's words the error behind ours keeps all: they are the answer.
    let mut source = ours.source().filter(|_| ours.kind() != ErrorKind::Redis);
    while let Some(error) = source {
        ears::discreet(format_args!("{error} {error:?}"));
        source = error.source();
    }
}

/// What holds in every scenario: nobody late, nobody wrong, no pile.
pub fn always(report: &Report) {
    let late = report.over(CALL_TIMEOUT + GRACE, Lag::Forgiven);
    assert_eq!(
        late,
        0,
        "calls later than deadline + {GRACE:?} + lag {:?}: {}",
        report.lag().max(),
        show(report)
    );
    assert_eq!(report.wrong(), 0, "wrong replies: {}", show(report));
    if let Some((at, held)) = report.peak() {
        let most = most_outstanding(at, report.lag());
        assert!(held <= most, "peak above {most}: {}", show(report));
    }
}

/// The most calls that may be under way at `at`: 300, which is a deadline, its grace and a stall of 40 ms at 1,000 calls/s. All calls of a
/// longer stall begin as it ends, before those whose time was up meanwhile are told; a stall at another time excuses nothing.
pub fn most_outstanding(at: Instant, lag: &LagLog) -> usize {
    let stall = lag.max_between(at - GRACE, at + GRACE);
    let held = (CALL_TIMEOUT + GRACE + stall).as_millis();
    usize::try_from(held).map_or(300, |held| held.max(300))
}

/// New calls are refused from `limit` after `onset` on, until `heal`: at once, and as calls that were not sent because of what is known. None
/// of them fails in another way.
pub fn refused_within(report: &Report, onset: Instant, limit: Duration, heal: Instant) -> Duration {
    let samples = report.samples().iter();
    let due = samples.filter(|sample| (onset..heal).contains(&sample.scheduled));
    // What the machine was late beside a call, one stall after the other, is not that call's, and excuses no other.
    let last_slow = due
        .clone()
        .filter(|sample| {
            let lag = report.lag().sum_between(sample.scheduled, sample.ended);
            sample.latency() > ms(20) + lag
        })
        .map(|sample| sample.scheduled)
        .max();
    let took = last_slow.map_or(Duration::ZERO, |last| last - onset);
    assert!(
        took <= limit,
        "still waiting {took:?} after the onset: {}",
        show(report)
    );
    let refused = due.filter(|sample| sample.scheduled > onset + limit);
    for sample in refused {
        if let Outcome::Failed(class) = &sample.outcome {
            assert!(is_refusal(class), "{class} instead: {}", show(report));
        }
    }
    took
}

/// Whether nothing was sent, because the endpoint is known to be away; or where one is there that will not have us, for that reason.
fn is_refusal(class: &str) -> bool {
    !class.ends_with('?') && (class.starts_with("circuit_open/") || class == "auth/handshake")
}

/// 99 % of the calls are served from `limit` after `heal` on.
pub fn recovered_within(report: &Report, heal: Instant, limit: Duration) -> Duration {
    let recovered = report.recovered_after(heal, 0.99);
    let took = recovered.map(|at| at - heal);
    assert!(
        took.is_some_and(|took| took <= limit + report.lag().max_between(heal, heal + limit)),
        "recovered after {took:?}: {}",
        show(report)
    );
    took.unwrap()
}

/// How long refusals took while the circuit was open: 99 of 100 of those due in this span, from the instant at which they fell due
/// to the error; what the machine was late beside them is not theirs.
pub fn refusals_p99(report: &Report, from: Instant, to: Instant) -> Duration {
    let mut times: Vec<Duration> = report
        .samples()
        .iter()
        .filter(|sample| (from..to).contains(&sample.scheduled))
        .filter(|sample| matches!(&sample.outcome, Outcome::Failed(_)))
        .map(|sample| {
            let lag = report.lag().max_between(sample.scheduled, sample.ended);
            sample.latency().saturating_sub(lag)
        })
        .collect();
    times.sort_unstable();
    assert!(!times.is_empty(), "nothing was refused: {}", show(report));
    times[(times.len() * 99).div_ceil(100) - 1]
}

/// The latest of `times` but for the slowest twentieth (nearest rank).
pub fn p95(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[(times.len() * 95).div_ceil(100) - 1]
}

/// Waits until it is so.
///
/// # Panics
/// When it is not within `limit`.
pub async fn until(what: &str, limit: Duration, mut fits: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + limit;
    while !fits().await {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        sleep(ms(5)).await;
    }
}

pub fn show(report: &Report) -> String {
    let classes: Vec<String> = report
        .latencies()
        .iter()
        .map(|(class, latencies)| format!("{class}: {latencies:?}"))
        .collect();
    format!(
        "{} calls, {} ok, {} wrong, peak {}, lag {:?}\n  {}",
        report.total(),
        report.ok(),
        report.wrong(),
        report.peak_outstanding(),
        report.lag().max(),
        classes.join("\n  ")
    )
}
