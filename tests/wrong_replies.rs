//! Promise 5: no reply reaches the wrong caller, whatever is cancelled when and whatever the network does; and nothing is left behind.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use common::*;
use holdfast_lab::task::own;
use holdfast_lab::{Mode, Proxy, Server, server_or_skip};
use redis_holdfast::layer::{Connect, LinkConnector};
use redis_holdfast::redis::{self, RedisError};
use redis_holdfast::{Client, Error, ErrorKind, RedisConnector, telemetry::names};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Callers at once: enough for a batch on the wire at every cancellation.
const CALLERS: usize = 64;
const CAP: usize = 128;

/// How operations ended.
#[derive(Default)]
struct Tally {
    right: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
}

impl Tally {
    /// Operations that a server may have seen: refused ones prove nothing.
    fn proven(&self) -> u64 {
        [&self.right, &self.dropped, &self.failed]
            .map(|count| count.load(Ordering::Relaxed))
            .iter()
            .sum()
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [right, dropped, failed, refused] =
            [&self.right, &self.dropped, &self.failed, &self.refused]
                .map(|count| count.load(Ordering::Relaxed));
        write!(
            f,
            "{right} right, {dropped} dropped, {failed} failed, {refused} refused"
        )
    }
}

/// One operation whose answer nobody else's can be; says whether that is what came.
async fn ask<C: Connect>(client: &mut Client<C>, unique: &str) -> Result<bool, RedisError> {
    match fastrand::u8(0..6) {
        0 => {
            let said: String = redis::cmd("ECHO").arg(unique).query_async(client).await?;
            Ok(said == unique)
        }
        1 => {
            let done: String = redis::cmd("SET")
                .arg(unique)
                .arg(unique)
                .arg("PX")
                .arg(5_000)
                .query_async(client)
                .await?;
            Ok(done == "OK")
        }
        2 => {
            // Nobody else knows the key: it is new.
            let before: Option<String> = redis::cmd("GET")
                .arg(format!("never:{unique}"))
                .query_async(client)
                .await?;
            Ok(before.is_none())
        }
        3 => {
            // Several replies, one of them large enough to be cut in the middle.
            let long = unique.repeat(fastrand::usize(1..40));
            let said: (String, i64, String) = redis::pipe()
                .cmd("ECHO")
                .arg(unique)
                .cmd("STRLEN")
                .arg("absent")
                .cmd("ECHO")
                .arg(&long)
                .query_async(client)
                .await?;
            Ok(said == (unique.to_owned(), 0, long))
        }
        4 => {
            let said: (String, Option<String>) = redis::pipe()
                .atomic()
                .cmd("ECHO")
                .arg(unique)
                .cmd("GET")
                .arg(format!("never:{unique}"))
                .query_async(client)
                .await?;
            Ok(said == (unique.to_owned(), None))
        }
        _ => {
            let (key, value) = (format!("own:{unique}"), unique.to_owned());
            let set: String = redis::cmd("SET")
                .arg(&key)
                .arg(&value)
                .arg("PX")
                .arg(5_000)
                .query_async(client)
                .await?;
            let found: Option<String> = redis::cmd("GET").arg(&key).query_async(client).await?;
            Ok(set == "OK" && found.is_none_or(|found| found == value))
        }
    }
}

