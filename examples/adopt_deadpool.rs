//! A `deadpool_redis::Pool` that exists already, under guard: bounded, not healed.
//!
//! ```sh
//! cargo run --features deadpool --example adopt_deadpool -- redis://127.0.0.1:6379/
//! ```

use std::time::Duration;

use deadpool_redis::{Config, Runtime};
use redis_holdfast::layer::{GuardLayer, cache_miss};
use redis_holdfast::redis::AsyncCommands;
use redis_holdfast::{PoolService, ServiceConnection};
use tower::Layer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1);
    let url = url.unwrap_or_else(|| "redis://127.0.0.1:6379/".to_owned());
    let pool = Config::from_url(url).create_pool(Some(Runtime::Tokio1))?;

    // The pool's own waits may be as long as they like: the guard's deadline is around them.
    let guard = GuardLayer::builder()
        .name("adopted")
        .call_timeout(Duration::from_millis(250))
        .fallback(cache_miss)
        .build()?;
    let service = guard.layer(PoolService::new(pool.clone()));
    let circuit = service.circuit().clone();

    let mut connection = ServiceConnection::new(service);
    let visits: redis_holdfast::redis::RedisResult<u64> =
        connection.incr("adopt_deadpool:visits", 1).await;
    match visits {
        Ok(visits) => println!("visit number {visits}, {} in the pool", pool.status().size),
        Err(error) => println!("{error}"),
    }
    // A read of a cache is a miss while Redis is away.
    let cached: Option<String> = connection.get("adopt_deadpool:cached").await?;
    println!("cached: {cached:?}; circuit: {:?}", circuit.state());
    Ok(())
}
