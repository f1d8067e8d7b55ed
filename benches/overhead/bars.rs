//! What must hold of the table: the bars of docs/performance.md in full mode, half of the way to them in the short one.
//!
//! Owns the limits, each with the rows that it is about. Promises that a row which was not measured holds nobody up. Pure.

use std::time::Duration;

use super::OURS;
use super::measure::{Shape, Verb};
use super::report::{Bar, CPU, Limit, Measure, P50, P99, Row, THROUGHPUT};

/// The bars of the rows that were measured; the bare connection is the first of `names`.
pub fn all(refusal: Duration, rows: &[Row], names: &[&str], full: bool) -> Vec<Bar> {
    let ours = names.iter().position(|name| *name == OURS).unwrap();
    let micros = refusal.as_secs_f64() * 1e6;
    let mut bars = vec![Bar::at_most(
        "a refused call through Service, us",
        micros,
        1.0,
    )];
    for row in rows {
        if full {
            bars.extend(of_row(row, ours));
            bars.extend(of_others(row, names, ours));
        } else if row.shape.callers > 1 {
            bars.push(ratio(row, ours, "CPU a call", CPU, Limit::AtMost(0.9)));
            bars.push(ratio(
                row,
                ours,
                "throughput",
                THROUGHPUT,
                Limit::AtLeast(1.05),
            ));
        }
    }
    if full {
        bars.extend(of_many(rows, ours));
    }
    bars
}

/// Ours to the bare connection.
fn ratio(row: &Row, ours: usize, what: &str, of: Measure, limit: Limit) -> Bar {
    let what = format!("{}, {what} to bare", row.shape);
    Bar::new(what, row.ratio(ours, 0, of).median, limit)
}

fn of_row(row: &Row, ours: usize) -> Vec<Bar> {
    let Shape {
        bytes,
        batch,
        callers,
        ..
    } = row.shape;
    let bar = |what, of, limit| ratio(row, ours, what, of, limit);
    let (most, least) = (Limit::AtMost, Limit::AtLeast);
    match (bytes, batch, callers) {
        (32, 1, 1) => vec![
            bar("p50", P50, most(0.9)).excused(1.05, LONE),
            bar("p99", P99, most(1.0)).excused(1.2, TAIL),
        ],
        (32, 1, 64) => vec![
            bar("CPU a call", CPU, most(0.75)),
            bar("throughput", THROUGHPUT, least(1.3)),
            bar("p99", P99, most(1.0)),
        ],
        (32, 1, 512) => vec![
            bar("CPU a call", CPU, most(0.65)),
            bar("throughput", THROUGHPUT, least(1.3)),
        ],
        (65_536, 1, 8 | 64) if row.shape.verb == Verb::Set => {
            vec![bar("throughput", THROUGHPUT, least(1.0))]
        }
        _ if row.shape.verb == Verb::Set && bytes * batch >= 65_536 => {
            vec![bar("throughput", THROUGHPUT, least(1.0)).excused(0.8, WINDOW)]
        }
        (_, 100, _) | (65_536, ..) => {
            vec![bar("throughput", THROUGHPUT, least(1.0)).excused(0.9, SHARED)]
        }
        _ => Vec::new(),
    }
}

/// Everybody beside the bare connection is beaten at 64 and 512 callers.
fn of_others(row: &Row, names: &[&str], ours: usize) -> Vec<Bar> {
    let shape = row.shape;
    if shape.bytes != 32 || shape.batch != 1 || ![64, 512].contains(&shape.callers) {
        return Vec::new();
    }
    let others = (1..names.len()).filter(|other| *other != ours);
    let beaten = others.flat_map(|other| {
        let to = |of| row.ratio(ours, other, of).median;
        let name = names[other];
        [
            Bar::at_most(format!("{shape}, CPU a call to {name}"), to(CPU), 1.0),
            Bar::at_least(
                format!("{shape}, throughput to {name}"),
                to(THROUGHPUT),
                1.0,
            ),
        ]
    });
    beaten.collect()
}

/// 4096 callers get as much done as 512.
fn of_many(rows: &[Row], ours: usize) -> Vec<Bar> {
    let find = |verb, callers| {
        let shape = Shape::new(verb, 32, 1, callers);
        rows.iter().find(|row| row.shape == shape)
    };
    let pairs = [Verb::Get, Verb::Set].map(|verb| find(verb, 512).zip(find(verb, 4096)));
    let bars = pairs.into_iter().flatten().map(|(fewer, more)| {
        let measured = more.ratio_to_row(fewer, ours, THROUGHPUT).median;
        Bar::at_least(
            format!("{}, throughput to that of 512", more.shape),
            measured,
            0.9,
        )
    });
    bars.collect()
}

const LONE: &str = "four fifths of a lone call are the kernel's, and it has no call into it to spare: one write, one read, one wait";
const TAIL: &str = "the same path through the kernel, and what else the machine does";
const SHARED: &str =
    "the server has its share of the same two processors, and it is the same for all";
const WINDOW: &str = "the kernel holds 128 KiB of ours that the peer has no room for, not megabytes: a blocked write that moves is a sign of life";
