//! What all links to one endpoint share: their bounds, their beat, and what they tell of each other.
//!
//! Owns [`Pace`]. Promises: what is due once in a while is due for all of them at once; whatever is read with each call is read without a
//! lock. Leaves what follows from it to [`driver`](super::driver) and `channel`. Cannot fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::Value;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use super::{LinkId, silence::Limits};
use crate::{Error, ErrorKind, Phase};

/// The clocks and bounds that all links to one endpoint share.
#[derive(Debug)]
pub(crate) struct Pace {
    pub(crate) endpoint: Arc<str>,
    /// The beat is counted from here.
    born: Instant,
    /// Replies a link may be owed at once, tombstones included.
    pub(crate) max_owed: usize,
    pub(crate) unresponsive_after: Duration,
    pub(crate) detect_within: Duration,
    stall_after_micros: AtomicU64,
    served: AtomicU32,
    /// A server that says it is no primary is not written to any more.
    pub(crate) primary_only: bool,
    disowned: AtomicU64,
    /// A link was told that its server is no primary.
    pub(crate) disowning: Notify,
    pushes: Option<mpsc::Sender<Value>>,
}

impl Pace {
    pub(crate) fn new(
        endpoint: Arc<str>,
        max_owed: usize,
        stall_after: Duration,
        detect_within: Duration,
    ) -> Self {
        Self {
            endpoint,
            born: Instant::now(),
            max_owed,
            unresponsive_after: detect_within * 9 / 20,
            detect_within,
            stall_after_micros: AtomicU64::new(micros(stall_after)),
            served: AtomicU32::new(0),
            primary_only: false,
            disowned: AtomicU64::new(0),
            disowning: Notify::new(),
            pushes: None,
        }
    }

    /// The next beat, one a second, half a second away at least. What is due once in a while is due on a beat: a client that has nothing to do
    /// is woken once for all of it.
    pub(crate) fn next_beat(&self, now: Instant) -> Instant {
        self.beat(now, |since| {
            1 + since.as_secs() + u64::from(since.subsec_millis() >= 500)
        })
    }

    /// When a link that was last heard at `heard`, and is owed nothing, asks for a sign of life: on a beat, one to two seconds later.
    pub(crate) fn ping_at(&self, heard: Instant) -> Instant {
        self.beat(heard, |since| 2 + since.as_secs())
    }

    /// The beat with this number, where `now` is so long since the first. Asked with each reply: without a division.
    fn beat(&self, now: Instant, number: impl FnOnce(Duration) -> u64) -> Instant {
        match now.checked_duration_since(self.born) {
            Some(since) => self.born + Duration::from_secs(number(since)),
            // By the clock of another runtime it is not born yet: no beat is shared.
            None => now + Duration::from_secs(1),
        }
    }

    /// The same, for links that must lead to a primary: one whose server turns out to be a replica begins no more calls.
    pub(crate) fn primary_only(self) -> Self {
        Self {
            primary_only: true,
            ..self
        }
    }

    /// The same, with an ear for push messages. What it has no room for is dropped.
    pub(crate) fn with_pushes(self, pushes: mpsc::Sender<Value>) -> Self {
        Self {
            pushes: Some(pushes),
            ..self
        }
    }

    pub(super) fn pushed(&self, push: Value) {
        if let Some(pushes) = &self.pushes {
            let _ = pushes.try_send(push);
        }
    }

    pub(crate) fn disown(&self, link: LinkId) {
        self.disowned.store(link.0, Ordering::Release);
        self.disowning.notify_one();
    }

    /// The last link whose server said that it is no primary.
    pub(crate) fn disowned(&self) -> Option<LinkId> {
        Some(LinkId(self.disowned.load(Ordering::Acquire))).filter(|id| id.0 > 0)
    }

    /// Silence tolerated before a link is suspect. It grows where probes showed that the endpoint was only slow.
    pub(crate) fn stall_after(&self) -> Duration {
        Duration::from_micros(self.stall_after_micros.load(Ordering::Relaxed))
    }

    pub(crate) fn set_stall_after(&self, stall_after: Duration) {
        self.stall_after_micros
            .store(micros(stall_after), Ordering::Relaxed);
    }

    /// So many more calls got their reply. Told once a turn, not once a call.
    pub(crate) fn serve(&self, calls: u32) {
        self.served.fetch_add(calls, Ordering::Relaxed);
    }

    /// Calls that got their reply since this was last asked.
    pub(crate) fn take_served(&self) -> u32 {
        self.served.swap(0, Ordering::Relaxed)
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            stall_after: self.stall_after(),
            unresponsive_after: self.unresponsive_after,
            detect_within: self.detect_within,
        }
    }

    pub(crate) fn lost(&self, detail: &'static str) -> Error {
        Error::new(ErrorKind::ConnectionLost, Phase::Reply, detail).at(&self.endpoint)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
