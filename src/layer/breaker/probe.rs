//! How an open circuit finds out that the endpoint is back.
//!
//! Owns [`Probe`]. Promises: each try is bounded in time, and there is one at a time. Leaves when to try to the circuit. Fails never: a probe
//! that fails is an answer.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tower::Service;

use super::judge::is_answer;
use crate::{Error, Reply, Request, deadline::Deadline};

pub(super) type Probing = Pin<Box<dyn Future<Output = bool> + Send>>;
type ProbeFn = Arc<dyn Fn() -> Probing + Send + Sync>;
type DoubtFn = Arc<dyn Fn(Duration) -> Probing + Send + Sync>;

/// The tries of one circuit, each bounded.
#[derive(Clone)]
pub(super) struct Tries {
    probe: ProbeFn,
    /// Whether an endpoint that is in doubt is there, or nobody can say; else the probe tells.
    doubt: Option<DoubtFn>,
    /// What the probe's owner gave each of them: nobody else knows better.
    given: Option<Duration>,
}

impl Tries {
    pub(super) fn once(&self) -> Probing {
        (self.probe)()
    }

    /// The one that is asked while the circuit is closed, in about the `usual` time.
    pub(super) fn in_doubt(&self, usual: Duration) -> Probing {
        let within = self.given.unwrap_or(usual);
        match &self.doubt {
            Some(doubt) => doubt(within),
            None => bounded(self.once(), within),
        }
    }
}

fn bounded(tried: Probing, within: Duration) -> Probing {
    Box::pin(async move { tokio::time::timeout(within, tried).await.unwrap_or(false) })
}

/// What an open circuit tries, over and over, until it works: no user's call is ever the guinea pig.
///
/// ```
/// use redis_holdfast::{Request, layer::Probe, redis};
/// use std::time::Duration;
///
/// let usual = Probe::ping().within(Duration::from_millis(100));
/// let command = Probe::request(Request::from(redis::cmd("EXISTS").arg("canary")));
/// let other = Probe::with(|| async { std::fs::exists("/run/redis-is-back").unwrap_or(false) });
/// # let _ = (usual, command, other);
/// ```
#[derive(Clone)]
pub struct Probe {
    kind: Kind,
    within: Option<Duration>,
}

#[derive(Clone)]
enum Kind {
    Request(Request),
    Custom(ProbeFn),
}

/// As long as a call may take by default.
const WITHIN: Duration = crate::config::defaults::CALL_TIMEOUT;

impl Probe {
    /// A `PING` through a clone of the service below the breaker.
    #[must_use]
    pub fn ping() -> Self {
        Self::request(Request::from(redis::cmd("PING")))
    }

    /// This request through a clone of the service below the breaker; any answer will do but those by which a server says that it cannot
    /// serve (`LOADING`, `MASTERDOWN`, `CLUSTERDOWN`, `BUSY`). Choose one without effect.
    #[must_use]
    pub fn request(request: Request) -> Self {
        Self {
            kind: Kind::Request(request),
            within: None,
        }
    }

    /// Whatever `probe` does, for example over a connection of its own: `true` closes the circuit.
    ///
    /// # Cancel safety
    /// A try that takes longer than [`within`](Self::within), or is under way when the circuit is forced or gone, is dropped.
    pub fn with<F, P>(probe: F) -> Self
    where
        F: Fn() -> P + Send + Sync + 'static,
        P: Future<Output = bool> + Send + 'static,
    {
        Self {
            kind: Kind::Custom(Arc::new(move || Box::pin(probe()))),
            within: None,
        }
    }

    /// Longest time of one try. Default 500 ms, and less for the one that is asked while the circuit is still closed: see
    /// [`BreakerLayer`](super::BreakerLayer). A time given here holds for that one too. Any value is taken as it is.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    /// The tries, each bounded, with `inner` for those that go through it.
    pub(super) fn over<S>(&self, inner: S) -> Tries
    where
        S: Service<Request, Response = Reply, Error = Error> + Clone + Send + 'static,
        S::Future: Send + 'static,
    {
        let within = self.longest();
        let probe: ProbeFn = match &self.kind {
            Kind::Custom(probe) => probe.clone(),
            Kind::Request(request) => {
                let (inner, request) = (Mutex::new(inner), request.clone());
                Arc::new(move || {
                    let service = inner.lock().unwrap_or_else(PoisonError::into_inner);
                    let mut service = service.clone();
                    let request = request.clone().with_deadline(Deadline::after(within));
                    Box::pin(async move {
                        let result = service.call(request).await;
                        result.is_ok_and(|reply| is_answer(&reply))
                    })
                })
            }
        };
        self.tries(probe, None)
    }

    /// Tries of another kind, with the time of this one.
    #[cfg(feature = "cluster")]
    pub(super) fn instead<P, D>(
        &self,
        probe: impl Fn() -> P + Send + Sync + 'static,
        doubt: impl Fn(Duration) -> D + Send + Sync + 'static,
    ) -> Tries
    where
        P: Future<Output = bool> + Send + 'static,
        D: Future<Output = bool> + Send + 'static,
    {
        let doubt: DoubtFn = Arc::new(move |within| Box::pin(doubt(within)));
        self.tries(Arc::new(move || Box::pin(probe())), Some(doubt))
    }

    fn longest(&self) -> Duration {
        self.within.unwrap_or(WITHIN)
    }

    fn tries(&self, probe: ProbeFn, doubt: Option<DoubtFn>) -> Tries {
        let within = self.longest();
        Tries {
            probe: Arc::new(move || bounded(probe(), within)),
            doubt,
            given: self.within,
        }
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = match &self.kind {
            Kind::Request(request) => request.command(),
            Kind::Custom(_) => "custom",
        };
        f.debug_struct("Probe")
            .field("command", &command)
            .field("within", &self.longest())
            .finish()
    }
}
