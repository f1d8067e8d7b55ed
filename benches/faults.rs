//! Latency under faults: one fault at a time, to the four services of the example `incident`, by its runner and with its report.
//!
//! Owns which faults, and their figures. Open loop: requests arrive whatever became of those before. *Told* is when the first request
//! was told of a failure, *refused* when none was left waiting, *back* when 99 % were served to the end, counted from when Redis could be
//! reached; *beyond* is what failed beside that.
//!
//! ```sh
//! cargo bench --bench faults                  # or with -- dead-link, black-hole, frozen, down, failover
//! ```
//!
//! Prints `FIGURE faults …`, leaves a page for each in `target/faults`, and exits non-zero where a promise broke.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    reason = "one binary: `pub` between its files says enough; a bench may end here, and uses its part of the example"
)]

#[path = "../examples/incident/charts/mod.rs"]
mod charts;
#[path = "../examples/incident/contenders/mod.rs"]
mod contenders;
#[path = "../examples/incident/html.rs"]
mod html;
#[path = "../examples/incident/json.rs"]
mod json;
#[path = "../examples/incident/live.rs"]
mod live;
#[path = "../examples/incident/names.rs"]
mod names;
#[path = "../examples/incident/options.rs"]
mod options;
#[path = "../examples/incident/runner.rs"]
mod runner;
#[path = "../examples/incident/stage/mod.rs"]
mod stage;
#[path = "../examples/incident/story.rs"]
mod story;
#[path = "../examples/incident/table.rs"]
mod table;
#[path = "../examples/incident/timeline.rs"]
mod timeline;
#[path = "../examples/incident/verdict.rs"]
mod verdict;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use holdfast_lab::Servers;
use options::Choice;
use runner::Shown;
use story::{Ending, Fault, Scenario, Story};
use timeline::Plan;
use verdict::{Promise, Row};

const FAULTS: [(&str, Scenario, Fault); 5] = [
    ("dead-link", Scenario::Move, Fault::DeadLink),
    ("black-hole", Scenario::Move, Fault::BlackHole),
    ("frozen", Scenario::Move, Fault::Frozen),
    ("down", Scenario::Move, Fault::Down),
    ("failover", Scenario::Sentinel, Fault::Failover),
];

#[tokio::main]
async fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let real = !Servers::find_all().is_empty();
    let mut held = true;
    for (name, scenario, fault) in FAULTS {
        if !wanted.is_empty() && !wanted.iter().any(|word| word == name) {
            continue;
        }
        if fault == Fault::Failover && !real {
            println!("SKIPPED: {name} needs real Sentinels");
            continue;
        }
        let story = Story {
            scenario,
            fault,
            ending: Ending::Healed,
        };
        let out = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("target/faults")
            .join(name);
        let shown = runner::run(story, Choice::Any, Plan::fault(), &out)
            .await
            .unwrap();
        figures(name, &shown);
        held &= shown.promises.iter().all(Promise::held);
    }
    if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn figures(fault: &str, shown: &Shown) {
    for row in &shown.rows {
        println!(
            "FIGURE faults {fault}, {:<25}: {}",
            row.name,
            of(row, shown.outage)
        );
    }
    for promise in &shown.promises {
        let measured = promise
            .measured
            .map_or_else(|| "never".to_owned(), table::number);
        println!(
            "FIGURE faults {fault}, {}: {measured} (limit {})",
            promise.id, promise.limit
        );
    }
}

fn of(row: &Row, outage: Duration) -> String {
    let seconds = |took: Option<Duration>| {
        took.map_or_else(
            || "never".to_owned(),
            |took| format!("{:.2} s", took.as_secs_f64()),
        )
    };
    let refused = if outage.is_zero() {
        "no need to".to_owned()
    } else {
        seconds(row.refused)
    };
    format!(
        "told {}, refused {refused}, back {}, failed {:.2} s ({:.2} s beyond), {:.0} s in vain, p99 {:.1} ms, most waiting {}, late {}",
        seconds(row.told),
        seconds(row.recovery),
        row.failed_seconds,
        (row.failed_seconds - outage.as_secs_f64()).max(0.0),
        row.in_vain.as_secs_f64(),
        verdict::millis(row.p99),
        row.peak_outstanding,
        row.over_budget,
    )
}
