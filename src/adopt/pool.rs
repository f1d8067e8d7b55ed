//! A user's pool as a service.
//!
//! Owns [`PoolService`]. Promises: one call, one checked-out connection; one whose call was late, was dropped, or failed in a way that says
//! nothing of what is still in its socket, is closed and never goes back to the pool. Leaves every bound to the layers around it, and getting a
//! connection to [`checkout`](super::checkout). Fails by kind.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use deadpool_redis::{Connection, Pool};
use tower::Service;

use super::{checkout::lend, unpack::ask};
use crate::{Error, ErrorKind, Phase, Reply, Request};

/// A `deadpool_redis::Pool` as a `Service<`[`Request`]`>` to put under a [`GuardLayer`](crate::layer::GuardLayer): bounded, not healed.
///
/// Each call takes a connection out of the pool and gives it back when its reply has come. A call that is late or dropped takes its
/// connection with it: what would come over it belongs to nobody. While the pool waits, dials or recycles, the guard's deadline runs.
/// Commands that change or block the connection (`SELECT`, `BLPOP`, `WATCH`, …) are refused as on a shared one, for the next user would
/// get it so.
///
/// # Readiness
/// Always ready: the wait for a connection is part of the call.
///
/// # Errors
/// `Overloaded`, phase `queue`, where the pool's own wait for a free connection ran out; `Timeout`, phase `queue`, where the deadline of a layer above
/// did, which no circuit counts; `Timeout` or another kind, phase `connect`, where the pool could not connect or heard nothing from the server;
/// none of them was sent; `Refused`, phase `queue`, where it is closed, and for what would change the connection; else as
/// [`ConnectionService`](crate::ConnectionService).
///
/// # Cancel safety
/// A call that is dropped while it waits for a connection leaves nothing; later, it may run, and its connection is closed.
///
/// ```
/// use deadpool_redis::{Config, Runtime};
/// use redis_holdfast::{PoolService, Request, layer::GuardLayer, redis};
/// use tower::{Layer, Service};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let url = "redis://cache.internal";
/// # let server = holdfast_lab::Embedded::start().await?;
/// # let url: &str = &server.url();
/// let pool = Config::from_url(url).create_pool(Some(Runtime::Tokio1))?;
/// let mut guarded = GuardLayer::builder().build()?.layer(PoolService::new(pool));
/// let request = Request::from(redis::cmd("INCR").arg("hits"));
/// # let request = request.with_timeout(std::time::Duration::from_secs(30)); // the machine may be busy
/// let hits: u64 = guarded.call(request).await?.parse()?;
/// assert_eq!(hits, 1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PoolService {
    pool: Pool,
}

impl PoolService {
    /// `pool` as a service.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }
}

impl Service<Request> for PoolService {
    type Response = Reply;
    type Error = Error;
    type Future = PoolFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> PoolFuture {
        let pool = self.pool.clone();
        PoolFuture(Box::pin(async move {
            let connection = lend(&pool, request.deadline()).await?;
            let mut lent = Lent(Some(connection));
            let Some(connection) = lent.0.as_mut() else {
                return Err(Error::new(
                    ErrorKind::Refused,
                    Phase::Queue,
                    "no connection",
                ));
            };
            let result = ask(connection, &request).await;
            let is_in_step = result
                .as_ref()
                .map_or_else(|error| error.kind() == ErrorKind::Redis, |_| true);
            if is_in_step || matches!(&result, Err(error) if !error.may_have_executed()) {
                lent.give_back();
            }
            result
        }))
    }
}

/// A connection that is closed unless it is given back.
struct Lent(Option<Connection>);

impl Lent {
    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            // Out of the pool, whose place is free for another.
            drop(Connection::take(connection));
        }
    }
}

impl fmt::Debug for PoolService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolService")
            .field("status", &self.pool.status())
            .finish()
    }
}

/// A call's future. Errors and cancel safety are those of [`PoolService`].
///
/// ```
/// use deadpool_redis::{Config, Runtime};
/// use redis_holdfast::{ErrorKind, Phase, PoolFuture, PoolService, Request, redis};
/// use tower::Service;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Nobody listens there.
/// let pool = Config::from_url("redis://127.0.0.1:1").create_pool(Some(Runtime::Tokio1))?;
/// let call: PoolFuture = PoolService::new(pool).call(Request::from(redis::cmd("INCR").arg("hits")));
/// let error = call.await.unwrap_err();
/// assert_eq!((error.kind(), error.phase()), (ErrorKind::ConnectionLost, Phase::Connect));
/// # Ok(()) }
/// ```
pub struct PoolFuture(Pin<Box<dyn Future<Output = Result<Reply, Error>> + Send>>);

impl Future for PoolFuture {
    type Output = Result<Reply, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for PoolFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolFuture").finish_non_exhaustive()
    }
}
