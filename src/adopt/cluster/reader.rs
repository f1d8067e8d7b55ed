//! Reads the map of slots in the background, and notices a connection that answers nobody any more.
//!
//! Owns [`reading`], its pace, and [`Silence`], pure. Promises: each question has its deadline; a connection is given up only where it has
//! answered nothing for [`STUCK_AFTER`], whoever was asked for, while one of those nodes is at home. Leaves the map and the connection to
//! [`nodes`](super::nodes), knocking to [`knock`](super::knock). Cannot fail: who does not answer is asked again.
//!
//! `redis` 1.8 polls nothing but the reading of its own map while it does that, for which it needs a lock; since `tokio` 1.54 a call whose
//! task has used up its turn may hold that lock already, and is never polled again. Then nobody is answered for good. Nor is anybody
//! whose connection was made in a runtime that has ended.

use std::{sync::Weak, time::Duration};

use redis::{
    ErrorKind, RedisResult, Value,
    cluster_async::ClusterConnection,
    cluster_routing::{RoutingInfo, SingleNodeRoutingInfo},
};
use tokio::time::{Instant, timeout};

use super::{
    knock::Knocker,
    nodes::Nodes,
    probe::by_slot,
    slots::{Primary, Slots},
};
use crate::task::Kept;

/// How often it is looked whether the map should be read.
const TICK: Duration = Duration::from_secs(1);
/// While no circuit is open the map is read once in so many ticks: `redis` follows what moves by itself, we must only know where it went.
const CALM: u32 = 15;
/// One node has so long to answer, and so many are asked in one turn: the one that `redis` draws may be the silent one.
const TOLD_WITHIN: Duration = Duration::from_millis(500);
const ASKED: usize = 3;
/// Longer than `redis` reads its own map with the timeouts that [`ClusterGuard`](super::ClusterGuard) asks for.
const STUCK_AFTER: Duration = Duration::from_secs(3);
/// A connection has so long before it is given up too.
const RENEWED_AFTER: Duration = Duration::from_secs(10);
/// Time to make another: its own timeouts hold for each node.
const MADE_WITHIN: Duration = Duration::from_secs(5);

/// What was heard of the connection.
enum Heard {
    Map(Slots),
    Words,
    Nothing,
}

/// Since when nothing was heard.
#[derive(Debug, Default)]
struct Silence {
    since: Option<Instant>,
    /// When it was said, or done, that the connection is stuck.
    told: Option<Instant>,
}

/// What a silence calls for.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Wait,
    /// It has lasted too long, and if somebody is at home the connection is at fault.
    Suspect,
}

impl Silence {
    fn is_on(&self) -> bool {
        self.since.is_some()
    }

    fn on_words(&mut self) {
        self.since = None;
    }

    /// Nothing was heard since `asked`.
    fn on_silence(&mut self, asked: Instant, now: Instant) -> Verdict {
        let since = *self.since.get_or_insert(asked);
        let is_told = self
            .told
            .is_some_and(|told| now.saturating_duration_since(told) < RENEWED_AFTER);
        if is_told || now.saturating_duration_since(since) < STUCK_AFTER {
            Verdict::Wait
        } else {
            Verdict::Suspect
        }
    }

    fn on_told(&mut self, now: Instant) {
        *self = Self {
            since: None,
            told: Some(now),
        };
    }
}

/// Reads the map, at once and then as often as there is need. Holds the nodes for moments only.
pub(super) async fn reading(weak: Weak<Nodes>, _kept: Kept) {
    let mut ticks = CALM;
    let mut silence = Silence::default();
    loop {
        let asked = Instant::now();
        let Some(held) = weak.upgrade() else { return };
        let is_due = silence.is_on() || ticks >= CALM || held.should_be_read();
        let (connection, doubted) = (is_due.then(|| held.connection()), held.doubted());
        drop(held);
        ticks += 1;
        if let Some(connection) = connection {
            match read(connection).await {
                Heard::Map(slots) => {
                    let Some(nodes) = weak.upgrade() else { return };
                    nodes.adopt(slots);
                    ticks = 0;
                    silence.on_words();
                    let is_heard = nodes.lost.is_heard();
                    drop(nodes);
                    if !is_heard {
                        learn_to_knock(&weak).await;
                    }
                }
                Heard::Words => silence.on_words(),
                Heard::Nothing => {
                    let verdict = silence.on_silence(asked, Instant::now());
                    if verdict == Verdict::Suspect && is_stuck(&weak).await {
                        renew(&weak).await;
                        silence.on_told(Instant::now());
                    }
                }
            }
        }
        // Apart from those of other processes.
        let tick = TICK.mul_f64(0.8 + 0.4 * fastrand::f64());
        // In a silence the questions follow each other: each takes its own time, unless it fails at once.
        let gap = if silence.is_on() {
            tick.saturating_sub(asked.elapsed()).max(TICK / 10)
        } else {
            tick
        };
        if timeout(gap, doubted.notified()).await.is_ok() {
            ticks = CALM;
        }
    }
}

