//! What a client sends twice: what may go again by the word of client and request, and to a server that serves nothing hardly more than its
//! callers asked for.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may end here, and its tasks with it"
)]

mod common;

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_lab::load::Report;
use holdfast_lab::{Load, Outcome};
use redis_holdfast::layer::{RetryLayer, TimeoutLayer};
use redis_holdfast::redis::{self, AsyncCommands};
use redis_holdfast::{Client, Replay, Request, RetryPolicy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tower::{Layer, Service};

use common::fake::{Act, Fake, Peer, greeting, hear_handshake};
use common::*;

/// The calls that each connection brought, by number, and when.
type Seen = Arc<Mutex<HashMap<usize, Vec<(u64, Instant)>>>>;

/// What a server does besides greeting and answering probes like one in good health.
#[derive(Clone, Copy)]
struct Manners {
    /// Whether it lets an old connection be killed.
    fences: bool,
    /// How long after the first call a connection ends, on which none is served.
    hangs_up: Duration,
    /// From this connection on it serves.
    serves_from: usize,
}

async fn converse(mut socket: TcpStream, number: usize, seen: Seen, manners: Manners) {
    if hear_handshake(&mut socket).await.is_none()
        || socket.write_all(&greeting(number)).await.is_err()
    {
        return;
    }
    let (mut chunk, mut patience) = (vec![0; 1 << 16], SECOND * 3600);
    loop {
        let Ok(Ok(size @ 1..)) = timeout(patience, socket.read(&mut chunk)).await else {
            return;
        };
        let text = String::from_utf8_lossy(&chunk[..size]).into_owned();
        let calls = text.lines().filter_map(|line| line.strip_prefix("call:"));
        let now = Instant::now();
        let calls: Vec<_> = calls.map(|call| (call.parse().unwrap(), now)).collect();
        let reply = if !calls.is_empty() && number < manners.serves_from {
            patience = manners.hangs_up;
            String::new()
        } else if !calls.is_empty() {
            "+OK\r\n".repeat(calls.len())
        } else if text.contains("KILL") {
            let killed = if manners.fences {
                ":1\r\n"
            } else {
                "-NOPERM no\r\n"
            };
            killed.to_owned()
        } else if text.contains("LIST") {
            "$13\r\nid=1 flags=N\n\r\n".to_owned()
        } else {
            "+PONG\r\n".to_owned()
        };
        seen.lock()
            .unwrap()
            .entry(number)
            .or_default()
            .extend(calls);
        if socket.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn server(manners: Manners) -> (Peer, Seen) {
    let seen = Seen::default();
    let heard = seen.clone();
    let peer = Peer::start(move |socket, number| converse(socket, number, heard.clone(), manners));
    (peer.await, seen)
}

/// Without a name: the script greets no other handshake.
async fn client(server: &Peer, retry: RetryPolicy) -> Client {
    let client = Client::builder(&server.url()).unwrap().retry(retry);
    let client = client.call_timeout(CALL_TIMEOUT).build().unwrap();
    client.wait_ready(SECOND * 5).await.unwrap();
    client
}

/// A read, an overwrite, a script and a command that adds: which of them, once sent over a connection that died, the next one served.
async fn followed(fences: bool, retry: RetryPolicy, request: Option<Replay>) -> [bool; 4] {
    let manners = Manners {
        fences,
        hangs_up: ms(20),
        serves_from: 2,
    };
    let (server, seen) = server(manners).await;
    let client = client(&server, retry).await;
    let lines = [
        "GET call:0",
        "SET call:1 v",
        "EVAL x 1 call:2",
        "INCR call:3",
    ];
    let calls = lines.map(|line| {
        let mut words = line.split(' ');
        let mut cmd = redis::cmd(words.next().unwrap());
        words.for_each(|word| drop(cmd.arg(word).to_owned()));
        let call = Request::from(&cmd);
        let call = match request {
            Some(replay) => call.with_replay(replay),
            None => call,
        };
        let mut service = client.service();
        tokio::spawn(async move { service.call(call).await.is_ok() })
    });
    let mut served = [false; 4];
    for (served, call) in served.iter_mut().zip(calls) {
        *served = call.await.unwrap();
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen[&1].len(), 4, "all were sent over the first one");
    let second = seen.get(&2).map_or(0, Vec::len);
    assert_eq!(second, served.into_iter().filter(|served| *served).count());
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_go_again_is_what_client_and_request_say_with_and_without_a_fence() {
    let retry = |replay| RetryPolicy::default().replay(replay);
    let (default, never, overwrite) = (
        retry(Replay::Default),
        retry(Replay::Never),
        retry(Replay::Overwrite),
    );
    let none = RetryPolicy::default().attempts(0);
    for (fences, client, request, goes) in [
        (false, &default, None, [true, false, false, false]),
        (true, &default, None, [true, true, false, false]),
        (false, &never, None, [false; 4]),
        (true, &never, None, [false; 4]),
        (true, &none, None, [false; 4]),
        // A script is tagged by its own request alone.
        (false, &overwrite, None, [true, true, false, false]),
        (
            false,
            &default,
            Some(Replay::Overwrite),
            [true, true, true, false],
        ),
        (true, &overwrite, Some(Replay::Never), [false; 4]),
        (
            true,
            &never,
            Some(Replay::Default),
            [true, true, false, false],
        ),
    ] {
        let went = followed(fences, client.clone(), request).await;
        assert_eq!(
            went, goes,
            "fence {fences}, client {client:?}, request {request:?}"
        );
    }
}

/// The client has no other server to ask, and tells what this one said; whoever wants it asked again puts a layer above.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_refuses_as_a_whole_is_told_and_under_a_retry_layer_tried_again() {
    for code in ["LOADING", "TRYAGAIN"] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let server = Fake::start(move |_, command| {
            let is_refused = command[0] == "SET" && count.fetch_add(1, Ordering::Relaxed) < 3;
            is_refused.then(|| Act::Say(format!("-{code} soon\r\n")))
        });
        let server = server.await;
        let client = connect(&server.url("")).await;
        let set = || Request::from(redis::cmd("SET").arg("k").arg("v"));
        let reply = client.service().call(set()).await.unwrap();
        let error = reply.parse::<String>().unwrap_err();
        let words = error.source().expect("its words").to_string();
        assert!(words.contains("soon"), "{words}");
        assert_eq!(asked.load(Ordering::Relaxed), 1, "asked once");
        // The floor pays for a try in 10 ms.
        let policy = RetryPolicy::default()
            .floor_per_second(100)
            .backoff(ms(11), ms(12));
        let retry = RetryLayer::new(policy).unwrap().layer(client.service());
        let mut stack = TimeoutLayer::new(CALL_TIMEOUT).layer(retry);
        let reply = stack.call(set()).await.unwrap();
        assert_eq!(reply.parse::<String>().unwrap(), "OK");
        assert_eq!(asked.load(Ordering::Relaxed), 4, "two refusals, and served");
    }
}

/// The most attempts in any `span` of so long, and the calls that were due in the same; nothing where none of it was under load throughout.
/// No span has more attempts per call than one that begins with an attempt.
fn worst(attempts: &[Instant], report: &Report, span: Duration) -> Option<(usize, usize)> {
    let calls: Vec<Instant> = report.samples().iter().map(|one| one.scheduled).collect();
    let within = |all: &[Instant], from: Instant| {
        all.partition_point(|at| *at < from + span) - all.partition_point(|at| *at < from)
    };
    let last = *calls.last().unwrap();
    let from = attempts.iter().filter(|from| **from + span <= last);
    let spans = from.map(|from| (within(attempts, *from), within(&calls, *from)));
    spans.max_by(|(a, of), (b, all)| (a * all).cmp(&(b * of)))
}

/// Wire attempts per call over a whole failure: refused calls are calls, and those in the batch after a swap are attempts.
async fn amplification(row: &str, hangs_up: Duration) {
    const RATE: u32 = 500;
    let manners = Manners {
        fences: true,
        hangs_up,
        serves_from: usize::MAX,
    };
    let (server, seen) = server(manners).await;
    let client = client(&server, RetryPolicy::default()).await;
    // So that there is more than one span of 10 s in it; in a hurry, the whole is looked at.
    let span = if is_full() { SECOND * 15 } else { SECOND * 4 };
    let load = Load::new(RATE).duration(span).deadline(CALL_TIMEOUT);
    let running = load.start(move |op| {
        let mut client = client.clone();
        async move {
            // A key for each call: what the server sees twice was sent twice.
            let value: redis::RedisResult<String> = client.get(format!("call:{}", op.seq)).await;
            value.map_or_else(|error| Outcome::failed(class(&error)), |_| Outcome::Ok)
        }
    });
    let report = running.finish().await;
    println!("{}", show(&report));
    let seen = seen.lock().unwrap();
    let (mut sent, mut when): (Vec<u64>, Vec<Instant>) = seen.values().flatten().copied().unzip();
    let attempts = sent.len();
    sent.sort_unstable();
    sent.dedup();
    when.sort_unstable();
    let worst = worst(&when, &report, SECOND * 10);
    let (calls, again) = (report.total(), attempts - sent.len());
    println!(
        "FIGURE amplification, {row}, {RATE}/s for {span:?}: {attempts} attempts, {again} of them for the second time, {calls} calls, {} sent over {} connections; attempts and calls of the worst 10 s: {worst:?}",
        sent.len(),
        seen.len()
    );
    assert_eq!(report.ok(), 0, "everything fails");
    assert!(seen.len() > 2, "calls went over {} connections", seen.len());
    assert!(attempts * 10 <= calls * 11, "{attempts} of {calls}");
    assert_eq!(worst.is_some(), is_full(), "any 10 s are in a load of more");
    if let Some((attempts, calls)) = worst {
        assert!(attempts * 10 <= calls * 11, "{attempts} of {calls} in 10 s");
    }
    // Those who waited for one connection follow for nothing, once in 10 s, and no more wait than ever did; then one a second, the floor, for
    // nothing is served that would pay for more.
    let (seconds, batches) = (span.as_secs(), 1 + span.as_secs() / 10);
    let most = report.peak_outstanding() * batches as usize + seconds as usize + 1;
    assert!(again <= most, "{again} were sent again, of at most {most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_up_on_its_callers() {
    amplification("hanging up after 20 ms", ms(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_probes_and_no_call() {
    amplification("silent for calls", SECOND * 60).await;
}
