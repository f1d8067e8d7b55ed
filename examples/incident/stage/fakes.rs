//! The same set where no real server is: embedded servers, fake Sentinels, and proxies before them.
//!
//! Owns all of it. Promises what [`super::pods`] asks for, with Sentinels that say what they are told to. Fails with a
//! [`LabError`] when an address cannot be had.

use std::net::SocketAddr;
use std::sync::Arc;

use holdfast_lab::sentinel::{Container, FakePod, Liveness, Probe, View};
use holdfast_lab::{Embedded, LabError, Mode, Proxy};

use super::pods::SENTINELS;
use crate::contenders::MASTER;

pub struct Fakes {
    _redis: Vec<Embedded>,
    sentinels: Vec<Arc<FakePod>>,
    /// Before each Redis, then before each Sentinel.
    fronts: Vec<Front>,
    moved: bool,
}

/// One pod's address in each range.
struct Front {
    old: Proxy,
    new: Option<Proxy>,
    process: SocketAddr,
}

impl Fakes {
    pub async fn start() -> Result<Self, LabError> {
        let mut redis = vec![Embedded::start().await?];
        let mut fronts = Vec::new();
        for nth in 0..REDIS {
            if let (1.., Some(primary)) = (nth, fronts.first().map(Front::old)) {
                redis.push(Embedded::start_replica(primary).await?);
            }
            let process = redis.get(nth).map(Embedded::addr);
            fronts.push(Front::before(process.ok_or_else(missing)?).await?);
        }
        let mut sentinels = Vec::new();
        for _ in 0..SENTINELS {
            let nobody = View::of(MASTER, "127.0.0.1", 1);
            let one = FakePod::start(nobody).await?;
            fronts.push(Front::before(one.addr()).await?);
            sentinels.push(Arc::new(one));
        }
        let fakes = Self {
            _redis: redis,
            sentinels,
            fronts,
            moved: false,
        };
        fakes.begin_anew().await?;
        Ok(fakes)
    }

    pub fn fall(&self) {
        for front in &self.fronts {
            front.old.set(Mode::Blackhole);
        }
    }

    pub async fn relocate(&mut self) -> Result<(), LabError> {
        for front in &mut self.fronts {
            let at = SocketAddr::from((holdfast_lab::ip(), front.old().port()));
            front.new = Some(Proxy::start_on(at, front.process).await?);
        }
        self.moved = true;
        self.begin_anew().await
    }

    pub fn step_back(&mut self) {
        for front in &self.fronts {
            if let Some(new) = &front.new {
                new.set(Mode::Blackhole);
            }
            front.old.set_for_old(Mode::Reset);
            front.old.set_for_new(Mode::Pass);
        }
        self.moved = false;
    }

    /// Starts Sentinels that know where everything is now.
    pub async fn begin_anew(&self) -> Result<(), LabError> {
        let at = |nth| self.at(nth).map(|at| (at.ip().to_string(), at.port()));
        for (nth, one) in self.sentinels.iter().enumerate() {
            let (host, port) = at(0).ok_or_else(missing)?;
            let mut view = View::of(MASTER, host, port);
            view.replicas = (1..REDIS)
                .filter_map(at)
                .map(|(host, port)| (host, port, "slave".to_owned()))
                .collect();
            view.others = (REDIS..REDIS + SENTINELS)
                .filter(|other| *other != REDIS + nth)
                .filter_map(at)
                .collect();
            one.will_believe(view);
            one.launch().await;
        }
        Ok(())
    }

    pub fn primary(&self) -> SocketAddr {
        self.at(0).unwrap_or_else(|| SocketAddr::from(([0; 4], 0)))
    }

    pub fn sentinels(&self) -> Vec<SocketAddr> {
        (REDIS..REDIS + SENTINELS)
            .filter_map(|nth| self.at(nth))
            .collect()
    }

    pub fn freezer(&self) -> Box<dyn Fn() + Send + Sync> {
        let them = self.sentinels.clone();
        Box::new(move || them.iter().for_each(|one| one.freeze()))
    }

    /// Probes of the Sentinels: an embedded Redis cannot die alone.
    pub fn watch(&self, probe: Probe) -> Vec<Liveness> {
        let them = self.sentinels.iter();
        them.map(|one| Liveness::of(one, probe)).collect()
    }

    fn at(&self, nth: usize) -> Option<SocketAddr> {
        let front = self.fronts.get(nth)?;
        match (&front.new, self.moved) {
            (Some(new), true) => Some(new.addr()),
            _ => Some(front.old()),
        }
    }
}

impl Front {
    async fn before(process: SocketAddr) -> Result<Self, LabError> {
        Ok(Self {
            old: Proxy::start(process).await?,
            new: None,
            process,
        })
    }

    fn old(&self) -> SocketAddr {
        self.old.addr()
    }
}

fn missing() -> LabError {
    LabError::new("a pod is missing")
}

const REDIS: usize = 3;
