//! An API request's time, shared by all its Redis calls.
//!
//! ```sh
//! cargo run --example per_request_deadline -- redis://127.0.0.1:6379/
//! ```

use std::time::Duration;

use redis_holdfast::redis::{AsyncCommands, RedisResult};
use redis_holdfast::{Client, Error, deadline};
use tokio::time::Instant;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1);
    let url = url.unwrap_or_else(|| "redis://127.0.0.1:6379/".to_owned());
    // A generous default, for whoever has no deadline of its own.
    let redis = Client::builder(&url)?
        .call_timeout(Duration::from_secs(2))
        .build()?;

    let began = Instant::now();
    let at = began + Duration::from_millis(200);
    // Every call that is made in here ends within the 200 ms, whichever client makes it.
    match deadline::scope(at, page(redis.clone())).await {
        Ok(visits) => println!("page with {visits} visits"),
        Err(error) => match Error::find_in(&error) {
            Some(ours) => println!("page without Redis: {ours}"),
            None => println!("page without Redis: {error}"),
        },
    }
    println!("after {} ms", began.elapsed().as_millis());

    // A task of its own is outside: hand it what is left.
    #[expect(clippy::disallowed_methods, reason = "awaited below")]
    let worker = tokio::spawn(deadline::scope(at, page(redis)));
    println!(
        "worker: {}",
        if worker.await?.is_ok() {
            "done"
        } else {
            "too late"
        }
    );
    Ok(())
}

async fn page(mut redis: Client) -> RedisResult<u64> {
    let () = redis.set("per_request:last", "now").await?;
    redis.incr("per_request:visits", 1).await
}
