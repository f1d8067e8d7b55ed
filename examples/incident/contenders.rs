//! The four services: one Redis client each, set up as real teams set them up.
//!
//! Owns the clients and how one request goes through each. Promises that all four do the same work, and that nothing
//! is tuned but what a line here shows. Leaves load to [`super::timeline`]. Fails when a client cannot connect while
//! all is well. Next: [`super::names`] for how each sees DNS.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::{Manager, Pool, PoolConfig, Runtime, Timeouts};
use holdfast_lab::load::Kind;
use holdfast_lab::{Op, Outcome};
use redis_holdfast::dns::Hickory;
use redis_holdfast::redis::aio::{ConnectionLike, ConnectionManager};
use redis_holdfast::redis::{self, AsyncConnectionConfig, AsyncTypedCommands, RedisError};
use redis_holdfast::{Client, Error as HoldfastError};
use tokio::time::timeout;

use crate::names::{Doorway, StageDns};
use crate::stage::Stage;

type Failure = Box<dyn Error + Send + Sync>;
type Asked = Pin<Box<dyn Future<Output = Result<Outcome, Failure>> + Send>>;

/// One client, ready to serve.
pub struct Contender {
    pub name: &'static str,
    /// How it is set up, and how it sees DNS.
    pub setup: &'static str,
    /// The name it was given for Redis.
    pub host: &'static str,
    call: Arc<dyn Fn(Op) -> Asked + Send + Sync>,
}

/// All four, ours last, and what must live as long as they do.
pub struct Contenders {
    pub all: Vec<Contender>,
    pub ours: Client,
    _doorway: Doorway,
}

impl Contenders {
    /// Connects all four while the stage is healthy.
    pub async fn connect(stage: &Stage) -> Result<Self, Failure> {
        let dns = StageDns::at(stage.dns.addr());
        let doorway = Doorway::open(dns.clone(), MANAGER_HOST.into(), stage.port()).await?;
        let ours = ours(stage).await?;
        Ok(Self {
            all: vec![
                manager(&doorway).await?,
                pool_at_defaults(stage, dns.clone())?,
                careful_pool(stage, dns)?,
                holdfast(ours.clone()),
            ],
            ours,
            _doorway: doorway,
        })
    }
}

impl Contender {
    /// Serves one request; nobody here cancels it.
    pub fn serve(&self) -> impl Fn(Op) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + use<> {
        let call = Arc::clone(&self.call);
        move |op| {
            let asked = call(op);
            Box::pin(async move {
                asked
                    .await
                    .unwrap_or_else(|error| Outcome::failed(class(&*error)))
            })
        }
    }
}

async fn manager(doorway: &Doorway) -> Result<Contender, Failure> {
    let client = redis::Client::open(format!("redis://{}/", doorway.addr()))?;
    let manager = ConnectionManager::new(client).await?;
    Ok(Contender {
        name: "ConnectionManager",
        setup: "redis-rs ConnectionManager, defaults (response 500 ms, connect 1 s). Its configuration takes no \
                resolver, so a forwarder stands for the name: it looks the name up for each new connection.",
        host: MANAGER_HOST,
        call: Arc::new(move |op| {
            let mut connection = manager.clone();
            Box::pin(async move { Ok(ask(&mut connection, &op).await?) })
        }),
    })
}

fn pool_at_defaults(stage: &Stage, dns: StageDns) -> Result<Contender, Failure> {
    let config = AsyncConnectionConfig::new().set_dns_resolver(dns);
    let manager =
        Manager::new_with_config(format!("redis://redis.pool.lab:{}/", stage.port()), config)?;
    let pool = Pool::builder(manager).runtime(Runtime::Tokio1).build()?;
    Ok(Contender {
        name: "deadpool-redis, defaults",
        setup: "deadpool-redis pool, defaults (two connections per core, no pool timeouts, response 500 ms, \
                connect 1 s). Sees DNS by redis' resolver hook.",
        host: "redis.pool.lab",
        call: Arc::new(move |op| Box::pin(checked_out(pool.clone(), op))),
    })
}

fn careful_pool(stage: &Stage, dns: StageDns) -> Result<Contender, Failure> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_millis(200)))
        .set_response_timeout(Some(Duration::from_millis(200)))
        .set_dns_resolver(dns);
    let manager = Manager::new_with_config(
        format!("redis://redis.careful.lab:{}/", stage.port()),
        config,
    )?;
    let mut settings = PoolConfig::new(32);
    settings.timeouts = Timeouts {
        wait: Some(Duration::from_millis(100)),
        create: Some(Duration::from_millis(200)),
        recycle: Some(Duration::from_millis(100)),
    };
    let pool = Pool::builder(manager)
        .config(settings)
        .runtime(Runtime::Tokio1)
        .build()?;
    Ok(Contender {
        name: "deadpool-redis, careful",
        setup: "deadpool-redis as a careful team sets it up: 32 connections, wait 100 ms, create 200 ms, recycle \
                100 ms, response 200 ms, and tokio::time::timeout(250 ms) around it all. Sees DNS by redis' \
                resolver hook.",
        host: "redis.careful.lab",
        call: Arc::new(move |op| {
            let call = checked_out(pool.clone(), op);
            Box::pin(async move { timeout(BUDGET, call).await? })
        }),
    })
}

async fn ours(stage: &Stage) -> Result<Client, Failure> {
    let client = Client::builder(&format!("redis://redis.holdfast.lab:{}/", stage.port()))?
        .call_timeout(BUDGET)
        .resolver(Hickory::servers([stage.dns.addr()]))
        .build()?;
    client.wait_ready(Duration::from_secs(5)).await?;
    Ok(client)
}

fn holdfast(client: Client) -> Contender {
    Contender {
        name: "redis-holdfast",
        setup: "call_timeout 250 ms, every other default. Asks the same name server by its own resolver.",
        host: "redis.holdfast.lab",
        call: Arc::new(move |op| {
            let mut connection = client.clone();
            Box::pin(async move { Ok(ask(&mut connection, &op).await?) })
        }),
    }
}

async fn checked_out(pool: Pool, op: Op) -> Result<Outcome, Failure> {
    let mut connection = pool.get().await?;
    Ok(ask(&mut connection, &op).await?)
}

/// One request of the service: half of them write, half read what was written.
async fn ask<C>(connection: &mut C, op: &Op) -> Result<Outcome, RedisError>
where
    C: ConnectionLike + Send + Sync,
{
    match op.kind {
        Kind::Write => connection
            .set(&op.key, &op.value)
            .await
            .map(|()| Outcome::Ok),
        _ => Ok(op.judge(connection.get(&op.key).await?.as_deref())),
    }
}

/// The kind of our own error; one word for those of the others.
fn class(error: &(dyn Error + Send + Sync + 'static)) -> &'static str {
    let ours = error
        .downcast_ref::<RedisError>()
        .and_then(HoldfastError::find_in);
    ours.map_or("error", |error| error.kind().as_str())
}

/// What each request may take.
pub const BUDGET: Duration = Duration::from_millis(250);
/// What the doorway stands for.
const MANAGER_HOST: &str = "redis.manager.lab";
