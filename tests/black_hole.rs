//! Promise 3 and 10: silence is found, calls are refused, and recovery needs no help.

mod common;

use common::*;
use holdfast_lab::Mode;
use tokio::time::sleep;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthy_calls_are_served() {
    let Some(stage) = stage().await else { return };
    let report = start(stage.client.clone(), RATE, SECOND * 2).finish().await;
    println!("{}", show(&report));
    always(&report);
    assert_eq!(report.failed(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_refused_within_600_ms_and_served_again_within_500() {
    let Some(stage) = stage().await else { return };
    let running = start(stage.client.clone(), RATE, SECOND * 7);
    sleep(SECOND).await;
    stage.server.freeze();
    let onset = running.mark("frozen");
    sleep(SECOND * 3).await;
    stage.server.thaw();
    let heal = running.mark("thawed");
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    let refused = refused_within(&report, onset, ms(600), heal);
    let recovered = recovered_within(&report, heal, ms(500));
    println!(
        "FIGURE black_hole frozen: refused {refused:?} after the onset, 99 % ok {recovered:?} after the thaw"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_without_reset_is_refused_and_survived() {
    let Some(stage) = stage().await else { return };
    let running = start(stage.client.clone(), RATE, SECOND * 8);
    sleep(SECOND).await;
    stage.proxy.set(Mode::Blackhole);
    let onset = running.mark("onset");
    sleep(SECOND * 4).await;
    stage.proxy.set(Mode::Pass);
    let heal = running.mark("heal");
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    let refused = refused_within(&report, onset, ms(600), heal);
    let recovered = recovered_within(&report, heal, ms(500));
    println!(
        "FIGURE black_hole: refused {refused:?} after the onset, 99 % ok {recovered:?} after the heal"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_refused_and_survived() {
    let Some(stage) = stage().await else { return };
    let client = connect(&stage.server.url()).await;
    let running = start(client, RATE, SECOND * 7);
    sleep(SECOND).await;
    stage.server.kill();
    let onset = running.mark("onset");
    sleep(SECOND * 3).await;
    stage.server.restart().await.expect("restarts");
    let heal = running.mark("heal");
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    let refused = refused_within(&report, onset, ms(100), heal);
    let recovered = recovered_within(&report, heal, ms(500));
    println!(
        "FIGURE black_hole killed: refused {refused:?} after the onset, 99 % ok {recovered:?} after the restart"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_silent_link_of_a_live_endpoint_is_swapped() {
    let Some(stage) = stage().await else { return };
    let running = start(stage.client.clone(), RATE, SECOND * 4);
    sleep(SECOND).await;
    stage.proxy.set_for_old(Mode::Stall);
    running.mark("onset");
    let report = running.finish().await;
    println!("{}", show(&report));
    always(&report);
    assert_eq!(
        report.failed(),
        0,
        "plain SETs and GETs succeed behind the fence"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_thaws_before_its_link_is_given_up_is_served_again() {
    let Some(stage) = stage().await else { return };
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
