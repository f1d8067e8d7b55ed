//! The verdict for machines: `result.json`.
//!
//! Owns the schema, which is a contract: fields are added, never renamed. Pure. Next: `tests/examples.rs`, which reads it.

use serde_json::{Value, json};

use crate::contenders::BUDGET;
use crate::story::Story;
use crate::verdict::{Promise, Row, millis};

/// `{scenario, servers, budget_ms, contenders, promises}`.
pub fn result(story: Story, servers: &str, rows: &[Row], promises: &[Promise]) -> Value {
    json!({
        "scenario": story.id(),
        "servers": servers,
        "budget_ms": millis(BUDGET),
        "contenders": rows.iter().map(contender).collect::<Vec<_>>(),
        "promises": promises.iter().map(promise).collect::<Vec<_>>(),
    })
}

fn contender(row: &Row) -> Value {
    json!({
        "name": row.name,
        "requests": row.requests,
        "ok": row.ok,
        "failed": row.failed,
        "over_budget": row.over_budget,
        "wrong": row.wrong,
        "p50_ms": rounded(millis(row.p50)),
        "p99_ms": rounded(millis(row.p99)),
        "max_ms": rounded(millis(row.max)),
        "peak_outstanding": row.peak_outstanding,
        "failed_seconds": rounded(row.failed_seconds),
        "told_ms": row.told.map(|took| rounded(millis(took))),
        "refused_ms": row.refused.map(|took| rounded(millis(took))),
        "recovery_ms": row.recovery.map(|took| rounded(millis(took))),
    })
}

fn promise(promise: &Promise) -> Value {
    json!({
        "id": promise.id,
        "limit": promise.limit,
        "measured": promise.measured.map(rounded),
        "held": promise.held(),
    })
}

/// To a thousandth: microseconds of a millisecond.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
