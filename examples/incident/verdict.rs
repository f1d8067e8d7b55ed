//! What the run means: one row of figures per contender, and each promise of ours held against its limit.
//!
//! Owns the arithmetic. Promises that all four are judged by the same rule; the lag measured on this machine is
//! taken off a latency only where a limit is checked, never from what is shown. Pure. Next: [`super::table`],
//! [`super::html`] and [`super::json`], which only show it.

use std::time::Duration;

use holdfast_lab::Outcome;
use holdfast_lab::load::{Lag, Report, Sample};
use tokio::time::Instant;

use crate::contenders::{BUDGET, Contender};
use crate::story::Fault;
use crate::timeline::{RATE, Recording};

/// What one contender's users saw.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: &'static str,
    pub requests: usize,
    pub ok: usize,
    pub failed: usize,
    /// Ended later than the budget and 10 ms, well or not.
    pub over_budget: usize,
    pub wrong: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
    pub peak_outstanding: usize,
    /// Seconds of traffic that failed, were wrong, or came too late.
    pub failed_seconds: f64,
    /// From the onset until the first request was told of a failure; `None` is never.
    pub told: Option<Duration>,
    /// From the onset until no request was left waiting any more, only refused; `None` is never.
    pub refused: Option<Duration>,
    /// From the right DNS answer until 99 % were served to the end; `None` is never.
    pub recovery: Option<Duration>,
    /// Time that requests waited to fail, or to come too late.
    pub in_vain: Duration,
    pub lookups: usize,
}

/// One promise of ours, as far as this scenario shows it.
#[derive(Clone, Debug)]
pub struct Promise {
    pub id: &'static str,
    pub limit: f64,
    /// `None`: it never came to pass.
    pub measured: Option<f64>,
}

impl Row {
    pub fn of(contender: &Contender, report: &Report, run: &Recording) -> Self {
        let spoilt = |sample: &&Sample| sample.outcome != Outcome::Ok || is_late(sample);
        let spoilt: Vec<&Sample> = report.samples().iter().filter(spoilt).collect();
        Self {
            name: contender.name,
            requests: report.total(),
            ok: report.ok(),
            failed: report.failed(),
            over_budget: report.over(BUDGET + GRACE, Lag::Counted),
            wrong: report.wrong(),
            p50: report.percentile(50.0),
            p99: report.percentile(99.0),
            max: report.percentile(100.0),
            peak_outstanding: report.peak_outstanding(),
            failed_seconds: spoilt.len() as f64 / f64::from(RATE),
            told: told_after(report, run),
            refused: refused_after(report, run).filter(|after| *after + WAITS < run.outage()),
            recovery: report
                .recovered_after(run.heal, 0.99)
                .map(|at| at - run.heal),
            in_vain: spoilt.iter().map(|sample| sample.latency()).sum(),
            lookups: contender
                .hosts
                .iter()
                .map(|host| lookups(host, run).len())
                .sum(),
        }
    }
}

impl Promise {
    pub fn held(&self) -> bool {
        self.measured.is_some_and(|measured| measured <= self.limit)
    }

    /// Every promise that this scenario puts to the test.
    pub fn all(fault: Fault, ours: &Contender, report: &Report, run: &Recording) -> Vec<Self> {
        let recovered = report.recovered_after(run.heal, 0.99);
        let recovered = recovered.map(|at| {
            let lag = report.lag().max_between(run.heal, at);
            millis((at - run.heal).saturating_sub(lag))
        });
        let mut all = vec![
            Self::new(
                "P1 calls later than 250 + 10 ms",
                0.0,
                report.over(BUDGET + GRACE, Lag::Forgiven) as f64,
            ),
            Self::new(
                "P2 peak outstanding",
                300.0,
                report.peak_outstanding() as f64,
            ),
            Self::new(
                "P2 a refusal takes (p99), ms",
                1.0,
                millis(refusal_p99(report)),
            ),
            Self::new(
                "P3 calls refused after onset, ms",
                600.0,
                refused_after(report, run).map_or(0.0, millis),
            ),
            Self::new("P5 wrong replies", 0.0, report.wrong() as f64),
            Self {
                id: match fault {
                    Fault::Incident => "P8 P10 99 % ok after DNS is right, ms",
                    Fault::Failover => "P9 99 % ok after the promotion, ms",
                    Fault::DeadLink => "P3 99 % ok after onset, ms",
                    _ => "P10 99 % ok after its end, ms",
                },
                limit: 500.0,
                measured: recovered,
            },
        ];
        if !run.outage().is_zero() {
            all.push(Self::new(
                "P11 lookups of a name a second, from onset to heal",
                2.0,
                lookups_a_second(ours, run),
            ));
        }
        if fault == Fault::DeadLink {
            all.push(Self::new("P4 failed calls", 0.0, report.failed() as f64));
        }
        all
    }

