//! The quick start of the README: commands as ever, and what is new when Redis is not there.
//!
//! ```sh
//! cargo run --example quickstart -- redis://127.0.0.1:6379/
//! ```
//!
//! Try it with a Redis, and with an address where nobody answers (`redis://192.0.2.1/`): it never takes longer than its
//! `call_timeout`.

use std::time::Duration;

use redis_holdfast::redis::{AsyncTypedCommands, RedisError};
use redis_holdfast::{Client, Error};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1);
    let url = url.unwrap_or_else(|| "redis://127.0.0.1:6379/".to_owned());

    // No I/O, cannot hang: a service starts whether or not Redis is up.
    let redis = Client::builder(&url)?
        .call_timeout(Duration::from_millis(250))
        .build()?;

    // A client is a `ConnectionLike`: clone it, and call what you always called.
    match visit(redis.clone()).await {
        Ok(count) => println!("visit number {count}"),
        Err(error) => explain(&error),
    }
    println!("health: {}", redis.health());
    Ok(())
}

async fn visit(mut redis: Client) -> Result<isize, RedisError> {
    redis.set("quickstart:greeting", "hello").await?;
    redis.incr("quickstart:visits", 1).await
}

/// Says which wait it was, and whether the command may have run all the same.
fn explain(error: &RedisError) {
    match Error::find_in(error) {
        Some(ours) => println!(
            "{ours} (kind {}, phase {}, may have executed: {})",
            ours.kind().as_str(),
            ours.phase(),
            ours.may_have_executed()
        ),
        None => println!("Redis itself says: {error}"),
    }
}
