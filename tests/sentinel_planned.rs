//! Promise 9, planned: a `SENTINEL FAILOVER` under load fails nothing but writes that were in flight at the switch.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use common::sentinel::*;
use common::*;
use holdfast_lab::load::Kind;
use holdfast_lab::sentinel::{Monitor, Promotion};
use holdfast_lab::{Outcome, SentinelSet};
use tokio::time::{Instant, sleep};

/// What one planned failover cost.
struct Cost {
    lost: usize,
    /// Answered by the old primary after the promotion: lost, as Sentinel does it, whoever the client is.
    overtaken: usize,
    switched: std::time::Duration,
}

async fn planned() -> Option<Cost> {
    let set = SentinelSet::builder().bare_nodes().start_or_skip().await?;
    let client = connect_to(&set).await;
    let [old, new] = [0, 1].map(|nth| Monitor::attach(set.node(nth).server().addr()).unwrap());
    let running = start(client, RATE, SECOND * 60);
    sleep(ms(500)).await;
    let mut promotion = Promotion::watch([set.node(1).server().addr()]);
    let order = ["SENTINEL", "FAILOVER", set.name()];
    assert_eq!(
        SentinelSet::tell(set.sentinel(0), &order).await.unwrap(),
        "+OK"
    );
    running.mark("failover asked for");
    let (_, promoted) = promotion
        .within(PROMOTED)
        .await
        .expect("the replica is promoted");
    if is_full() {
        // Ten seconds later the old primary is made a replica, and closes its connections: that too is part of it.
        until("the old primary is a replica", PROMOTED, async || {
            set.primary().await == Some(1)
        })
        .await;
    }
    // Every Sentinel but the leader says so within a second.
    sleep(SECOND * 2).await;
    running.stop();
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);

    let failed = |kind: Kind| {
        let these = report
            .samples()
            .iter()
            .filter(move |sample| sample.kind == kind);
        these.filter(|sample| sample.outcome != Outcome::Ok)
    };
    assert_eq!(
        failed(Kind::Read).count(),
        0,
        "reads failed: {}",
        show(&report)
    );
    for lost in failed(Kind::Write) {
        // `?` marks what may have run: it was written to the old primary, and the switch ended it.
        assert_eq!(
            lost.outcome,
            Outcome::failed("connection_lost/reply?"),
            "{}",
            show(&report)
        );
    }
    let ends: Vec<Instant> = failed(Kind::Write).map(|sample| sample.ended).collect();
    let lost = ends.len();
    if let (Some(first), Some(last)) = (ends.iter().min(), ends.iter().max()) {
        // All at once: those in flight at one switch.
        let spread = *last - *first;
        let lag = report.lag().max_between(*first, *last);
        assert!(
            spread <= ms(20) + lag,
            "{lost} writes failed over {spread:?}: {}",
            show(&report)
        );
    }
    // The switch: the first write that the new primary was handed.
    let switched = new
        .writes_since(promoted)
        .into_iter()
        .find(|write| is_ours(&write.client))
        .expect("writes flow")
        .at;
    let strayed = handed_after(&old, &report, switched);
    assert!(strayed.is_empty(), "the old primary was handed {strayed:?}");
    let overtaken = old
        .writes_since(promoted)
        .iter()
        .filter(|write| is_ours(&write.client))
        .count();
    Some(Cost {
        lost,
        overtaken,
        switched: switched.saturating_duration_since(promoted),
    })
}

/// Clients come from the loopback address itself; what a primary sends its replica comes from where it listens.
fn is_ours(client: &str) -> bool {
    client.starts_with("127.0.0.1:")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_fails_no_read_and_no_call_that_was_not_sent() {
    let mut all = Vec::new();
    for _ in 0..if is_full() { 20 } else { 2 } {
        match planned().await {
            Some(cost) => all.push(cost),
            None => return,
        }
    }
    let most = all.iter().map(|cost| cost.lost).max().unwrap();
    let slowest = all.iter().map(|cost| cost.switched).max().unwrap();
    let overtaken = all.iter().map(|cost| cost.overtaken).max().unwrap();
    println!(
        "FIGURE P9 planned failover: 0 failed reads and not-sent calls, at most {most} written writes failed, the new primary is written to \
         at most {slowest:?} after the promotion, until when the old one answered up to {overtaken} writes ({} failovers)",
        all.len()
    );
}
