//! A client starts without Redis, says by kind and phase what is wrong, heals without a restart, and ends leaving nothing.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may end here, and tokio::spawn is at home in it"
)]

mod common;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::baseline::Baseline;
use common::fake::Peer;
use common::*;
use holdfast_lab::load::LagMeter;
use holdfast_lab::{Answer, Dns, Mode, Proxy, RespFake, Server, server_or_skip};
use redis_holdfast::dns::{Hickory, Lookup, NoAddress, Resolution, Resolve};
use redis_holdfast::telemetry::names;
use redis_holdfast::{Builder, Client, Error, ErrorKind, HealthState, Phase, Request, redis};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::Service;

/// The first attempt fails at once where somebody answers: a dial and a handshake on this machine, with room for a busy one.
const AT_ONCE: Duration = ms(100);

fn builder(url: &str) -> Builder {
    watch();
    Client::builder(url).unwrap().call_timeout(CALL_TIMEOUT)
}

async fn ping(client: &Client) -> Result<(), Error> {
    let request = Request::from(redis::cmd("PING"));
    client.service().call(request).await.map(drop)
}

/// The first call of a client that cannot connect: how it fails, and how soon after `build`.
async fn first_error(client: &Client) -> (Error, Duration) {
    let started = Instant::now();
    let error = ping(client).await.expect_err("there is nobody to serve it");
    let took = started.elapsed();
    let health = client.health();
    assert_eq!(health.state(), HealthState::Down, "{health}");
    assert_eq!(
        (health.kind(), health.phase()),
        (Some(error.kind()), Some(error.phase())),
        "{health}"
    );
    assert!(!error.may_have_executed());
    (error, took)
}

/// How soon calls are served from now on: within this, and what the machine is late meanwhile.
async fn healed(client: &Client, within: Duration) -> Duration {
    let (from, meter) = (Instant::now(), LagMeter::start());
    while ping(client).await.is_err() {
        assert!(from.elapsed() < within * 2, "{}", client.health());
        sleep(ms(5)).await;
    }
    let took = from.elapsed();
    let limit = within + meter.finish().max();
    assert!(took <= limit, "healed only after {took:?}");
    took
}

#[test]
fn a_client_built_outside_a_runtime_does_no_io_until_it_is_called() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let Some(server) = runtime.block_on(server_or_skip()) else {
        return;
    };
    let before = runtime.block_on(server.accepts());
    let started = std::time::Instant::now();
    let client = builder(&server.url()).build().unwrap();
    let built = started.elapsed();
    // Nothing can have happened: there is no runtime in which it could.
    assert_eq!(runtime.block_on(server.accepts()), before);
    runtime.block_on(async {
        ping(&client).await.unwrap();
        client.wait_ready(ms(100)).await.unwrap();
    });
    println!("FIGURE starting: built in {built:?} outside a runtime, served by the first call");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_starts_without_redis_and_is_served_once_it_is_there() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    server.kill();
    let started = Instant::now();
    let client = builder(&server.url()).build().unwrap();
    let built = started.elapsed();
    let (error, took) = first_error(&client).await;
    assert_eq!(
        (error.kind(), error.phase()),
        (ErrorKind::ConnectionLost, Phase::Connect),
        "{error}"
    );
    assert!(took <= AT_ONCE, "{took:?}");
    let waited = Instant::now();
    let late = client
        .wait_ready(ms(200))
        .await
        .expect_err("nobody listens");
    assert!(
        late.is_timeout() && std::error::Error::source(&late).is_some(),
        "{late:?}"
    );
    assert!((ms(200)..=ms(210) + AT_ONCE).contains(&waited.elapsed()));
    // Waits and calls of others do not disturb each other, and none of them outlives the server's return.
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.wait_ready(SECOND * 10).await }
    });
    server.restart().await.unwrap();
    let healed = healed(&client, ms(500)).await;
    waiting.await.unwrap().unwrap();
    println!(
        "FIGURE starting: built in {built:?} without Redis, first call refused after {took:?} ({error}), served {healed:?} after the start"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_a_new_client_waits_for_the_first_connection_within_its_deadline() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    server.freeze();
    let client = builder(&server.url()).build().unwrap();
    let calling = tokio::spawn({
        let client = client.clone();
        async move { ping(&client).await }
    });
    let (error, took) = {
        let started = Instant::now();
        (ping(&client).await.unwrap_err(), started.elapsed())
    };
    assert_eq!(
        (error.kind(), error.phase()),
        (ErrorKind::Timeout, Phase::Queue),
        "{error}"
    );
    assert!(
        (CALL_TIMEOUT..=CALL_TIMEOUT + GRACE * 3).contains(&took),
        "{took:?}"
    );
    assert!(calling.await.unwrap().is_err());
    server.thaw();
    client.wait_ready(ms(500)).await.unwrap();
}

