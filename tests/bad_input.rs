//! Bad input: what can be known at `build()` is told there, every fault by its name; what only a server knows is told by the first call,
//! and heals without a restart.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may end here"
)]

mod common;

use std::time::Duration;

use common::*;
use holdfast_lab::Server;
use redis_holdfast::dns::DnsPolicy;
use redis_holdfast::layer::GuardLayer;
use redis_holdfast::{
    BreakerPolicy, Client, Config, ConfigBuilder, ErrorKind, Phase, Request, RetryPolicy,
    SentinelPolicy, redis,
};
use tokio::time::Instant;
use tower::Service;

const ZERO: Duration = Duration::ZERO;

fn config() -> ConfigBuilder {
    Config::builder("redis://cache.internal")
}

/// The only fault there is.
fn fault(builder: ConfigBuilder) -> String {
    let error = builder.build().expect_err("a fault");
    ears::discreet(format_args!("{error} {error:?}"));
    assert_eq!(error.faults().len(), 1, "{error}");
    error.faults().first().unwrap().clone()
}

#[test]
fn a_url_that_cannot_be_meant_is_refused_with_what_is_wrong_with_it() {
    for (url, words) in [
        ("", "no scheme"),
        ("cache.internal:6379", "no scheme"),
        ("http://cache.internal", "scheme `http`"),
        ("redis://[::1", "malformed"),
        ("redis://h:65536", "malformed"),
        ("redis://", "no host"),
        ("redis://:6379", "no host"),
        ("redis://user:canary@/0", "no host"),
        ("redis://h:0", "port 0"),
        ("redis://a,b:6379/0", "several hosts"),
        ("redis://user:canary@a:1,b:2", "several hosts"),
        ("redis://h?timeout=1s", "parameter `timeout` is unknown"),
        ("redis://h?call_timeout=1s&call_timeout=2s", "given twice"),
        (
            "redis://h?call_timeout=0ms",
            "call_timeout: 0ms given; legal from",
        ),
        ("redis://h?call_timeout=250", "call_timeout: `250` given"),
        ("redis://h?stall_after=600ms", "up to half of detect_within"),
        (
            "redis://h?max_in_flight=0",
            "max_in_flight: 0 given; legal from",
        ),
        ("redis://h/first", "db `first`"),
        ("redis://h/-1", "db: -1 given"),
        ("redis://h/2147483648", "db: 2147483648 given"),
        ("redis://user:canary%zz@h", "`%` without two"),
        ("redis://user:canary%ff@h", "not valid UTF-8"),
        ("redis://user:can#ary@h", "`#` inside"),
        ("redis://h/0?name=a b", "space"),
        ("rediss://user:canary@h", "TLS is not supported"),
        ("valkeys://h", "TLS is not supported"),
        ("rediss+sentinel://s/orders", "TLS is not supported"),
        ("unix://", "path of the socket missing"),
        ("unix:///run/r%.sock", "`%` without two"),
        ("unix://run/r.sock", "no host"),
        ("redis+sentinel:///orders", "no Sentinel"),
        ("redis+sentinel://s1,s2", "name of the primary missing"),
        ("redis+sentinel://s1:0/orders", "port 0"),
        ("redis+sentinel://s1,s1/orders", "given twice"),
        ("redis+sentinel://s1,,s2/orders", "without a host"),
    ] {
        let fault = fault(Config::builder(url));
        assert!(fault.contains(words), "{url}: {fault}");
        assert!(!fault.contains("can"), "a piece of a password in: {fault}");
        let client = Client::builder(url).and_then(redis_holdfast::Builder::build);
        assert!(client.is_err(), "{url}: one gate for all");
    }
}

#[test]
fn what_is_percent_encoded_reaches_the_server_decoded_and_no_setting_is_bent() {
    for url in [
        "redis://u%40x:p%2Fw%3F%23%25@h/0",
        "redis://:p+w@h",
        "unix:///run/a%20b.sock?pass=p%26w",
        "redis+sentinel://u:p%2Cw@s1,s2/orders%3A1/3",
    ] {
        Config::builder(url).build().unwrap();
    }
}

