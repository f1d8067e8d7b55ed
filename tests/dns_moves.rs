//! Promise 8: a server that moves is followed, whether its old address still answers or has become a black hole.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use std::time::Duration;

use common::baseline::{Baseline, leaves_nothing};
use common::*;
use holdfast_lab::{Answer, Dns, Mode, Proxy, Server, ip, server_or_skip};
use redis_holdfast::layer::{Connect, LinkConnector};
use redis_holdfast::{Client, RedisConnector, dns::Hickory};
use tokio::time::{Instant, sleep, timeout};

const NAME: &str = "orders.lab";
/// Time enough for a second link to be made and watched before anything breaks.
const BEFORE: Duration = SECOND;

/// A name that leads to the old range; a pod with data of its own waits in the new one, at the same port.
struct Move<C: Connect> {
    dns: Dns,
    old: Proxy,
    new: Proxy,
    servers: [Server; 2],
    client: Client<C>,
    /// Before there was a client.
    baseline: Baseline,
}

async fn prepare<C: Connect>(over: C) -> Option<Move<C>> {
    let servers = [server_or_skip().await?, server_or_skip().await?];
    let old = Proxy::start(servers[0].addr()).await.unwrap();
    let same_port = std::net::SocketAddr::from((ip(), old.addr().port()));
    let new = Proxy::start_on(same_port, servers[1].addr()).await.unwrap();
    let dns = Dns::start().await.unwrap();
    dns.set(NAME, Answer::addrs([old.addr().ip()], 5));
    let baseline = Baseline::take().await;
    let client = Client::builder(&format!("redis://{NAME}:{}/", old.addr().port()))
        .unwrap()
        .resolver(Hickory::servers([dns.addr()]))
        .call_timeout(CALL_TIMEOUT)
        .connector(over)
        .build()
        .unwrap();
    client.wait_ready(SECOND * 5).await.unwrap();
    Some(Move {
        dns,
        old,
        new,
        servers,
        client,
        baseline,
    })
}

impl<C: Connect> Move<C> {
    fn finish_in_dns(&self) {
        self.dns.set(NAME, Answer::addrs([self.new.addr().ip()], 5));
    }

    fn start_over_in_dns(&self) {
        self.dns.set(NAME, Answer::addrs([self.old.addr().ip()], 5));
    }

    /// Waits until the name has just been asked for: the worst moment for the truth to come, for the next lookup is a whole gap away.
    async fn next_lookup(&self) {
        let before = self.dns.lookups(NAME);
        while self.dns.lookups(NAME) == before {
            sleep(ms(1)).await;
        }
    }

    /// Lookups that began from one moment to another: each is one A query, and a query that is not answered is not repeated.
    fn lookups(&self, from: Instant, to: Instant) -> Vec<Instant> {
        let log = self.dns.query_log().into_iter();
        log.filter(|asked| asked.kind == "A" && asked.name == NAME)
            .map(|asked| asked.at)
            .filter(|at| (from..=to).contains(at))
            .collect()
    }

    /// Ends the client, and nothing of it is left, wherever it was last.
    async fn ends(self) {
        self.old.set(Mode::Pass);
        leaves_nothing(&self.client, "redis", self.baseline).await;
    }
}

/// In any span there are at most 1.3 lookups more than half seconds; the machine may have held up the first of them.
fn come_in_turn(lookups: &[Instant], lag: Duration) {
    for (n, from) in lookups.iter().enumerate() {
        for (more, to) in lookups.iter().skip(n).enumerate() {
            let turns = (*to - *from + lag).as_secs_f64() / 0.5;
            assert!(
                (more + 1) as f64 <= turns + 1.3,
                "{} lookups within {:?}",
                more + 1,
                *to - *from
            );
        }
    }
}

