//! What a process holds before a fault, and whether it holds the same afterwards.

use std::process::Command;
use std::time::Duration;

use holdfast_lab::census;
use redis_holdfast::{Client, layer::Connect, telemetry::names};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::gauges;

/// Sockets and tasks of this process at rest, the lab's own among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Baseline {
    sockets: usize,
    tasks: usize,
}

impl Baseline {
    /// Of a process at rest: to be taken while no load runs.
    pub async fn take() -> Self {
        // What has just ended is still counted for a moment.
        let (mut baseline, mut alike) = (Self::now(), 0);
        while alike < 10 {
            sleep(Duration::from_millis(10)).await;
            let now = Self::now();
            alike = if now == baseline { alike + 1 } else { 0 };
            baseline = now;
        }
        assert!(baseline.sockets > 0, "this system does not tell");
        baseline
    }

    fn now() -> Self {
        Self {
            sockets: census::sockets(),
            tasks: census::tokio_tasks(&Handle::current()),
        }
    }

    /// Waits until this process holds what it held then.
    pub async fn is_restored(self) {
        // A retired link looks every 25 ms, a proxied connection ends when both of its ends are read, housekeeping ticks each second.
        let end = Instant::now() + Duration::from_secs(3);
        loop {
            let now = Self::now();
            if now == self {
                return;
            }
            assert!(Instant::now() < end, "{now:?} instead of {self:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Ends `client`, whose metrics go by `name`, and waits until this process holds what it held before there was one: no permit is left either.
pub async fn leaves_nothing<C: Connect>(client: &Client<C>, name: &str, before: Baseline) {
    ends(client, name).await;
    before.is_restored().await;
}

/// Ends `client`, whose metrics go by `name`: it holds no permit any more.
pub async fn ends<C: Connect>(client: &Client<C>, name: &str) {
    let second = Duration::from_secs(1);
    assert!(client.shutdown(second).await, "all ended by themselves");
    // A client's end brings the recorder up to date.
    let held = gauges::gauge(name, names::IN_FLIGHT, "");
    assert_eq!(held, 0.0, "permits not given back");
}

/// Runs the test `name` of this binary alone in a process of its own, so that memory and descriptors are its own; says whether this is it.
///
/// # Panics
/// When the test fails there.
pub fn is_child(name: &str) -> bool {
    const MARK: &str = "HOLDFAST_CHILD";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let program = std::env::current_exe().expect("this binary has a path");
    let output = Command::new(program)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .output()
        .expect("this binary runs");
    let said = String::from_utf8_lossy(&output.stdout);
    for line in said.lines().filter(|line| !line.starts_with("test result")) {
        println!("{line}");
    }
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        said.contains("test result: ok. 1 passed"),
        "{name} failed in its own process"
    );
    false
}
