//! How a client fares, for a readiness endpoint and for people.
//!
//! Owns [`Health`], and the cell in which a client keeps it. Promises: reading does no I/O and never waits; watchers hear of changes
//! only; `since` is the moment the *state* began, whatever reasons came and went in it. Leaves judging to the supervisor. Cannot fail.

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::Instant};
use tracing::info;

use crate::{Error, ErrorKind, Phase};

/// How well a client can serve.
///
/// ```
/// use redis_holdfast::{Client, HealthState};
///
/// let client = Client::builder("redis://cache.internal")?.build()?;
/// let (status, word) = match client.health().state() {
///     HealthState::Down => (503, HealthState::Down.as_str()),
///     state => (200, state.as_str()),
/// };
/// assert_eq!((status, word), (503, "down")); // Nothing was ever connected.
/// # Ok::<(), redis_holdfast::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HealthState {
    /// Calls are served, and nothing is wrong.
    Ready,
    /// Calls are served, and something is wrong: the link is silent or being replaced, names are not answered and the last good answer is in
    /// use, or the server does not permit old connections to be fenced off.
    Degraded,
    /// Calls are not served: no connection was made yet, the circuit is open, or the client is shut down.
    Down,
}

impl HealthState {
    /// The state as a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// What a client knows of itself at one moment.
///
/// A *readiness* endpoint may answer by [`is_ready`](Self::is_ready), where a service is of no use without Redis. A *liveness* endpoint
/// must not look here: restarting a process has never brought a Redis back, and there is no `is_live` on purpose.
///
/// ```
/// use redis_holdfast::{Client, HealthState};
///
/// let health = Client::builder("redis://cache.internal")?.build()?.health();
/// let status = if health.is_ready() { 200 } else { 503 };
/// assert_eq!((health.state(), status), (HealthState::Down, 503));
/// println!("{health}"); // down for 0.0s: connecting for the first time (endpoint cache.internal:6379)
///
/// // The same, part by part.
/// assert_eq!((health.reason(), health.endpoint()), ("connecting for the first time", "cache.internal:6379"));
/// assert_eq!((health.kind(), health.phase()), (None, None), "nothing has failed yet");
/// println!("for {:?}, since {:?}", health.lasted(), health.since());
/// # Ok::<(), redis_holdfast::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Health {
    state: HealthState,
    reason: Cow<'static, str>,
    kind: Option<ErrorKind>,
    phase: Option<Phase>,
    endpoint: Arc<str>,
    since: Instant,
    wall: SystemTime,
}

impl Health {
    /// `reason` is one of few fixed sentences: each new one wakes the watchers.
    pub(crate) fn new(
        state: HealthState,
        reason: impl Into<Cow<'static, str>>,
        endpoint: &Arc<str>,
    ) -> Self {
        Self {
            state,
            reason: reason.into(),
            kind: None,
            phase: None,
            endpoint: endpoint.clone(),
            since: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// The health that `error` stands for.
    pub(crate) fn because(state: HealthState, error: &Error, endpoint: &Arc<str>) -> Self {
        Self {
            kind: Some(error.kind()),
            phase: Some(error.phase()),
            ..Self::new(state, error.detail().to_owned(), endpoint)
        }
    }

    /// How well the client can serve.
    #[must_use]
    pub fn state(&self) -> HealthState {
        self.state
    }

    /// Whether calls are served: [`Ready`](HealthState::Ready) or [`Degraded`](HealthState::Degraded).
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state != HealthState::Down
    }

    /// Why, in a few words.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The kind of failure behind it, if one is.
    #[must_use]
    pub fn kind(&self) -> Option<ErrorKind> {
        self.kind
    }

    /// The wait in which it failed.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        self.phase
    }

    /// What it is about, without credentials: `host:port`, the path of a socket, or `sentinel:NAME` of a primary that Sentinels know.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// When the state began, by the wall clock.
    #[must_use]
    pub fn since(&self) -> SystemTime {
        self.wall
    }

    /// How long the state has lasted; the wall clock may jump, this does not.
    #[must_use]
    pub fn lasted(&self) -> Duration {
        self.since.elapsed()
    }

    fn says_the_same(&self, other: &Self) -> bool {
        (self.state, self.kind, self.phase) == (other.state, other.kind, other.phase)
            && self.reason == other.reason
            && self.endpoint == other.endpoint
    }
}

/// One sentence: `down for 3.2s: connection refused (connection_lost, phase connect, endpoint redis:6379)`.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.lasted().as_millis() / 100;
        let (seconds, tenth) = (tenths / 10, tenths % 10);
        write!(f, "{} for {seconds}.{tenth}s: ", self.state.as_str())?;
        write!(f, "{} (", self.reason)?;
        if let Some(kind) = self.kind {
            write!(f, "{}, ", kind.as_str())?;
        }
        if let Some(phase) = self.phase {
            write!(f, "phase {phase}, ")?;
        }
        write!(f, "endpoint {})", self.endpoint)
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("state", &self.state)
            .field("reason", &self.reason)
            .field("kind", &self.kind)
            .field("phase", &self.phase)
            .field("endpoint", &self.endpoint)
            .field("since", &self.wall)
            .finish_non_exhaustive()
    }
}

