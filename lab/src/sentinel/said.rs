//! What Redis and Sentinels say of roles and of each other, asked past every proxy.
//!
//! Owns the questions. Promises that whatever does not answer in time, or with nonsense, is `None`. Leaves waiting to
//! [`super::SentinelSet`]. Cannot fail. Next: [`super::Recorder`], which asks again and again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value};
use tokio::time::timeout;

/// Names and values of one reply, such as that of `SENTINEL MASTER`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(BTreeMap<String, String>);

/// What one Sentinel knows of a primary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The answer of `GET-MASTER-ADDR-BY-NAME` as `host:port`; empty where it has none.
    pub addr: String,
    /// `SENTINEL MASTER`.
    pub master: Fields,
    /// `SENTINEL REPLICAS`.
    pub replicas: Vec<Fields>,
    /// `SENTINEL SENTINELS`.
    pub others: Vec<Fields>,
}

impl Fields {
    /// The value, or nothing.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

impl Known {
    /// Replicas that are up and in step.
    pub fn healthy_replicas(&self) -> usize {
        let well =
            |one: &&Fields| one.get("flags") == "slave" && one.get("master-link-status") == "ok";
        self.replicas.iter().filter(well).count()
    }

    /// Other Sentinels that it is connected to, both ways, and that answer.
    pub fn linked_sentinels(&self) -> usize {
        let well = |one: &&Fields| one.get("flags") == "sentinel";
        self.others.iter().filter(well).count()
    }
}

/// Asks a Sentinel all it knows of `name`.
pub async fn sentinel_view(at: SocketAddr, name: &str, limit: Duration) -> Option<Known> {
    let mut connection = connect(at, limit).await?;
    ask_view(&mut connection, name).await
}

pub(super) async fn ask_view(connection: &mut MultiplexedConnection, name: &str) -> Option<Known> {
    let mut pipe = redis::pipe();
    pipe.cmd("SENTINEL")
        .arg("GET-MASTER-ADDR-BY-NAME")
        .arg(name);
    for what in ["MASTER", "REPLICAS", "SENTINELS"] {
        pipe.cmd("SENTINEL").arg(what).arg(name);
    }
    let all: Vec<Value> = pipe.query_async(connection).await.ok()?;
    let [addr, master, replicas, others] = all.as_slice() else {
        return None;
    };
    let addr: Option<(String, String)> = redis::from_redis_value_ref(addr).ok()?;
    let list = |value: &Value| -> Option<Vec<Fields>> {
        let found: Vec<BTreeMap<String, String>> = redis::from_redis_value_ref(value).ok()?;
        Some(found.into_iter().map(Fields).collect())
    };
    Some(Known {
        addr: addr
            .map(|(host, port)| format!("{host}:{port}"))
            .unwrap_or_default(),
        master: Fields(redis::from_redis_value_ref(master).ok()?),
        replicas: list(replicas)?,
        others: list(others)?,
    })
}

/// Whether it answers that it is a primary.
pub async fn is_primary(at: SocketAddr, limit: Duration) -> bool {
    ask_role(at, limit)
        .await
        .is_some_and(|role| role == "master")
}

/// The first word of `ROLE`: `master`, `slave`, `sentinel`.
pub async fn ask_role(at: SocketAddr, limit: Duration) -> Option<String> {
    let mut connection = connect(at, limit).await?;
    let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await.ok()?;
    redis::from_redis_value_ref(role.first()?).ok()
}

/// Replicas whose link to this primary is up.
pub(super) async fn linked_replicas(at: SocketAddr, limit: Duration) -> Option<usize> {
    let mut connection = connect(at, limit).await?;
    let asked = redis::cmd("INFO").arg("replication").take();
    let info: String = asked.query_async(&mut connection).await.ok()?;
    info.contains("role:master")
        .then(|| info.matches("state=online").count())
}

pub(super) async fn connect(at: SocketAddr, limit: Duration) -> Option<MultiplexedConnection> {
    let client = Client::open(format!("redis://{at}/")).ok()?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(limit))
        .set_response_timeout(Some(limit));
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    timeout(limit * 2, connection).await.ok()?.ok()
}
