//! A cluster connection of `redis` under guard: a circuit for each node, so that one that is away costs the others nothing.
//!
//! ```sh
//! cargo run --features cluster --example adopt_cluster -- redis://127.0.0.1:7000/ redis://127.0.0.1:7001/
//! ```

use std::time::Duration;

use redis_holdfast::layer::GuardLayer;
use redis_holdfast::redis::cluster::ClusterClient;
use redis_holdfast::redis::io::tcp::TcpSettings;
use redis_holdfast::redis::{AsyncCommands, RedisResult};
use redis_holdfast::{Error, ServiceConnection};
use tokio::time::timeout;
use tower::Layer;

const CALL_TIMEOUT: Duration = Duration::from_millis(250);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut nodes: Vec<String> = std::env::args().skip(1).collect();
    if nodes.is_empty() {
        nodes.push("redis://127.0.0.1:7000/".to_owned());
    }
    // Nothing of it is bounded unless told, and while it looks for its nodes nobody is served. What the guard cannot see, a connection whose
    // node has vanished, the kernel ends (on Linux; elsewhere leave that out).
    let socket = TcpSettings::default().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let socket = socket.set_user_timeout(Duration::from_secs(2));
    let client = ClusterClient::builder(nodes)
        .connection_timeout(CALL_TIMEOUT)
        .response_timeout(CALL_TIMEOUT)
        .tcp_settings(socket)
        .retries(0)
        .build()?;
    let connecting = client.get_async_connection();
    let cluster = match timeout(Duration::from_secs(2), connecting).await? {
        Ok(cluster) => cluster,
        Err(error) => {
            println!("no cluster: {error}");
            return Ok(());
        }
    };

    let guard = GuardLayer::builder()
        .name("cluster")
        .call_timeout(CALL_TIMEOUT)
        .build()?;
    let guarded = guard.layer(cluster).healed_by(client);
    let mut connection = ServiceConnection::new(guarded.clone());
    for page in ["home", "cart", "help", "news", "jobs", "legal"] {
        let visits: RedisResult<u64> = connection.incr(format!("adopt_cluster:{page}"), 1).await;
        match visits {
            Ok(visits) => println!("{page}: visit number {visits}"),
            Err(error) => match Error::find_in(&error) {
                // Its node is known to be away: told in microseconds.
                Some(ours) if ours.is_circuit_open() => println!("{page}: without counting"),
                _ => println!("{page}: {error}"),
            },
        }
    }
    for (node, circuit) in guarded.circuits() {
        println!("{node}: {:?}", circuit.state());
    }
    Ok(())
}
