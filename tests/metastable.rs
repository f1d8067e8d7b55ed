//! No metastable state: an overload that has ended is over. What a server still does for callers who have given up must not keep it from those
//! who have not; a client that asks again whatever happens shows in the same run that this server can be kept down by that.
//!
//! The row, ten seconds of overload and twenty seeds, is what `HOLDFAST_FULL=1` runs; without it there is one seed, and three seconds of overload.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use holdfast_lab::load::{Report, Sample};
use holdfast_lab::{Embedded, Load, Op, Outcome};
use redis_holdfast::redis::aio::{ConnectionLike, MultiplexedConnection};
use redis_holdfast::redis::{self, AsyncConnectionConfig};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use common::*;

/// One command at a time, each for so long: 200 a second, so few that this machine is not the bottleneck itself.
const SERVICE_TIME: Duration = ms(5);
const CAPACITY: u32 = 200;
/// What is promised: so long after the overload has ended, goodput is what it was.
const BACK_WITHIN: Duration = ms(5000);
/// How long it is looked at then, and before.
const LOOK: Duration = ms(2000);
/// How often the naive client asks: at 0.6 of the capacity two attempts a call are more than there is.
const NAIVE: u32 = 4;
/// Runs side by side: more of them, and they would disturb each other.
const AT_ONCE: usize = 2;

/// What arrives: so many a second all the time, and during the overload more, which makes twice the capacity together.
#[derive(Clone, Copy, Debug)]
struct Plan {
    base: u32,
    before: Duration,
    overload: Duration,
}

impl Plan {
    fn by(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        Self {
            base: random.u32(CAPACITY * 6 / 10..=CAPACITY * 8 / 10),
            // The breaker's window has another phase, and more or less in it, each time.
            before: LOOK + ms(random.u64(0..2000)),
            // Ten seconds, and more: that it is over must not hang on when the circuit happened to open for the last time.
            overload: if is_full() {
                SECOND * 10 + ms(random.u64(0..5000))
            } else {
                SECOND * 3
            },
        }
    }
}

/// The shares of what arrived all the time that was served, before and after, and the line at the server's desk in the end.
struct Seen {
    before: f64,
    after: f64,
    line: Duration,
    /// Since the end of the overload, until every tenth of a second was served.
    back: Duration,
    report: Report,
}

async fn overload<C>(plan: Plan, attempts: u32, server: &Embedded, client: C) -> Seen
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    server.set_service_time(SERVICE_TIME);
    let load = |rate, duration| {
        let client = client.clone();
        let load = Load::new(rate).duration(duration).deadline(CALL_TIMEOUT);
        load.start(move |op| insist(client.clone(), op, attempts))
    };
    let Plan { base, before, .. } = plan;
    let usual = load(base, before + plan.overload + BACK_WITHIN + LOOK);
    sleep(before).await;
    let onset = Instant::now();
    let surge = load(CAPACITY * 2 - base, plan.overload);
    sleep(plan.overload).await;
    surge.stop();
    let end = Instant::now();
    sleep(BACK_WITHIN + LOOK).await;
    let line = server.line();
    let (report, _) = tokio::join!(usual.finish(), surge.finish());
    Seen {
        before: goodput(&report, onset - LOOK, onset),
        after: goodput(&report, end + BACK_WITHIN, end + BACK_WITHIN + LOOK),
        line,
        back: report
            .recovered_after(end, 0.95)
            .map_or(Duration::MAX, |back| back - end),
        report,
    }
}

/// Asks up to so many times, at once and whatever went wrong.
async fn insist<C: ConnectionLike + Clone>(client: C, op: Op, attempts: u32) -> Outcome {
    let mut outcome = Outcome::failed("never asked");
    for _ in 0..attempts {
        outcome = call(client.clone(), op.clone()).await;
        if outcome == Outcome::Ok {
            break;
        }
    }
    outcome
}

/// Of what was due in this span, the share that was served, however late.
fn goodput(report: &Report, from: Instant, to: Instant) -> f64 {
    let due = |sample: &&Sample| (from..to).contains(&sample.scheduled);
    let (all, bad) = (
        report.samples().iter().filter(due).count(),
        report.failed_between(from, to),
    );
    (all - bad) as f64 / all as f64
}

async fn naive(url: &str) -> MultiplexedConnection {
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(CALL_TIMEOUT));
    let client = redis::Client::open(url).unwrap();
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    connection.await.unwrap()
}

/// Ours and the naive one, each over a server of its own.
async fn round(seed: u64) -> String {
    let plan = Plan::by(seed);
    let servers = [
        Embedded::start().await.unwrap(),
        Embedded::start().await.unwrap(),
    ];
    let client = connect(&servers[0].url()).await;
    let rival = naive(&servers[1].url()).await;
    let (ours, rival) = tokio::join!(
        overload(plan, 1, &servers[0], client),
        overload(plan, NAIVE, &servers[1], rival)
    );
    // Promise 1 is for others to measure: the naive one floods the runtime that both share.
    assert_eq!(ours.report.wrong(), 0);
    let said = format!(
        "seed {seed}, {plan:?}: ours\n{}\nthe naive one\n{}",
        show(&ours.report),
        show(&rival.report)
    );
    println!("{said}");
    for seen in [&ours, &rival] {
        assert!(
            seen.before >= 0.99,
            "not served to begin with: {}, {said}",
            seen.before
        );
    }
    assert!(
        rival.after <= rival.before / 2.0,
        "it came back by itself, {}: this proves nothing, {said}",
        rival.after
    );
    assert!(
        ours.after >= ours.before * 0.95,
        "{} of {}, {said}",
        ours.after,
        ours.before
    );
    format!(
        "seed {seed}: {:.3} of before, back after {:?}; the naive client {:.3}, {:?} of work before it at the end",
        ours.after / ours.before,
        ours.back,
        rival.after / rival.before,
        rival.line
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overload_that_has_ended_is_over() {
    let seeds = if is_full() { 20 } else { 1 };
    let (mut rounds, places) = (JoinSet::new(), Arc::new(Semaphore::new(AT_ONCE)));
    for seed in 0..seeds {
        let places = places.clone();
        rounds.spawn(async move {
            let _place = places.acquire().await;
            round(seed).await
        });
    }
    while let Some(ended) = rounds.join_next().await {
        println!("FIGURE overload, {}", ended.unwrap());
    }
}