    fn new(id: &'static str, limit: f64, measured: f64) -> Self {
        Self {
            id,
            limit,
            measured: Some(measured),
        }
    }
}

/// Whether users call it late, whatever came of it.
pub fn is_late(sample: &Sample) -> bool {
    sample.latency() > BUDGET + GRACE
}

/// What a request took of its own client, from the instant at which it fell due. Four services share this machine and one runtime: as long
/// as a request's task waited for its first turn, it waited for no client of its own.
fn owed(report: &Report, sample: &Sample) -> Duration {
    let lag = report.lag().max_between(sample.scheduled, sample.ended);
    let turn = sample.started - sample.scheduled;
    sample.latency().saturating_sub(lag.max(turn))
}

/// What a refusal took, at worst in 99 of 100.
fn refusal_p99(report: &Report) -> Duration {
    let refused = Outcome::failed("circuit_open");
    let refused = report
        .samples()
        .iter()
        .filter(|sample| sample.outcome == refused);
    let mut took: Vec<Duration> = refused.map(|sample| owed(report, sample)).collect();
    took.sort_unstable();
    let rank = (took.len() * 99).div_ceil(100);
    took.get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

/// From the onset to the first call since then that was told of a failure.
fn told_after(report: &Report, run: &Recording) -> Option<Duration> {
    let failed = |sample: &&Sample| sample.ended >= run.onset && sample.outcome != Outcome::Ok;
    let first = report.samples().iter().filter(failed);
    let first = first.map(|sample| sample.ended).min();
    first.map(|first| first - run.onset)
}

/// From the onset to the last call of the outage that was left waiting; `None` where nothing kept Redis from serving.
fn refused_after(report: &Report, run: &Recording) -> Option<Duration> {
    if run.outage().is_zero() {
        return None;
    }
    let waited = |sample: &&Sample| {
        (run.onset..run.heal).contains(&sample.scheduled) && owed(report, sample) > AT_ONCE
    };
    let last = report
        .samples()
        .iter()
        .filter(waited)
        .map(|sample| sample.scheduled)
        .max();
    Some(last.map_or(Duration::ZERO, |last| last - run.onset))
}

/// How often the name that was asked for most was asked for while there was no right answer. A refresh that was due before anybody
/// could know is not for the outage's sake.
fn lookups_a_second(contender: &Contender, run: &Recording) -> f64 {
    let within = |host: &String| {
        let at = lookups(host, run).into_iter();
        at.filter(|at| (run.onset + KNOWN..=run.heal).contains(at))
            .count()
    };
    let most = contender.hosts.iter().map(within).max();
    most.unwrap_or_default() as f64 / (run.heal - run.onset).as_secs_f64()
}

/// When a name was asked for. A and AAAA go together: one of them counts.
fn lookups(host: &str, run: &Recording) -> Vec<Instant> {
    let its = run
        .lookups
        .iter()
        .filter(|asked| asked.name == host && asked.kind == "A");
    its.map(|asked| asked.at).collect()
}

pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Promise 1: what a deadline may be missed by.
const GRACE: Duration = Duration::from_millis(10);
/// Whoever still let calls wait this shortly before the end of an outage has never refused.
const WAITS: Duration = Duration::from_millis(500);
/// No silence is known to be an outage sooner.
const KNOWN: Duration = Duration::from_millis(400);
/// A call that took longer was waiting for something.
const AT_ONCE: Duration = Duration::from_millis(20);
