//! The black holes once more in a network of their own, where packets truly vanish.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may end here, and tokio::spawn is at home in it"
)]

mod common;

use std::time::Duration;

use common::baseline::Baseline;
use common::*;
use holdfast_lab::netns::{self, Place};
use holdfast_lab::server_or_skip;
use tokio::time::sleep;

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

fn lasting(full_seconds: u64, quick: Duration) -> Duration {
    if is_full() {
        Duration::from_secs(full_seconds)
    } else {
        quick
    }
}

#[test]
fn dropped_packets_are_refused_within_600_ms_and_survived_without_the_kernels_back_off() {
    const NAME: &str =
        "dropped_packets_are_refused_within_600_ms_and_survived_without_the_kernels_back_off";
    if netns::reexec(NAME) == Place::Done {
        return;
    }
    block_on(async {
        let Some(server) = server_or_skip().await else {
            return;
        };
        let client = connect(&server.url()).await;
        let baseline = Baseline::take().await;
        let length = lasting(20, SECOND * 4);
        let running = start(client.clone(), RATE, SECOND + length + ms(1500));
        sleep(SECOND).await;
        netns::drop_addr(server.ip());
        let onset = running.mark("onset");
        sleep(length).await;
        netns::restore_addr(server.ip());
        let healed = running.mark("heal");
        let report = running.finish().await;
        println!("{}", show(&report));
        always(&report);
        let refused = refused_within(&report, onset, ms(600), healed);
        let recovered = recovered_within(&report, healed, ms(500));
        baseline.is_restored().await;
        println!(
            "FIGURE network black hole {length:?}: refused {refused:?} after the onset, 99 % ok {recovered:?} after the heal, sockets and tasks as before"
        );
    });
}

#[test]
fn dropped_syns_after_a_restart_are_followed_by_fresh_ones() {
    const NAME: &str = "dropped_syns_after_a_restart_are_followed_by_fresh_ones";
    if netns::reexec(NAME) == Place::Done {
        return;
    }
    block_on(async {
        let Some(server) = server_or_skip().await else {
            return;
        };
        let client = connect(&server.url()).await;
        let baseline = Baseline::take().await;
        let length = lasting(8, SECOND * 3);
        let running = start(client.clone(), RATE, SECOND + length + ms(1500));
        sleep(SECOND).await;
        netns::drop_syn(server.ip());
        server.kill();
        let onset = running.mark("onset");
        sleep(length).await;
        netns::restore_addr(server.ip());
        server.restart().await.unwrap();
        let healed = running.mark("heal");
        let report = running.finish().await;
        println!("{}", show(&report));
        always(&report);
        let refused = refused_within(&report, onset, ms(600), healed);
        let recovered = recovered_within(&report, healed, ms(500));
        baseline.is_restored().await;
        println!(
            "FIGURE network syn black hole {length:?}: refused {refused:?} after the onset, 99 % ok {recovered:?} after the restart, sockets and tasks as before"
        );
    });
}
