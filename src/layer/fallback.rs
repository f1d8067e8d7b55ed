//! What a read means while Redis is away.
//!
//! Owns the answers given in place of Redis'. Promises: only a request without effect is ever answered so; each answer is counted; what
//! the user's function does not answer stays the error that it was. Leaves which reads to the user. Adds no failure.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use redis::Value;
use tower::{Layer, Service};

use super::foreign::Foreign;
use crate::{
    Error, ErrorKind, Reply, Request, config::defaults, request::commands::Effect,
    telemetry::metrics::Metrics,
};

type Answer = Arc<dyn Fn(&Request, &Error) -> Option<Reply> + Send + Sync>;

/// Answers reads that failed. For a cache: what cannot be read is a miss.
///
/// The function sees the request and its error, and gives a reply or `None`. It is never asked for a request that changes anything.
///
/// # Metrics
/// `redis.holdfast.fallbacks`, under [`name`](Self::name). A telemetry layer above counts the call as `ok`.
///
/// ```
/// use redis_holdfast::{Reply, layer::{FallbackLayer, cache_miss}, redis::Value};
///
/// let every_cache_read = FallbackLayer::new(cache_miss).name("cache");
/// let flags_are_off = FallbackLayer::new(|request, error| {
///     let away = error.is_circuit_open() || error.is_timeout();
///     (away && request.command() == "SISMEMBER").then(|| Reply::from(Value::Int(0)))
/// });
/// # let _ = (every_cache_read, flags_are_off);
/// ```
#[derive(Clone)]
pub struct FallbackLayer {
    answer: Answer,
    metrics: Metrics,
}

impl FallbackLayer {
    /// Answers with what `answer` gives.
    pub fn new(answer: impl Fn(&Request, &Error) -> Option<Reply> + Send + Sync + 'static) -> Self {
        Self {
            answer: Arc::new(answer),
            metrics: Metrics::named(&defaults::NAME.into()),
        }
    }

    /// The name it counts under. Default `redis`.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.metrics = Metrics::named(&name.into());
        self
    }

    pub(crate) fn around<S>(self, inner: S) -> Fallback<S> {
        Fallback {
            inner,
            answer: Some(self.answer),
            metrics: self.metrics,
        }
    }
}

/// Reads of a cache that find nothing while Redis is away: `GET`, `HGET` and their like answer nil, `MGET` and `HMGET` a nil for each
/// key, `HGETALL` and `SMEMBERS` nothing at all. For [`FallbackLayer::new`].
///
/// Not answered: anything else; errors that waiting does not heal (`Auth`, `Refused`, `Redis`, `Protocol`, `RoleMismatch`), so that a wrong
/// password does not look like an empty cache; pipelines.
///
/// ```
/// use redis_holdfast::{Error, Request, layer::cache_miss, redis::{self, RedisError, Value}};
/// use std::io;
///
/// let away = Error::from(RedisError::from(io::Error::from(io::ErrorKind::TimedOut)));
/// let miss = cache_miss(&Request::from(redis::cmd("GET").arg("price")), &away);
/// assert_eq!(miss.map(|reply| reply.into_value()), Some(Value::Nil));
/// assert!(cache_miss(&Request::from(redis::cmd("INCR").arg("hits")), &away).is_none());
/// ```
#[must_use]
pub fn cache_miss(request: &Request, error: &Error) -> Option<Reply> {
    let is_away = matches!(
        error.kind(),
        ErrorKind::Timeout
            | ErrorKind::CircuitOpen
            | ErrorKind::Overloaded
            | ErrorKind::ConnectionLost
            | ErrorKind::Dns
            | ErrorKind::NoPrimary
            | ErrorKind::NoReplica
    );
    let nils = |others: usize| {
        let keys = request.words()?.checked_sub(others)?;
        Some(Value::Array(vec![Value::Nil; keys]))
    };
    let value = match request.command() {
        _ if !is_away => None,
        "GET" | "GETEX" | "HGET" => Some(Value::Nil),
        "MGET" => nils(1),
        "HMGET" => nils(2),
        "HGETALL" | "SMEMBERS" => Some(Value::Array(Vec::new())),
        _ => None,
    };
    value.map(Reply::from)
}

impl fmt::Debug for FallbackLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackLayer").finish_non_exhaustive()
    }
}

impl<S> Layer<S> for FallbackLayer {
    type Service = Fallback<Foreign<S>>;

    fn layer(&self, inner: S) -> Self::Service {
        self.clone().around(Foreign::new(inner))
    }
}

/// The service that a [`FallbackLayer`] makes. Always ready.
///
/// # Errors
/// Those of the inner service, less those that were answered.
///
/// # Cancel safety
/// That of the inner service.
///
/// ```
/// use redis_holdfast::{Reply, Request, layer::{Fallback, FallbackLayer, TimeoutLayer, cache_miss}, redis};
/// use std::{future::pending, time::Duration};
/// use tower::{Layer, Service, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let silent = service_fn(|_: Request| pending::<Result<Reply, redis_holdfast::Error>>());
/// let bounded = TimeoutLayer::new(Duration::from_millis(10)).layer(silent);
/// let mut service: Fallback<_> = FallbackLayer::new(cache_miss).layer(bounded);
/// let price = service.call(Request::from(redis::cmd("GET").arg("price"))).await?;
/// assert_eq!(price.parse::<Option<u64>>()?, None);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Fallback<S> {
    inner: S,
    answer: Option<Answer>,
    metrics: Metrics,
}

