//! What a call costs, with every protection on, beside the connections that people use today.
//!
//! Closed loops of N callers through `AsyncCommands`, all contenders against one real server in one run. They take turns within a round,
//! in another order each round; a figure is the median of the rounds, a ratio is to bare `MultiplexedConnection` within the same round.
//!
//! ```sh
//! cargo bench --bench overhead                                   # GET of 32 bytes, 1, 64 and 512 callers
//! HOLDFAST_FULL=1 cargo bench --bench overhead                   # the whole table, and the bars of docs/performance.md: twelve minutes
//! HOLDFAST_FULL=1 cargo bench --bench overhead -- 7 'GET 32 B'   # seven rounds, only the rows whose name has these words
//! ```
//!
//! Prints `FIGURE overhead …`, and exits non-zero where a bar is missed. Next: [`measure`] for a cell, [`contenders`], [`report`].
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a bench may end here, is one binary, and shares its files with others"
)]

mod bars;
mod contenders;
mod measure;
mod report;

use std::time::{Duration, Instant};

use contenders::{BARE, OURS};
use holdfast_lab::server_or_skip;
use measure::{BYTES, Contender, Shape, Verb};
use redis_holdfast::{Client, Request, redis};
use report::Row;
use tower::Service;

const CALLERS: [usize; 5] = [1, 8, 64, 512, 4096];
const BATCHES: [usize; 3] = [1, 10, 100];
/// Rounds of a row of small values: from one to the next its ratio moves between half and twice.
const OFTEN: usize = 15;
/// More than this on its way at once is refused by whoever bounds his memory, and measures the memory of the others.
const MOST_ON_THE_WAY: usize = 48 * 1024 * 1024;

/// What was asked for.
struct Wish {
    full: bool,
    rounds: usize,
    /// The same, of rows of small values.
    often: usize,
    cell: Duration,
    /// Only rows whose names have this.
    only: String,
    /// Only this contender, and no bars: for a profile.
    who: String,
}

impl Wish {
    fn read() -> Self {
        let full = std::env::var_os("HOLDFAST_FULL").is_some();
        let mut wish = Self {
            full,
            rounds: if full { 5 } else { 9 },
            often: if full { OFTEN } else { 9 },
            cell: Duration::from_millis(200),
            only: String::new(),
            who: String::new(),
        };
        for word in std::env::args()
            .skip(1)
            .filter(|word| !word.starts_with("--"))
        {
            match word.parse() {
                Ok(rounds) => (wish.rounds, wish.often) = (rounds, rounds),
                Err(_) if wish.only.is_empty() => wish.only = word,
                Err(_) => wish.who = word,
            }
        }
        wish
    }

    fn rounds(&self, row: &Shape) -> usize {
        if row.bytes == BYTES[0] {
            self.often
        } else {
            self.rounds
        }
    }

    fn rows(&self) -> Vec<Shape> {
        let all = if self.full { whole() } else { short() };
        let wanted = |row: &Shape| row.to_string().contains(&self.only);
        all.into_iter().filter(wanted).collect()
    }
}

fn short() -> Vec<Shape> {
    let row = |callers| Shape::new(Verb::Get, BYTES[0], 1, callers);
    [1, 64, 512].map(row).into()
}

fn whole() -> Vec<Shape> {
    let mut rows = Vec::new();
    for batch in BATCHES {
        for bytes in BYTES {
            for verb in [Verb::Get, Verb::Set] {
                let row = |callers| Shape::new(verb, bytes, batch, callers);
                rows.extend(CALLERS.map(row));
            }
        }
    }
    rows.retain(|row| row.bytes * row.batch * row.callers <= MOST_ON_THE_WAY);
    // A pipeline of many commands is a queue of its own: 4096 of them measure nothing else than 512 do.
    rows.retain(|row| row.batch == 1 || row.callers <= 512);
    rows
}

async fn measure(contenders: &[Contender], wish: &Wish) -> Vec<Row> {
    let row = |shape| Row::new(shape, contenders.len());
    let mut rows: Vec<Row> = wish.rows().into_iter().map(row).collect();
    for round in 0..wish.rounds.max(wish.often) {
        for row in rows
            .iter_mut()
            .filter(|row| round < wish.rounds(&row.shape))
        {
            row.round(round, contenders, wish.cell).await;
        }
    }
    for row in &rows {
        for (nth, contender) in contenders.iter().enumerate() {
            // What is kept: everybody where the bars are, elsewhere bare and ours.
            let kept = row.shape.is_small() || [BARE, OURS].contains(&contender.name);
            let mark = if kept { "FIGURE overhead" } else { "      " };
            println!("{mark} {}", row.line(nth, contender.name));
        }
    }
    rows
}

/// What a refused call costs, from the request to the error, while the circuit is open: nobody listens where this client looks.
async fn refusal() -> Duration {
    const CALLS: u32 = 200_000;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let client = Client::builder(&url).unwrap().build().unwrap();
    let mut service = client.service();
    let request = Request::from(redis::cmd("GET").arg("overhead:32"));
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

fn main() {
    let wish = Wish::read();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let measured = runtime.block_on(async {
        let server = server_or_skip().await?;
        println!(
            "{} {}, {} rounds of {:?} per cell, {} where values are small",
            server.kind(),
            server.version(),
            wish.rounds,
            wish.cell,
            wish.often
        );
        let refusal = refusal().await;
        println!("FIGURE overhead of a refused call through Service: {refusal:?}");
        let mut contenders = contenders::connect(&server.url()).await;
        contenders.retain(|one| one.name.contains(&wish.who));
        let rows = measure(&contenders, &wish).await;
        let names: Vec<_> = contenders.iter().map(|one| one.name).collect();
        let all = wish.who.is_empty();
        all.then(|| bars::all(refusal, &rows, &names, wish.full))
    });
    if measured.is_some_and(|bars| !report::all_pass("overhead", &bars)) {
        std::process::exit(1);
    }
}
