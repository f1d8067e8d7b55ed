//! No password, key or value is ever printed: not by `Debug` or `Display`, in no chain of sources, no event, span or label, whatever fails.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt::{Debug, Display};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use common::{ears::CANARY, *};
use holdfast_lab::{Mode, Proxy, RespFake, Server};
use redis_holdfast::dns::{Lookup, NoAddress, Resolution, Resolve};
use redis_holdfast::redis::{self, Cmd, RedisError};
use redis_holdfast::{Client, Config, Error, Request};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::Service;

const PASSWORD: &str = "canary-password";
const KEY: &str = "canary-key";
const VALUE: &str = "canary-value";
/// Short, so that a fault costs a fraction of a second.
const LIMIT: Duration = ms(100);

// ── all that is printed ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What was printed, and which kinds of error were among it.
#[derive(Default)]
struct Printed(Mutex<(Vec<String>, BTreeSet<&'static str>)>);

impl Printed {
    fn debug(&self, what: &dyn Debug) {
        let mut printed = self.0.lock().unwrap();
        printed
            .0
            .extend([format!("{what:?}"), format!("{what:#?}")]);
    }

    fn error<E: StdError + Debug + Display + 'static>(&self, error: &E) {
        self.debug(error);
        let mut printed = self.0.lock().unwrap();
        let mut link: Option<&dyn StdError> = Some(error);
        while let Some(error) = link {
            printed.0.extend([error.to_string(), format!("{error:?}")]);
            link = error.source();
        }
    }

    /// Ours, alone and as redis' type carries it. An error that is redis' own all through holds the server's words, and is the answer.
    fn ended<T>(&self, ended: Result<T, RedisError>) {
        let Err(error) = ended else { return };
        if let Some(ours) = Error::find_in(&error) {
            self.0.lock().unwrap().1.insert(ours.kind().as_str());
            self.error(ours);
            self.error(&error);
        }
    }

    fn client(&self, client: &Client) {
        self.debug(client);
        self.debug(&client.service());
        self.debug(&client.health());
        self.0.lock().unwrap().0.push(client.health().to_string());
    }

    fn kinds(&self) -> BTreeSet<&'static str> {
        self.0.lock().unwrap().1.clone()
    }

    /// Each thing that shows a secret.
    fn leaks(&self) -> Vec<String> {
        let printed = self.0.lock().unwrap();
        let lines = printed.0.iter().filter(|line| line.contains(CANARY));
        lines
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }
}

fn url(at: SocketAddr) -> String {
    format!("redis://:{PASSWORD}@{at}/")
}

fn client(at: SocketAddr, name: &str) -> Client {
    let builder = Client::builder(&url(at)).unwrap().name(name);
    builder.call_timeout(LIMIT).build().unwrap()
}

fn words(words: &[&str]) -> Cmd {
    let mut cmd = Cmd::new();
    for word in words {
        cmd.arg(*word);
    }
    cmd
}

// ── what is done ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Commands that succeed, that the server refuses, that we refuse, and replies that do not convert.
async fn commands(client: &Client, printed: &Printed) {
    let mut drop_in = client.clone();
    let mut service = client.service();
    for line in [
        &["SET", KEY, VALUE][..],
        &["GET", KEY],
        &["INCR", KEY],
        &["LPUSH", KEY, VALUE],
        &["NOSUCH", KEY, VALUE],
        &["EVAL", "return redis.error_reply(ARGV[1])", "1", KEY, VALUE],
        &["BLPOP", KEY, "0"],
        &["AUTH", PASSWORD],
        &["SUBSCRIBE", KEY],
        &[
            "MIGRATE",
            "127.0.0.1",
            "1",
            KEY,
            "0",
            "10",
            "AUTH",
            PASSWORD,
        ],
    ] {
        printed.ended(words(line).query_async::<i64>(&mut drop_in).await);
        let request = Request::from(words(line));
        printed.debug(&request);
        match service.call(request).await {
            Ok(reply) => {
                printed.debug(&reply);
                if let Err(error) = reply.parse::<i64>() {
                    parse_failed(&error, printed);
                }
            }
            Err(error) => printed.error(&error),
        }
    }
    let mut pipeline = redis::pipe();
    pipeline
        .atomic()
        .cmd("SET")
        .arg(KEY)
        .arg(VALUE)
        .cmd("NOSUCH")
        .arg(KEY)
        .arg(VALUE);
    printed.debug(&Request::from(&pipeline));
    printed.ended(pipeline.query_async::<()>(&mut drop_in).await);
    let mut pipeline = redis::pipe();
    pipeline.cmd("SET").arg(KEY).arg(VALUE).cmd("GET").arg(KEY);
    let reply = service.call(Request::from(&pipeline)).await;
    if let Err(error) = reply.and_then(|reply| reply.parse::<(i64, i64)>()) {
        parse_failed(&error, printed);
    }
    let mut request = Request::from(words(&["GET", KEY]));
    request.extensions_mut().insert(VALUE.to_owned());
    printed.debug(&request);
}

