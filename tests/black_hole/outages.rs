//! One fault at a time under load: what is refused, how soon, and how soon calls are served again, over any connector.

use std::time::Duration;

use holdfast_lab::load::Report;
use holdfast_lab::{Mode, Outcome, Proxy, server_or_skip};
use redis_holdfast::layer::Connect;
use redis_holdfast::{Client, HealthState};
use tokio::time::{Instant, sleep, timeout};

use crate::common::baseline::Baseline;
use crate::common::*;

/// Healthy calls before a fault: a link that dies before it was a second old is not replaced at once.
const LEAD: Duration = SECOND;
/// Load after the heal: what recovery may take, and as long again to see that it lasts.
const TAIL: Duration = ms(1500);
/// Silence is told from slowness, and the endpoint from the link, in this time.
const REFUSED_WITHIN: Duration = ms(600);
/// A reset or a refused connection needs no such patience: one dial, and the machine's own grain.
const REFUSED_AT_ONCE: Duration = ms(100);
/// The longest gap between two probes, and an answer.
pub const RECOVERED_WITHIN: Duration = ms(500);
/// A refusal costs its caller no more, end to end.
pub const REFUSAL: Duration = ms(1);

/// The length of an outage: as promised, or short.
pub fn lasting(full_seconds: u64, quick: Duration) -> Duration {
    if is_full() {
        Duration::from_secs(full_seconds)
    } else {
        quick
    }
}

/// A client under load, hit by a fault that lasts `length`, then healed; with what must hold each time.
async fn outage<C: Connect>(
    row: &str,
    client: &Client<C>,
    length: Duration,
    refused_limit: Duration,
    hit: impl AsyncFnOnce(),
    heal: impl AsyncFnOnce(),
) -> Report {
    let warm = start(client.clone(), RATE, ms(300)).finish().await;
    assert_eq!(warm.failed(), 0, "{}", show(&warm));
    let baseline = Baseline::take().await;
    let running = start(client.clone(), RATE, LEAD + length + TAIL);
    sleep(LEAD).await;
    let hitting = running.mark("hitting");
    hit().await;
    let onset = running.mark("onset");
    sleep(length).await;
    let healing = running.mark("healing");
    heal().await;
    let healed = running.mark("heal");
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    let refused = refused_within(&report, onset, refused_limit, healed);
    // A fault that ends by itself may have begun when it was asked for, and is over as much sooner.
    let over = healing - (onset - hitting) - GRACE;
    let served = report.samples().iter().filter(|sample| {
        let away = sample.scheduled > onset + refused_limit && sample.ended < over;
        away && sample.outcome == Outcome::Ok
    });
    assert_eq!(served.count(), 0, "served by nobody: {}", show(&report));
    // What the machine was late is out of each of them: nothing is forgiven here once more.
    let refusal = refusals_p99(&report, onset + refused_limit, healed);
    assert!(refusal <= REFUSAL, "refusals took {refusal:?}");
    let recovered = recovered_within(&report, healed, RECOVERED_WITHIN);
    baseline.is_restored().await;
    println!(
        "FIGURE {row}{} {length:?}: refused {refused:?} after the onset, a refusal {refusal:?} (p99), 99 % ok {recovered:?} after the heal, \
         slowest call {:?}, most outstanding {}, sockets and tasks as before",
        by::<C>(),
        report.percentile(100.0),
        report.peak_outstanding(),
    );
    report
}

pub async fn healthy<C: Connect>(over: C) {
    let Some(stage) = stage_over(over).await else {
        return;
    };
    let report = start(stage.client.clone(), RATE, SECOND * 2).finish().await;
    println!("{}", show(&report));
    always(&report);
    assert_eq!(report.failed(), 0);
}

pub async fn killed<C: Connect>(over: C) {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let client = connect_over(over, &server.url(), "redis").await;
    let kill = async || server.kill();
    let restart = async || server.restart().await.unwrap();
    outage(
        "killed",
        &client,
        lasting(3, SECOND * 2),
        REFUSED_AT_ONCE,
        kill,
        restart,
    )
    .await;
}

pub async fn reset_and_unanswered_syns<C: Connect>(over: C) {
    let Some(stage) = stage_over(over).await else {
        return;
    };
    let Stage { proxy, client, .. } = &stage;
    let hit = async || {
        proxy.set(Mode::Down);
        proxy.set_for_new(Mode::Blackhole);
    };
    let heal = async || proxy.set(Mode::Pass);
    let length = lasting(8, SECOND * 2);
    outage("syn black hole", client, length, REFUSED_WITHIN, hit, heal).await;
}

