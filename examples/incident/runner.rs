//! Runs one story from the stage to the report; the example and `benches/faults.rs` both do it by this.
//!
//! Owns the order. Promises that whoever runs a story gets the same lines, the same page and the same result. Leaves what happens to
//! [`super::timeline`], and what it means to [`super::verdict`]. Fails where the stage cannot be raised, a client cannot connect, or a
//! file cannot be written.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::contenders::{BUDGET, Contenders};
use crate::live::say;
use crate::options::Choice;
use crate::stage::Stage;
use crate::story::Story;
use crate::timeline::{Plan, RATE, Recording, play};
use crate::verdict::{Promise, Row};
use crate::{html, json, table};

pub type Failure = Box<dyn Error + Send + Sync>;

/// What a run showed.
pub struct Shown {
    pub rows: Vec<Row>,
    pub promises: Vec<Promise>,
    /// What no client could avoid.
    pub outage: Duration,
}

/// Plays a story and writes what came of it.
pub async fn run(story: Story, servers: Choice, plan: Plan, out: &Path) -> Result<Shown, Failure> {
    let mut stage = Stage::raise(story, servers).await?;
    announce(plan, &stage);
    let contenders = Contenders::connect(&stage).await?;
    let recording = play(plan, &mut stage, &contenders).await?;
    let (rows, promises) = judge(story, &contenders, &recording);
    let sentence = table::sentence(story, &rows, recording.outage());
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
    let result = json::result(story, &stage.server(), &rows, &promises);
    write(out, &page.render()?, &format!("{result:#}\n"))?;
    Ok(Shown {
        rows,
        promises,
        outage: recording.outage(),
    })
}

fn announce(plan: Plan, stage: &Stage) {
    let (total, server) = (plan.total(), stage.server_in_words());
    say(&format!(
        "4 services, {RATE} requests/s each, {BUDGET:?} per request, {total:?}"
    ));
    say(&format!("server: {server}"));
    say(&format!("it answers at {}\n", stage.addr()));
}

fn judge(story: Story, contenders: &Contenders, run: &Recording) -> (Vec<Row>, Vec<Promise>) {
    let mut pairs = contenders.all.iter().zip(&run.reports);
    let rows = pairs.clone().map(|(one, report)| Row::of(one, report, run));
    let rows = rows.collect();
    let ours = pairs.next_back();
    let promises = ours.map(|(ours, report)| Promise::all(story.fault, ours, report, run));
    (rows, promises.unwrap_or_default())
}

fn write(out: &Path, html: &str, json: &str) -> Result<(), Failure> {
    fs::create_dir_all(out)?;
    fs::write(out.join("report.html"), html)?;
    fs::write(out.join("result.json"), json)?;
    say(&format!("see {}", out.join("report.html").display()));
    Ok(())
}
