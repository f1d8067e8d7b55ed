//! A finished connection as a service.
//!
//! Owns [`ConnectionService`]. Promises: what would harm the others on a shared connection is refused before it is handed over; the
//! connection's errors are ours, with their cause. Leaves every bound to the layers around it: alone it waits as long as its connection
//! does. Fails by kind, and says *may have executed* unless the connection was never there.

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
/// For any connection whose clones share one: `MultiplexedConnection`, `ConnectionManager`, `cluster_async::ClusterConnection`. Nothing here
/// is bounded in time: put it under a guard, or under a [`TimeoutLayer`](crate::layer::TimeoutLayer).
///
/// # Readiness
/// Always ready.
///
/// # Cancel safety
/// That of the connection: a call that is dropped may run.
///
/// ```no_run
/// use redis_holdfast::{ConnectionService, layer::GuardLayer, redis};
/// use tower::Layer;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = redis::Client::open("redis://cache.internal")?;
/// let manager = redis::aio::ConnectionManager::new(client).await?;
/// let guarded = GuardLayer::builder().build()?.layer(ConnectionService::new(manager));
/// # let _ = guarded;
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

/// A call's future.
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