pub async fn frozen<C: Connect>(over: C) {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let client = connect_over(over, &server.url(), "redis").await;
    let freeze = async || server.freeze();
    let thaw = async || {
        let left = server.accept_queue();
        server.thaw();
        assert!(
            left <= 2,
            "{left} connections of ours waited to be accepted"
        );
        println!(
            "FIGURE frozen{}: {left} in the accept queue before the thaw",
            by::<C>()
        );
    };
    outage(
        "frozen",
        &client,
        lasting(10, SECOND * 2),
        REFUSED_WITHIN,
        freeze,
        thaw,
    )
    .await;
}

pub async fn paused<C: Connect>(over: C) {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let client = connect_over(over, &server.url(), "redis").await;
    let length = lasting(3, SECOND * 2);
    let millis = length.as_millis().to_string();
    let pause = async || {
        let said = server.tell(&["CLIENT", "PAUSE", &millis, "ALL"]).await;
        assert_eq!(said.unwrap().trim(), "+OK");
    };
    let accepted = server.accepts().await;
    outage(
        "paused",
        &client,
        length,
        REFUSED_WITHIN,
        pause,
        async || {},
    )
    .await;
    let accepted = server.accepts().await - accepted;
    // It accepts while it is paused: whatever it holds of ours, each is one that was dialled. One probe, and no second one after it.
    assert!(accepted <= 2, "{accepted} connections to a paused server");
    println!("FIGURE paused{}: {accepted} connections made", by::<C>());
}

pub async fn black_hole<C: Connect>(over: C) {
    let Some(stage) = stage_over(over).await else {
        return;
    };
    let Stage { proxy, client, .. } = &stage;
    let hit = async || proxy.set(Mode::Blackhole);
    let heal = async || proxy.set(Mode::Pass);
    let length = lasting(20, SECOND * 3);
    outage("black hole", client, length, REFUSED_WITHIN, hit, heal).await;
}

pub async fn silent_path<C: Connect>(over: C) {
    let Some(stage) = stage_over(over).await else {
        return;
    };
    let Stage { proxy, client, .. } = &stage;
    let hit = async || proxy.set(Mode::Stall);
    let heal = async || proxy.set(Mode::Pass);
    let length = lasting(20, SECOND * 2);
    outage("silent path", client, length, REFUSED_WITHIN, hit, heal).await;
}

pub async fn idle<C: Connect>(over: C) {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(connect_over(over.clone(), &proxy.url(), "redis").await);
        // Their clocks differ: a link asks for a sign of life 2 s after it last had one.
        sleep(ms(400)).await;
    }
    proxy.set(Mode::Blackhole);
    let onset = Instant::now();
    let mut found = Vec::new();
    for client in &clients {
        let mut watch = client.watch_health();
        while watch.current().state() != HealthState::Down {
            let left = (onset + SECOND * 5) - Instant::now();
            timeout(left, watch.changed())
                .await
                .expect("is found at all");
        }
        found.push(onset.elapsed());
    }
    let last = found.iter().max().unwrap();
    assert!(*last <= SECOND * 3, "{found:?}");
    println!("FIGURE idle black hole{}: found within {last:?}", by::<C>());
}

pub async fn ten_calls_a_second<C: Connect>(over: C) {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let mut lone = Vec::new();
    for _ in 0..5 {
        // A way of its own for each: what one finds out about an address spares the others of its process their own probes of it.
        let proxy = Proxy::start(server.addr()).await.unwrap();
        let client = connect_over(over.clone(), &proxy.url(), "redis").await;
        lone.push((proxy, start(client, 10, SECOND * 4)));
        // A fifth of the gap between two calls: five phases.
        sleep(ms(20)).await;
    }
    sleep(SECOND).await;
    let mut runs = Vec::new();
    for (proxy, running) in lone {
        proxy.set(Mode::Blackhole);
        let onset = running.mark("onset");
        runs.push((proxy, running, onset));
    }
    let mut slowest = Duration::ZERO;
    for (_proxy, running, onset) in runs {
        let report = running.finish().await;
        always(&report);
        let end = onset + SECOND * 2;
        let refused = refused_within(&report, onset, REFUSED_WITHIN, end);
        assert!(
            report.failed_between(onset + REFUSED_WITHIN, end) >= 13,
            "{}",
            show(&report)
        );
        slowest = slowest.max(refused);
    }
    println!(
        "FIGURE 10 calls/s{}: refused {slowest:?} after the onset, each client alone at its address",
        by::<C>()
    );
}

pub async fn thawed_early<C: Connect>(over: C) {
    let Some(stage) = stage_over(over).await else {
        return;
    };
    let running = start(stage.client.clone(), RATE, SECOND * 4);
    sleep(SECOND).await;
    stage.server.freeze();
    running.mark("frozen");
    sleep(ms(700)).await;
    stage.server.thaw();
    let heal = running.mark("thawed");
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    recovered_within(&report, heal, ms(500));
}
