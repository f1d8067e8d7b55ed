//! A Redis client that bounds every call: commands of the [`redis`] crate on top, below them a connection that notices when its peer has
//! died, follows host names in the background, and gives each call one hard deadline.
//!
//! A dead, silent or moved Redis costs a caller a bounded time, and costs the next caller less. The `README` lists what is promised and
//! measured, every default with its legal range, every metric, every kind of error, and what is different from `redis`' own connections;
//! `ARCHITECTURE.md` says how it works inside.
//!
//! # Quick start
//! ```
//! use std::time::Duration;
//!
//! use redis_holdfast::redis::{AsyncTypedCommands, RedisResult};
//! use redis_holdfast::{Client, Error};
//!
//! #[tokio::main]
//! async fn main() -> RedisResult<()> {
//!     let url = "redis://cache.internal:6379/0";
//! #   let server = holdfast_lab::Embedded::start().await.expect("a server");
//! #   let url: &str = &server.url();
//!     // No I/O, cannot hang: a service starts whether or not Redis is up.
//!     let redis = Client::builder(url)?
//!         .call_timeout(Duration::from_millis(250))
//! #       .call_timeout(Duration::from_secs(30)) // the machine may be busy
//!         .build()?;
//!
//!     // Every clone is the same client: clone it as you cloned a MultiplexedConnection.
//!     let mut connection = redis.clone();
//!     connection.set("greeting", "hello").await?;
//!     match connection.get("greeting").await {
//!         Ok(greeting) => println!("{greeting:?}"),
//!         // Whatever the network does, this comes after 250 ms at the latest.
//!         Err(error) => match Error::find_in(&error) {
//!             Some(ours) if ours.is_circuit_open() => println!("Redis is known to be away: {ours}"),
//!             Some(ours) => println!("{ours}; may have run: {}", ours.may_have_executed()),
//!             None => println!("Redis itself says: {error}"),
//!         },
//!     }
//! #   assert_eq!(connection.get("greeting").await?.as_deref(), Some("hello"));
//!     println!("{}", redis.health());
//!     Ok(())
//! }
//! ```
//!
//! # Three faces
//! 1. [`Client`]: a [`redis::aio::ConnectionLike`]. Existing calls, pipelines and scripts run on it unchanged.
//! 2. [`layer::ResilienceLayer`] around a [`layer::LinkConnector`]: the same stack as a tower `Service<`[`Request`]`, Response = `[`Reply`]`,
//!    Error = `[`Error`]`>`; [`Client::service`] hands out that of a client, and [`ServiceConnection`] makes a stack redis' connection again.
//!    With a [`RedisConnector`] the same stack keeps `redis`' own multiplexed connection.
//! 3. [`layer::GuardLayer`] around a finished connection of your own, by a [`ConnectionService`] or, with the feature `deadpool`, a
//!    `PoolService`: bounded, not healed. Each layer stands alone too.
//!
//! # Cancel safety
//! A call may be dropped at any moment, by `select!`, by a timeout above or with its task. The connection stays in step and no reply ever
//! reaches another caller. What a dropped future leaves behind depends on how far it came:
//!
//! | the call was | on the wire | in the caps | in the breaker's count |
//! |---|---|---|---|
//! | made and not polled | nothing | its place and bytes, from `call` until the drop | nothing |
//! | waiting for a connection (phase `queue`) | nothing | given back | nothing |
//! | queued for the link, not begun (`write`) | nothing: it is taken back, and never runs | given back | see below |
//! | begun (`write`, `reply`) | it is finished on the wire and may run; its reply is swallowed | given back; the reply still owed counts among the link's (at most 2 × `max_in_flight`) | see below |
//! | let go by one link, waiting for the next | what the first was given may have run; nothing is sent again | given back | nothing |
//!
//! A call that is dropped while a link has it counts as *one failed call*, if the link speaks and the call had waited longer than
//! `stall_after` or four fifths of its timeout, whichever is less: it was somebody's timeout. Dropped earlier, or on a silent link (which the
//! supervisor judges), it counts for nothing. Metrics count calls that ended, so a dropped call is in none of them.
//!
//! A deadline that passes is not a drop: the same is done, and the [`Error`] says the phase and whether the command may have run.
//! [`Client::wait_ready`] and [`HealthWatch::changed`] only watch. Dropping [`Client::shutdown`] leaves the client closing.
//!
//! The last clone of a [`Client`] (or of its service, or call of it) takes its tasks and connections along.
//!
//! # Errors
//! [`Error`] has a [kind](ErrorKind), the [phase](Phase) it happened in, the endpoint, the time waited, and
//! [`may_have_executed`](Error::may_have_executed): `false` is certain. [`ConfigError`] comes from builders alone, with every fault at once.
//!
//! Where redis' trait asks for a [`redis::RedisError`], ours travels inside an [`std::io::Error`], by one table:
//!
//! | kind | `io::ErrorKind` | redis' helpers |
//! |---|---|---|
//! | [`Timeout`](ErrorKind::Timeout) | `TimedOut` | `is_timeout()`, `RetryImmediately` |
//! | [`ConnectionLost`](ErrorKind::ConnectionLost) | `ConnectionAborted` | `is_connection_dropped()`, `Reconnect` |
//! | [`Auth`](ErrorKind::Auth) | `PermissionDenied` | `NoRetry` |
//! | [`Redis`](ErrorKind::Redis) | none: it stays redis' own error | as without us |
//! | all others | `Unsupported` | `NoRetry` |
//!
//! [`Error::find_in`] gets it back. redis' helpers do not know what a command does: before a write is sent again, ask
//! `may_have_executed`.
//!
//! # Deadlines from above
//! [`deadline::scope`] hands the time of an API request to every Redis call that is made inside its future; [`layer::BudgetLayer`] opens
//! the scope in the stack of a server. The sooner of scope and call counts. Spawned tasks are outside.
//!
//! # Tasks and runtimes
//! The crate runs on tokio, with time and I/O enabled. Building does no I/O; connecting begins at once if a runtime is there, else with the
//! first call or [`Client::wait_ready`]. If the runtime that kept a connection ends, the next call makes a new one on its own. A call
//! that is made outside any runtime is `Refused`, and nothing of it is sent.
//!
//! # Feature flags
//! `http`: [`layer::BudgetLayer`] reads the headers of an `http::Request`. `deadpool`: `PoolService`. `cluster`: `redis`' cluster connection under a guard with a circuit for each node, `ClusterGuard`. The crate enables `aio` and `tokio-comp` of `redis` 1.8, which it re-exports; name `redis` in your own `Cargo.toml` for more.

