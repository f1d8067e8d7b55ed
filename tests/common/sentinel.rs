//! What the Sentinel scenarios share: a set and a client on it, a fault for its primary, and the questions asked afterwards.

use std::net::SocketAddr;
use std::time::Duration;

use holdfast_lab::load::{Kind, Report, Running};
use holdfast_lab::sentinel::{Builder, FakeSentinel, Monitor, Promotion, View};
use holdfast_lab::{Mode, Outcome, SentinelSet};
use redis_holdfast::{Client, Error, redis};
use tokio::time::{Instant, sleep};

use super::{RATE, SECOND, connect, ms, show, start};

/// How long Sentinels may take to promote a replica: 1 s until it is down, one election, and another if that one is tied.
pub const PROMOTED: Duration = Duration::from_secs(30);

/// What befalls the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Killed,
    BlackHoled,
    Frozen,
}

impl Fault {
    pub const ALL: [Self; 3] = [Self::Killed, Self::BlackHoled, Self::Frozen];

    /// A set on which this fault is what it is called: a killed process behind a proxy would still accept.
    pub fn set(self) -> Builder {
        match self {
            Self::BlackHoled => SentinelSet::builder(),
            Self::Killed | Self::Frozen => SentinelSet::builder().bare_nodes(),
        }
    }

    pub fn begin(self, set: &SentinelSet, nth: usize) {
        let node = set.node(nth);
        match self {
            Self::Killed => node.kill(),
            Self::BlackHoled => node.proxy().set(Mode::Blackhole),
            Self::Frozen => node.freeze(),
        }
    }

    /// The old primary is back, and believes that it is one.
    pub async fn end(self, set: &SentinelSet, nth: usize) {
        let node = set.node(nth);
        match self {
            Self::Killed => node.restart().await.unwrap(),
            Self::BlackHoled => node.proxy().set(Mode::Pass),
            Self::Frozen => node.thaw(),
        }
    }
}

/// A client of the whole set, ready.
pub async fn connect_to(set: &SentinelSet) -> Client {
    connect(&set.url()).await
}

/// So many Sentinels of our own that name the server at `at`, and know of no others.
pub async fn fakes(count: usize, at: SocketAddr) -> Vec<FakeSentinel> {
    let mut all = Vec::new();
    for _ in 0..count {
        let view = View::of("orders", at.ip(), at.port());
        all.push(FakeSentinel::start(view).await.unwrap());
    }
    all
}

pub fn url(all: &[FakeSentinel]) -> String {
    let hosts: Vec<String> = all.iter().map(|one| one.addr().to_string()).collect();
    format!("redis+sentinel://{}/orders", hosts.join(","))
}

/// From now on they name the server at `at`, and tell nobody.
pub fn all_believe(all: &[FakeSentinel], at: SocketAddr, epoch: u64) {
    for one in all {
        one.believe(|view| {
            view.primary = Some((at.ip().to_string(), at.port()));
            view.epoch = epoch;
        });
    }
}

/// A failover, as it was seen from outside.
pub struct Failover {
    pub report: Report,
    pub onset: Instant,
    pub promoted: Instant,
    /// The first write that was answered after the promotion.
    pub first_write: Instant,
    /// Writes that the old primary was handed although they were asked for after that.
    pub strayed: Vec<String>,
}

/// Breaks the primary under load, waits for the promotion, and lets the old one come back.
pub async fn fail_over(set: &SentinelSet, client: &Client, fault: Fault) -> Failover {
    let mut watched = None;
    if fault != Fault::Killed {
        watched = Some(Monitor::attach(set.node(0).server().addr()).unwrap());
    }
    let running = start(client.clone(), RATE, SECOND * 60);
    sleep(ms(500)).await;
    let mut promotion = Promotion::watch(set.truth().into_iter().skip(1));
    fault.begin(set, 0);
    let onset = running.mark("primary broken");
    let (_, promoted) = promotion
        .within(PROMOTED)
        .await
        .expect("a replica is promoted");
    let (first, running) = first_write(running, promoted).await;
    fault.end(set, 0).await;
    // One that was restarted is watched as soon as it answers.
    let monitor = watched.unwrap_or_else(|| Monitor::attach(set.node(0).server().addr()).unwrap());
    running.mark("old primary back");
    sleep(ms(700)).await;
    running.stop();
    let report = running.finish().await;
    let Some(first_write) = first
        .then(|| answered_after(&report, Kind::Write, promoted))
        .flatten()
    else {
        panic!(
            "no write was answered after the promotion: {}",
            show(&report)
        );
    };
    let strayed = handed_after(&monitor, &report, first_write);
    Failover {
        report,
        onset,
        promoted,
        first_write,
        strayed,
    }
}

/// Waits until calls are served again after the promotion, for ten seconds at most.
async fn first_write(running: Running, promoted: Instant) -> (bool, Running) {
    let before = running.counts().ok;
    // What was served between the promotion and this line would be missed: fifty more are not.
    while running.counts().ok < before + 50 {
        if promoted.elapsed() > SECOND * 10 {
            return (false, running);
        }
        sleep(ms(5)).await;
    }
    (true, running)
}

impl Failover {
    /// From the promotion to the first answered write, the machine's lag taken off.
    pub fn took(&self) -> Duration {
        let lag = self
            .report
            .lag()
            .max_between(self.promoted, self.first_write);
        (self.first_write - self.promoted).saturating_sub(lag)
    }
}

/// When the first call of this kind was answered well after an instant.
pub fn answered_after(report: &Report, kind: Kind, from: Instant) -> Option<Instant> {
    let well = report.samples().iter().filter(|sample| {
        sample.kind == kind && sample.outcome == Outcome::Ok && sample.ended >= from
    });
    well.map(|sample| sample.ended).min()
}

/// Writes of this load which a server ran although they were asked for after `evidence`: not those that had long been on their way.
pub fn handed_after(monitor: &Monitor, report: &Report, evidence: Instant) -> Vec<String> {
    let mut strayed = Vec::new();
    for write in monitor.writes_since(evidence) {
        let nth = write
            .first
            .rsplit(':')
            .next()
            .and_then(|pair| pair.parse::<usize>().ok());
        let asked = nth.and_then(|pair| report.samples().get(pair * 2));
        if asked.is_some_and(|asked| asked.scheduled > evidence) && !is_replicated(&write.client) {
            strayed.push(format!(
                "{} {} from {}",
                write.name, write.first, write.client
            ));
        }
    }
    strayed
}

/// Once it is a replica the old primary runs what the new one sends it, from an address at which nobody dials.
fn is_replicated(client: &str) -> bool {
    !client.starts_with("127.0.0.1:")
}

/// The slowest but for a tenth (nearest rank), and the slowest.
pub fn p90_and_max(times: &mut [Duration]) -> (Duration, Duration) {
    times.sort_unstable();
    (
        times[(times.len() * 90).div_ceil(100) - 1],
        times[times.len() - 1],
    )
}

/// The class and words of an error, as a reader of logs sees them.
pub fn told(error: &redis::RedisError) -> String {
    match Error::find_in(error) {
        Some(ours) => format!("{} · {} · {ours}", ours.kind().as_str(), ours.phase()),
        None => format!("redis · {error}"),
    }
}

/// One read, and what came of it.
pub async fn ask(client: &Client) -> Result<Option<String>, redis::RedisError> {
    redis::cmd("GET")
        .arg("canary-asked")
        .query_async(&mut client.clone())
        .await
}
