//! A peer that means harm, or was never meant to be spoken to: typed errors, in time; bounded memory; no storm of dials; no panic.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may end here, and tokio::spawn is at home in it"
)]

mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{
    baseline::is_child,
    fake::{Peer, greet, greeting, hear, hear_handshake, listen, reset},
    *,
};
use holdfast_lab::{
    census,
    load::{LagLog, LagMeter},
};
use redis_holdfast::{Client, Error, ErrorKind, Phase, Request, redis};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep},
};
use tower::Service;

/// Promise 11: at most so many dials in any second.
const DIALS: usize = 4;

/// How long a test waits for a second in which the machine is punctual.
const PATIENCE: Duration = Duration::from_secs(20);

/// The most dials that the peer saw within one second; one that it saw late may stand nearer to the next. Of a second in which the machine
/// was late by half of it nothing can be said: that is none. Who is no good is dialled every 378 ms at the longest, so that fewer than
/// two mean that nothing was seen.
fn asserted_dials(what: &str, peer: &Peer, lag: &LagLog) -> usize {
    let seen = peer.dialled();
    let within = |from: Instant| {
        // Who woke late, too, may have woken a little before us.
        let late = lag.max_between(from - GRACE, from + SECOND);
        let second = if late < SECOND / 2 {
            SECOND - late
        } else {
            Duration::ZERO
        };
        let in_it = |at: &&Instant| (from..from + second).contains(*at);
        seen.iter().filter(in_it).count()
    };
    let most = seen.iter().map(|from| within(*from)).max().unwrap_or(0);
    let gaps: Vec<Duration> = seen.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(
        most <= DIALS,
        "{what}: {most} dials within a second, the gaps: {gaps:?}"
    );
    most
}

/// Panics of any thread or task: tokio swallows those of tasks.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        before(info);
    }));
}

fn client(url: &str) -> Client {
    let builder = Client::builder(url).unwrap().call_timeout(CALL_TIMEOUT);
    builder.build().unwrap()
}

async fn get(client: &Client) -> (Result<String, Error>, Duration) {
    let started = Instant::now();
    let get = Request::from(redis::cmd("GET").arg("k"));
    let ended = client
        .service()
        .call(get)
        .await
        .and_then(|reply| reply.parse());
    (ended, started.elapsed())
}

/// How the calls of a while ended, by kind and phase.
type Classes = BTreeMap<String, usize>;

/// Twenty calls a second for so long, each in time; none is served. Tells the most dials in a second too, and goes on until it can.
async fn all_fail(
    what: &str,
    client: &Client,
    peer: &Peer,
    lag: &LagMeter,
    span: Duration,
) -> (Classes, usize) {
    let (mut classes, mut calls) = (Classes::new(), Vec::new());
    let mut end = Instant::now() + span;
    let limit = end + PATIENCE;
    let most = loop {
        while Instant::now() < end {
            let (ended, took) = get(client).await;
            calls.push((Instant::now(), took));
            let error = ended.expect_err("nobody serves");
            *classes.entry(class(&error.into())).or_default() += 1;
            sleep(ms(50)).await;
        }
        let most = asserted_dials(what, peer, &lag.log());
        if most > 1 {
            break most;
        }
        assert!(
            end < limit,
            "{what}: too late to count dials: {:?}",
            peer.dialled()
        );
        end += SECOND;
    };
    let lag = lag.log();
    for (at, took) in calls {
        let late = took.saturating_sub(CALL_TIMEOUT + GRACE);
        assert!(late <= lag.max_between(at - took, at), "{took:?}");
    }
    (classes, most)
}

/// What a peer is from its first byte on.
#[derive(Clone)]
enum Stranger {
    /// Answers the first words with this, and listens.
    Says(Vec<u8>),
    /// Says this without being asked, and listens.
    Blurts(Vec<u8>),
    /// Says this again and again, for as long as it is read.
    Floods(Vec<u8>, Vec<u8>),
    /// Answers the first words with this, and closes.
    Closes(Vec<u8>),
    /// Reads `HELLO`, and closes.
    Leaves,
    /// Accepts and resets.
    Resets,
}

