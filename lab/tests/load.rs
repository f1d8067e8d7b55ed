//! The load generator keeps its rate whatever the client does, and counts from when an operation was due.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_lab::load::{Kind, Lag, LagMeter};
use holdfast_lab::{Load, Outcome};
use tokio::time::sleep;

const MS: Duration = Duration::from_millis(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_is_kept_and_every_pair_is_unique() {
    let report = Load::new(1000)
        .duration(1000 * MS)
        .run(|op| async move {
            assert_eq!(op.kind == Kind::Write, op.seq % 2 == 0);
            op.judge(Some(&op.value.clone()))
        })
        .await;
    assert_eq!(
        (report.total(), report.ok(), report.failed()),
        (1000, 1000, 0)
    );
    for (n, sample) in report.samples().iter().enumerate() {
        let due = report.start() + MS * u32::try_from(n).unwrap();
        assert_eq!(sample.scheduled, due);
        assert!(sample.started >= due);
    }
    let lag = report.lag().max();
    assert!(
        report.percentile(50.0) < 20 * MS + lag,
        "{:?}",
        report.percentile(50.0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_does_not_slow_the_arrivals() {
    let report = Load::new(1000)
        .duration(600 * MS)
        .deadline(100 * MS)
        .run(|_| async {
            sleep(300 * MS).await;
            Outcome::Ok
        })
        .await;
    assert_eq!(report.total(), 600);
    assert_eq!(report.over(100 * MS, Lag::Counted), 600);
    assert_eq!((report.ok(), report.served()), (600, 0));
    let peak = report.peak_outstanding();
    assert!((290..=600).contains(&peak), "{peak}");
}

#[tokio::test]
async fn a_blocked_runtime_shows_in_latency_and_in_lag() {
    let report = Load::new(1000)
        .duration(500 * MS)
        .run(|op| async move {
            if op.seq == 100 {
                std::thread::sleep(100 * MS);
            }
            Outcome::Ok
        })
        .await;
    assert_eq!(report.total(), 500);
    let worst = report.samples()[101..200]
        .iter()
        .map(|s| s.started - s.scheduled)
        .max();
    assert!(worst.unwrap() >= 80 * MS, "{worst:?}");
    assert!(report.lag().max() >= 80 * MS, "{:?}", report.lag().max());
    assert!(report.over(50 * MS, Lag::Counted) >= 30);
    assert_eq!(report.over(50 * MS, Lag::Forgiven), 0);
}

#[tokio::test]
async fn what_hangs_or_panics_is_counted() {
    let report = Load::new(100)
        .duration(100 * MS)
        .drain(100 * MS)
        .run(|op| async move {
            match op.seq {
                3 => std::future::pending().await,
                4 => panic!("on purpose"),
                5 => Outcome::Wrong,
                6 => Outcome::failed("refused"),
                _ => Outcome::Ok,
            }
        })
        .await;
    assert_eq!(
        (report.total(), report.ok(), report.failed(), report.wrong()),
        (10, 6, 3, 1)
    );
    let classes: Vec<_> = report
        .latencies()
        .into_iter()
        .map(|(class, all)| (class, all.count))
        .collect();
    let expected = [
        ("hung", 1),
        ("ok", 6),
        ("panic", 1),
        ("refused", 1),
        ("wrong", 1),
    ];
    assert_eq!(
        classes,
        expected.map(|(class, count)| (class.to_owned(), count))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_found_on_the_timeline() {
    let down = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&down);
    let running = Load::new(500)
        .duration(1500 * MS)
        .deadline(50 * MS)
        .start(move |_| {
            let seen = Arc::clone(&seen);
            async move {
                match seen.load(Ordering::Relaxed) {
                    0 => Outcome::Ok,
                    _ => Outcome::failed("down"),
                }
            }
        });
    sleep(400 * MS).await;
    down.store(1, Ordering::Relaxed);
    let fault = running.mark("fault");
    sleep(400 * MS).await;
    down.store(0, Ordering::Relaxed);
    let heal = running.mark("heal");
    assert!(running.counts().failed > 100);
    let report = running.finish().await;
    assert_eq!(
        (report.at("fault"), report.at("heal")),
        (Some(fault), Some(heal))
    );
    assert_eq!(report.failed_between(report.start(), fault - 5 * MS), 0);
    let failed = report.failed_between(fault, heal);
    assert!((180..=201).contains(&failed), "{failed}");
    assert!(report.first_ok_after(fault).unwrap() >= heal - 5 * MS);
    let recovered = report.recovered_after(fault, 0.99).unwrap();
    assert!(
        recovered + 5 * MS >= heal && recovered < heal + 50 * MS,
        "{:?}",
        recovered - fault
    );
    assert_eq!(
        report.recovered_after(heal + 20 * MS, 0.99),
        Some(heal + 20 * MS)
    );
}

#[tokio::test]
async fn who_never_recovers_has_no_instant_of_recovery() {
    let report = Load::new(200)
        .duration(500 * MS)
        .run(|op| async move {
            match op.seq {
                ..20 => Outcome::Ok,
                _ => Outcome::failed("for ever"),
            }
        })
        .await;
    assert_eq!(report.recovered_after(report.start(), 0.99), None);
    assert_eq!(report.first_ok_after(report.start() + 200 * MS), None);
}

#[tokio::test]
async fn a_run_can_be_stopped() {
    let running = Load::new(1000)
        .duration(60_000 * MS)
        .start(|_| async { Outcome::Ok });
    sleep(100 * MS).await;
    running.stop();
    let report = running.finish().await;
    assert!((50..=1000).contains(&report.total()), "{}", report.total());
}

#[tokio::test]
async fn a_thread_meter_sees_the_machine_and_not_the_runtime() {
    let (task, thread) = (LagMeter::start(), LagMeter::thread());
    sleep(20 * MS).await;
    std::thread::sleep(200 * MS);
    sleep(5 * MS).await;
    let (task, thread) = (task.finish(), thread.finish());
    assert!(task.max() >= 150 * MS, "{:?}", task.max());
    assert!(thread.max() < 150 * MS, "{:?}", thread.max());
}
