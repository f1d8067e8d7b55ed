//! A kubelet in small: it asks a process whether it lives, and kills and restarts one that does not say so.
//!
//! Owns one task per process. Promises the kubelet's rules: a probe every `period` with a `timeout` of its own, SIGKILL
//! after `failures` in a row, and a growing pause before the next start of one that keeps dying. Leaves the process to
//! [`super::Member`]. A process that does not come up is started again. Next: [`super::SentinelSet`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Member;
use crate::net::{ask, dial};
use crate::task::{Owned, own};

/// When a process is held to be dead.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// From one probe to the next.
    pub period: Duration,
    /// What one may take.
    pub timeout: Duration,
    /// So many in a row end it.
    pub failures: u32,
    /// Before the second start; doubled for each further one, up to sixteen times.
    pub pause: Duration,
}

impl Default for Probe {
    /// Kubernetes' and the common charts' defaults in a hurry: each second, 1 s, 3 failures (there: 5 or 10 s, 1 to 5 s, 3 to 6).
    fn default() -> Self {
        Self {
            period: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            failures: 3,
            pause: Duration::from_millis(500),
        }
    }
}

/// A probe of one process; ends with this handle.
#[derive(Debug)]
pub struct Liveness {
    kills: Arc<Mutex<Vec<Instant>>>,
    _task: Owned,
}

impl Liveness {
    /// Probes `member` from now on.
    pub fn of(member: &Arc<Member>, probe: Probe) -> Self {
        let kills = Arc::<Mutex<Vec<Instant>>>::default();
        let task = own(watch(Arc::clone(member), probe, Arc::clone(&kills)));
        Self { kills, _task: task }
    }

    /// When it killed the process, or found it dead.
    pub fn kills(&self) -> Vec<Instant> {
        self.kills
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn watch(member: Arc<Member>, probe: Probe, kills: Arc<Mutex<Vec<Instant>>>) {
    let (mut failed, mut starts, mut since) = (0, 0_u32, Instant::now());
    loop {
        sleep(probe.period).await;
        let lives = timeout(probe.timeout, ping(&member)).await.unwrap_or(false);
        failed = if lives { 0 } else { failed + 1 };
        let died = !member.server().is_running();
        if !died && failed < probe.failures {
            continue;
        }
        kills
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Instant::now());
        member.kill();
        // As a kubelet, which forgets after ten minutes of health.
        if since.elapsed() > probe.period * 600 {
            starts = 0;
        }
        let pause = if starts == 0 {
            Duration::ZERO
        } else {
            probe.pause * 2_u32.pow((starts - 1).min(4))
        };
        starts += 1;
        failed = 0;
        sleep(pause).await;
        let _ = member.server().launch();
        since = Instant::now();
    }
}

/// What `redis-cli ping` in the container does: past every network fault.
async fn ping(member: &Member) -> bool {
    let Ok(mut stream) = dial(member.server().addr(), Duration::from_secs(60)).await else {
        return false;
    };
    ask(&mut stream, &["PING"])
        .await
        .is_ok_and(|reply| reply == "+PONG")
}
