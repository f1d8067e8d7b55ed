//! The same verdict in words: one sentence, and the final table on the terminal.
//!
//! Owns the text. Promises that every figure in it was computed from this run. Pure. Next: [`super::html`].

use std::time::Duration;

use crate::story::Story;
use crate::verdict::{Promise, Row, millis};

/// What happened, for someone with five seconds: the worst of the others, and ours.
pub fn sentence(story: Story, rows: &[Row], outage: Duration) -> String {
    let Some((ours, others)) = rows.split_last() else {
        return String::new();
    };
    let worst = others.iter().max_by_key(|row| {
        let never = row.recovery.is_none();
        (never, row.failed_seconds.round() as u64, row.in_vain)
    });
    let worst = worst.map_or_else(String::new, |row| {
        format!(
            "{} failed for {:.1} s, made requests wait {:.0} s in vain and {}; ",
            row.name,
            row.failed_seconds,
            row.in_vain.as_secs_f64(),
            recovered(story, row)
        )
    });
    format!(
        "{worst}{} failed for {:.1} s, of which {:.1} s were unavoidable, made them wait {:.0} s and {}.",
        ours.name,
        ours.failed_seconds,
        outage.as_secs_f64(),
        ours.in_vain.as_secs_f64(),
        recovered(story, ours)
    )
}

fn recovered(story: Story, row: &Row) -> String {
    match row.recovery {
        Some(took) => format!("was back {:.1} s {}", took.as_secs_f64(), story.after()),
        None => "never recovered".to_owned(),
    }
}

/// The rows and the promises, for the terminal.
pub fn table(rows: &[Row], promises: &[Promise]) -> String {
    let padded = |words: [String; 13]| words.map(|word| format!("{word:>8}")).concat();
    let mut text = format!("\n{:<25}{}\n", "", padded(HEAD.map(str::to_owned)));
    for row in rows {
        text += &format!("{:<25}{}\n", row.name, padded(cells(row)));
    }
    text.push('\n');
    for promise in promises {
        let mark = if promise.held() { "held " } else { "BROKE" };
        let measured = promise.measured.map_or_else(|| "never".to_owned(), number);
        let limit = number(promise.limit);
        text += &format!(
            "  {mark}  {:<45} {measured:>8}  (limit {limit})\n",
            promise.id
        );
    }
    text
}

/// The columns of both tables, in order.
pub fn cells(row: &Row) -> [String; 13] {
    let or = |took: Option<Duration>, none: &str| {
        took.map_or_else(
            || none.to_owned(),
            |took| format!("{:.2} s", took.as_secs_f64()),
        )
    };
    [
        format!("{:.1} s", row.failed_seconds),
        or(row.told, "-"),
        or(row.refused, "-"),
        or(row.recovery, "never"),
        row.peak_outstanding.to_string(),
        row.ok.to_string(),
        row.failed.to_string(),
        row.over_budget.to_string(),
        row.wrong.to_string(),
        format!("{} ms", number(millis(row.p99))),
        format!("{} ms", number(millis(row.max))),
        format!("{:.0} s", row.in_vain.as_secs_f64()),
        row.lookups.to_string(),
    ]
}

/// Three digits that matter, no more.
pub fn number(value: f64) -> String {
    if value.fract() == 0.0 || value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

pub const HEAD: [&str; 13] = [
    "failed", "told in", "refused", "back in", "peak", "ok", "errors", "late", "wrong", "p99",
    "max", "in vain", "lookups",
];
