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
    reason = "one binary: `pub` between its files says enough"
)]

mod charts;
mod contenders;
mod html;
mod json;
mod live;
mod names;
mod options;
mod stage;
mod story;
mod table;
mod timeline;
mod verdict;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use contenders::{BUDGET, Contenders};
use live::say;
use options::{HELP, Options, Wish};
use stage::Stage;
use timeline::{Plan, RATE, Recording};
use verdict::{Promise, Row};

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
async fn run(options: &Options) -> Result<bool, Box<dyn Error + Send + Sync>> {
    let plan = if options.quick {
        Plan::quick()
    } else {
        Plan::full()
    };
    let mut stage = Stage::raise(options.story, options.servers).await?;
    announce(plan, &stage);
    let contenders = Contenders::connect(&stage).await?;
    let recording = timeline::play(plan, &mut stage, &contenders).await?;
    let (rows, promises) = judge(&contenders, &recording);
    let sentence = table::sentence(options.story, &rows, recording.outage());
    say(&table::table(&rows, &promises));
    if let Some(kills) = recording.told_kills() {
        say(&kills);
    }
    say(&sentence);

    let page = html::Page {
        sentence,
        stage: &stage,
        contenders: &contenders.all,
        rows: &rows,
        promises: &promises,
        recording: &recording,
    };
    let result = json::result(options.story, &stage.server(), &rows, &promises);
    write(&options.out, &page.render()?, &format!("{result:#}\n"))?;
    Ok(promises.iter().all(Promise::held))
}

fn announce(plan: Plan, stage: &Stage) {
    let (total, server) = (plan.total(), stage.server_in_words());
    say(&format!(
        "4 services, {RATE} requests/s each, {BUDGET:?} per request, {total:?}"
    ));
    say(&format!("server: {server}"));
    say(&format!("it answers at {}\n", stage.addr()));
}

fn judge(contenders: &Contenders, run: &Recording) -> (Vec<Row>, Vec<Promise>) {
    let mut pairs = contenders.all.iter().zip(&run.reports);
    let rows = pairs.clone().map(|(one, report)| Row::of(one, report, run));
    let rows = rows.collect();
    let ours = pairs.next_back();
    let promises = ours.map(|(ours, report)| Promise::all(ours, report, run));
    (rows, promises.unwrap_or_default())
}

fn write(out: &Path, html: &str, json: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    fs::create_dir_all(out)?;
    fs::write(out.join("report.html"), html)?;
    fs::write(out.join("result.json"), json)?;
    say(&format!("see {}", out.join("report.html").display()));
    Ok(())
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