/// Whether the names of the nodes are addresses that we reach: else a knock that is not answered says nothing.
async fn learn_to_knock(nodes: &Weak<Nodes>) {
    let some = nodes.upgrade().map(|nodes| nodes.some(1));
    let address = some.and_then(|some| some.first()?.address);
    if let Some(address) = address
        && Knocker::default().knock(address).await
        && let Some(nodes) = nodes.upgrade()
    {
        nodes.lost.hear();
    }
}

async fn read(mut connection: ClusterConnection) -> Heard {
    let mut heard = Heard::Nothing;
    for _ in 0..ASKED {
        let mut cmd = redis::cmd("CLUSTER");
        let anywhere = RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random);
        let told = connection.route_command(cmd.arg("SLOTS").clone(), anywhere);
        let told = timeout(TOLD_WITHIN, told).await;
        if let Ok(Ok(reply)) = &told
            && let Some(slots) = Slots::parse(reply)
        {
            return Heard::Map(slots);
        }
        if told.is_ok_and(|told| is_word(&told)) {
            heard = Heard::Words;
        }
    }
    heard
}

/// Whether somebody has spoken: a node, or `redis`, that it has a connection to none. Time that passed says nothing, nor does a lost
/// connection: where its own task has ended, `redis` calls that one too.
fn is_word(told: &RedisResult<Value>) -> bool {
    told.as_ref().err().is_none_or(|error| {
        error.code().is_some() || error.kind() == ErrorKind::ClusterConnectionNotFound
    })
}

/// Whether a node is at home, and none of those that are is answered through the connection.
async fn is_stuck(nodes: &Weak<Nodes>) -> bool {
    let Some(held) = nodes.upgrade() else {
        return false;
    };
    let (some, mut connection) = (held.some(ASKED), held.connection());
    drop(held);
    let mut is_home = false;
    for Primary { name, address, .. } in some {
        let Some(address) = address else { continue };
        if !Knocker::default().knock(address).await {
            continue;
        }
        is_home = true;
        let slot = nodes.upgrade().and_then(|nodes| nodes.slot_of(&name, 0));
        let Some(slot) = slot else { continue };
        let id = redis::cmd("CLUSTER").arg("MYID").clone();
        let told = timeout(TOLD_WITHIN, by_slot(&mut connection, &id, slot)).await;
        if told.is_ok_and(|told| is_word(&told)) {
            return false;
        }
    }
    is_home
}

/// Puts another connection in the place of one that is stuck, where one can be made.
async fn renew(nodes: &Weak<Nodes>) {
    let Some(held) = nodes.upgrade() else { return };
    let client = held.client();
    if client.is_none() {
        held.tell_stuck(false);
    }
    drop(held);
    let Some(client) = client else { return };
    let made = timeout(MADE_WITHIN, client.get_async_connection()).await;
    if let Some(nodes) = nodes.upgrade() {
        nodes.tell_stuck(made.as_ref().is_ok_and(Result::is_ok));
        if let Ok(Ok(connection)) = made {
            nodes.renew(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_is_no_word() {
        let io = |kind| Err(redis::RedisError::from(std::io::Error::from(kind)));
        let of = |kind| Err((kind, "so").into());
        for (told, expected) in [
            (Ok(Value::Nil), true),
            (
                redis::parse_redis_value(b"-CLUSTERDOWN so\r\n").and_then(Value::extract_error),
                true,
            ),
            (of(ErrorKind::ClusterConnectionNotFound), true),
            (io(std::io::ErrorKind::TimedOut), false),
            (io(std::io::ErrorKind::BrokenPipe), false),
            (io(std::io::ErrorKind::ConnectionReset), false),
            (of(ErrorKind::Client), false),
        ] {
            assert_eq!(is_word(&told), expected, "{told:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_suspected_after_a_long_silence_and_told_of_seldom() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        let half = STUCK_AFTER / 2;
        assert_eq!(silence.on_silence(start, start + half), Verdict::Wait);
        assert!(silence.is_on());
        silence.on_words();
        assert!(!silence.is_on());
        assert_eq!(
            silence.on_silence(start + half, start + STUCK_AFTER),
            Verdict::Wait,
            "another silence"
        );
        let stuck = start + half + STUCK_AFTER;
        assert_eq!(silence.on_silence(stuck, stuck), Verdict::Suspect);
        silence.on_told(stuck);
        let soon = stuck + STUCK_AFTER;
        assert_eq!(silence.on_silence(stuck, soon), Verdict::Wait);
        let late = stuck + RENEWED_AFTER;
        assert_eq!(silence.on_silence(soon, late), Verdict::Suspect);
    }
}