impl<S> Fallback<S> {
    /// No answers but the inner service's.
    pub(crate) fn none(inner: S, metrics: Metrics) -> Self {
        Self {
            inner,
            answer: None,
            metrics,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Fallback<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fallback")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S> Service<Request> for Fallback<S>
where
    S: Service<Request, Response = Reply, Error = Error>,
{
    type Response = Reply;
    type Error = Error;
    type Future = FallbackFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let is_read = request.effect() == Effect::None;
        let kept = self.answer.as_ref().filter(|_| is_read).map(|answer| Kept {
            answer: answer.clone(),
            request: request.clone(),
        });
        FallbackFuture {
            inner: self.inner.call(request),
            kept,
            metrics: self.metrics,
        }
    }
}

struct Kept {
    answer: Answer,
    request: Request,
}

pin_project! {
    /// A call that may be answered otherwise. Errors and cancel safety are those of [`Fallback`].
    ///
    /// ```
    /// # use redis_holdfast::{Error, Reply, Request, layer::{FallbackFuture, FallbackLayer, cache_miss}, redis::{self, Value}};
    /// # use tower::{Layer, Service, service_fn};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Int(7))) });
    /// # let mut service = FallbackLayer::new(cache_miss).layer(server);
    /// let call: FallbackFuture<_> = service.call(Request::from(redis::cmd("GET").arg("price")));
    /// assert_eq!(call.await?.parse::<u64>()?, 7); // Redis answered: nothing else is asked.
    /// # Ok(()) }
    /// ```
    pub struct FallbackFuture<F> {
        #[pin]
        inner: F,
        kept: Option<Kept>,
        metrics: Metrics,
    }
}

impl<F> Future for FallbackFuture<F>
where
    F: Future<Output = Result<Reply, Error>>,
{
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        let (Err(error), Some(kept)) = (&result, this.kept.as_ref()) else {
            return Poll::Ready(result);
        };
        let Some(reply) = (kept.answer)(&kept.request, error) else {
            return Poll::Ready(result);
        };
        this.metrics.fell_back();
        Poll::Ready(Ok(reply))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::Phase;

    fn error(kind: ErrorKind) -> Error {
        Error::new(kind, Phase::Reply, "away")
    }

    fn miss(command: &str, kind: ErrorKind) -> Option<Value> {
        let mut words = command.split(' ');
        let mut cmd = redis::cmd(words.next().unwrap_or_default());
        words.for_each(|word| {
            cmd.arg(word);
        });
        cache_miss(&Request::from(&cmd), &error(kind)).map(Reply::into_value)
    }

    #[test]
    fn a_cache_read_becomes_a_miss_of_its_own_shape() {
        let away = ErrorKind::CircuitOpen;
        let nils = |keys| Some(Value::Array(vec![Value::Nil; keys]));
        assert_eq!(miss("GET k", away), Some(Value::Nil));
        assert_eq!(miss("MGET a b c", away), nils(3));
        assert_eq!(miss("HMGET h a b", away), nils(2));
        assert_eq!(miss("HGETALL h", away), nils(0));
        for command in ["PING", "EXISTS k", "LLEN l", "INCR k", "SET k v"] {
            assert_eq!(miss(command, away), None, "{command}");
        }
        for kind in [ErrorKind::Auth, ErrorKind::Refused, ErrorKind::Redis] {
            assert_eq!(miss("GET k", kind), None, "{kind:?}");
        }
        let empty = cache_miss(&Request::from(redis::cmd("HGETALL").arg("h")), &error(away));
        let map = empty.map(Reply::parse::<std::collections::HashMap<String, String>>);
        assert!(map.is_some_and(|map| map.is_ok_and(|map| map.is_empty())));
    }

    #[tokio::test]
    async fn it_is_never_asked_for_a_write_nor_for_a_success() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let layer = FallbackLayer::new(move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
            Some(Reply::from(Value::Int(7)))
        });
        let failing = layer.layer(service_fn(|_: Request| async {
            Err::<Reply, _>(error(ErrorKind::Timeout))
        }));
        for write in ["INCR", "SET", "EVAL", "NOBODY.KNOWS"] {
            let request = Request::from(redis::cmd(write).arg("k").arg("v"));
            assert!(failing.clone().oneshot(request).await.is_err(), "{write}");
        }
        let working = layer.layer(service_fn(|_: Request| async {
            Ok::<_, Infallible>(Reply::from(Value::Int(1)))
        }));
        let read = || Request::from(redis::cmd("GET").arg("k"));
        let reply = working.map_err(Error::from).oneshot(read()).await;
        assert_eq!(reply.expect("served").into_value(), Value::Int(1));
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        let reply = failing.oneshot(read()).await.expect("answered");
        assert_eq!(reply.into_value(), Value::Int(7));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}
