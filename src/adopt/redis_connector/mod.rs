//! `redis`' own multiplexed connection under our supervisor.
//!
//! Owns [`RedisConnector`]. Promises: the socket is one that we resolved, dialled, hardened and introduced ourselves on, and that we
//! close hard when it is benched or dead; calls end as they do over a link. Leaves framing, parsing and matching of replies to `redis`.
//! Fails as [`LinkConnector`](crate::layer::LinkConnector) does. Rooms: [`driver`] keeps it, [`meter`] is the socket that it sees,
//! [`role`] what replies show of the server; [`unpack`](super::unpack) gives `redis` its commands back.

mod driver;
mod meter;
mod role;
#[cfg(test)]
mod tests;

use std::future::Future;

use redis::{AsyncConnectionConfig, RedisConnectionInfo, aio::MultiplexedConnection};

use self::{
    driver::{Driver, Driving},
    meter::{Meter, Metered},
};
use crate::{
    Error, ErrorKind, Phase,
    net::{
        link::{Link, Pace, handshake::hear_out},
        reach::connect::{Attempt, Connect, Dial, greet},
    },
};

/// Connects with `redis`' own [`MultiplexedConnection`], over a socket that this crate resolves, dials, hardens, watches and aborts.
///
/// For who wants `redis`' framing and parsing below the same deadlines, caps, circuit, probes, swaps, fence and DNS. What only a
/// [`LinkConnector`](crate::layer::LinkConnector) can do:
///
/// * **Tell sent from not sent.** A call that was handed to `redis` may have executed, written or not: it follows to another connection
///   only where a written call may (a read, or an overwrite behind a fence). At most 64 KiB that the kernel has not taken are handed
///   over; calls behind them are still certain not to have run.
/// * **Bound a reply.** `redis` keeps a reply of any size, and holds a command until it is answered.
/// * **Close a connection whose peer answers what nobody asked.** `redis` gives such a reply to the oldest call, or drops it.
///
/// Each call is packed twice, and copied once more on its way.
///
/// ```
/// use redis_holdfast::{Client, RedisConnector, redis::AsyncCommands};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let url = "redis://cache.internal:6379";
/// # let server = holdfast_lab::Embedded::start().await?;
/// # let url: &str = &server.url();
/// let redis = Client::builder(url)?.connector(RedisConnector::new()).build()?;
/// # let redis = redis.with_call_timeout(std::time::Duration::from_secs(30)); // the machine may be busy
/// let hits: u64 = redis.clone().incr("hits", 1).await?;
/// assert_eq!(hits, 1);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RedisConnector;

impl RedisConnector {
    /// A connector with nothing to set.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Connect for RedisConnector {}

impl Dial for RedisConnector {
    type Wire = Link;

    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn would borrow the connector for as long as it dials"
    )]
    fn connect(
        &self,
        attempt: Attempt,
    ) -> impl Future<Output = Result<Link, Error>> + Send + 'static {
        async move {
            let (start, greeting) = greet(&attempt).await?;
            let adopted = tokio::time::timeout(attempt.handshake_limit, async {
                // `redis` would take the answer to a nudge for the answer to its first command.
                let start = hear_out(start).await?;
                let meter = Meter::new();
                let socket = Metered::new(start.socket, start.inbox, meter.clone());
                let (connection, driving) = MultiplexedConnection::new_with_config(
                    &introduced(),
                    socket,
                    bare(&attempt.pace),
                )
                .await?;
                // Named, for the bare type would hold on to what introduced us.
                let driving: Driving = Box::pin(driving);
                Ok((connection, driving, meter))
            })
            .await;
            let (connection, driving, meter) = adopted.unwrap_or_else(|_| {
                let silent = Error::new(ErrorKind::Timeout, Phase::Handshake, "server silent");
                Err(silent.after(attempt.handshake_limit))
            })?;
            Ok(Link::driven(
                greeting,
                attempt.address,
                &attempt.pace,
                &attempt.runtime,
                |post| Driver::new(connection, driving, meter, post),
            ))
        }
    }
}

/// All that `redis` would say first has been said: it says nothing, and so cannot hang.
fn introduced() -> RedisConnectionInfo {
    RedisConnectionInfo::default().set_skip_set_lib_name()
}

/// No clock of its own, for the deadlines are ours; and room for every call that we may hand over.
fn bare(pace: &Pace) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        // One more for a sign of life.
        .set_pipeline_buffer_size(pace.max_owed + 1)
}
