//! Whether a call costs more the longer a client lives: after many calls, and after many faults.
//!
//! Owns the long run. Promises that an old client is held against one which has made a thousand calls, another each time, in turns and
//! within the same second: a machine that grows slower, or serves one kind of load in another way than before, is not taken for a client
//! that does. What a whole process grows by is not seen, but in its memory. `cargo bench --bench growth`; `HOLDFAST_FULL=1` makes ten
//! million calls and a thousand faults, else a million and a hundred. Prints `FIGURE growth …`, and exits non-zero where a bar is missed. Next: `overhead/measure`.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a bench may end here, is one binary, and uses its part of what it shares with `overhead`"
)]

#[path = "overhead/contenders.rs"]
mod contenders;
#[path = "overhead/measure.rs"]
mod measure;
#[path = "overhead/report.rs"]
mod report;

use std::time::{Duration, Instant};

use contenders::{Plain, ours};
use holdfast_lab::{Server, census, server_or_skip};
use measure::{Caller, Shape, Verb, cpu};
use redis_holdfast::{
    Client,
    redis::{self, AsyncCommands, aio::ConnectionLike},
};
use report::{Bar, Spread};

const SHAPE: Shape = Shape::new(Verb::Get, 32, 1, 64);
/// Calls of one reading.
const WINDOW: usize = 64 * 500;
const READINGS: usize = 101;

/// So many calls by all callers together; what each took of the processor, in microseconds.
async fn calls<C>(connection: &C, count: usize) -> f64
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    let each = count / SHAPE.callers;
    let before = cpu();
    let tasks: Vec<_> = (0..SHAPE.callers)
        .map(|_| {
            let mut caller = Plain::new(connection.clone(), SHAPE);
            tokio::spawn(async move {
                for _ in 0..each {
                    caller.call().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    (cpu() - before).as_secs_f64() * 1e6 / (each * SHAPE.callers) as f64
}

/// What a call of `old` costs beside one of a client that has made a thousand: readings of both take turns, each second time the other one is
/// first.
async fn cost(what: &str, old: &Client, server: &Server) -> f64 {
    let (mut ratios, mut micros) = (Vec::new(), Vec::new());
    for reading in 0..READINGS {
        let fresh = ours(&server.url()).await;
        calls(&fresh, 1_000).await;
        let (old, fresh) = if reading % 2 == 0 {
            let old = calls(old, WINDOW).await;
            (old, calls(&fresh, WINDOW).await)
        } else {
            let fresh = calls(&fresh, WINDOW).await;
            (calls(old, WINDOW).await, fresh)
        };
        ratios.push(old / fresh);
        micros.push(old);
    }
    let ratio = Spread::of(ratios.into_iter());
    println!(
        "FIGURE growth {what}: CPU {:.2} us/call, beside a fresh client {ratio}; resident {} KiB",
        Spread::of(micros.into_iter()).median,
        census::rss_bytes() / 1024
    );
    ratio.median
}

/// The link is killed, and the next call is served, so many times.
async fn faults(client: &Client, server: &Server, cycles: usize) {
    let mut control = server.control().await.unwrap();
    let (before, started) = (server.accepts().await, Instant::now());
    let mut connection = client.clone();
    for _ in 0..cycles {
        let kill = redis::cmd("CLIENT")
            .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
            .to_owned();
        let killed: u64 = kill.query_async(&mut control).await.unwrap();
        assert!(killed > 0, "there was no link");
        // Until it is told of its loss, and has another.
        while connection.get::<_, Vec<u8>>(SHAPE.key()).await.is_err() {}
    }
    let accepted = server.accepts().await - before;
    println!(
        "FIGURE growth {cycles} links killed: {accepted} connections accepted, served again after {:.1} ms on average",
        started.elapsed().as_secs_f64() * 1e3 / cycles as f64
    );
    assert!(accepted as usize >= cycles, "each fault was one");
}

async fn grow(server: &Server) -> Vec<Bar> {
    let full = std::env::var_os("HOLDFAST_FULL").is_some();
    let (most, cycles) = if full {
        (10_000_000, 1_000)
    } else {
        (1_000_000, 100)
    };
    let client = ours(&server.url()).await;
    let row = SHAPE;
    let () = client.clone().set(row.key(), row.value()).await.unwrap();
    calls(&client, most).await;
    let later = cost(&format!("after {most} calls"), &client, server).await;
    faults(&client, server, cycles).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let last = cost(&format!("after {cycles} faults too"), &client, server).await;
    vec![
        Bar::at_most("a call after so many, to a fresh client's", later, 1.1),
        Bar::at_most(
            "a call after so many faults, to a fresh client's",
            last,
            1.1,
        ),
    ]
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let bars = runtime.block_on(async { Some(grow(&server_or_skip().await?).await) });
    if bars.is_some_and(|bars| !report::all_pass("growth", &bars)) {
        std::process::exit(1);
    }
}