/// Once a connection might have been made, calls are refused with what became of it, as long as it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_client_of_a_silent_server_refuses_calls_once_a_connection_has_taken_too_long() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let proxy = Proxy::start(server.addr()).await.unwrap();
    for (mode, phase) in [
        (Mode::Blackhole, Phase::Connect),
        (Mode::Stall, Phase::Handshake),
    ] {
        proxy.set(mode);
        let client = builder(&proxy.url()).build().unwrap();
        // A second to connect, and a look every 20 ms.
        sleep(SECOND + ms(20) + AT_ONCE).await;
        for _ in 0..3 {
            let (error, took) = first_error(&client).await;
            assert_eq!(
                (error.kind(), error.phase()),
                (ErrorKind::ConnectionLost, phase),
                "{mode:?}: {error}"
            );
            assert!(took <= GRACE, "{mode:?}: {took:?}");
            sleep(ms(300)).await;
        }
        proxy.set(Mode::Pass);
        let healed = healed(&client, ms(500)).await;
        println!(
            "FIGURE starting, {mode:?}: refused at once after the first second, served {healed:?} after the heal"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_are_named_at_once_tried_once_a_second_and_healed_without_a_restart() {
    for (user, cure) in [
        ("", &["CONFIG", "SET", "requirepass", "guess"][..]),
        (
            "bob",
            &["ACL", "SETUSER", "bob", "on", ">guess", "~*", "+@all"][..],
        ),
    ] {
        let Some(server) = holdfast_lab::Server::builder()
            .password("right")
            .start_or_skip()
            .await
        else {
            return;
        };
        let before = server.accepts().await;
        let client = builder(&format!("redis://{user}:guess@{}/", server.addr()))
            .build()
            .unwrap();
        let (error, took) = first_error(&client).await;
        assert_eq!(
            (error.kind(), error.phase()),
            (ErrorKind::Auth, Phase::Handshake),
            "{error}"
        );
        assert!(took <= AT_ONCE, "{took:?}");
        let text = format!("{error:?} {:?} {client:?}", client.health());
        assert!(!text.contains("guess"), "a secret in {text}");
        sleep(ms(3500)).await;
        let tried = server.accepts().await - before;
        // The first at once, each further one 1 to 1.25 s later; fewer would mean that it gave up.
        assert!((3..=4).contains(&tried), "{tried} attempts in 3.5 s");
        let said = server.tell(cure).await.unwrap();
        assert_eq!(said.trim(), "+OK");
        // The next attempt is at most 1.25 s away, and no further.
        let healed = healed(&client, SECOND * 5 / 4 + AT_ONCE).await;
        println!(
            "FIGURE starting, wrong {}: refused after {took:?} ({error}), {tried} attempts in 3.5 s, healed {healed:?} after the cure",
            if user.is_empty() { "password" } else { "user" }
        );
    }
}

/// Protected mode is the answer to whatever is said first, and the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_in_protected_mode_is_named_as_such_and_tried_once_a_second() {
    let peer = Peer::start(|mut socket, _| async move {
        let denied =
            b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n";
        let _ = socket.write_all(denied).await;
    })
    .await;
    let client = builder(&peer.url()).build().unwrap();
    let (error, took) = first_error(&client).await;
    assert_eq!(
        (error.kind(), error.phase()),
        (ErrorKind::Auth, Phase::Handshake),
        "{error}"
    );
    assert!(took <= AT_ONCE, "{took:?}");
    let why = std::error::Error::source(&error).map(ToString::to_string);
    assert!(
        why.is_some_and(|why| why.contains("protected mode")),
        "{error:?}"
    );
    sleep(ms(3500)).await;
    let tried = peer.dials();
    assert!((3..=4).contains(&tried), "{tried} attempts in 3.5 s");
}

/// Says that there is no such name, until it is told better.
#[derive(Clone)]
struct Names {
    known: Arc<AtomicBool>,
    address: IpAddr,
}

impl Resolve for Names {
    fn resolve<'a>(&'a self, _: &'a str) -> Lookup<'a> {
        let found = if self.known.load(Ordering::Relaxed) {
            Resolution::addresses([self.address], SECOND)
        } else {
            Resolution::negative(NoAddress::NxDomain, SECOND * 60)
        };
        Box::pin(async move { found })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_name_is_named_as_such_and_followed_once_it_is_known() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let names = Names {
        known: Arc::default(),
        address: server.ip(),
    };
    let url = format!("redis://nowhere.example:{}/", server.port());
    let client = builder(&url).resolver(names.clone()).build().unwrap();
    let (error, took) = first_error(&client).await;
    assert_eq!(
        (error.kind(), error.phase()),
        (ErrorKind::Dns, Phase::Dns),
        "{error}"
    );
    assert!(took <= AT_ONCE, "{took:?}");
    names.known.store(true, Ordering::Relaxed);
    // While there is no connection a lookup starts every 500 ms; then a dial.
    let healed = healed(&client, ms(500) + AT_ONCE).await;
    println!(
        "FIGURE starting, unknown name: refused after {took:?} ({error}), served {healed:?} after the name is known"
    );
}

const NAME: &str = "orders.lab";

/// A client that asks a name server of the lab, which says `answer` about the only name there is, from the start.
async fn told_by(answer: Answer, server: &Server) -> (Dns, Client) {
    let dns = Dns::start().await.unwrap();
    dns.set(NAME, answer);
    let client = builder(&format!("redis://{NAME}:{}/", server.port()))
        .resolver(Hickory::servers([dns.addr()]))
        .build()
        .unwrap();
    (dns, client)
}

/// Refused for what DNS says, here and in health.
fn is_for_dns(client: &Client, error: &Error, reason: &str) {
    let (words, health) = (error.to_string(), client.health());
    assert_eq!(
        (error.kind(), error.phase()),
        (ErrorKind::Dns, Phase::Dns),
        "{error}"
    );
    assert!(words.contains(reason), "{words}");
    assert!(health.reason().contains(reason), "{health}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_server_that_has_no_address_for_us_is_quoted_at_once_and_followed_once_it_has_one() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    for (row, answer, reason) in [
        ("SERVFAIL", Answer::ServFail, "failed (SERVFAIL)"),
        ("REFUSED", Answer::Refused, "refused (REFUSED)"),
        ("NXDOMAIN", Answer::NxDomain, "no such name"),
        ("empty", Answer::Empty, "no address"),
    ] {
        let meter = LagMeter::start();
        let (dns, client) = told_by(answer, &server).await;
        let (error, took) = first_error(&client).await;
        is_for_dns(&client, &error, reason);
        let lag = meter.finish().max();
        assert!(took <= AT_ONCE + lag, "{row}: {took:?}");
        dns.set(NAME, Answer::addrs([server.ip()], 1));
        // As above: the next lookup is 500 ms after the first.
        let healed = healed(&client, ms(500) + AT_ONCE).await;
        assert_eq!(client.health().state(), HealthState::Ready);
        println!(
            "FIGURE starting, DNS says {row}: refused after {took:?} ({error}), served {healed:?} after it is right"
        );
    }
}

/// Until a lookup has had its time nobody knows: a call waits for it, and no longer than its deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_name_server_is_named_once_a_lookup_has_had_its_time_and_no_call_is_late_meanwhile()
 {
    const LOOKUP_TIMEOUT: Duration = ms(2200);
    let Some(server) = server_or_skip().await else {
        return;
    };
    let (meter, built) = (LagMeter::start(), Instant::now());
    let lag = |from| meter.log().max_between(from, Instant::now());
    let (dns, client) = told_by(Answer::Silent, &server).await;
    let (error, named) = loop {
        let called = Instant::now();
        let error = ping(&client)
            .await
            .expect_err("there is nobody to serve it");
        let took = called.elapsed();
        assert!(took <= CALL_TIMEOUT + GRACE + lag(called), "{took:?}");
        assert!(!error.may_have_executed());
        assert_eq!(client.health().state(), HealthState::Down);
        if error.kind() == ErrorKind::Dns {
            break (error, built.elapsed());
        }
        assert_eq!(
            (error.kind(), error.phase()),
            (ErrorKind::Timeout, Phase::Queue),
            "{error}"
        );
        // A lookup that ends while a call waits tells that call.
        let late = called + took - built;
        assert!(
            late <= LOOKUP_TIMEOUT + lag(built),
            "unnamed after {late:?}"
        );
    };
    is_for_dns(&client, &error, "do not answer");
    // From now on calls are refused at once, as long as it takes.
    for _ in 0..3 {
        let called = Instant::now();
        let (error, took) = first_error(&client).await;
        is_for_dns(&client, &error, "do not answer");
        assert!(took <= GRACE + lag(called), "{took:?}");
        sleep(ms(200)).await;
    }
    dns.set(NAME, Answer::addrs([server.ip()], 1));
    let healed = healed(&client, ms(500) + AT_ONCE).await;
    println!(
        "FIGURE starting, DNS silent: named after {named:?} ({error}), refused at once from then on, served {healed:?} after it is right"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_no_redis_is_named_as_such() {
    const SENTINEL: &str =
        "# Server\r\nredis_version:7.0.15\r\nredis_mode:sentinel\r\nrun_id:0\r\n";
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let no = "-ERR unknown command\r\n";
    // What our first words get there: two courtesies, who we are, who it is, its role, and the last word.
    let sentinel = format!(
        "+OK\r\n+OK\r\n{}{}{no}+PONG\r\n",
        bulk("id=7 addr=127.0.0.1:5000"),
        bulk(SENTINEL)
    );
    for (what, words) in [
        (
            "an HTTP server",
            b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_vec(),
        ),
        ("a TLS server", vec![0x15, 3, 3, 0, 2, 2, 40]),
        ("a Sentinel", sentinel.into_bytes()),
    ] {
        let fake = RespFake::start(move |_, _| words.clone()).await.unwrap();
        let client = builder(&format!("redis://{}/", fake.addr()))
            .build()
            .unwrap();
        let (error, took) = first_error(&client).await;
        assert_eq!(
            (error.kind(), error.phase()),
            (ErrorKind::Protocol, Phase::Handshake),
            "{what}: {error}"
        );
        assert!(took <= AT_ONCE, "{what}: {took:?}");
        println!("FIGURE starting, {what}: refused after {took:?} ({error})");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_lets_calls_end_refuses_new_ones_and_leaves_nothing() {
    gauges::listen();
    let Some(server) = server_or_skip().await else {
        return;
    };
    let baseline = Baseline::take().await;
    let client = builder(&server.url()).name("ends").build().unwrap();
    client.wait_ready(SECOND).await.unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        // One after the other at the server, 2 ms each: under way when the end begins.
        let sleep = Request::from(redis::cmd("DEBUG").arg("SLEEP").arg("0.002"));
        let mut service = client.service();
        calls.spawn(async move { service.call(sleep).await });
    }
    sleep(ms(20)).await;
    let started = Instant::now();
    assert!(client.shutdown(SECOND).await, "all ended by themselves");
    let took = started.elapsed();
    for ended in calls.join_all().await {
        ended.expect("what was under way is answered");
    }
    let error = ping(&client).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.phase()),
        (ErrorKind::Refused, Phase::Queue),
        "{error}"
    );
    baseline.is_restored().await;
    for family in [names::LINKS, names::IN_FLIGHT] {
        assert_eq!(gauges::gauge("ends", family, ""), 0.0, "{family}");
    }
    println!(
        "FIGURE ending: 50 calls under way answered, shut down in {took:?}, sockets, tasks, links and permits as before"
    );
}

/// On one thread nobody but the caller runs: the supervisor is ended before it can say a word.
#[tokio::test]
async fn a_client_that_is_ended_at_once_is_down() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let client = builder(&server.url()).build().unwrap();
    client.wait_ready(SECOND).await.unwrap();
    let mut watch = client.watch_health();
    assert_eq!(client.health().state(), HealthState::Ready);
    assert!(!client.shutdown(Duration::ZERO).await, "by force");
    let health = client.health();
    assert_eq!(
        (health.state(), health.reason(), health.kind()),
        (
            HealthState::Down,
            "client is shut down",
            Some(ErrorKind::Refused)
        )
    );
    let told = timeout(SECOND, watch.changed()).await.unwrap().unwrap();
    assert_eq!(told.state(), HealthState::Down);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_of_a_silent_connection_ends_in_time_and_leaves_nothing_either() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let baseline = Baseline::take().await;
    for late in [false, true] {
        let client = builder(&server.url()).build().unwrap();
        client.wait_ready(SECOND).await.unwrap();
        server.freeze();
        let calling = tokio::spawn({
            let client = client.clone();
            async move { ping(&client).await }
        });
        sleep(if late { SECOND * 2 } else { ms(50) }).await;
        let (started, within) = (Instant::now(), ms(100));
        let by_itself = client.shutdown(within).await;
        assert!(
            started.elapsed() <= within + GRACE * 2,
            "{:?}",
            started.elapsed()
        );
        assert!(
            late || !by_itself,
            "a call was under way, and nobody answers it"
        );
        // The call that was under way ends by its own deadline at the latest.
        let ended = timeout(CALL_TIMEOUT + GRACE * 2, calling)
            .await
            .expect("ends")
            .unwrap();
        assert!(ended.is_err());
        server.thaw();
        drop(client);
        baseline.is_restored().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_handle_takes_everything_with_it() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let baseline = Baseline::take().await;
    let client = builder(&server.url()).build().unwrap();
    client.wait_ready(SECOND).await.unwrap();
    let (clone, service) = (client.clone(), client.service());
    drop(client);
    ping(&clone).await.unwrap();
    drop(clone);
    let mut last = service;
    last.call(Request::from(redis::cmd("PING"))).await.unwrap();
    drop(last);
    baseline.is_restored().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_told_the_name_that_was_given_and_none_that_was_not() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let named = builder(&server.url()).name("cart.v2").build().unwrap();
    let nameless = builder(&server.url()).build().unwrap();
    for (client, name) in [(&named, "name=cart.v2 "), (&nameless, "name= ")] {
        client.wait_ready(SECOND).await.unwrap();
        let info = Request::from(redis::cmd("CLIENT").arg("INFO"));
        let info: String = client.service().call(info).await.unwrap().parse().unwrap();
        assert!(info.contains(name), "{info}");
    }
    // What Redis refuses in a name is refused here first.
    for name in ["two words", "line\nend", "", "\u{e4}"] {
        let faults = builder(&server.url()).name(name).build().unwrap_err();
        assert!(faults.to_string().contains("name: "), "{faults}");
    }
}
