//! From a `ConnectionManager` to a client of this crate: one line is different.
//!
//! ```sh
//! cargo run --example drop_in -- redis://127.0.0.1:6379/
//! ```

use redis_holdfast::Client;
use redis_holdfast::redis::{AsyncCommands, RedisResult};

/// What a service holds. It was `redis::aio::ConnectionManager`; `Client` is a `ConnectionLike` too.
type Connection = Client;

#[tokio::main]
async fn main() -> RedisResult<()> {
    let url = std::env::args().nth(1);
    let url = url.unwrap_or_else(|| "redis://127.0.0.1:6379/".to_owned());

    // It was `redis::Client::open(url)?.get_connection_manager().await?`.
    let connection = Client::builder(&url)?.build()?;

    // From here on nothing changes.
    println!("{} visits", visit(connection.clone()).await?);
    println!("{} of them today", today(connection).await?);
    Ok(())
}

async fn visit(mut connection: Connection) -> RedisResult<u64> {
    connection.incr("drop_in:visits", 1).await
}

async fn today(mut connection: Connection) -> RedisResult<u64> {
    let (count, _): (u64, bool) = redis_holdfast::redis::pipe()
        .atomic()
        .incr("drop_in:today", 1)
        .expire("drop_in:today", 86_400)
        .query_async(&mut connection)
        .await?;
    Ok(count)
}
