//! Between us and what others made: their connections under our supervisor, our stack as one of their connections.
//!
//! Owns [`RedisConnector`] and [`ServiceConnection`]. Implements the traits of [`net::reach`](crate::net::reach) and of
//! `redis`; leaves resilience to `layer` and `channel`.

mod redis_connector;
pub(crate) mod service_connection;

pub use redis_connector::RedisConnector;
pub use service_connection::ServiceConnection;
