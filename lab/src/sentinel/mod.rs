//! A primary, its replicas and the Sentinels that watch them: real processes, each of which can die, freeze or move.
//!
//! Owns the whole set. Promises, when [`Builder::start`] returns, replicas in step with the primary and Sentinels that
//! know every replica and each other; what a member announces is what its proxy carries, if it has one. Leaves judging
//! to the tests above. Fails with a [`LabError`]; a missing server is a failure where `CI` or
//! `REQUIRE_SERVERS` is set. Next: [`Member`]; [`Promotion`] and [`Monitor`] for the truth about a failover,
//! [`Recorder`] for what Sentinels say of it, [`FakeSentinel`] for what real ones cannot be made to do.

mod builder;
mod fake;
mod liveness;
mod member;
mod monitor;
mod pod;
mod promotion;
mod record;
mod said;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

pub use self::builder::Builder;
pub use self::fake::{FakeSentinel, Mood, View};
pub use self::liveness::{Container, Liveness, Probe};
pub use self::member::Member;
pub use self::monitor::{Monitor, Seen};
pub use self::pod::FakePod;
pub use self::promotion::Promotion;
pub use self::record::{Recorder, Recording};
pub use self::said::{Fields, Known, ask_role, is_primary, sentinel_view};
use crate::LabError;

/// A primary, its replicas, and the Sentinels.
#[derive(Debug)]
pub struct SentinelSet {
    name: String,
    nodes: Vec<Arc<Member>>,
    sentinels: Vec<Arc<Member>>,
}

impl SentinelSet {
    /// One primary, one replica, three Sentinels, unless told otherwise.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The name under which the Sentinels know the primary.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Redis nodes; the first was the primary at the start.
    pub fn nodes(&self) -> &[Arc<Member>] {
        &self.nodes
    }

    /// The Sentinels.
    pub fn sentinels(&self) -> &[Arc<Member>] {
        &self.sentinels
    }

    /// One of the nodes.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn node(&self, nth: usize) -> &Arc<Member> {
        nth_of(&self.nodes, nth)
    }

    /// One of the Sentinels.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn sentinel(&self, nth: usize) -> &Arc<Member> {
        nth_of(&self.sentinels, nth)
    }

    /// `redis+sentinel://…`, with every Sentinel.
    pub fn url(&self) -> String {
        let all: Vec<String> = self.sentinels.iter().map(|one| one.endpoint()).collect();
        format!("redis+sentinel://{}/{}", all.join(","), self.name)
    }

    /// Which node says that it is the primary; the first of them if there are several, `None` if none does.
    pub async fn primary(&self) -> Option<usize> {
        for (nth, node) in self.nodes.iter().enumerate() {
            if is_primary(node.server().addr(), ASK).await {
                return Some(nth);
            }
        }
        None
    }

    /// Waits until every running Sentinel names `nth` and knows `replicas` healthy replicas and the other Sentinels,
    /// and every replica is in step with it. Sentinels that can (7.0 and later) are asked to hurry meanwhile; the next
    /// fault finds them at their usual pace.
    ///
    /// # Errors
    /// After `limit`, with what is still missing.
    pub async fn settled(
        &self,
        nth: usize,
        replicas: usize,
        limit: Duration,
    ) -> Result<(), LabError> {
        let (end, mut hurried) = (Instant::now() + limit, false);
        loop {
            // Not before all agree: one that is hurried sets a promoted replica right again.
            if !hurried && self.all_name(nth).await {
                self.hurry(true).await;
                hurried = true;
            }
            let Some(missing) = self.missing(nth, replicas).await else {
                self.hurry(false).await;
                return Ok(());
            };
            if Instant::now() > end {
                return Err(LabError::new(format!(
                    "not settled within {limit:?}: {missing}"
                )));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every Sentinel is connected to every other: to know one is not yet to reach it, and who reaches none is elected by none.
    ///
    /// # Errors
    /// After `limit`.
    pub(super) async fn linked(&self, limit: Duration) -> Result<(), LabError> {
        let (end, others) = (
            Instant::now() + limit,
            self.sentinels.len().saturating_sub(1),
        );
        for (number, one) in self.sentinels.iter().enumerate() {
            loop {
                let view = sentinel_view(one.server().addr(), &self.name, ASK).await;
                if view.is_some_and(|view| view.linked_sentinels() == others) {
                    break;
                }
                if Instant::now() > end {
                    return Err(LabError::new(format!(
                        "Sentinel {number} is not connected to the others within {limit:?}"
                    )));
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    async fn all_name(&self, nth: usize) -> bool {
        let wanted = self.node(nth).endpoint();
        for one in &self.sentinels {
            let view = sentinel_view(one.server().addr(), &self.name, ASK).await;
            if one.server().is_running() && view.is_none_or(|view| view.addr != wanted) {
                return false;
            }
        }
        true
    }

    /// Sentinels greet each other every 2 s and learn of replicas every 10 s.
    async fn hurry(&self, fast: bool) {
        let (publish, info) = if fast {
            ("100", "100")
        } else {
            ("2000", "10000")
        };
        for one in &self.sentinels {
            let words = [
                "SENTINEL",
                "DEBUG",
                "publish-period",
                publish,
                "info-period",
                info,
            ];
            if one.server().is_running() {
                let _ = one.server().tell(&words).await;
            }
        }
    }

    async fn missing(&self, nth: usize, replicas: usize) -> Option<String> {
        let primary = self.node(nth);
        let at = primary.server().addr();
        let linked = said::linked_replicas(at, ASK).await;
        if linked != Some(replicas) {
            let primary = self.primary().await;
            return Some(format!(
                "{linked:?} of {replicas} replicas are in step with {nth}, {primary:?} says it is the primary"
            ));
        }
        for (number, one) in self.sentinels.iter().enumerate() {
            if !one.server().is_running() {
                continue;
            }
            let view = sentinel_view(one.server().addr(), &self.name, ASK).await;
            let others = self.sentinels.len() - 1;
            let ready = view.as_ref().is_some_and(|view| {
                view.addr == primary.endpoint()
                    && view.master.get("flags") == "master"
                    && view.master.get("num-other-sentinels") == others.to_string()
                    && view.healthy_replicas() == replicas
            });
            if !ready {
                return Some(format!("Sentinel {number} says {view:?}"));
            }
        }
        None
    }

    /// Sends one command to a Sentinel or a node past its proxy, and gives the reply's text.
    ///
    /// # Errors
    /// When nothing comes within five seconds; an error reply is a reply.
    pub async fn tell(member: &Member, words: &[&str]) -> Result<String, LabError> {
        member.server().tell(words).await
    }

    /// The addresses of the nodes' processes, past their proxies.
    pub fn truth(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.server().addr()).collect()
    }
}

fn nth_of(all: &[Arc<Member>], nth: usize) -> &Arc<Member> {
    match all.get(nth) {
        Some(member) => member,
        None => panic!("there are {} of these, no number {nth}", all.len()),
    }
}

/// How long a question of the lab's own may take.
const ASK: Duration = Duration::from_millis(500);