/// Word of each change of a client's health; from [`Client::watch_health`](crate::Client::watch_health), which has an example.
///
/// ```
/// use redis_holdfast::{Client, ErrorKind};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Nobody listens there.
/// let client = Client::builder("redis://127.0.0.1:1/")?.build()?;
/// let mut watch = client.watch_health();
/// while watch.current().kind().is_none() {
///     watch.changed().await;
/// }
/// assert_eq!(watch.current().kind(), Some(ErrorKind::ConnectionLost));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct HealthWatch(watch::Receiver<Health>);

impl HealthWatch {
    /// The health now.
    #[must_use]
    pub fn current(&self) -> Health {
        self.0.borrow().clone()
    }

    /// Waits for the next change of state or reason; `None` once the client is gone. Changes in quick succession may be told as one.
    ///
    /// # Cancel safety
    /// Nothing is lost: a change that came is told by the next call.
    pub async fn changed(&mut self) -> Option<Health> {
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().clone())
    }
}

/// Where a client keeps its health.
#[derive(Debug)]
pub(crate) struct HealthCell {
    client: Arc<str>,
    health: watch::Sender<Health>,
}

impl HealthCell {
    pub(crate) fn new(client: &Arc<str>, health: Health) -> Self {
        Self {
            client: client.clone(),
            health: watch::Sender::new(health),
        }
    }

    pub(crate) fn current(&self) -> Health {
        self.health.borrow().clone()
    }

    pub(crate) fn watch(&self) -> HealthWatch {
        HealthWatch(self.health.subscribe())
    }

    /// Takes `next` over, and says whether that is news. The same state, reason, kind and phase are not; a new reason in the same state
    /// is, and the state keeps the moment it began.
    pub(crate) fn set(&self, mut next: Health) -> bool {
        let mut moved = None;
        let news = self.health.send_if_modified(|held| {
            if held.says_the_same(&next) {
                return false;
            }
            if held.state == next.state {
                (next.since, next.wall) = (held.since, held.wall);
            } else {
                moved = Some(held.state);
            }
            *held = next.clone();
            true
        });
        if let Some(from) = moved {
            info!(
                target: "redis_holdfast::health",
                client = &*self.client,
                endpoint = next.endpoint(),
                from = from.as_str(),
                to = next.state.as_str(),
                reason = next.reason(),
                kind = next.kind.map(ErrorKind::as_str),
                phase = next.phase.map(Phase::as_str),
                "health changed"
            );
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Arc<str> {
        Arc::from("redis:6379")
    }

    fn down() -> Health {
        let error = Error::new(
            ErrorKind::ConnectionLost,
            Phase::Connect,
            "connection refused",
        );
        Health::because(HealthState::Down, &error, &endpoint())
    }

    fn cell() -> HealthCell {
        let ready = Health::new(HealthState::Ready, "serving", &endpoint());
        HealthCell::new(&Arc::from("test"), ready)
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_news_twice_is_no_news_and_since_is_when_the_state_began() {
        let cell = cell();
        let mut watch = cell.watch();
        assert!(cell.set(down()));
        let since = cell.current().since();
        tokio::time::advance(Duration::from_millis(3_250)).await;
        assert!(!cell.set(down()));
        assert_eq!(
            watch.changed().await.map(|health| health.state()),
            Some(HealthState::Down)
        );
        assert!(
            tokio::time::timeout(Duration::from_secs(1), watch.changed())
                .await
                .is_err()
        );
        assert!(cell.set(Health::new(HealthState::Down, "no word", &endpoint())));
        assert_eq!(
            watch
                .changed()
                .await
                .map(|health| health.reason().to_owned()),
            Some("no word".into())
        );
        assert_eq!(cell.current().since(), since);
        assert_eq!(cell.current().lasted(), Duration::from_millis(4_250));
        assert!(cell.set(Health::new(HealthState::Ready, "serving", &endpoint())));
        assert_eq!(cell.current().lasted(), Duration::ZERO);
        drop(cell);
        assert!(
            watch.changed().await.is_some(),
            "the last word is still told"
        );
        assert!(watch.changed().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn it_reads_as_one_sentence() {
        let down = down();
        tokio::time::advance(Duration::from_millis(3_250)).await;
        assert_eq!(
            down.to_string(),
            "down for 3.2s: connection refused (connection_lost, phase connect, endpoint redis:6379)"
        );
        let ready = Health::new(HealthState::Ready, "serving", &endpoint());
        assert_eq!(
            ready.to_string(),
            "ready for 0.0s: serving (endpoint redis:6379)"
        );
        assert!(ready.is_ready() && !down.is_ready());
        assert!(Health::new(HealthState::Degraded, "dns is silent", &endpoint()).is_ready());
    }
}
