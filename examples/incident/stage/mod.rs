//! The scene: Redis and whatever tells where it is, two address ranges before all of it, and the DNS between them.
//!
//! Owns the servers, the proxies and the name server. Promises that every contender meets the same fault at the same
//! moment, without root: all of it is loopback. Leaves time to [`super::timeline`]. Fails with a [`LabError`]. Next:
//! [`single`] for one Redis, [`pods`] for three with Sentinels.

mod fakes;
mod pods;
mod single;

use std::net::{IpAddr, SocketAddr};

use holdfast_lab::{Answer, Dns, LabError};
use tokio::time::Instant;

use self::pods::Pods;
use self::single::Single;
use crate::options::Choice;
use crate::story::{Ending, Fault, Scenario, Story};

/// Everything outside the clients.
pub struct Stage {
    pub story: Story,
    pub dns: Dns,
    scene: Scene,
    /// When it began.
    fell: Option<Instant>,
    /// Each contender's names, so that their lookups can be told apart, and the pod that each leads to.
    names: Vec<(String, usize)>,
}

enum Scene {
    Single(Single),
    Pods(Pods),
}

impl Stage {
    /// Starts it all; every name leads to the old range.
    pub async fn raise(story: Story, choice: Choice) -> Result<Self, LabError> {
        let scene = match story.scenario {
            Scenario::Move => Scene::Single(Single::start(choice).await?),
            Scenario::Sentinel => Scene::Pods(Pods::start(choice).await?),
        };
        let mut names = Vec::new();
        for tag in TAGS {
            names.extend((0..scene.ports().len()).map(|nth| (name(story.scenario, tag, nth), nth)));
        }
        let stage = Self {
            story,
            dns: Dns::start().await?,
            scene,
            fell: None,
            names,
        };
        tell(&stage.dns, &stage.names, &stage.scene.addresses());
        Ok(stage)
    }

    /// What was named by `tag`: the Redis, or each Sentinel; with its port, which is the same in both ranges.
    pub fn named(&self, tag: &str) -> Vec<(String, u16)> {
        let ports = self.scene.ports().into_iter().enumerate();
        let named = ports.map(|(nth, port)| (name(self.story.scenario, tag, nth), port));
        named.collect()
    }

    /// The fault begins. In the incident the old range falls silent: no SYN is answered, no open connection is reset, nothing
    /// comes back; and the name server falls silent too.
    pub fn fall(&mut self) {
        self.fell = Some(Instant::now());
        if self.story.fault == Fault::Incident {
            self.dns_all(|_| Answer::Silent);
        }
        match &mut self.scene {
            Scene::Single(single) => single.fall(self.story.fault),
            Scene::Pods(pods) if self.story.fault == Fault::Failover => pods.fall_over(),
            Scene::Pods(pods) => pods.fall(),
        }
    }

    /// Everything is in the new range, and nobody knows.
    pub async fn relocate(&mut self) -> Result<(), LabError> {
        match &mut self.scene {
            Scene::Pods(pods) if self.story.fault == Fault::Incident => pods.relocate().await,
            _ => Ok(()),
        }
    }

    /// The name server answers that it failed.
    pub fn dns_servfail(&self) {
        self.dns_all(|_| Answer::ServFail);
    }

    /// Ends it, and gives the instant from which on Redis could be reached by whoever knew.
    pub async fn end(&mut self) -> Result<Instant, LabError> {
        let Self {
            story,
            dns,
            scene,
            fell,
            names,
        } = self;
        match scene {
            Scene::Single(single) if story.fault != Fault::Incident => {
                Ok(single.end(story.fault, *fell))
            }
            Scene::Pods(pods) if story.fault == Fault::Failover => pods.promoted().await,
            Scene::Single(single) => {
                if story.ending == Ending::RolledBack {
                    single.roll_back();
                }
                tell(dns, names, &[single.addr().ip()]);
                Ok(Instant::now())
            }
            Scene::Pods(pods) => {
                pods.end(story.ending, |addresses| tell(dns, names, addresses))
                    .await
            }
        }
    }

    fn dns_all(&self, answer: impl Fn(usize) -> Answer) {
        for (name, nth) in &self.names {
            self.dns.set(name, answer(*nth));
        }
    }

    /// Where the Redis that takes writes is reached, now.
    pub fn addr(&self) -> SocketAddr {
        match &self.scene {
            Scene::Single(single) => single.addr(),
            Scene::Pods(pods) => pods.primary(),
        }
    }

    /// How often a probe has killed a Sentinel.
    pub fn kills(&self) -> usize {
        match &self.scene {
            Scene::Single(_) => 0,
            Scene::Pods(pods) => pods.kills(),
        }
    }

    /// Such as `valkey 9.1.2`.
    pub fn server(&self) -> String {
        match &self.scene {
            Scene::Single(single) => single.server(),
            Scene::Pods(pods) => pods.server(),
        }
    }

    /// The same, in words.
    pub fn server_in_words(&self) -> String {
        let server = self.server();
        match (&self.scene, server == EMBEDDED) {
            (Scene::Single(_), true) => {
                "the embedded server (inside this process; --servers real takes a real one)".into()
            }
            (Scene::Single(_), false) => format!("{server} (a real server process)"),
            (Scene::Pods(_), true) => {
                "the embedded server and fake Sentinels (inside this process; --servers real takes real ones)"
                    .into()
            }
            (Scene::Pods(_), false) => {
                format!("{server} (six real server processes: three Redis, three Sentinels)")
            }
        }
    }
}

impl Scene {
    /// Of all that has a name.
    fn ports(&self) -> Vec<u16> {
        match self {
            Self::Single(single) => vec![single.addr().port()],
            Self::Pods(pods) => pods.sentinels().iter().map(SocketAddr::port).collect(),
        }
    }

    /// Where the names should lead.
    fn addresses(&self) -> Vec<IpAddr> {
        match self {
            Self::Single(single) => vec![single.addr().ip()],
            Self::Pods(pods) => pods.addresses(),
        }
    }
}

/// The name server tells where each name leads.
fn tell(dns: &Dns, names: &[(String, usize)], addresses: &[IpAddr]) {
    for (name, nth) in names {
        let address = addresses.get(*nth);
        dns.set(name, Answer::addrs(address.copied(), TTL_SECONDS));
    }
}

fn name(scenario: Scenario, tag: &str, nth: usize) -> String {
    match scenario {
        Scenario::Move => format!("redis.{tag}.lab"),
        Scenario::Sentinel => format!("sentinel-{nth}.{tag}.lab"),
    }
}

/// Who asks: the part of a name that tells contenders apart.
pub const SHARED: &str = "shared";
pub const POOL: &str = "pool";
pub const CAREFUL: &str = "careful";
pub const OURS: &str = "holdfast";
const TAGS: [&str; 4] = [SHARED, POOL, CAREFUL, OURS];

/// What stands for a server where none is real.
pub const EMBEDDED: &str = "embedded";
/// What cluster DNS servers commonly give.
const TTL_SECONDS: u32 = 5;
