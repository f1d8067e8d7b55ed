//! Other Redis clients of Rust beside ours: the rows of the crate's `overhead` bench, by the same code.
//!
//! ```sh
//! cargo run --release --manifest-path benches/peers/Cargo.toml            # or with -- ROUNDS
//! ```
//!
//! Prints `FIGURE peers …`, and exits non-zero where somebody is cheaper or faster than ours. What each of them does not do (deadlines,
//! bounds, probes) is switched on nowhere: they run at their defaults. Next: [`clients`], and `benches/overhead`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    dead_code,
    reason = "a bench may end here, and uses its part of what it shares with `overhead`"
)]

mod clients;
#[path = "../../overhead/contenders.rs"]
mod contenders;
#[path = "../../overhead/measure.rs"]
mod measure;
#[path = "../../overhead/report.rs"]
mod report;

use std::time::Duration;

use contenders::OURS;
use holdfast_lab::server_or_skip;
use measure::{Contender, Shape, Verb};
use report::{Bar, CPU, Row, THROUGHPUT};

const CELL: Duration = Duration::from_millis(200);

fn rows() -> Vec<Shape> {
    let of = |verb| [64, 512].map(|callers| Shape::new(verb, 32, 1, callers));
    [Verb::Get, Verb::Set].into_iter().flat_map(of).collect()
}

/// Ours beside each of the others.
fn bars(row: &Row, contenders: &[Contender]) -> Vec<Bar> {
    let ours = contenders.iter().position(|one| one.name == OURS).unwrap();
    let others = (0..contenders.len()).filter(|other| *other != ours);
    let beaten = others.flat_map(|other| {
        let name = contenders[other].name;
        let to = |of| row.ratio(ours, other, of).median;
        let what = |what| format!("{}, {what} to {name}", row.shape);
        [
            Bar::at_most(what("CPU a call"), to(CPU), 1.0),
            Bar::at_least(what("throughput"), to(THROUGHPUT), 1.0),
        ]
    });
    beaten.collect()
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|word| word.parse().ok());
    let rounds = rounds.unwrap_or(9);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let measured = runtime.block_on(async {
        let server = server_or_skip().await?;
        let (kind, version) = (server.kind(), server.version());
        println!("{kind} {version}, {rounds} rounds of {CELL:?} per cell");
        let mut all = contenders::connect(&server.url()).await;
        all.extend(clients::connect(&server.addr().to_string()).await);
        let mut held = Vec::new();
        for shape in rows() {
            let mut row = Row::new(shape, all.len());
            for round in 0..rounds {
                row.round(round, &all, CELL).await;
            }
            for (nth, one) in all.iter().enumerate() {
                println!("FIGURE peers {}", row.line(nth, one.name));
            }
            held.extend(bars(&row, &all));
        }
        Some(held)
    });
    if measured.is_some_and(|bars| !report::all_pass("peers", &bars)) {
        std::process::exit(1);
    }
}
