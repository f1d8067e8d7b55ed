//! Three Redis and three Sentinels, each with a probe that kills and restarts it, before all of them two address ranges.
//!
//! Owns the set, the probes, and what a name server that fails does to Sentinels: while it fails they hang in a lookup,
//! are killed, and the next process begins with the same lookup. Promises that each fault is met by all at once. Sentinels
//! name the primary by its address, as they do unless told otherwise; they themselves are known by name. Leaves DNS to
//! [`super`]. Fails with a [`LabError`]. Next: [`fakes`](super::fakes) for where no real server is.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use holdfast_lab::sentinel::{Liveness, Member, Probe, Promotion};
use holdfast_lab::task::{Owned, own};
use holdfast_lab::{LabError, Mode, SentinelSet, Servers};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use super::EMBEDDED;
use super::fakes::Fakes;
use crate::options::Choice;
use crate::story::Ending;

pub struct Pods {
    world: World,
    probes: Vec<Liveness>,
    /// Killed by probes that are no more.
    killed: usize,
    hang: Option<Owned>,
    promotion: Option<Promotion>,
}

enum World {
    Real(SentinelSet),
    Embedded(Fakes),
}

impl Pods {
    pub async fn start(choice: Choice) -> Result<Self, LabError> {
        let mut pods = Self {
            world: World::start(choice).await?,
            probes: Vec::new(),
            killed: 0,
            hang: None,
            promotion: None,
        };
        pods.watch();
        Ok(pods)
    }

    /// The old range is a black hole, and Sentinels hang.
    pub fn fall(&mut self) {
        match &self.world {
            World::Real(set) => {
                for one in everything(set) {
                    one.proxy().set(Mode::Blackhole);
                }
            }
            World::Embedded(fakes) => fakes.fall(),
        }
        self.hang = Some(self.world.hang());
    }

    /// The primary is a black hole, and nothing else is.
    pub fn fall_over(&mut self) {
        match &self.world {
            World::Real(set) => {
                let replicas = set.nodes().iter().skip(1);
                let replicas = replicas.map(|one| one.server().addr());
                self.promotion = Some(Promotion::watch(replicas));
                set.node(0).proxy().set(Mode::Blackhole);
            }
            World::Embedded(fakes) => fakes.fall(),
        }
    }

    /// When a replica was promoted.
    pub async fn promoted(&mut self) -> Result<Instant, LabError> {
        let nobody = || LabError::new("no replica was promoted");
        let watch = self.promotion.as_mut().ok_or_else(nobody)?;
        let (_, at) = watch.within(PATIENCE).await.ok_or_else(nobody)?;
        Ok(at)
    }

    /// Every pod is in the new range; probes of another node watch it there.
    pub async fn relocate(&mut self) -> Result<(), LabError> {
        self.unwatch();
        self.hang = None;
        match &mut self.world {
            World::Real(set) => {
                let moves = everything(set)
                    .map(|one| async move { one.readdress(holdfast_lab::ip()).await });
                all(moves).await?;
            }
            World::Embedded(fakes) => fakes.relocate().await?,
        }
        self.hang = Some(self.world.hang());
        self.watch();
        Ok(())
    }

    /// Sentinels that start now find their primary. Gives the instant from which on it can be reached.
    pub async fn end(
        &mut self,
        ending: Ending,
        tell_dns: impl Fn(&[IpAddr]),
    ) -> Result<Instant, LabError> {
        self.unwatch();
        self.hang = None;
        let mut reachable = None;
        if ending == Ending::RolledBack {
            self.world.step_back().await?;
            tell_dns(&self.addresses());
            reachable = Some(Instant::now());
        }
        self.world.begin_anew().await?;
        tell_dns(&self.addresses());
        let reachable = reachable.unwrap_or_else(Instant::now);
        self.watch();
        Ok(reachable)
    }

    pub fn primary(&self) -> SocketAddr {
        match &self.world {
            World::Real(set) => set.node(0).addr(),
            World::Embedded(fakes) => fakes.primary(),
        }
    }

    /// Where they are now.
    pub fn sentinels(&self) -> Vec<SocketAddr> {
        match &self.world {
            World::Real(set) => set.sentinels().iter().map(|one| one.addr()).collect(),
            World::Embedded(fakes) => fakes.sentinels(),
        }
    }

    pub fn addresses(&self) -> Vec<IpAddr> {
        self.sentinels().iter().map(SocketAddr::ip).collect()
    }

    pub fn kills(&self) -> usize {
        self.killed + counted(&self.probes)
    }