/// Of a server's words the error behind ours keeps all: they are the answer. What *we* print of it holds none of them.
fn parse_failed(error: &Error, printed: &Printed) {
    printed.debug(error);
    let mut inner = printed.0.lock().unwrap();
    inner.0.push(error.to_string());
    inner.1.insert(error.kind().as_str());
    if let Some(redis) = error
        .source()
        .and_then(|source| source.downcast_ref::<RedisError>())
        && redis.code().is_none()
    {
        // Not a server's error, so it is about a reply that did not convert: our words.
        inner.0.push(redis.to_string());
    }
}

/// Calls under every way in which the network can fail.
async fn faults(server: &Server, printed: &Printed) {
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let client = client(proxy.addr(), "faults");
    client.wait_ready(SECOND * 5).await.unwrap();
    for mode in [
        Mode::CutUp(40),
        Mode::CutDown(3),
        Mode::Reset,
        Mode::Stall,
        Mode::FreezeOpen,
        Mode::DeliverAfterClose(ms(50)),
        Mode::Refuse,
        Mode::Down,
        Mode::Blackhole,
    ] {
        proxy.set(mode);
        let mut calls = JoinSet::new();
        for number in 0..60 {
            let mut client = client.clone();
            calls.spawn(async move {
                sleep(ms(number * 12)).await;
                let cmd = match number % 3 {
                    0 => words(&["GET", KEY]),
                    1 => words(&["SET", KEY, VALUE]),
                    _ => words(&["LPUSH", "canary-list", VALUE]),
                };
                // Some are dropped.
                let limit = if number % 5 == 0 { ms(20) } else { SECOND };
                timeout(limit, cmd.query_async::<redis::Value>(&mut client))
                    .await
                    .ok()
            });
        }
        while let Some(ended) = calls.join_next().await {
            if let Some(ended) = ended.unwrap() {
                printed.ended(ended);
            }
            printed.client(&client);
        }
        proxy.set(Mode::Pass);
        client.wait_ready(SECOND * 5).await.unwrap();
    }
    // More than one may hold.
    let narrow = Client::builder(&url(proxy.addr()))
        .unwrap()
        .max_in_flight(1);
    let narrow = narrow.call_timeout(LIMIT).name("narrow").build().unwrap();
    narrow.wait_ready(SECOND * 5).await.unwrap();
    proxy.set(Mode::Stall);
    let (mut one, mut two) = (narrow.clone(), narrow.clone());
    let (get, set) = (words(&["GET", KEY]), words(&["SET", KEY, VALUE]));
    let ended = tokio::join!(
        get.query_async::<()>(&mut one),
        set.query_async::<()>(&mut two)
    );
    printed.ended(ended.0);
    printed.ended(ended.1);
    narrow.shutdown(ms(50)).await;
    printed.ended(set.query_async::<()>(&mut two).await);
    printed.client(&narrow);
}

#[derive(Clone)]
struct Nobody;

impl Resolve for Nobody {
    fn resolve<'a>(&'a self, _: &'a str) -> Lookup<'a> {
        Box::pin(async { Resolution::negative(NoAddress::NxDomain, SECOND) })
    }
}

/// Peers that refuse us, quote us, or are none.
async fn peers(server: &Server, printed: &Printed) {
    let quote: fn(u64, &[u8]) -> Vec<u8> = |_, _| {
        format!("-ERR unknown command 'AUTH', with args beginning with: '{PASSWORD}'\r\n")
            .into_bytes()
    };
    let denied: fn(u64, &[u8]) -> Vec<u8> = |_, _| {
        format!("-NOPERM {PASSWORD} may not\r\n")
            .repeat(9)
            .into_bytes()
    };
    let echo: fn(u64, &[u8]) -> Vec<u8> = |_, said| said.to_vec();
    let greets: fn(u64, &[u8]) -> Vec<u8> = |_, said| [b"HTTP/1.1 400 ", said].concat();
    for peer in [quote, denied, echo, greets] {
        let fake = RespFake::start(peer).await.unwrap();
        for protocol in ["", "?protocol=resp3"] {
            let client = Client::builder(&format!("{}{protocol}", url(fake.addr()))).unwrap();
            alone(client.call_timeout(LIMIT).build().unwrap(), printed).await;
        }
    }
    for wrong in [
        format!("redis://:{PASSWORD}-not@{}", server.addr()),
        format!(
            "redis://{CANARY}:{PASSWORD}@{}?protocol=resp3",
            server.addr()
        ),
    ] {
        alone(Client::builder(&wrong).unwrap().build().unwrap(), printed).await;
    }
    let nowhere = Client::builder(&format!("redis://:{PASSWORD}@nowhere.example")).unwrap();
    alone(nowhere.resolver(Nobody).build().unwrap(), printed).await;
}

