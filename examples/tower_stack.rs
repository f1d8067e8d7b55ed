//! The layers by hand, in an order of one's own, with a layer that this crate has never heard of among them.
//!
//! ```sh
//! cargo run --example tower_stack -- redis://127.0.0.1:6379/
//! ```

use std::time::Duration;

use redis_holdfast::layer::{
    BreakerLayer, FallbackLayer, LimitLayer, Probe, RetryLayer, TelemetryLayer, TimeoutLayer,
    cache_miss,
};
use redis_holdfast::redis::{self, AsyncCommands};
use redis_holdfast::{BreakerPolicy, ConnectionService, Request, RetryPolicy, ServiceConnection};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1);
    let url = url.unwrap_or_else(|| "redis://127.0.0.1:6379/".to_owned());
    let connection = redis::Client::open(url)?.get_connection_manager().await?;

    let stack = ServiceBuilder::new()
        // Outermost, so that refused calls are counted too.
        .layer(TelemetryLayer::new("tower-stack"))
        .layer(FallbackLayer::new(cache_miss))
        // One deadline over all that follows: the wait of a layer that is not ready, too.
        .layer(TimeoutLayer::new(Duration::from_millis(250)))
        .layer(LimitLayer::new(256))
        .layer(RetryLayer::new(RetryPolicy::default())?)
        // Inside the retries: each attempt is judged on its own.
        .layer(BreakerLayer::new(BreakerPolicy::default(), Probe::ping())?)
        // Anybody's layer: an audit, here.
        .map_request(|request: Request| {
            println!("audit: {}", request.command());
            request
        })
        .service(ConnectionService::new(connection));

    // And back to the commands as ever.
    let mut connection = ServiceConnection::new(stack);
    let () = connection.set("tower_stack", "on top").await?;
    let found: Option<String> = connection.get("tower_stack").await?;
    println!("found: {found:?}");
    Ok(())
}
