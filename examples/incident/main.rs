//! One real incident, replayed on four Redis clients side by side.
//!
//! Three Redis and three Sentinels are cycled onto a new address range. The old range becomes a black hole: nobody
//! resets its connections. DNS for the new range fails for ten seconds; Sentinels hang in their lookups, their probes
//! kill them, and the next ones hang too. Then it heals, or is rolled back. Four API services ride through it on one
//! timeline, 200 requests/s each and 250 ms for each request: redis-rs' `SentinelClient`, `deadpool-redis`' Sentinel
//! pool at its defaults and as a careful team sets it up, and redis-holdfast. `--scenario move` does the same to one
//! Redis behind a name, with `ConnectionManager` and plain pools.
//!
//! ```sh
//! cargo run --release --example incident            # or with -- --help
//! ```
//!
//! It ends with `target/incident/report.html` for people and `target/incident/result.json` for machines, and with a
//! failure if a promise of redis-holdfast broke. Read on in [`timeline`] (what happens), [`contenders`] (to whom) and
//! [`verdict`] (what it means).

#![allow(
    unreachable_pub,
    dead_code,
    reason = "one binary: `pub` between its files says enough; single faults are played by benches/faults.rs"
)]

mod charts;
mod contenders;
mod html;
mod json;
mod live;
mod names;
mod options;
mod runner;
mod stage;
mod story;
mod table;
mod timeline;
mod verdict;

use std::error::Error;
use std::process::ExitCode;

use live::say;
use options::{HELP, Options, Wish};
use runner::Failure;
use timeline::Plan;
use verdict::Promise;

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Wish::parse(std::env::args().skip(1)) {
        Ok(Wish::Run(options)) => options,
        Ok(Wish::Help) => {
            say(HELP);
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            eprintln!("incident: {mistake}; see --help");
            return ExitCode::from(2);
        }
    };
    match run(&options).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("incident: {}", chain(&*error));
            ExitCode::from(3)
        }
    }
}

/// Plays the incident and writes what came of it; says whether every promise held.
async fn run(options: &Options) -> Result<bool, Failure> {
    let plan = if options.quick {
        Plan::quick()
    } else {
        Plan::full()
    };
    let shown = runner::run(options.story, options.servers, plan, &options.out).await?;
    Ok(shown.promises.iter().all(Promise::held))
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}
