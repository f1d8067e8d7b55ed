//! Four services that find their primary through Sentinels.
//!
//! redis-rs gives its Sentinel client neither a resolver nor timeouts to set: it has its own defaults (response 500 ms,
//! connect 1 s) in each of the three services built on it, and a [`Doorway`] stands for each Sentinel's name. Sentinels
//! name the primary by its address, so nobody needs DNS for that.

use std::sync::{Arc, Mutex, PoisonError};

use deadpool_redis::Runtime;
use deadpool_redis::sentinel::{Manager, Pool, PoolConfig, SentinelServerType};
use holdfast_lab::{Op, Outcome};
use redis_holdfast::redis::aio::MultiplexedConnection;
use redis_holdfast::redis::sentinel::{self, SentinelClient};
use tokio::time::timeout;

use super::{BUDGET, Contender, Contenders, Failure, MASTER, ask, careful, holdfast};
use crate::names::{Doorway, StageDns};
use crate::stage::{CAREFUL, OURS, POOL, SHARED, Stage};

pub(super) async fn connect(stage: &Stage) -> Result<Contenders, Failure> {
    let dns = StageDns::at(stage.dns.addr());
    let mut doorways = Vec::new();
    let mut doors = [Vec::new(), Vec::new(), Vec::new()];
    for (urls, tag) in doors.iter_mut().zip([SHARED, POOL, CAREFUL]) {
        for (host, port) in stage.named(tag) {
            let doorway = Doorway::open(dns.clone(), host, port).await?;
            urls.push(format!("redis://{}/", doorway.addr()));
            doorways.push(doorway);
        }
    }
    let [shared, pool, careful_pool] = doors;
    let sentinels: Vec<String> = stage
        .named(OURS)
        .iter()
        .map(|(host, port)| format!("{host}:{port}"))
        .collect();
    let url = format!("redis+sentinel://{}/{MASTER}", sentinels.join(","));
    let (ours, last) = holdfast(&url, stage, hosts(stage, OURS)).await?;
    Ok(Contenders {
        all: vec![
            one_for_all(stage, shared).await?,
            pool_at_defaults(stage, pool)?,
            pool_with_care(stage, careful_pool)?,
            last,
        ],
        ours,
        _doorways: doorways,
    })
}

async fn one_for_all(stage: &Stage, urls: Vec<String>) -> Result<Contender, Failure> {
    let server_type = sentinel::SentinelServerType::Master;
    let client = SentinelClient::build(urls, MASTER.to_owned(), None, server_type)?;
    let shared = Arc::new(Shared {
        client: tokio::sync::Mutex::new(client),
        connection: Mutex::default(),
    });
    shared.connection().await?;
    Ok(Contender {
        name: "redis-rs, SentinelClient",
        setup: "redis-rs SentinelClient as it is commonly used: one MultiplexedConnection for all requests; the request \
                that gets an I/O error drops it, the next one asks the Sentinels again, the others wait for it. \
                Defaults (response 500 ms, connect 1 s). A forwarder stands for each Sentinel's name, for it takes no \
                resolver: the name is looked up for each new connection.",
        hosts: hosts(stage, SHARED),
        call: Arc::new(move |op| {
            let shared = Arc::clone(&shared);
            Box::pin(async move { shared.ask(&op).await })
        }),
    })
}

/// One connection, made again when it breaks.
struct Shared {
    client: tokio::sync::Mutex<SentinelClient>,
    /// And which one in turn.
    connection: Mutex<(u64, Option<MultiplexedConnection>)>,
}

impl Shared {
    async fn ask(&self, op: &Op) -> Result<Outcome, Failure> {
        let (number, mut connection) = self.connection().await?;
        let asked = ask(&mut connection, op).await;
        if asked.as_ref().is_err_and(|error| error.is_io_error()) {
            let mut now = self.now();
            // Not one that somebody else has made meanwhile.
            if now.0 == number {
                now.1 = None;
            }
        }
        Ok(asked?)
    }

    async fn connection(&self) -> Result<(u64, MultiplexedConnection), Failure> {
        if let (number, Some(connection)) = &*self.now() {
            return Ok((*number, connection.clone()));
        }
        let mut client = self.client.lock().await;
        if let (number, Some(connection)) = &*self.now() {
            return Ok((*number, connection.clone()));
        }
        let made = client.get_async_connection().await?;
        let mut now = self.now();
        *now = (now.0 + 1, Some(made.clone()));
        Ok((now.0, made))
    }

    fn now(&self) -> std::sync::MutexGuard<'_, (u64, Option<MultiplexedConnection>)> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn pool_at_defaults(stage: &Stage, urls: Vec<String>) -> Result<Contender, Failure> {
    let pool = pool(urls, PoolConfig::default())?;
    Ok(Contender {
        name: "deadpool-redis, defaults",
        setup: "deadpool-redis' Sentinel pool, defaults (two connections per core, no pool timeouts; response 500 ms, \
                connect 1 s). A forwarder stands for each Sentinel's name.",
        hosts: hosts(stage, POOL),
        call: Arc::new(move |op| Box::pin(checked_out(pool.clone(), op))),
    })
}

fn pool_with_care(stage: &Stage, urls: Vec<String>) -> Result<Contender, Failure> {
    let pool = pool(urls, careful())?;
    Ok(Contender {
        name: "deadpool-redis, careful",
        setup: "deadpool-redis' Sentinel pool as a careful team sets it up: 32 connections, wait 100 ms, create 200 ms, \
                recycle 100 ms, and tokio::time::timeout(250 ms) around it all; the pool has no way to set the response \
                and connect timeouts below. A forwarder stands for each Sentinel's name.",
        hosts: hosts(stage, CAREFUL),
        call: Arc::new(move |op| {
            let call = checked_out(pool.clone(), op);
            Box::pin(async move { timeout(BUDGET, call).await? })
        }),
    })
}

fn pool(urls: Vec<String>, settings: PoolConfig) -> Result<Pool, Failure> {
    let manager = Manager::new(urls, MASTER.to_owned(), None, SentinelServerType::Master)?;
    let pool = Pool::builder(manager)
        .config(settings)
        .runtime(Runtime::Tokio1);
    Ok(pool.build()?)
}

async fn checked_out(pool: Pool, op: Op) -> Result<Outcome, Failure> {
    let mut connection = pool.get().await?;
    Ok(ask(&mut connection, &op).await?)
}

fn hosts(stage: &Stage, tag: &str) -> Vec<String> {
    stage.named(tag).into_iter().map(|(host, _)| host).collect()
}