/// A client that is never served.
async fn alone(client: Client, printed: &Printed) {
    for _ in 0..3 {
        printed.ended(
            words(&["SET", KEY, VALUE])
                .query_async::<()>(&mut client.clone())
                .await,
        );
        sleep(ms(30)).await;
    }
    printed.client(&client);
}

/// Configurations, sound and unsound.
fn configurations(at: SocketAddr, printed: &Printed) {
    let builder = Client::builder(&url(at)).unwrap();
    printed.debug(&builder);
    let config = Config::builder(&url(at));
    printed.debug(&config);
    let config = config.build().unwrap();
    printed.debug(&config);
    let shown = format!("{config:?}");
    assert!(
        shown.contains(&at.to_string()),
        "the URL is printed, without its credentials: {shown}"
    );
    printed.debug(&redis_holdfast::layer::ResilienceLayer::new(config));
    for unsound in [
        format!("redis://:{PASSWORD}@"),
        format!("redis://:{PASSWORD}@h:0/x?pass={PASSWORD}"),
        format!("redis://:{PASSWORD}/@h"),
        format!("redis://:{PASSWORD}@h:99999"),
        format!("redis://:{PASSWORD}@a,b"),
        format!("rediss://:{PASSWORD}@h"),
        format!("redis+sentinel://:{PASSWORD}@h"),
        format!("http://:{PASSWORD}@h"),
        format!("redis://:{PASSWORD}%zz@h?call_timeout=soon"),
        format!("redis://{PASSWORD}@h"),
        format!("unix:///tmp/x?pass={PASSWORD}&pass={PASSWORD}"),
    ] {
        let error = Config::builder(&unsound).build().unwrap_err();
        printed.error(&error);
        printed.error(&RedisError::from(error));
    }
}

/// What all other suites rely upon: there nobody looks at the end.
#[test]
fn a_secret_that_is_shown_ends_the_process_of_its_test() {
    const MARK: &str = "HOLDFAST_SHOWS";
    let counted = || metrics::counter!("calls", "key" => KEY).increment(1);
    match std::env::var(MARK).as_deref() {
        Ok("nothing") => watch(),
        Ok("field") => {
            watch();
            tracing::trace!(target: "redis_holdfast::call", key = KEY);
        }
        Ok("label") => {
            watch();
            counted();
        }
        Ok(_) => ears::discreet(format_args!("{:?}", Some(VALUE))),
        Err(_) => {
            for shown in ["nothing", "field", "label", "print"] {
                let mut child = std::process::Command::new(std::env::current_exe().unwrap());
                child.args([
                    "--exact",
                    "a_secret_that_is_shown_ends_the_process_of_its_test",
                ]);
                let ended = child.env(MARK, shown).output().unwrap();
                assert_eq!(ended.status.success(), shown == "nothing", "{shown}");
                let said = String::from_utf8_lossy(&ended.stderr);
                assert_eq!(
                    said.contains("a secret was shown"),
                    shown != "nothing",
                    "{said}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_password_key_or_value_is_ever_printed() {
    ears::listen();
    gauges::listen();
    let Some(server) = Server::builder().password(PASSWORD).start_or_skip().await else {
        return;
    };
    let printed = Printed::default();
    configurations(server.addr(), &printed);
    let served = client(server.addr(), "served");
    served.wait_ready(SECOND * 5).await.unwrap();
    commands(&served, &printed).await;
    printed.client(&served);
    faults(&server, &printed).await;
    peers(&server, &printed).await;
    // Housekeeping publishes once a second.
    sleep(ms(1200)).await;

    assert_eq!(printed.leaks(), Vec::<String>::new());
    let labels: Vec<_> = gauges::series()
        .into_iter()
        .filter(|series| series.contains(CANARY))
        .collect();
    assert_eq!(labels, Vec::<String>::new());
    let said = ears::text();
    let leaks: Vec<&str> = said.lines().filter(|line| line.contains(CANARY)).collect();
    assert_eq!(leaks, Vec::<&str>::new());

    // Nothing of this proves anything where nothing was said.
    let kinds = printed.kinds();
    for kind in [
        "timeout",
        "circuit_open",
        "overloaded",
        "connection_lost",
        "dns",
        "auth",
        "protocol",
        "refused",
        "redis",
    ] {
        assert!(kinds.contains(kind), "no {kind} among {kinds:?}");
    }
    let targets =
        ["call", "breaker", "link", "health"].map(|room| format!("redis_holdfast::{room}"));
    for target in &targets {
        assert!(ears::count(target) > 0, "nothing said under {target}");
    }
    tracing::trace!(key = KEY, "the control");
    assert!(ears::text().contains(CANARY), "these ears hear nothing");
    println!(
        "FIGURE secrets: 0 of {} prints, {} events and {} series show a password, key or value; errors of {} kinds, {:?}",
        printed.0.lock().unwrap().0.len(),
        ears::count(""),
        gauges::series().len(),
        kinds.len(),
        kinds
    );
}