impl Stranger {
    async fn meet(self, mut socket: TcpStream) {
        match self {
            Self::Says(words) => {
                if hear_handshake(&mut socket).await.is_some() {
                    let _ = socket.write_all(&words).await;
                    listen(socket).await;
                }
            }
            Self::Blurts(words) => {
                let _ = socket.write_all(&words).await;
                listen(socket).await;
            }
            Self::Floods(first, then) => {
                let mut words = first;
                while socket.write_all(&words).await.is_ok() {
                    words.clone_from(&then);
                    // Fast enough to fill any memory, slow enough to leave the processor to those who share it.
                    sleep(ms(1)).await;
                }
            }
            Self::Closes(words) => {
                if hear(&mut socket).await.is_some() {
                    let _ = socket.write_all(&words).await;
                }
            }
            Self::Leaves => {
                let mut words = [0; 512];
                let read = socket.read(&mut words).await;
                // Nothing comes from a client that was dropped meanwhile.
                if let Some(count) = read.ok().filter(|count| *count > 0) {
                    assert!(words[..count].starts_with(HELLO), "no HELLO");
                }
            }
            Self::Resets => reset(socket),
        }
    }

    /// Where it is met: over RESP3 if it is to hear `HELLO`.
    fn url(&self, peer: &Peer) -> String {
        match self {
            Self::Leaves => format!("{}?protocol=resp3", peer.url()),
            _ => peer.url(),
        }
    }
}

const HELLO: &[u8] = b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n";

fn garbage(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..length).map(|_| random.u8(..)).collect()
}

