//! What a fault may cost a process: places, memory, sockets, tasks, and none of them for good. To be run in a process of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use holdfast_lab::load::LagMeter;
use holdfast_lab::{Mode, Proxy, Server, census, server_or_skip};
use redis_holdfast::layer::Connect;
use tokio::time::{Instant, sleep};

use crate::common::baseline::Baseline;
use crate::common::flood::{Tally, flood};
use crate::common::*;
use crate::outages::{RECOVERED_WITHIN, REFUSAL, lasting};

pub async fn ten_times_the_load<C: Connect>(over: C) {
    const CAP: usize = 1024;
    let Some(stage) = stage_over(over).await else {
        return;
    };
    // The same rate, served: what a run needs without any fault.
    let warm = Arc::<Tally>::default();
    flood(stage.client.clone(), RATE, SECOND, Arc::clone(&warm)).await;
    assert_eq!(warm.refused(), 0, "{}", warm.show());
    let (baseline, memory) = (Baseline::take().await, census::peak_rss_bytes());
    let tally = Arc::<Tally>::default();
    stage.proxy.set(Mode::Blackhole);
    let length = lasting(60, SECOND * 5);
    let lag = flood(stage.client.clone(), RATE * 10, length, Arc::clone(&tally)).await;
    println!("{}, lag {:?}", tally.show(), lag.max());
    let grown = (census::peak_rss_bytes() - memory) / 1024;
    assert_eq!(tally.late(&lag), 0, "{}", tally.show());
    assert_eq!(tally.wrong.load(Ordering::Relaxed), 0);
    // Beside those held there may be some that are being refused this moment: a burst of what the runtime was late with.
    let burst = usize::try_from(lag.max().as_millis() + 2).unwrap() * 10;
    assert!(
        tally.peak() <= CAP + burst,
        "{} with bursts of {burst}",
        tally.show()
    );
    assert!(
        tally.refused() > 0 && grown <= 16 * 1024,
        "{grown} KiB more"
    );
    let refusal = tally.refusal_p99();
    assert!(refusal <= REFUSAL, "refusals took {refusal:?}");
    stage.proxy.set(Mode::Pass);
    let (healed, meter) = (Instant::now(), LagMeter::start());
    stage.client.wait_ready(SECOND * 2).await.unwrap();
    let back = healed.elapsed();
    let limit = RECOVERED_WITHIN + meter.finish().max();
    assert!(back <= limit, "ready only {back:?} after the heal");
    baseline.is_restored().await;
    println!(
        "FIGURE 10× load on a black hole{} {length:?}: most outstanding {}, a refusal {refusal:?} (p99), memory + {grown} KiB, \
         ready {back:?} after the heal, sockets and tasks as before",
        by::<C>(),
        tally.peak()
    );
}

pub async fn every_fault_in_turn<C: Connect>(over: C) {
    gauges::listen();
    let Some(server) = server_or_skip().await else {
        return;
    };
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let client = connect_over(over, &proxy.url(), "census").await;
    let warm = Arc::<Tally>::default();
    flood(client.clone(), RATE, SECOND * 2, Arc::clone(&warm)).await;
    assert_eq!(warm.refused(), 0, "{}", warm.show());
    let (baseline, memory) = (Baseline::take().await, census::peak_rss_bytes());
    let mut peak = 0;
    for fault in [
        Fault::Killed,
        Fault::Frozen,
        Fault::BlackHole,
        Fault::SilentPath,
        Fault::Reset,
    ] {
        let tally = Arc::<Tally>::default();
        let length = lasting(5, SECOND);
        let running = flood(
            client.clone(),
            RATE,
            length + SECOND * 2,
            Arc::clone(&tally),
        );
        let faulty = async {
            sleep(ms(500)).await;
            fault.begin(&server, &proxy);
            sleep(length).await;
            fault.end(&server, &proxy).await;
        };
        let (lag, ()) = tokio::join!(running, faulty);
        println!("{fault:?}: {}", tally.show());
        assert_eq!(tally.late(&lag), 0, "{fault:?}: {}", tally.show());
        assert_eq!(tally.wrong.load(Ordering::Relaxed), 0, "{fault:?}");
        assert!(
            tally.refused() > 0 && tally.ok.load(Ordering::Relaxed) > 0,
            "{fault:?}"
        );
        let most = most_outstanding(tally.peak_at(), &lag);
        assert!(
            tally.peak() <= most,
            "{fault:?}, peak above {most}: {}",
            tally.show()
        );
        peak = peak.max(tally.peak());
        baseline.is_restored().await;
    }
    let grown = (census::peak_rss_bytes() - memory) / 1024;
    assert!(grown <= 16 * 1024, "{grown} KiB more");
    assert!(client.shutdown(SECOND).await);
    let held = gauges::gauge("census", redis_holdfast::telemetry::names::IN_FLIGHT, "");
    assert_eq!(held, 0.0, "permits not given back");
    println!(
        "FIGURE all faults{}: memory + {grown} KiB at its peak, sockets, tasks and permits as before, most outstanding {peak}",
        by::<C>()
    );
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    Frozen,
    BlackHole,
    SilentPath,
    Reset,
}

impl Fault {
    fn begin(self, server: &Server, proxy: &Proxy) {
        match self {
            Self::Killed => server.kill(),
            Self::Frozen => server.freeze(),
            Self::BlackHole => proxy.set(Mode::Blackhole),
            Self::SilentPath => proxy.set(Mode::Stall),
            Self::Reset => proxy.set(Mode::Down),
        }
    }

    async fn end(self, server: &Server, proxy: &Proxy) {
        match self {
            Self::Killed => server.restart().await.unwrap(),
            Self::Frozen => server.thaw(),
            _ => proxy.set(Mode::Pass),
        }
    }
}
