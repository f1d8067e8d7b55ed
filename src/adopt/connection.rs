//! A finished connection as a service.
//!
//! Owns [`ConnectionService`]. Promises: what would harm the others on a shared connection is refused before it is handed over; the
//! connection's errors are ours, with their cause. Leaves every bound to the layers around it: alone it waits as long as its connection
//! does. Fails by kind, and says *may have executed* unless the connection was refused and makes no attempts of its own.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use redis::aio::ConnectionLike;
use tower::Service;

use super::unpack::ask;
use crate::{Error, Reply, Request};

/// A connection that somebody else made, as a `Service<`[`Request`]`>` to put under a [`GuardLayer`](crate::layer::GuardLayer): bounded, not
/// healed.
///
/// For any connection whose clones share one: `MultiplexedConnection`, `ConnectionManager`. Nothing here is bounded in time: put it under a
/// guard, or under a [`TimeoutLayer`](crate::layer::TimeoutLayer). A `cluster_async::ClusterConnection` has one circuit so; put under the guard
/// as it is (feature `cluster`) it has one for each node.
///
/// # Readiness
/// Always ready.
///
/// # Errors
/// `Refused`, phase `queue`, for what would harm the others on a shared connection; else the connection's own, by kind: `ConnectionLost`, `Timeout`,
/// `Auth`, `Redis`. They say *may have executed* unless the connection was refused; those of a cluster connection always, for it makes attempts of
/// its own.
///
/// # Cancel safety
/// That of the connection: a call that is dropped may run.
///
/// ```
/// use redis_holdfast::{ConnectionService, ErrorKind, Request, layer::GuardLayer, redis};
/// use redis::aio::{ConnectionManager, ConnectionManagerConfig};
/// use tower::{Layer, Service};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Nobody listens there.
/// let client = redis::Client::open("redis://127.0.0.1:1")?;
/// let config = ConnectionManagerConfig::new().set_number_of_retries(0);
/// let manager = ConnectionManager::new_lazy_with_config(client, config)?;
/// let mut guarded = GuardLayer::builder().build()?.layer(ConnectionService::new(manager));
/// let error = guarded.call(Request::from(redis::cmd("INCR").arg("hits"))).await.unwrap_err();
/// assert_eq!((error.kind(), error.may_have_executed()), (ErrorKind::ConnectionLost, false));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ConnectionService<C> {
    connection: C,
}

impl<C> ConnectionService<C> {
    /// `connection` as a service; each call uses a clone of it.
    #[must_use]
    pub fn new(connection: C) -> Self {
        Self { connection }
    }
}

impl<C> Service<Request> for ConnectionService<C>
where
    C: ConnectionLike + Clone + Send + 'static,
{
    type Response = Reply;
    type Error = Error;
    type Future = ConnectionFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> ConnectionFuture {
        let mut connection = self.connection.clone();
        ConnectionFuture(Box::pin(
            async move { ask(&mut connection, &request).await },
        ))
    }
}

impl<C> fmt::Debug for ConnectionService<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionService").finish_non_exhaustive()
    }
}

/// A call's future. Errors and cancel safety are those of [`ConnectionService`].
///
/// ```
/// # use redis_holdfast::{ConnectionFuture, ConnectionService, Error, Reply, Request, ServiceConnection, redis::{self, Value}};
/// # use tower::{Service, service_fn};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let connection = ServiceConnection::new(service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Int(7))) }));
/// let mut service = ConnectionService::new(connection);
/// let call: ConnectionFuture = service.call(Request::from(redis::cmd("GET").arg("price")));
/// assert_eq!(call.await?.parse::<u64>()?, 7);
/// # Ok(()) }
/// ```
pub struct ConnectionFuture(Pin<Box<dyn Future<Output = Result<Reply, Error>> + Send>>);

impl Future for ConnectionFuture {
    type Output = Result<Reply, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ConnectionFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionFuture").finish_non_exhaustive()
    }
}