mod adopt;
mod backoff;
#[cfg(test)]
mod cancellation;
mod channel;
mod client;
mod config;
pub mod deadline;
#[cfg(test)]
#[path = "../tests/common/ears.rs"]
mod ears;
mod error;
mod health;
#[cfg(test)]
mod instructions;
pub mod layer;
#[cfg(test)]
mod models;
mod net;
mod own;
#[cfg(test)]
mod readme;
mod request;
#[cfg(test)]
mod rustdoc;
mod sync;
mod task;
pub mod telemetry;
mod topology;

/// How host names become addresses: resolvers, and the policy by which a name is followed.
pub mod dns {
    pub use crate::net::dns::{
        Answer, DnsPolicy, Families, Hickory, Lookup, NoAddress, Resolution, Resolve, System,
    };
}

/// The way in for the targets in `fuzz/`; cargo-fuzz sets the `cfg`. Tests compile it too, so that it cannot rot.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::net::link::codec::fuzz::{decode, differential, round_trip};
}

#[cfg(feature = "cluster")]
pub use adopt::{ClusterFuture, ClusterGuard};
pub use adopt::{ConnectionFuture, ConnectionService, RedisConnector, ServiceConnection};
#[cfg(feature = "deadpool")]
pub use adopt::{PoolFuture, PoolService};
pub use client::{Builder, Client, ClientService};
pub use config::{BreakerPolicy, Config, ConfigBuilder, ConfigError, RetryPolicy, SentinelPolicy};
pub use error::{Error, ErrorKind, Phase};
pub use health::{Health, HealthState, HealthWatch};
pub use redis;
pub use request::{Extensions, ReadFrom, Replay, Reply, Request};
pub use topology::sentinel::Sentinels;