/// Polls `work` so many times and drops it then, unless it ended.
async fn for_polls<F: Future>(work: F, polls: u32) -> Option<F::Output> {
    let mut work = pin!(work);
    let mut left = polls;
    poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match work.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            // The last poll was one too many: away with it, with its waker still registered.
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn caller<C: Connect>(client: Client<C>, tally: Arc<Tally>, goal: u64, number: usize) {
    let mut round = 0_u64;
    while tally.proven() < goal {
        round += 1;
        let unique = format!("<canary:{number}:{round}:{:x}>", fastrand::u64(..));
        let limit = Duration::from_micros(fastrand::u64(50..4_000));
        let mut client = match fastrand::bool() {
            true => client.clone(),
            false => client.with_call_timeout(limit.max(ms(1))),
        };
        let ended = match fastrand::u8(0..8) {
            0 => timeout(limit, ask(&mut client, &unique)).await.ok(),
            1 => for_polls(ask(&mut client, &unique), fastrand::u32(1..4)).await,
            _ => Some(ask(&mut client, &unique).await),
        };
        let count = match ended {
            None => &tally.dropped,
            Some(Ok(right)) => {
                assert!(right, "the reply to {unique} was somebody else's");
                &tally.right
            }
            Some(Err(error)) => {
                let refused = kind(&error, &unique) == ErrorKind::CircuitOpen;
                if refused {
                    sleep(ms(1)).await;
                }
                if refused {
                    &tally.refused
                } else {
                    &tally.failed
                }
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
        if fastrand::u8(..) == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Of our own error; an error *reply* or a value of another type would be somebody else's answer.
fn kind(error: &RedisError, unique: &str) -> ErrorKind {
    match Error::find_in(error) {
        Some(ours) => ours.kind(),
        None => panic!("the reply to {unique} was somebody else's: {error}"),
    }
}

/// Cuts links at random bytes, resets them, and has them deliver one byte at a time for a while.
async fn vandal(proxy: Arc<Proxy>, cuts: Arc<AtomicU64>) {
    loop {
        for _ in 0..8 {
            sleep(ms(fastrand::u64(5..60))).await;
            let bytes = fastrand::u64(0..20_000);
            proxy.set_for_old(match fastrand::u8(0..3) {
                0 => Mode::CutUp(bytes),
                1 => Mode::CutDown(bytes),
                _ => Mode::Reset,
            });
            cuts.fetch_add(1, Ordering::Relaxed);
        }
        // The breaker may have opened by now. A quiet while, in which most calls are served.
        sleep(ms(200)).await;
        proxy.set_for_old(Mode::Slice(1));
        sleep(ms(200)).await;
        proxy.set_for_old(Mode::Pass);
        sleep(ms(200)).await;
    }
}

/// Has the server push to the client's link, whichever it is: a connection of the test's own tracks all keys on its behalf.
async fn tracker(server: Arc<Server>) {
    let mut control = server.control().await.unwrap();
    let client = || redis::cmd("CLIENT");
    let own: u64 = client().arg("ID").query_async(&mut control).await.unwrap();
    let mut target = 0;
    loop {
        let list: String = client()
            .arg("LIST")
            .query_async(&mut control)
            .await
            .unwrap();
        let ids = list
            .lines()
            .filter_map(|line| line.strip_prefix("id=")?.split(' ').next()?.parse().ok());
        let newest = ids.filter(|id| *id != own).max().unwrap_or(target);
        if newest != target {
            // The link may be gone again by now.
            let off = client()
                .arg("TRACKING")
                .arg("OFF")
                .query_async::<()>(&mut control)
                .await;
            off.unwrap();
            let redirect = client()
                .arg("TRACKING")
                .arg("ON")
                .arg("REDIRECT")
                .arg(newest)
                .arg("BCAST")
                .take();
            if redirect.query_async::<()>(&mut control).await.is_ok() {
                target = newest;
            }
        }
        sleep(ms(2)).await;
    }
}

/// A SET on the link is followed by more bytes than its own answer.
async fn is_pushed_to<C: Connect>(client: &Client<C>, proxy: &Proxy) {
    let end = Instant::now() + SECOND * 2;
    loop {
        let before = proxy.bytes_down();
        let set = redis::cmd("SET").arg("pushed").arg("now").take();
        let said = set.query_async::<String>(&mut client.clone()).await;
        sleep(ms(5)).await;
        if said.is_ok()
            && proxy.bytes_down() - before > "+OK\r\n".len() as u64 + "invalidate".len() as u64
        {
            return;
        }
        assert!(Instant::now() < end, "the server pushes nothing");
    }
}

async fn storm<C: Connect>(over: C, protocol: &str, pushes: bool) {
    let Some(server) = server_or_skip().await else {
        return;
    };
    watch();
    let server = Arc::new(server);
    let name = format!("{protocol}-{pushes}-{}", by::<C>().len());
    let proxy = Arc::new(Proxy::start(server.addr()).await.unwrap());
    let client = Client::builder(&format!("{}?protocol={protocol}", proxy.url()))
        .unwrap()
        .name(&name)
        .call_timeout(CALL_TIMEOUT)
        .max_in_flight(CAP)
        .connector(over)
        .build()
        .unwrap();
    client.wait_ready(SECOND * 5).await.unwrap();

    // The pipes of `src/cancellation.rs` carry the millions; a real server and proxy take 40 us for each operation.
    let goal = if is_full() { 1_000_000 } else { 70_000 };
    let tracker = pushes.then(|| own(tracker(server.clone())));
    let (tally, cuts, start) = (
        Arc::<Tally>::default(),
        Arc::<AtomicU64>::default(),
        Instant::now(),
    );
    let vandal = own(vandal(proxy.clone(), cuts.clone()));
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        callers.spawn(caller(client.clone(), tally.clone(), goal, number));
    }
    // Ends with the first wrong reply, which is a panic.
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let took = start.elapsed();
    vandal.stop().await;
    proxy.set(Mode::Pass);
    if let Some(tracker) = tracker {
        is_pushed_to(&client, &proxy).await;
        tracker.stop().await;
    }

    let cuts = cuts.load(Ordering::Relaxed);
    assert!(cuts > goal / 10_000, "hardly a link was cut: {cuts}");
    let right = tally.right.load(Ordering::Relaxed);
    assert!(right > goal / 4, "hardly a call was served: {tally}");
    is_whole_again(&client, &proxy).await;
    nothing_is_left(&name, &server, &proxy).await;
    println!(
        "FIGURE wrong_replies {protocol}{}{}: 0 of {} operations ({tally}) over {cuts} cuts in {took:.1?}; permits and links at baseline",
        if pushes { " with pushes" } else { "" },
        by::<C>(),
        tally.proven()
    );
}

/// As many calls as the cap allows are admitted, and not one more: no permit was lost, none was made.
async fn is_whole_again<C: Connect>(client: &Client<C>, proxy: &Proxy) {
    client.wait_ready(SECOND * 5).await.unwrap();
    // Admission grows for 200 ms after the circuit has closed.
    let end = Instant::now() + SECOND * 2;
    let mut served = 0;
    while served < 300 {
        let echo = redis::cmd("ECHO")
            .arg("x")
            .query_async::<String>(&mut client.clone())
            .await;
        served = if echo.is_ok() { served + 1 } else { 0 };
        assert!(
            Instant::now() < end,
            "calls are served again: {}",
            client.health()
        );
        sleep(ms(1)).await;
    }
    proxy.set(Mode::Stall);
    let one = |number: usize| {
        let mut client = client.clone();
        Box::pin(async move {
            redis::cmd("ECHO")
                .arg(number)
                .query_async::<usize>(&mut client)
                .await
        })
    };
    let mut calls: Vec<_> = (0..CAP).map(one).collect();
    poll_fn(|context| {
        for call in &mut calls {
            assert!(
                call.as_mut().poll(context).is_pending(),
                "a permit was lost"
            );
        }
        Poll::Ready(())
    })
    .await;
    let refused = one(CAP).await.expect_err("the cap is reached");
    assert!(
        Error::find_in(&refused).is_some_and(Error::is_overloaded),
        "{refused}"
    );
    proxy.set(Mode::Pass);
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), number);
    }
}

/// One link, no call: what a client holds at rest.
async fn nothing_is_left(client: &str, server: &Server, proxy: &Proxy) {
    // A retired link looks every 25 ms, metrics are brought up to date each second.
    let end = Instant::now() + SECOND * 3;
    loop {
        let links: BTreeMap<_, _> = ["active", "suspect", "benched", "draining"]
            .map(|state| (state, gauges::gauge(client, names::LINKS, state) as i64))
            .into();
        let calls = gauges::gauge(client, names::IN_FLIGHT, "") as i64;
        let sockets = (proxy.open_connections(), server.clients().await);
        let at_rest = BTreeMap::from([
            ("active", 1),
            ("suspect", 0),
            ("benched", 0),
            ("draining", 0),
        ]);
        if (calls, sockets) == (0, (1, 1)) && links == at_rest {
            return;
        }
        assert!(
            Instant::now() < end,
            "{calls} calls in flight, links {links:?}, open at proxy and server {sockets:?}"
        );
        sleep(ms(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_resp2_reply_reaches_the_wrong_caller_and_nothing_is_left_behind() {
    storm(LinkConnector::new(), "resp2", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_resp3_reply_reaches_the_wrong_caller_and_nothing_is_left_behind() {
    storm(LinkConnector::new(), "resp3", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reply_between_pushes_reaches_the_wrong_caller_and_nothing_is_left_behind() {
    storm(LinkConnector::new(), "resp3", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reply_reaches_the_wrong_caller_of_redis_own_connection() {
    storm(RedisConnector::new(), "resp3", true).await;
}
