//! The four services: one Redis client each, set up as real teams set them up.
//!
//! Owns what a service is and how one request goes through it. Promises that all four do the same work, and that nothing
//! is tuned but what a line here shows. Leaves load to [`super::timeline`]. Fails when a client cannot connect while
//! all is well. Next: [`single`] and [`sentinel`] for the clients, [`super::names`] for how each sees DNS.

mod sentinel;
mod single;

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::{PoolConfig, Timeouts};
use holdfast_lab::load::Kind;
use holdfast_lab::{Op, Outcome};
use redis_holdfast::dns::Hickory;
use redis_holdfast::redis::AsyncTypedCommands;
use redis_holdfast::redis::RedisError;
use redis_holdfast::redis::aio::ConnectionLike;
use redis_holdfast::{Client, Error as HoldfastError};

use crate::names::Doorway;
use crate::stage::Stage;
use crate::story::Scenario;

type Failure = Box<dyn Error + Send + Sync>;
type Asked = Pin<Box<dyn Future<Output = Result<Outcome, Failure>> + Send>>;

/// One client, ready to serve.
pub struct Contender {
    pub name: &'static str,
    /// How it is set up, and how it sees DNS.
    pub setup: &'static str,
    /// The names it was given.
    pub hosts: Vec<String>,
    call: Arc<dyn Fn(Op) -> Asked + Send + Sync>,
}

/// All four, ours last, and what must live as long as they do.
pub struct Contenders {
    pub all: Vec<Contender>,
    pub ours: Client,
    _doorways: Vec<Doorway>,
}

impl Contenders {
    /// Connects all four while the stage is healthy.
    pub async fn connect(stage: &Stage) -> Result<Self, Failure> {
        match stage.story.scenario {
            Scenario::Move => single::connect(stage).await,
            Scenario::Sentinel => sentinel::connect(stage).await,
        }
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

/// Ours, ready, and as a contender.
async fn holdfast(
    url: &str,
    stage: &Stage,
    hosts: Vec<String>,
) -> Result<(Client, Contender), Failure> {
    let client = Client::builder(url)?
        .call_timeout(BUDGET)
        .resolver(Hickory::servers([stage.dns.addr()]))
        .build()?;
    client.wait_ready(Duration::from_secs(5)).await?;
    let serving = client.clone();
    let contender = Contender {
        name: "redis-holdfast",
        setup: "call_timeout 250 ms, every other default. Asks the same name server by its own resolver.",
        hosts,
        call: Arc::new(move |op| {
            let mut connection = serving.clone();
            Box::pin(async move { Ok(ask(&mut connection, &op).await?) })
        }),
    };
    Ok((client, contender))
}

/// The pool of a careful team.
fn careful() -> PoolConfig {
    let mut settings = PoolConfig::new(32);
    settings.timeouts = Timeouts {
        wait: Some(Duration::from_millis(100)),
        create: Some(Duration::from_millis(200)),
        recycle: Some(Duration::from_millis(100)),
    };
    settings
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
/// The name under which Sentinels know the primary.
pub const MASTER: &str = "orders";
