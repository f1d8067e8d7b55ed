//! Four services of one Redis behind a name.

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::{Manager, Pool, Runtime};
use holdfast_lab::{Op, Outcome};
use redis_holdfast::redis::aio::ConnectionManager;
use redis_holdfast::redis::{self, AsyncConnectionConfig};
use tokio::time::timeout;

use super::{BUDGET, Contender, Contenders, Failure, ask, careful, holdfast};
use crate::names::{Doorway, StageDns};
use crate::stage::{CAREFUL, OURS, POOL, SHARED, Stage};

pub(super) async fn connect(stage: &Stage) -> Result<Contenders, Failure> {
    let dns = StageDns::at(stage.dns.addr());
    let (host, port) = named(stage, SHARED)?;
    let doorway = Doorway::open(dns.clone(), host, port).await?;
    let (host, port) = named(stage, OURS)?;
    let (ours, last) = holdfast(&url(&host, port), stage, vec![host]).await?;
    Ok(Contenders {
        all: vec![
            manager(stage, &doorway).await?,
            pool_at_defaults(stage, dns.clone())?,
            careful_pool(stage, dns)?,
            last,
        ],
        ours,
        _doorways: vec![doorway],
    })
}

async fn manager(stage: &Stage, doorway: &Doorway) -> Result<Contender, Failure> {
    let client = redis::Client::open(format!("redis://{}/", doorway.addr()))?;
    let manager = ConnectionManager::new(client).await?;
    Ok(Contender {
        name: "ConnectionManager",
        setup: "redis-rs ConnectionManager, defaults (response 500 ms, connect 1 s). Its configuration takes no \
                resolver, so a forwarder stands for the name: it looks the name up for each new connection.",
        hosts: vec![named(stage, SHARED)?.0],
        call: Arc::new(move |op| {
            let mut connection = manager.clone();
            Box::pin(async move { Ok(ask(&mut connection, &op).await?) })
        }),
    })
}

fn pool_at_defaults(stage: &Stage, dns: StageDns) -> Result<Contender, Failure> {
    let config = AsyncConnectionConfig::new().set_dns_resolver(dns);
    let (host, port) = named(stage, POOL)?;
    let manager = Manager::new_with_config(url(&host, port), config)?;
    let pool = Pool::builder(manager).runtime(Runtime::Tokio1).build()?;
    Ok(Contender {
        name: "deadpool-redis, defaults",
        setup: "deadpool-redis pool, defaults (two connections per core, no pool timeouts, response 500 ms, \
                connect 1 s). Sees DNS by redis' resolver hook.",
        hosts: vec![host],
        call: Arc::new(move |op| Box::pin(checked_out(pool.clone(), op))),
    })
}

fn careful_pool(stage: &Stage, dns: StageDns) -> Result<Contender, Failure> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_millis(200)))
        .set_response_timeout(Some(Duration::from_millis(200)))
        .set_dns_resolver(dns);
    let (host, port) = named(stage, CAREFUL)?;
    let manager = Manager::new_with_config(url(&host, port), config)?;
    let pool = Pool::builder(manager)
        .config(careful())
        .runtime(Runtime::Tokio1)
        .build()?;
    Ok(Contender {
        name: "deadpool-redis, careful",
        setup: "deadpool-redis as a careful team sets it up: 32 connections, wait 100 ms, create 200 ms, recycle \
                100 ms, response 200 ms, and tokio::time::timeout(250 ms) around it all. Sees DNS by redis' \
                resolver hook.",
        hosts: vec![host],
        call: Arc::new(move |op| {
            let call = checked_out(pool.clone(), op);
            Box::pin(async move { timeout(BUDGET, call).await? })
        }),
    })
}

async fn checked_out(pool: Pool, op: Op) -> Result<Outcome, Failure> {
    let mut connection = pool.get().await?;
    Ok(ask(&mut connection, &op).await?)
}

fn named(stage: &Stage, tag: &str) -> Result<(String, u16), Failure> {
    let first = stage.named(tag).into_iter().next();
    first.ok_or_else(|| "the stage has no Redis".into())
}

fn url(host: &str, port: u16) -> String {
    format!("redis://{host}:{port}/")
}
