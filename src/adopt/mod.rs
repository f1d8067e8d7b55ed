//! Between us and what others made: their connections under our supervisor or our guard, our stack as one of their connections.
//!
//! Owns [`RedisConnector`], [`ConnectionService`], `PoolService`, `ClusterGuard` and [`ServiceConnection`]. Implements the traits of
//! [`net::reach`](crate::net::reach), of `tower` and of `redis`; leaves resilience to `layer` and `channel`.

#[cfg(feature = "deadpool")]
mod checkout;
#[cfg(feature = "cluster")]
mod cluster;
mod connection;
#[cfg(feature = "deadpool")]
mod pool;
mod redis_connector;
pub(crate) mod service_connection;
mod unpack;
pub(crate) mod value_future;

#[cfg(feature = "cluster")]
pub use cluster::{ClusterFuture, ClusterGuard};
pub use connection::{ConnectionFuture, ConnectionService};
#[cfg(feature = "deadpool")]
pub use pool::{PoolFuture, PoolService};
pub use redis_connector::RedisConnector;
pub use service_connection::ServiceConnection;
