//! The connections that people use today, and ours.
//!
//! Owns how each is set up: at its defaults, but that ours is told of 4096 callers, for it refuses what the others let wait. Promises
//! that all go through the same `redis` commands and conversions. Fails where nobody can connect. Next: [`super::report`].

use std::time::Duration;

use redis_holdfast::{
    Client, RedisConnector,
    layer::{Connect, LinkConnector},
    redis::{self, AsyncCommands, FromRedisValue, Pipeline, aio::ConnectionLike},
};

use super::measure::{BYTES, Caller, Contender, Shape, Verb};

pub const BARE: &str = "MultiplexedConnection";
pub const OURS: &str = "redis-holdfast";

/// Bare first, ours last; the values are there.
pub async fn connect(url: &str) -> Vec<Contender> {
    let client = redis::Client::open(url).unwrap();
    let mut bare = client.get_multiplexed_async_connection().await.unwrap();
    let manager = client.get_connection_manager().await.unwrap();
    let pool = deadpool_redis::Config::from_url(url)
        .create_pool(Some(deadpool_redis::Runtime::Tokio1))
        .unwrap();
    for bytes in BYTES {
        let row = Shape::new(Verb::Set, bytes, 1, 1);
        let () = bare.set(row.key(), row.value()).await.unwrap();
    }
    let over_redis = ready(RedisConnector::new(), url).await;
    let ours = ours(url).await;
    vec![
        Contender::new(BARE, move |row| Plain::new(bare.clone(), row)),
        Contender::new("ConnectionManager", move |row| {
            Plain::new(manager.clone(), row)
        }),
        Contender::new("deadpool-redis", move |row| {
            Plain::new(Pooled(pool.clone()), row)
        }),
        Contender::new("RedisConnector", move |row| {
            Plain::new(over_redis.clone(), row)
        }),
        Contender::new(OURS, move |row| Plain::new(ours.clone(), row)),
    ]
}

/// Ready, every protection on.
pub async fn ours(url: &str) -> Client {
    ready(LinkConnector::new(), url).await
}

async fn ready<C: Connect>(over: C, url: &str) -> Client<C> {
    let ours = Client::builder(url)
        .unwrap()
        .max_in_flight(MOST_CALLERS)
        .connector(over)
        .build()
        .unwrap();
    ours.wait_ready(Duration::from_secs(5)).await.unwrap();
    ours
}

/// Whoever is a connection to `redis`: each call as its users write it.
pub struct Plain<C> {
    connection: C,
    row: Shape,
    key: String,
    value: Vec<u8>,
    /// For rows of more than one command; made once, as a service that is in a hurry would.
    pipeline: Pipeline,
}

impl<C> Plain<C> {
    pub fn new(connection: C, row: Shape) -> Self {
        let (key, value) = (row.key(), row.value());
        let mut pipeline = redis::pipe();
        let commands = if row.batch > 1 { row.batch } else { 0 };
        for _ in 0..commands {
            match row.verb {
                Verb::Get => pipeline.get(&key),
                Verb::Set => pipeline.set(&key, &value).ignore(),
            };
        }
        Self {
            connection,
            row,
            key,
            value,
            pipeline,
        }
    }
}

impl<C: ConnectionLike + Send + Sync + 'static> Plain<C> {
    async fn batch<T: FromRedisValue>(&mut self) -> T {
        self.pipeline
            .query_async(&mut self.connection)
            .await
            .unwrap()
    }
}

impl<C: ConnectionLike + Send + Sync + 'static> Caller for Plain<C> {
    async fn call(&mut self) {
        match (self.row.verb, self.row.batch) {
            (Verb::Get, 1) => {
                let value: Vec<u8> = self.connection.get(&self.key).await.unwrap();
                assert_eq!(value.len(), self.row.bytes);
            }
            (Verb::Set, 1) => {
                let () = self.connection.set(&self.key, &self.value).await.unwrap();
            }
            (Verb::Get, batch) => {
                let values: Vec<Vec<u8>> = self.batch().await;
                assert!(values.len() == batch && values[0].len() == self.row.bytes);
            }
            (Verb::Set, _) => self.batch().await,
        }
    }
}

/// A pool as a connection: checks one out for each call, as its users do.
struct Pooled(deadpool_redis::Pool);

impl ConnectionLike for Pooled {
    fn req_packed_command<'a>(
        &'a mut self,
        cmd: &'a redis::Cmd,
    ) -> redis::RedisFuture<'a, redis::Value> {
        Box::pin(async move { self.0.get().await.unwrap().req_packed_command(cmd).await })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> redis::RedisFuture<'a, Vec<redis::Value>> {
        Box::pin(async move {
            let mut connection = self.0.get().await.unwrap();
            connection
                .req_packed_commands(pipeline, offset, count)
                .await
        })
    }

    fn get_db(&self) -> i64 {
        0
    }
}

const MOST_CALLERS: usize = 4096;