/// Each stranger, and the kind of error that names it.
fn strangers() -> Vec<(&'static str, Stranger, ErrorKind)> {
    use ErrorKind::{ConnectionLost, Protocol};
    use Stranger::{Blurts, Closes, Floods, Leaves, Resets, Says};
    let sentinel = "# Server\r\nredis_mode:sentinel\r\nrun_id:0\r\n";
    let sentinel = format!(
        "+OK\r\n+OK\r\n-ERR no\r\n${}\r\n{sentinel}\r\n-ERR no\r\n+PONG\r\n",
        sentinel.len()
    );
    let http = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
    let x = vec![b'x'; 64 << 10];
    vec![
        ("garbage", Says(garbage(1, 4096)), Protocol),
        ("garbage, unasked", Blurts(garbage(2, 4096)), Protocol),
        ("a negative length", Says(b"$-2\r\n".to_vec()), Protocol),
        ("a negative count", Says(b"*-2\r\n".to_vec()), Protocol),
        (
            "a length of 2^63 - 1",
            Floods(b"$9223372036854775807\r\n".to_vec(), x.clone()),
            Protocol,
        ),
        (
            "a count of 2^63 - 1",
            Floods(b"*9223372036854775807\r\n".to_vec(), b":1\r\n".repeat(9999)),
            Protocol,
        ),
        (
            "a length of 2^64",
            Says(b"$18446744073709551616\r\n".to_vec()),
            Protocol,
        ),
        (
            "a million nestings",
            Says(b"*1\r\n".repeat(1_000_000)),
            Protocol,
        ),
        (
            "a bulk of 4 GB",
            Floods(b"$4294967296\r\n".to_vec(), x.clone()),
            Protocol,
        ),
        ("an endless status", Floods(b"+".to_vec(), x), Protocol),
        (
            "replies to nothing",
            Blurts(b"+OK\r\n".repeat(1000)),
            Protocol,
        ),
        (
            "half a frame, and the end",
            Closes(b"$100\r\nabc".to_vec()),
            ConnectionLost,
        ),
        ("the end after HELLO", Leaves, ConnectionLost),
        ("a reset", Resets, ConnectionLost),
        (
            "a TLS server",
            Says(vec![0x15, 3, 3, 0, 2, 2, 40]),
            Protocol,
        ),
        ("an HTTP server", Closes(http.to_vec()), Protocol),
        ("a Sentinel", Says(sentinel.into_bytes()), Protocol),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_no_redis_is_named_at_once_and_dialled_gently() {
    if !is_child("whoever_is_no_redis_is_named_at_once_and_dialled_gently") {
        return;
    }
    count_panics();
    let span = if is_full() { SECOND * 10 } else { SECOND };
    let memory = census::peak_rss_bytes();
    for (what, stranger, kind) in strangers() {
        let lag = LagMeter::thread();
        let script = stranger.clone();
        let peer = Peer::start(move |socket, _| script.clone().meet(socket)).await;
        let (client, started) = (client(&stranger.url(&peer)), Instant::now());
        let (first, took) = get(&client).await;
        let error = first.expect_err("nobody serves");
        assert_eq!(error.kind(), kind, "{what}: {error}");
        // A reset may be there before the connection is looked at.
        let phases = [Phase::Handshake, Phase::Connect];
        assert!(phases.contains(&error.phase()), "{what}: {error}");
        let (classes, most) = all_fail(what, &client, &peer, &lag, span).await;
        let passed = started.elapsed();
        assert!(!client.health().is_ready(), "{what}: {}", client.health());
        println!(
            "FIGURE hostile, {what}: {error}, after {took:?}; {} dials in {passed:?}, at most {most} in a second; {classes:?}",
            peer.dials()
        );
    }
    let grown = census::peak_rss_bytes().saturating_sub(memory) >> 20;
    println!(
        "FIGURE hostile, strangers: memory grew by {grown} MiB at most, {} panics",
        PANICS.load(Ordering::SeqCst)
    );
    assert!(grown <= 32, "{grown} MiB");
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
}

/// What a peer does once it has greeted like a server and is asked for something.
#[derive(Clone)]
enum Traitor {
    /// Answers with this, and listens.
    Answers(Vec<u8>),
    /// Answers with the first, then with so much of the second, and resets.
    Streams(Vec<u8>, Vec<u8>, usize),
    /// Answers properly, and once more.
    Repeats,
    /// Answers with this, and closes.
    Closes(Vec<u8>),
}

impl Traitor {
    async fn meet(self, mut socket: TcpStream, number: usize) {
        if greet(&mut socket, number).await.is_none() {
            return;
        }
        match self {
            Self::Answers(words) => {
                let _ = socket.write_all(&words).await;
                listen(socket).await;
            }
            Self::Streams(first, then, mut bytes) => {
                let mut sent = socket.write_all(&first).await;
                while sent.is_ok() && bytes > 0 {
                    let part = &then[..then.len().min(bytes)];
                    sent = socket.write_all(part).await;
                    bytes -= part.len();
                }
                // Read to the last byte, and the reader told: a reset would throw away what waits.
                let _ = socket.shutdown().await;
                listen(socket).await;
            }
            Self::Repeats => {
                let _ = socket.write_all(b"+v\r\n").await;
                sleep(ms(20)).await;
                let _ = socket.write_all(b"+v\r\n").await;
                listen(socket).await;
            }
            Self::Closes(words) => {
                let _ = socket.write_all(&words).await;
            }
        }
    }
}

const MIB: usize = 1 << 20;

/// Each traitor, and how the call that it betrays ends; `None` if that one is served.
fn traitors() -> Vec<(&'static str, Traitor, Option<ErrorKind>)> {
    use ErrorKind::{ConnectionLost, Protocol, Timeout};
    use Traitor::{Answers, Closes, Repeats, Streams};
    let x = vec![b'x'; 64 << 10];
    let limit = format!("${}\r\n", 128 * MIB).into_bytes();
    let mut nested = b"*1\r\n".repeat(98);
    nested.extend(b"*1000000\r\n");
    // As many as the limit takes.
    let many = |head: &[u8], one: &[u8], count: usize| {
        let all = one.repeat(1000);
        Streams(head.to_vec(), all, one.len() * count)
    };
    vec![
        ("garbage", Answers(garbage(3, 4096)), Some(Protocol)),
        (
            "a negative length",
            Answers(b"$-2\r\n".to_vec()),
            Some(Protocol),
        ),
        (
            "a million nestings",
            Answers(b"*1\r\n".repeat(1_000_000)),
            Some(Protocol),
        ),
        (
            "half a frame",
            Answers(b"$100\r\nabc".to_vec()),
            Some(Timeout),
        ),
        (
            "half a frame, and the end",
            Closes(b"$100\r\nabc".to_vec()),
            Some(ConnectionLost),
        ),
        ("the end", Closes(Vec::new()), Some(ConnectionLost)),
        (
            "300 MiB of a bulk of 4 GB",
            Streams(b"$4294967296\r\n".to_vec(), x.clone(), 300 * MIB),
            Some(ConnectionLost),
        ),
        (
            "the largest bulk but for its end",
            Streams(limit, x, 128 * MIB),
            Some(ConnectionLost),
        ),
        (
            "empty maps",
            many(b"*2300001\r\n", b"%0\r\n", 2_300_000),
            Some(ConnectionLost),
        ),
        // Last, for an allocator keeps the small pieces that it gave out, and large ones go back.
        (
            "short strings",
            many(b"*1500001\r\n", b"$1\r\na\r\n", 1_500_000),
            Some(ConnectionLost),
        ),
        (
            "short errors",
            many(b"*1100001\r\n", b"-A B\r\n", 1_100_000),
            Some(ConnectionLost),
        ),
        (
            "a large array in ninety-eight others",
            many(&nested, b"*1\r\n:1\r\n", 1_000_000),
            Some(Protocol),
        ),
        ("a reply to nothing", Repeats, None),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_turns_on_us_takes_no_more_memory_than_one_reply_may() {
    if !is_child("a_server_that_turns_on_us_takes_no_more_memory_than_one_reply_may") {
        return;
    }
    count_panics();
    let memory = census::peak_rss_bytes();
    for (what, traitor, expected) in traitors() {
        let peer = Peer::start(move |socket, number| traitor.clone().meet(socket, number)).await;
        let builder = Client::builder(&peer.url()).unwrap();
        // Long enough for the whole reply, even where this is compiled without optimisation.
        let client = builder.call_timeout(SECOND * 20).build().unwrap();
        client.wait_ready(SECOND).await.unwrap();
        let request = Request::from(redis::cmd("INCR").arg("k"));
        let request = match expected {
            // Nobody waits that long for half a frame.
            Some(ErrorKind::Timeout) => request.with_timeout(CALL_TIMEOUT),
            _ => request,
        };
        let started = Instant::now();
        let error = client.service().call(request).await.err();
        let kind = error.as_ref().map(Error::kind);
        assert_eq!(kind, expected, "{what}: {error:?}");
        let may_have = error.as_ref().is_none_or(Error::may_have_executed);
        assert!(may_have, "{what}: {error:?}");
        let peak = census::peak_rss_bytes().saturating_sub(memory) >> 20;
        let shown = error.map_or("served".to_owned(), |error| error.to_string());
        println!(
            "FIGURE hostile, {what}: {shown}, after {:?}; memory grew by {peak} MiB so far",
            started.elapsed()
        );
    }
    let grown = census::peak_rss_bytes().saturating_sub(memory) >> 20;
    println!(
        "FIGURE hostile, traitors: memory grew by {grown} MiB at most, {} panics",
        PANICS.load(Ordering::SeqCst)
    );
    // The largest reply that is taken, and the promised rest.
    assert!(grown <= 128 + 32, "{grown} MiB");
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
}

/// Resets each connection after so many bytes of the greeting and of the reply that follows it.
async fn resets_after(bytes: usize, greeting: Arc<[u8]>) -> Peer {
    Peer::start(move |mut socket, _| {
        let words = greeting.clone();
        async move {
            if hear_handshake(&mut socket).await.is_none() {
                return;
            }
            let _ = socket.write_all(&words[..bytes.min(words.len())]).await;
            if bytes >= words.len() && hear(&mut socket).await.is_some() {
                let _ = socket.write_all(&REPLY[..bytes - words.len()]).await;
            }
            reset(socket);
        }
    })
    .await
}

/// Each is called twenty times a second until its dials were counted.
async fn are_dialled_gently(cuts: Vec<(String, Peer, Client)>, lag: &LagMeter) -> usize {
    let started = Instant::now();
    let mut calls = JoinSet::new();
    let mut most = Vec::new();
    while started.elapsed() < SECOND || most.iter().any(|most| *most < 2) {
        assert!(started.elapsed() < PATIENCE, "too late to count dials");
        let end = Instant::now() + SECOND;
        while Instant::now() < end {
            for (_, _, client) in &cuts {
                let client = client.clone();
                calls.spawn(async move { get(&client).await.0 });
            }
            sleep(ms(50)).await;
        }
        let lag = lag.log();
        let counted = cuts
            .iter()
            .map(|(what, peer, _)| asserted_dials(what, peer, &lag));
        most = counted.collect();
    }
    let served = calls
        .join_all()
        .await
        .into_iter()
        .filter(Result::is_ok)
        .count();
    assert_eq!(served, 0, "nobody serves");
    most.into_iter().max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_at_any_byte_is_a_lost_connection_and_no_storm_follows() {
    let resp3 = [b"%1\r\n$5\r\nproto\r\n:3\r\n", &greeting(1)[..]].concat();
    // Whose dials are counted: a second for so many of them is what a quick run has.
    let (at_once, each) = (48, if is_full() { 1 } else { 8 });
    let (mut cuts, mut most, lag) = (Vec::new(), 0, LagMeter::thread());
    for (protocol, words) in [("resp2", greeting(1)), ("resp3", resp3)] {
        let (whole, words) = (words.len(), Arc::<[u8]>::from(words));
        for at in 0..whole + REPLY.len() {
            let what = format!("{protocol}, a reset after {at} bytes");
            let peer = resets_after(at, words.clone()).await;
            let client = client(&format!("{}?protocol={protocol}", peer.url()));
            let call = Request::from(redis::cmd("INCR").arg("k"));
            let error = client.service().call(call).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionLost, "{what}: {error}");
            // In the greeting nothing of the call was sent; from then on it was.
            assert_eq!(error.may_have_executed(), at >= whole, "{what}: {error}");
            if at % each == 0 {
                cuts.push((what, peer, client));
            }
            if cuts.len() == at_once {
                most = most.max(are_dialled_gently(std::mem::take(&mut cuts), &lag).await);
            }
        }
        println!(
            "FIGURE hostile, {protocol}, a reset at each of {whole} bytes of the greeting and {} of a reply: connection_lost each time",
            REPLY.len()
        );
    }
    most = most.max(are_dialled_gently(cuts, &lag).await);
    println!("FIGURE hostile, a reset at any byte: at most {most} dials in a second");
}

const REPLY: &[u8] = b"$5\r\nvalue\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_every_tenth_of_a_second_is_slow_and_not_dead() {
    let peer = Peer::start(|mut socket, _| async move {
        // Refuses what it may, so that the greeting is short.
        let mut words = b"+OK\r\n+OK\r\n-E\r\n-E\r\n-E\r\n+PONG\r\n".as_slice();
        let mut heard = hear_handshake(&mut socket).await;
        while heard.is_some() {
            for byte in words {
                sleep(ms(100)).await;
                if socket.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
            words = b"+v\r\n";
            heard = hear(&mut socket).await;
        }
    })
    .await;
    let builder = Client::builder(&peer.url()).unwrap();
    let client = builder.call_timeout(SECOND).build().unwrap();
    client.wait_ready(SECOND * 5).await.unwrap();
    let calls = if is_full() { 50 } else { 5 };
    for _ in 0..calls {
        let (ended, took) = get(&client).await;
        assert!(took >= ms(300) && ended.is_ok(), "{took:?}: {ended:?}");
    }
    println!(
        "FIGURE hostile, a byte per 100 ms: {calls} of {calls} calls served on {} connection",
        peer.dials()
    );
    assert_eq!(peer.dials(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_nobody_asked_for_ends_the_link_and_a_push_does_not() {
    for (what, unasked, dials) in [
        ("a reply to nothing", &b"+v\r\n"[..], 2),
        ("a push", b">2\r\n+message\r\n+x\r\n", 1),
    ] {
        let peer = Peer::start(move |mut socket, number| async move {
            let mut heard = greet(&mut socket, number).await;
            while heard.is_some() {
                let _ = socket.write_all(b"+v\r\n").await;
                if number == 1 {
                    let _ = socket.write_all(unasked).await;
                }
                heard = hear(&mut socket).await;
            }
        })
        .await;
        let client = client(&peer.url());
        assert_eq!(get(&client).await.0.unwrap(), "v");
        let end = Instant::now() + SECOND;
        while peer.dials() < dials {
            assert!(
                Instant::now() < end,
                "{what}: still on the first connection"
            );
            sleep(ms(1)).await;
        }
        for _ in 0..20 {
            assert_eq!(get(&client).await.0.unwrap(), "v", "{what}");
        }
        assert_eq!(peer.dials(), dials, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_that_die_young_are_not_followed_in_a_storm() {
    let span = if is_full() { SECOND * 10 } else { SECOND * 3 };
    for (what, at_once, words) in [
        ("the end after the greeting", true, &b""[..]),
        ("the end of each call", false, b""),
        ("garbage for each call", false, b"\x7f\x00garbage"),
    ] {
        let peer = Peer::start(move |mut socket, number| async move {
            if hear_handshake(&mut socket).await.is_none() {
                return;
            }
            let _ = socket.write_all(&greeting(number)).await;
            if at_once || hear(&mut socket).await.is_some() {
                let _ = socket.write_all(words).await;
            }
        })
        .await;
        let (lag, client) = (LagMeter::thread(), client(&peer.url()));
        let (classes, most) = all_fail(what, &client, &peer, &lag, span).await;
        println!(
            "FIGURE hostile, {what}: {} dials in {span:?}, at most {most} in a second; {classes:?}",
            peer.dials()
        );
    }
}