/// The old address becomes a black hole; meanwhile DNS says `meanwhile`, or what it said before, and is right `outage` later.
async fn moved_off_a_black_hole<C: Connect>(
    over: C,
    row: &str,
    meanwhile: Option<Answer>,
    outage: Duration,
) {
    let Some(stage) = prepare(over).await else {
        return;
    };
    let running = start(stage.client.clone(), RATE, BEFORE + outage + SECOND * 2);
    sleep(BEFORE).await;
    if let Some(answer) = meanwhile {
        stage.dns.set(NAME, answer);
    }
    stage.old.set(Mode::Blackhole);
    let onset = running.mark("old address black-holed");
    sleep(outage).await;
    stage.next_lookup().await;
    stage.finish_in_dns();
    let heal = running.mark("DNS is right");
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);

    let refused = refused_within(&report, onset, ms(600), heal);
    let recovered = recovered_within(&report, heal, ms(500));
    let all = stage.lookups(report.start(), Instant::now());
    come_in_turn(&all, report.lag().max());
    let (lookups, span) = (stage.lookups(onset, heal).len(), heal - onset);
    assert!(
        lookups as f64 <= 2.0 * span.as_secs_f64(),
        "{lookups} lookups within {span:?} are more than two a second"
    );
    // Half a second to find out, then gaps of 494 ms and one of 725; the machine may have held up one of them.
    let held_up = report.lag().max_between(onset, heal);
    let least = span.saturating_sub(ms(750) + held_up).as_secs_f64() / 0.5;
    assert!(
        lookups as f64 >= least.floor(),
        "the name was hardly asked for: {lookups} lookups within {span:?}"
    );
    stage.ends().await;
    println!(
        "FIGURE dns_moves {row}{}: refused {refused:?} after the onset, 99 % ok {recovered:?} after DNS was right, {:.2} lookups/s, \
         sockets, tasks and permits as before",
        by::<C>(),
        lookups as f64 / span.as_secs_f64()
    );
}

#[derive(Clone, Copy, PartialEq)]
enum Truth {
    Plain,
    /// A cache that has not heard of it speaks up once more.
    Wavers,
}

async fn moved_while_the_old_one_lives<C: Connect>(over: C, truth: Truth) {
    let Some(stage) = prepare(over).await else {
        return;
    };
    // A refresh within 5 s, the second answer a second later: calls go on for another second over the new link. Or two refreshes, and
    // one more after a minute of answers that are the same.
    let (row, within) = match truth {
        Truth::Plain => ("changes", SECOND * 7),
        Truth::Wavers => ("changes and wavers", SECOND * 78),
    };
    let running = start(stage.client.clone(), RATE, BEFORE + within);
    sleep(BEFORE).await;
    stage.finish_in_dns();
    let changed = running.mark("address changed");
    if truth == Truth::Wavers {
        stage.next_lookup().await;
        stage.start_over_in_dns();
        stage.next_lookup().await;
        stage.finish_in_dns();
    }
    let followed = timeout(within, async {
        while stage.new.accepts() == 0 {
            sleep(ms(1)).await;
        }
        changed.elapsed()
    })
    .await
    .expect("the new address is dialled once DNS is sure of it");
    // What is under way on the old link ends within a call's deadline; the rest is for the link to notice it.
    let drained = timeout(CALL_TIMEOUT + SECOND, async {
        let from = Instant::now();
        while stage.old.open_connections() > 0 || stage.servers[0].clients().await > 0 {
            sleep(ms(5)).await;
        }
        from.elapsed()
    })
    .await
    .expect("the old link is drained and closed");
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    assert_eq!(report.failed(), 0, "{}", show(&report));
    assert_eq!(stage.new.open_connections(), 1, "one link serves");
    assert_eq!(stage.old.accepts(), 1, "the old address was left alone");
    stage.ends().await;
    println!(
        "FIGURE dns_moves address {row}, old one alive{}: {} failed of {}, followed after {followed:?}, drained {drained:?} later",
        by::<C>(),
        report.failed(),
        report.total()
    );
}

