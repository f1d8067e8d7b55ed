//! A tower stack and a connection of its own around `redis`: a dead, silent or moved Redis costs a caller a bounded time.

mod backoff;
mod channel;
mod client;
mod config;
pub mod deadline;
mod error;
mod health;
pub mod layer;
mod net;
#[cfg(any(test, doctest))]
mod readme;
mod request;
mod task;
pub mod telemetry;
mod topology;

/// How host names become addresses: resolvers, and the policy by which a name is followed.
pub mod dns {
    pub use crate::net::dns::{
        Answer, DnsPolicy, Families, Hickory, Lookup, NoAddress, Resolution, Resolve, System,
    };
}

pub use client::{Builder, Client, ClientService};
pub use config::{BreakerPolicy, Config, ConfigBuilder, ConfigError};
pub use error::{Error, ErrorKind, Phase};
pub use health::{Health, HealthState, HealthWatch};
pub use redis;
pub use request::{Extensions, Reply, Request};