#[test]
fn every_setter_refuses_zero_and_what_contradicts_another_by_name() {
    let breaker = |policy: BreakerPolicy| config().breaker(policy);
    let dns = |policy: DnsPolicy| config().dns(policy);
    let sentinel = |policy: SentinelPolicy| config().sentinel(policy);
    let (b, d, s) = (
        BreakerPolicy::default,
        DnsPolicy::default,
        SentinelPolicy::default,
    );
    for (field, builder) in [
        ("call_timeout", config().call_timeout(ZERO)),
        ("call_timeout", config().call_timeout(Duration::MAX)),
        ("max_in_flight", config().max_in_flight(0)),
        ("name", config().name("")),
        ("name", config().name("two words")),
        ("detect_within", config().detect_within(ZERO)),
        ("stall_after", config().stall_after(ZERO)),
        ("stall_after", config().stall_after(ms(501))),
        ("connect_timeout", config().connect_timeout(ZERO)),
        ("max_buffered_bytes", config().max_buffered_bytes(0)),
        ("breaker.window", breaker(b().window(ZERO))),
        ("breaker.min_calls", breaker(b().min_calls(0))),
        (
            "breaker.failure_rate",
            breaker(b().failure_rate_basis_points(0)),
        ),
        (
            "breaker.failure_rate",
            breaker(b().failure_rate_basis_points(10_001)),
        ),
        (
            "breaker.consecutive_failures",
            breaker(b().consecutive_failures(0)),
        ),
        (
            "breaker.probe_gap (first)",
            breaker(b().probe_gap(ZERO, SECOND)),
        ),
        ("breaker.probe_gap", breaker(b().probe_gap(SECOND, ms(999)))),
        ("breaker.auth_retry", breaker(b().auth_retry(ZERO))),
        (
            "breaker.ramp_start",
            breaker(b().ramp_start_basis_points(0)),
        ),
        ("breaker.ramp_doubling", breaker(b().ramp_doubling(ZERO))),
        (
            "breaker.flap_open (first)",
            breaker(b().flap_open(ZERO, SECOND)),
        ),
        ("breaker.flap_open", breaker(b().flap_open(SECOND, ms(999)))),
        ("dns.min_refresh", dns(d().min_refresh(ZERO))),
        ("dns.min_refresh", dns(d().min_refresh(SECOND * 31))),
        (
            "dns.max_refresh",
            dns(d().min_refresh(SECOND).max_refresh(SECOND * 3601)),
        ),
        ("dns.urgent_every", dns(d().urgent_every(ZERO))),
        // A link that is down would be looked up less often than one in good health.
        (
            "dns.urgent_every",
            dns(d()
                .min_refresh(SECOND)
                .max_refresh(SECOND)
                .urgent_every(ms(1001))),
        ),
        ("dns.lookup_timeout", dns(d().lookup_timeout(ZERO))),
        ("dns.rotation_memory", dns(d().rotation_memory(ZERO))),
        ("sentinel.poll_every", sentinel(s().poll_every(ZERO))),
        (
            "sentinel.answer_timeout",
            sentinel(s().answer_timeout(ZERO)),
        ),
    ] {
        let fault = fault(builder);
        assert!(fault.starts_with(field), "{field}: {fault}");
        assert!(fault.contains("legal"), "what would be legal? {fault}");
    }
}

#[test]
fn a_guard_goes_through_a_gate_as_strict() {
    let guard = GuardLayer::builder;
    let retry = RetryPolicy::default;
    for (field, builder) in [
        ("call_timeout", guard().call_timeout(Duration::MAX)),
        ("max_in_flight", guard().max_in_flight(0)),
        ("max_buffered_bytes", guard().max_buffered_bytes(0)),
        ("name", guard().name("")),
        (
            "breaker.min_calls",
            guard().breaker(BreakerPolicy::default().min_calls(0)),
        ),
        ("retry.attempts", guard().retry(retry().attempts(11))),
        (
            "retry.backoff",
            guard().retry(retry().backoff(ms(6), ms(5))),
        ),
        (
            "retry.attempts",
            guard().retry(retry().budget_basis_points(0).floor_per_second(0)),
        ),
    ] {
        let Err(error) = builder.build() else {
            panic!("{field}: taken");
        };
        let fault = error.faults().first().unwrap();
        assert!(fault.starts_with(field), "{field}: {fault}");
        assert_eq!(error.faults().len(), 1, "{error}");
    }
}