/// Three seconds at least: lookups that saved up for those to come have passed by then.
fn outage(full: u32) -> Duration {
    SECOND * if is_full() { full } else { 3 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_left_a_black_hole_is_found_within_500_ms_of_a_late_dns() {
    let outage = outage(3);
    let row = format!("moved, DNS right after {outage:?}");
    moved_off_a_black_hole(LinkConnector::new(), &row, None, outage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_left_a_black_hole_is_found_within_500_ms_of_the_last_servfail() {
    let outage = outage(10);
    let row = format!("moved, DNS right after {outage:?} of SERVFAIL");
    moved_off_a_black_hole(LinkConnector::new(), &row, Some(Answer::ServFail), outage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_left_a_black_hole_is_found_within_500_ms_of_a_silent_dns() {
    let outage = outage(10);
    let row = format!("moved, DNS right after {outage:?} of silence");
    moved_off_a_black_hole(LinkConnector::new(), &row, Some(Answer::Silent), outage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_changes_while_the_old_one_lives_fails_no_call_and_drains_the_old_link() {
    moved_while_the_old_one_lives(LinkConnector::new(), Truth::Plain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_changes_while_dns_wavers_is_followed_and_fails_no_call() {
    if is_full() {
        moved_while_the_old_one_lives(LinkConnector::new(), Truth::Wavers).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_own_connection_follows_a_late_dns_off_a_black_hole() {
    let outage = outage(3);
    let row = format!("moved, DNS right after {outage:?}");
    moved_off_a_black_hole(RedisConnector::new(), &row, None, outage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_own_connection_follows_a_dns_that_failed_or_was_silent_off_a_black_hole() {
    let outage = outage(10);
    let said = [("SERVFAIL", Answer::ServFail), ("silence", Answer::Silent)];
    for (what, answer) in said.into_iter().filter(|_| is_full()) {
        let row = format!("moved, DNS right after {outage:?} of {what}");
        moved_off_a_black_hole(RedisConnector::new(), &row, Some(answer), outage).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_own_connection_follows_an_address_that_changes_while_the_old_one_lives() {
    if is_full() {
        moved_while_the_old_one_lives(RedisConnector::new(), Truth::Plain).await;
    }
}

/// Who has left the name is not served from again: by now it may be any server, and its own waiters concern nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_that_thaws_after_it_left_its_name_serves_nobody() {
    let Some(scene) = prepare(LinkConnector::new()).await else {
        return;
    };
    scene.new.set(Mode::Refuse);
    scene.servers[0].freeze();
    let load = start(scene.client.clone(), RATE, SECOND * 9);
    // The old link is dead, and a probe waits in the frozen server's accept queue.
    let down = async || !scene.client.health().is_ready();
    until("the circuit is open", SECOND * 2, down).await;
    sleep(SECOND).await;
    scene.finish_in_dns();
    // Two answers a second apart, and a lookup every half second while it is down.
    let before = scene.dns.lookups(NAME);
    let asked = async || scene.dns.lookups(NAME) >= before + 5;
    until("the old address is gone", SECOND * 5, asked).await;
    scene.servers[0].thaw();
    sleep(SECOND).await;
    assert!(
        !scene.client.health().is_ready(),
        "{}",
        scene.client.health()
    );
    let healed = Instant::now();
    scene.new.set(Mode::Pass);
    scene.client.wait_ready(SECOND).await.unwrap();
    println!(
        "FIGURE dns_moves: off a frozen server that thaws later, served {:?} after the new one",
        healed.elapsed()
    );
    load.stop();
    always(&load.finish().await);
    scene.ends().await;
}

/// The name's new server answers, if only that it will not serve us: that is no sign of life of the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_address_that_refuses_us_does_not_excuse_the_silence_of_the_old_one() {
    let Some(scene) = prepare(LinkConnector::new()).await else {
        return;
    };
    let words = ["CONFIG", "SET", "requirepass", "canary-other"];
    assert_eq!(scene.servers[1].tell(&words).await.unwrap(), "+OK");
    scene.finish_in_dns();
    let tried = async || scene.new.accepts() > 0;
    until("the new address is dialled", SECOND * 8, tried).await;
    let running = start(scene.client.clone(), RATE, BEFORE + SECOND * 2);
    sleep(BEFORE).await;
    scene.old.set(Mode::Blackhole);
    let onset = running.mark("old address black-holed");
    let report = running.finish().await;
    always(&report);
    let refused = refused_within(&report, onset, ms(600), onset + SECOND * 2);
    scene.ends().await;
    println!(
        "FIGURE dns_moves, the new server refuses us: refused {refused:?} after the old one fell silent"
    );
}