    pub fn server(&self) -> String {
        match &self.world {
            World::Real(set) => {
                let server = set.node(0).server();
                format!("{} {}", server.kind(), server.version())
            }
            World::Embedded(_) => EMBEDDED.to_owned(),
        }
    }

    fn watch(&mut self) {
        self.probes = match &self.world {
            World::Real(set) => {
                // Of a Redis nothing is asked that a busy machine could fail.
                let nodes = set
                    .nodes()
                    .iter()
                    .map(|one| Liveness::of(one, Probe::default()));
                let sentinels = set.sentinels().iter().map(|one| Liveness::of(one, PROBE));
                sentinels.chain(nodes).collect()
            }
            World::Embedded(fakes) => fakes.watch(PROBE),
        };
    }

    fn unwatch(&mut self) {
        self.killed += counted(&self.probes);
        self.probes.clear();
    }
}

/// Kills of Sentinels.
fn counted(probes: &[Liveness]) -> usize {
    probes
        .iter()
        .take(SENTINELS)
        .map(|probe| probe.kills().len())
        .sum()
}

impl World {
    async fn start(choice: Choice) -> Result<Self, LabError> {
        let real = match choice {
            Choice::Any => !Servers::find_all().is_empty(),
            Choice::Real => true,
            Choice::Embedded => false,
        };
        if !real {
            return Ok(Self::Embedded(Fakes::start().await?));
        }
        Ok(Self::Real(
            SentinelSet::builder().replicas(2).start().await?,
        ))
    }

    /// Freezes Sentinels, and each that is started in their place, until the handle is dropped.
    fn hang(&self) -> Owned {
        let freeze: Box<dyn Fn() + Send + Sync> = match self {
            Self::Real(set) => {
                let them: Vec<Arc<Member>> = set.sentinels().to_vec();
                Box::new(move || them.iter().for_each(|one| one.freeze()))
            }
            Self::Embedded(fakes) => fakes.freezer(),
        };
        freeze();
        own(async move {
            let mut tick = interval(Duration::from_millis(10));
            loop {
                tick.tick().await;
                freeze();
            }
        })
    }

    /// Everything is in the old range, which carries again. Connections that were open to it are reset: whoever is there
    /// now has never heard of them.
    async fn step_back(&mut self) -> Result<(), LabError> {
        match self {
            Self::Real(set) => {
                all(everything(set).map(|one| async move { one.step_back().await })).await?;
                for one in everything(set) {
                    one.proxy().set_for_old(Mode::Reset);
                    one.proxy().set_for_new(Mode::Pass);
                }
                Ok(())
            }
            Self::Embedded(fakes) => {
                fakes.step_back();
                Ok(())
            }
        }
    }

    /// The script that writes a Sentinel's first configuration has found the primary; so has that of the replicas.
    async fn begin_anew(&self) -> Result<(), LabError> {
        let set = match self {
            Self::Real(set) => set,
            Self::Embedded(fakes) => return fakes.begin_anew().await,
        };
        let primary = Arc::clone(set.node(0));
        let at = primary.addr();
        let (ip, port) = (at.ip().to_string(), at.port().to_string());
        for replica in set.nodes().iter().skip(1) {
            SentinelSet::tell(replica, &["REPLICAOF", &ip, &port]).await?;
        }
        let starts = set.sentinels().iter().map(Arc::clone).map(|one| {
            let primary = Arc::clone(&primary);
            async move { one.wipe(&primary).await }
        });
        all(starts).await
    }
}

fn everything(set: &SentinelSet) -> impl Iterator<Item = Arc<Member>> {
    set.nodes().iter().chain(set.sentinels()).map(Arc::clone)
}

/// Does all of it at once.
async fn all<F>(work: impl Iterator<Item = F>) -> Result<(), LabError>
where
    F: Future<Output = Result<(), LabError>> + Send + 'static,
{
    let mut doing: JoinSet<_> = work.collect();
    while let Some(done) = doing.join_next().await {
        done.map_err(|error| LabError::new("a pod could not be moved").because(error))??;
    }
    Ok(())
}

/// A kubelet in a hurry: a second of silence, and the outage sees several lives.
const PROBE: Probe = Probe {
    period: Duration::from_millis(500),
    timeout: Duration::from_millis(500),
    failures: 2,
    pause: Duration::from_millis(500),
};
pub(super) const SENTINELS: usize = 3;
/// Sentinels that tie begin anew after twice their `failover-timeout`.
const PATIENCE: Duration = Duration::from_secs(20);
