//! A stack as a connection: `redis`' commands on top of any `Service<Request>`.
//!
//! Owns [`ServiceConnection`]. Promises: replies and errors are those that a
//! [`Client`](crate::Client) gives. Leaves deadlines, caps and everything else to the stack. Fails with what the stack fails with.

use std::future::{poll_fn, ready};

use redis::{Cmd, Pipeline, RedisError, RedisFuture, Value, aio::ConnectionLike};
use tower::Service;

use super::value_future::{ValueFuture, ValuesFuture};
use crate::{Error, Reply, Request};

/// A stack of layers as a [`redis::aio::ConnectionLike`]: `AsyncCommands`, pipelines and scripts run on top of any
/// `Service<`[`Request`]`, Response = `[`Reply`]`>`.
///
/// A [`Client`](crate::Client) is this already; here is the way back to `redis`' commands for a stack put together by hand. Clones are
/// clones of the stack.
///
/// # Errors
/// Those of the stack, as [`RedisError`]s: [`Error::find_in`] gets ours back.
///
/// # Cancel safety
/// That of the stack.
///
/// # Readiness
/// A call first waits for the stack to be ready. The layers of this crate always are; a foreign layer above them that is not keeps its
/// calls waiting outside every deadline below it.
///
/// ```
/// use redis_holdfast::{Error, Reply, Request, ServiceConnection, layer::TimeoutLayer, redis::{AsyncCommands, Value}};
/// use std::time::Duration;
/// use tower::{ServiceBuilder, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Int(7))) });
/// // `server` is a `ResilienceLayer` around a `RedisConnector`, or in a test a closure.
/// let stack = ServiceBuilder::new().layer(TimeoutLayer::new(Duration::from_millis(250))).service(server);
/// let mut connection = ServiceConnection::new(stack);
/// let hits: u64 = connection.incr("hits", 1).await?;
/// # assert_eq!(hits, 7);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ServiceConnection<S> {
    service: S,
    db: i64,
}

impl<S> ServiceConnection<S> {
    /// `service` as a connection.
    #[must_use]
    pub fn new(service: S) -> Self {
        Self { service, db: 0 }
    }

    /// The database that [`get_db`](ConnectionLike::get_db) names. Default 0; it selects nothing: what the stack's connections use is
    /// said where they are made.
    ///
    /// ```
    /// use redis_holdfast::{Client, ServiceConnection, redis::aio::ConnectionLike};
    ///
    /// let redis = Client::builder("redis://cache.internal/2")?.build()?;
    /// let connection = ServiceConnection::new(redis.service()).with_db(redis.get_db());
    /// assert_eq!(connection.get_db(), 2);
    /// let service = connection.into_inner(); // To put another layer around it.
    /// # let _ = service;
    /// # Ok::<(), redis_holdfast::ConfigError>(())
    /// ```
    #[must_use]
    pub fn with_db(mut self, db: i64) -> Self {
        self.db = db;
        self
    }

    /// The stack again.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.service
    }
}

impl<S> ServiceConnection<S>
where
    S: Service<Request, Response = Reply>,
    S::Error: Into<Error>,
{
    async fn ask(&mut self, request: Request) -> Result<Reply, Error> {
        poll_fn(|cx| self.service.poll_ready(cx))
            .await
            .map_err(Into::into)?;
        self.service.call(request).await.map_err(Into::into)
    }
}

impl<S> ConnectionLike for ServiceConnection<S>
where
    S: Service<Request, Response = Reply> + Send,
    S::Error: Into<Error> + Send,
    S::Future: Send,
{
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        let reply = self.ask(Request::from(cmd));
        Box::pin(ValueFuture::of(reply))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        if let Some(empty) = empty(pipeline) {
            return Box::pin(ready(Err(empty)));
        }
        let reply = self.ask(Request::slice(pipeline, offset, count));
        Box::pin(ValuesFuture::of(reply, pipeline))
    }

    fn get_db(&self) -> i64 {
        self.db
    }
}

/// What redis' own connections say of a pipeline without commands.
pub(crate) fn empty(pipeline: &Pipeline) -> Option<RedisError> {
    let is_empty = pipeline.is_empty() && !pipeline.is_transaction();
    is_empty.then(|| (redis::ErrorKind::Client, "empty command").into())
}
