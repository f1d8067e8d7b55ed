//! What the client tells Prometheus, printed as a scrape would see it.
//!
//! ```sh
//! cargo run --example prometheus                      # against a small server inside this process
//! cargo run --example prometheus -- redis://host:6379/
//! ```
//!
//! The recorder is installed *after* the client is built, as happens where a framework starts first: the client finds
//! it within a second, and nothing counted before is lost.

use std::time::Duration;

use holdfast_lab::Embedded;
use metrics_exporter_prometheus::PrometheusBuilder;
use redis_holdfast::Client;
use redis_holdfast::redis::AsyncTypedCommands;
use tokio::time::interval;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let embedded = Embedded::start().await?;
    let url = std::env::args().nth(1).unwrap_or_else(|| embedded.url());
    let mut redis = Client::builder(&url)?.name("orders").build()?;

    // With buckets the durations of many processes can be added up; without, each keeps its own quantiles.
    let prometheus = PrometheusBuilder::new()
        .set_buckets(&[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0])?
        .install_recorder()?;

    redis.wait_ready(Duration::from_secs(5)).await?;
    redis.set("prometheus:0", "no number").await?;
    if let Err(error) = redis.incr("prometheus:0", 1).await {
        println!("# one call fails, as it should: {error}");
    }
    // Two seconds of calls: longer than the client takes to find a new recorder.
    let mut pace = interval(Duration::from_millis(10));
    for nth in 0..200 {
        pace.tick().await;
        redis.set(format!("prometheus:{}", nth % 10), nth).await?;
    }

    print!("{}", prometheus.render());
    Ok(())
}
