//! What happens when: the same load on all four, and the fault at its moment.
//!
//! Owns the clock of the run. Promises that nothing reacts to what the clients do: arrivals and faults keep to the
//! plan. Leaves judging to [`super::verdict`]. Next: [`super::live`], which shows it while it happens.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_lab::dns::Asked;
use holdfast_lab::load::{Report, Running};
use holdfast_lab::task::own;
use holdfast_lab::{LabError, Load};
use redis_holdfast::{Client, HealthState};
use tokio::time::Instant;

use crate::contenders::{BUDGET, Contenders};
use crate::live::Live;
use crate::stage::Stage;
use crate::story::Fault;

/// How long each act lasts.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    healthy: Duration,
    dns_silent: Duration,
    dns_servfail: Duration,
    healed: Duration,
}

/// Everything a run showed.
pub struct Recording {
    /// One per contender, in their order.
    pub reports: Vec<Report>,
    pub start: Instant,
    /// Everything moved: the old range is a black hole, and the name server silent.
    pub onset: Instant,
    /// The name server fails instead, if it fell silent.
    pub servfail: Option<Instant>,
    /// From when on Redis could be reached by whoever knew: the name server tells the new addresses, or the old ones are back; the
    /// onset itself, where it could be reached all the time.
    pub heal: Instant,
    pub end: Instant,
    /// When our client changed its mind about its health, and to what.
    pub health: Vec<(Instant, HealthState)>,
    /// Every DNS query of the run.
    pub lookups: Vec<Asked>,
    /// How often a probe killed a Sentinel.
    pub kills: usize,
    /// Where Redis was reached before, and where it moved.
    pub places: (SocketAddr, SocketAddr),
}

impl Plan {
    pub fn full() -> Self {
        Self::of_seconds(4, 5, 5, 20)
    }

    /// The same story, told in a hurry.
    pub fn quick() -> Self {
        Self::of_seconds(1, 2, 2, 3)
    }

    /// One fault, and nothing wrong with DNS.
    pub fn fault() -> Self {
        Self::of_seconds(2, 5, 0, 5)
    }

    fn of_seconds(healthy: u64, dns_silent: u64, dns_servfail: u64, healed: u64) -> Self {
        Self {
            healthy: Duration::from_secs(healthy),
            dns_silent: Duration::from_secs(dns_silent),
            dns_servfail: Duration::from_secs(dns_servfail),
            healed: Duration::from_secs(healed),
        }
    }

    pub fn total(self) -> Duration {
        self.healthy + self.dns_silent + self.dns_servfail + self.healed
    }
}

/// Plays the plan once, with live lines on the terminal.
pub async fn play(
    plan: Plan,
    stage: &mut Stage,
    contenders: &Contenders,
) -> Result<Recording, LabError> {
    let load = Load::new(RATE)
        .duration(plan.total())
        .deadline(BUDGET)
        .drain(DRAIN);
    let running: Vec<Running> = contenders
        .all
        .iter()
        .map(|one| load.start(one.serve()))
        .collect();
    let start = running
        .first()
        .map_or_else(Instant::now, Running::started_at);
    let health = Arc::<Mutex<Vec<_>>>::default();
    let _watch = own(watch(contenders.ours.clone(), Arc::clone(&health)));
    let mut live = Live::start(start, &contenders.all);

    live.until(start + plan.healthy, &running).await;
    let before = stage.addr();
    stage.fall();
    let onset = Instant::now();
    live.event(stage.story.onset());
    stage.relocate().await?;
    let places = (before, stage.addr());
    live.until(onset + plan.dns_silent, &running).await;
    let mut servfail = None;
    if stage.story.fault == Fault::Incident {
        stage.dns_servfail();
        let now = Instant::now();
        servfail = Some(now);
        live.event("the DNS server answers again: SERVFAIL");
        live.until(now + plan.dns_servfail, &running).await;
    }
    let heal = stage.end().await?;
    live.event(stage.story.end());
    live.until(start + plan.total(), &running).await;

    let mut reports = Vec::new();
    for one in running {
        reports.push(one.finish().await);
    }
    let health = health
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    Ok(Recording {
        reports,
        start,
        onset,
        servfail,
        heal,
        end: start + plan.total(),
        health,
        lookups: stage.dns.query_log(),
        kills: stage.kills(),
        places,
    })
}

/// Notes each change of our client's health.
async fn watch(client: Client, log: Arc<Mutex<Vec<(Instant, HealthState)>>>) {
    let mut health = client.watch_health();
    while let Some(now) = health.changed().await {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push((Instant::now(), now.state()));
    }
}

impl Recording {
    /// Seconds since the first request was due.
    pub fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.start).as_secs_f64()
    }

    /// What no client can avoid: nobody could know where Redis was.
    pub fn outage(&self) -> Duration {
        self.heal - self.onset
    }

    /// What became of the Sentinels, if there were any.
    pub fn told_kills(&self) -> Option<String> {
        let kills = self.kills;
        (kills > 0).then(|| format!("Sentinels were killed {kills} times by their probes."))
    }

    /// When our client refused calls, as seconds from and to.
    pub fn refusing(&self) -> Vec<(f64, f64)> {
        let mut spans = Vec::new();
        let mut down = None;
        for (at, state) in &self.health {
            match (down, *state == HealthState::Down) {
                (None, true) => down = Some(*at),
                (Some(since), false) => {
                    spans.push((self.seconds(since), self.seconds(*at)));
                    down = None;
                }
                _ => {}
            }
        }
        spans.extend(down.map(|since| (self.seconds(since), self.seconds(self.end))));
        spans
    }
}

/// Requests per second and service.
pub const RATE: u32 = 200;
/// How long after the last arrival an answer may still come.
const DRAIN: Duration = Duration::from_secs(3);