#[test]
fn every_fault_is_told_at_once() {
    let error = Config::builder("redis://h:0/x?nope=1")
        .call_timeout(ZERO)
        .breaker(BreakerPolicy::default().min_calls(0))
        .dns(DnsPolicy::default().lookup_timeout(ZERO))
        .sentinel(SentinelPolicy::default().poll_every(ZERO))
        .build()
        .expect_err("faults");
    assert_eq!(error.faults().len(), 7, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_the_server_does_not_have_is_refused_by_name_and_healed_without_a_restart()
{
    watch();
    let small = Server::builder().password("canary-password");
    let small = small.arg("--databases", "4");
    let Some(server) = small.start_or_skip().await else {
        return;
    };
    let address = server.addr();
    let client = Client::builder(&format!("{}7", server.url())).unwrap();
    let client = client.call_timeout(CALL_TIMEOUT).build().unwrap();
    let ping = || client.service().call(Request::from(redis::cmd("PING")));
    let error = ping().await.expect_err("there is no database 7");
    ears::discreet(format_args!("{error} {error:?} {client:?}"));
    assert_eq!(
        (error.kind(), error.phase()),
        (ErrorKind::Refused, Phase::Handshake),
        "{error}"
    );
    assert!(
        error.to_string().contains("refused the database"),
        "{error}"
    );
    assert!(!error.may_have_executed());
    drop(server);
    let larger = Server::builder().password("canary-password");
    let larger = larger.ip(address.ip()).port(address.port());
    let _server = larger.start().await.unwrap();
    let back = Instant::now();
    while let Err(error) = ping().await {
        // A gap between probes is at most 405 ms; the rest is for a busy machine.
        assert!(back.elapsed() < SECOND, "{error}");
        tokio::time::sleep(ms(5)).await;
    }
    println!(
        "FIGURE bad input, no such database: {error}; healed {:?} after the server had it",
        back.elapsed()
    );
}

#[tokio::test]
async fn a_command_that_would_block_or_change_the_shared_connection_is_refused_with_the_alternative()
 {
    watch();
    // Nobody listens there: it is refused before anything is sent.
    let client = Client::builder("redis://:canary@127.0.0.1:1")
        .unwrap()
        .build()
        .unwrap();
    let mut words = Vec::new();
    for (line, instead) in [
        ("BLPOP k 0", "use an exclusive connection"),
        ("BRPOP k 0", "use an exclusive connection"),
        ("BLMOVE a b LEFT LEFT 0", "use an exclusive connection"),
        ("BLMPOP 0 1 k LEFT", "use an exclusive connection"),
        ("BRPOPLPUSH a b 0", "use an exclusive connection"),
        ("BZPOPMIN k 0", "use an exclusive connection"),
        ("BZPOPMAX k 0", "use an exclusive connection"),
        ("BZMPOP 0 1 k MIN", "use an exclusive connection"),
        ("WAIT 1 0", "use an exclusive connection"),
        ("WAITAOF 1 0 0", "use an exclusive connection"),
        ("XREAD BLOCK 0 STREAMS s $", "use an exclusive connection"),
        (
            "XREADGROUP GROUP g c BLOCK 0 STREAMS s >",
            "use an exclusive connection",
        ),
        ("SELECT 1", "name the database in the URL"),
        ("AUTH canary", "put the credentials in the URL"),
        ("HELLO 3", "name the protocol in the URL"),
        ("SUBSCRIBE c", "use a subscription"),
        ("WATCH k", "use a transaction on an exclusive connection"),
        ("MULTI", "use an atomic pipeline"),
        ("MONITOR", "use a connection of its own"),
    ] {
        let mut parts = line.split(' ');
        let name = parts.next().unwrap();
        let mut command = redis::cmd(name);
        for part in parts {
            command.arg(part);
        }
        let error = client
            .service()
            .call(Request::from(command))
            .await
            .expect_err(line);
        assert_eq!(error.kind(), ErrorKind::Refused, "{line}: {error}");
        let text = error.to_string();
        assert!(
            text.contains(name) && text.contains(instead),
            "{line}: {text}"
        );
        assert!(!error.may_have_executed());
        ears::discreet(format_args!("{text} {error:?}"));
        words.push(text);
    }
    assert_eq!(words.len(), 19);
}
