//! What a call costs, with every protection on, beside the connections that people use today.
//!
//! Closed loop of N callers, each doing `GET` of 32 bytes through `AsyncCommands`; all contenders against one real server in one run,
//! interleaved, medians of the rounds; CPU is this process' user and system time per call. Ratios are to bare `MultiplexedConnection`.
//! `cargo bench --bench overhead [-- ROUNDS]`; prints `FIGURE overhead …`, and exits non-zero where the promise of the README is broken.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a bench may end here"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use holdfast_lab::{Server, server_or_skip};
use redis_holdfast::{
    Client, Request,
    redis::{self, AsyncCommands, aio::ConnectionLike},
};
use tower::Service;

const CALLERS: [usize; 3] = [1, 64, 512];
const CELL: Duration = Duration::from_millis(1000);
const CONTENDERS: [&str; 4] = [
    "MultiplexedConnection",
    "ConnectionManager",
    "deadpool-redis",
    "redis-holdfast",
];

/// What one cell of the table measured.
#[derive(Clone, Copy)]
struct Cell {
    per_second: f64,
    cpu_micros: f64,
    p50_micros: f64,
}

/// User and system time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

async fn cell<C, F>(callers: usize, connect: F) -> Cell
where
    C: ConnectionLike + Send + Sync + 'static,
    F: Fn() -> C,
{
    let (stop, calls) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let (started, spent) = (Instant::now(), cpu());
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (mut connection, stop, calls) = (connect(), stop.clone(), calls.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::with_capacity(4096);
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let value: Vec<u8> = connection.get("overhead:key").await.unwrap();
                    assert_eq!(value.len(), 32);
                    if latencies.len() < 4096 {
                        latencies.push(began.elapsed());
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                }
                latencies
            })
        })
        .collect();
    tokio::time::sleep(CELL).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    latencies.sort_unstable();
    let calls = calls.load(Ordering::Relaxed) as f64;
    Cell {
        per_second: calls / started.elapsed().as_secs_f64(),
        cpu_micros: (cpu() - spent).as_secs_f64() * 1e6 / calls,
        p50_micros: latencies[latencies.len() / 2].as_secs_f64() * 1e6,
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
        pipeline: &'a redis::Pipeline,
        offset: usize,
        count: usize,
    ) -> redis::RedisFuture<'a, Vec<redis::Value>> {
        Box::pin(async move {
            self.0
                .get()
                .await
                .unwrap()
                .req_packed_commands(pipeline, offset, count)
                .await
        })
    }

    fn get_db(&self) -> i64 {
        0
    }
}

async fn measure(server: &Server, rounds: usize) -> Vec<Vec<Vec<Cell>>> {
    let client = redis::Client::open(server.url()).unwrap();
    let mut bare = client.get_multiplexed_async_connection().await.unwrap();
    let manager = client.get_connection_manager().await.unwrap();
    let pool = deadpool_redis::Config::from_url(server.url())
        .create_pool(Some(deadpool_redis::Runtime::Tokio1))
        .unwrap();
    let ours = Client::builder(&server.url()).unwrap().build().unwrap();
    ours.wait_ready(Duration::from_secs(5)).await.unwrap();
    let _: () = bare
        .set("overhead:key", [7_u8; 32].as_slice())
        .await
        .unwrap();
    let mut cells = vec![vec![Vec::new(); CONTENDERS.len()]; CALLERS.len()];
    for _ in 0..rounds {
        for (row, callers) in CALLERS.into_iter().enumerate() {
            cells[row][0].push(cell(callers, || bare.clone()).await);
            cells[row][1].push(cell(callers, || manager.clone()).await);
            cells[row][2].push(cell(callers, || Pooled(pool.clone())).await);
            cells[row][3].push(cell(callers, || ours.clone()).await);
        }
    }
    cells
}

/// What a refused call costs, from the request to the error, while the circuit is open: nobody listens where this client looks.
async fn refusal() -> Duration {
    const CALLS: u32 = 200_000;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let client = Client::builder(&url).unwrap().build().unwrap();
    let mut service = client.service();
    let request = Request::from(redis::cmd("GET").arg("overhead:key"));
    while !service
        .call(request.clone())
        .await
        .is_err_and(|error| error.waited().is_zero())
    {}
    let mut rounds: Vec<Duration> = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        for _ in 0..CALLS {
            let _ = std::hint::black_box(service.call(request.clone()).await);
        }
        rounds.push(started.elapsed() / CALLS);
    }
    rounds.sort_unstable();
    rounds[rounds.len() / 2]
}

fn median(cells: &[Cell], of: impl Fn(&Cell) -> f64) -> f64 {
    let mut values: Vec<f64> = cells.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let rounds = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(5);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let cells = runtime.block_on(async {
        let server = server_or_skip().await?;
        println!(
            "{} {}, {rounds} rounds of {CELL:?} per cell",
            server.kind(),
            server.version()
        );
        Some((refusal().await, measure(&server, rounds).await))
    });
    let Some((refusal, cells)) = cells else {
        return;
    };
    println!("FIGURE overhead of a refused call through Service: {refusal:?}");
    let mut broken = refusal > Duration::from_micros(1);
    for (row, callers) in CALLERS.into_iter().enumerate() {
        let bare = &cells[row][0];
        for (contender, name) in CONTENDERS.into_iter().enumerate() {
            let these = &cells[row][contender];
            let ratio = |of: fn(&Cell) -> f64| median(these, of) / median(bare, of);
            println!(
                "FIGURE overhead {callers:>3} callers, {name:<22}: {:>7.0} calls/s ({:.2} x), CPU {:>6.2} us/call ({:.2} x), p50 {:>6.1} us ({:.2} x)",
                median(these, |cell| cell.per_second),
                ratio(|cell| cell.per_second),
                median(these, |cell| cell.cpu_micros),
                ratio(|cell| cell.cpu_micros),
                median(these, |cell| cell.p50_micros),
                ratio(|cell| cell.p50_micros),
            );
            if name == "redis-holdfast" && callers > 1 {
                broken |=
                    ratio(|cell| cell.cpu_micros) > 0.9 || ratio(|cell| cell.per_second) < 1.05;
            }
        }
    }
    if broken {
        println!(
            "FIGURE overhead promise broken: a refusal <= 1 us, CPU <= 0.9 x and throughput >= 1.05 x bare at 64 and 512 callers"
        );
        std::process::exit(1);
    }
}
