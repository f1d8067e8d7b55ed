//! A kubelet in small: it asks a process whether it lives, and kills and restarts one that does not say so.
//!
//! Owns one task per process. Promises the kubelet's rules: a probe every `period` with a `timeout` of its own, SIGKILL
//! after `failures` in a row, and a growing pause before the next start of one that keeps dying. Leaves the process to its
//! [`Container`]: a [`Member`] or a [`super::FakePod`]. One that does not come up is started again. Next:
//! [`super::SentinelSet`].

use std::net::SocketAddr;
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

/// What a kubelet watches over.
pub trait Container: Send + Sync + 'static {
    /// Where the process itself listens, past every network fault.
    fn process(&self) -> SocketAddr;
    /// Whether it is there and has not ended by itself.
    fn is_running(&self) -> bool;
    /// Ends it at once.
    fn kill(&self);
    /// Starts it again, and does not wait for its first answer.
    fn launch(&self) -> impl Future<Output = ()> + Send;
}

impl Container for Member {
    fn process(&self) -> SocketAddr {
        self.server().addr()
    }

    fn is_running(&self) -> bool {
        self.server().is_running()
    }

    fn kill(&self) {
        Member::kill(self);
    }

    async fn launch(&self) {
        let _ = self.server().launch();
    }
}

/// A probe of one process; ends with this handle.
#[derive(Debug)]
pub struct Liveness {
    kills: Arc<Mutex<Vec<Instant>>>,
    _task: Owned,
}

impl Liveness {
    /// Probes it from now on.
    pub fn of<C: Container>(one: &Arc<C>, probe: Probe) -> Self {
        let kills = Arc::<Mutex<Vec<Instant>>>::default();
        let task = own(watch(Arc::clone(one), probe, Arc::clone(&kills)));
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

async fn watch<C: Container>(one: Arc<C>, probe: Probe, kills: Arc<Mutex<Vec<Instant>>>) {
    let (mut failed, mut starts, mut since) = (0, 0_u32, Instant::now());
    loop {
        sleep(probe.period).await;
        let lives = timeout(probe.timeout, ping(one.process()))
            .await
            .unwrap_or(false);
        failed = if lives { 0 } else { failed + 1 };
        let died = !one.is_running();
        if !died && failed < probe.failures {
            continue;
        }
        kills
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Instant::now());
        one.kill();
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
        one.launch().await;
        since = Instant::now();
    }
}

/// What `redis-cli ping` in the container does: past every network fault.
async fn ping(process: SocketAddr) -> bool {
    let Ok(mut stream) = dial(process, Duration::from_secs(60)).await else {
        return false;
    };
    ask(&mut stream, &["PING"])
        .await
        .is_ok_and(|reply| reply == "+PONG")
}
