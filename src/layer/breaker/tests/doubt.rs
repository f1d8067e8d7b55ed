//! When one call in vain is asked after, and for how long.

use super::*;
use crate::layer::{Guard, GuardLayer};

/// A server so far away, until it is silent; `HGETALL` takes 600 ms more.
#[derive(Clone, Default)]
struct Far {
    away: Duration,
    silent: Arc<AtomicBool>,
}

impl Far {
    fn at(away: Duration) -> Self {
        let silent = Arc::default();
        Self { away, silent }
    }

    fn under(&self, layer: &GuardLayer) -> Guard<Under> {
        let server = self.clone();
        layer.layer(BoxCloneSyncService::new(service_fn(
            move |request: Request| {
                let server = server.clone();
                async move {
                    let is_slow = request.command() == "HGETALL";
                    sleep(server.away + MS * if is_slow { 600 } else { 0 }).await;
                    if server.silent.load(Relaxed) {
                        std::future::pending::<()>().await;
                    }
                    Ok(Reply::from(Value::Okay))
                }
            },
        )))
    }
}

fn slow() -> Request {
    Request::from(redis::cmd("HGETALL").arg("k"))
}

/// How long after `begun` it opened.
async fn opened_after<S>(guard: &Guard<S>, begun: Instant) -> Duration {
    let mut watch = guard.circuit().watch();
    while watch.current() != CircuitState::Open {
        let change = timeout(Duration::from_secs(30), watch.changed()).await;
        assert!(change.is_ok(), "never opened");
    }
    begun.elapsed()
}

/// Nor is it closed again by the time that anybody looks.
async fn stays_closed<S>(guard: &Guard<S>) {
    let mut watch = guard.circuit().watch();
    assert_eq!(watch.current(), CircuitState::Closed);
    let change = timeout(1000 * MS, watch.changed()).await;
    assert!(change.is_err(), "{change:?}");
}

/// 180 ms away, as from another continent: its `PING` takes longer than 150 ms, and it is well.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_far_away_is_not_condemned_for_a_slow_command() {
    for is_known in [false, true] {
        let guard = GuardLayer::builder().build().expect("legal");
        let guard = Far::at(180 * MS).under(&guard);
        if is_known {
            assert!(guard.clone().oneshot(get()).await.is_ok());
        }
        for _ in 0..3 {
            let late = guard.clone().oneshot(slow()).await;
            assert!(late.is_err_and(|error| error.is_timeout()));
            stays_closed(&guard).await;
        }
    }
}

/// Silent after all, it costs a deadline, and the time that a probe has.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_far_away_and_silent_is_found_out_too() {
    let far = Far::at(100 * MS);
    let guard = far.under(&GuardLayer::builder().build().expect("legal"));
    assert!(guard.clone().oneshot(get()).await.is_ok());
    far.silent.store(true, Relaxed);
    let begun = Instant::now();
    assert!(guard.clone().oneshot(get()).await.is_err());
    let opened = opened_after(&guard, begun).await;
    // The deadline of 500 ms, and three times 100.
    assert!((800 * MS..=805 * MS).contains(&opened), "{opened:?}");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_was_given_a_time_has_that_while_in_doubt_as_well() {
    let probe = |takes: Duration| {
        Probe::with(move || async move {
            sleep(takes).await;
            true
        })
    };
    for (takes, within, opens) in [
        (200, 1000, None),
        (2000, 1000, Some(1500)),
        (80, 50, Some(550)),
    ] {
        let probe = probe(takes * MS).within(within * MS);
        let guard = GuardLayer::builder().probe(probe).build().expect("legal");
        let guard = Far::default().under(&guard);
        assert!(guard.clone().oneshot(get()).await.is_ok());
        let begun = Instant::now();
        assert!(guard.clone().oneshot(slow()).await.is_err());
        let Some(opens) = opens else {
            stays_closed(&guard).await;
            continue;
        };
        let opened = opened_after(&guard, begun).await;
        let expected = opens * MS..=(opens + 5) * MS;
        assert!(expected.contains(&opened), "{takes}: {opened:?}");
    }
}

/// However short the deadline: one of them and 150 ms, where five in a row are not over sooner; for a server that is near by the default probe.
#[tokio::test(start_paused = true)]
async fn a_black_hole_costs_a_deadline_and_150_ms_with_short_deadlines_too() {
    for (deadline, costs) in [(250, 400), (140, 290), (100, 250), (60, 210), (20, 100)] {
        for is_known in [false, true] {
            let near = Far::at(MS);
            let layer = GuardLayer::builder().call_timeout(deadline * MS);
            let guard = near.under(&layer.build().expect("legal"));
            if is_known {
                assert!(guard.clone().oneshot(get()).await.is_ok());
            } else if deadline > 150 {
                // Nobody knows where it stands: the probe has as long as the call.
                continue;
            }
            near.silent.store(true, Relaxed);
            let begun = Instant::now();
            let opened = async { opened_after(&guard, begun).await };
            let calls = async {
                loop {
                    let _ = guard.clone().oneshot(get()).await;
                    tokio::task::yield_now().await;
                }
            };
            let opened = tokio::select! {
                opened = opened => opened,
                () = calls => unreachable!(),
            };
            // The runtime's timers, one millisecond each.
            assert!(opened <= (costs + 10) * MS, "{deadline} ms: {opened:?}");
        }
    }
}
