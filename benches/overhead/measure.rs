//! One cell of the table: so many callers in a closed loop, for so long, and what it took.
//!
//! Owns the loop and the reading of `/proc`. Promises that every contender is measured by the same code, and that nothing is shared
//! between callers but the word that ends them. Leaves what a call is to the [`Caller`]. Ends the process where a call fails: a bench
//! of errors would say nothing. Next: [`super::contenders`].

use std::{
    fs,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    Set,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub verb: Verb,
    /// Of each value.
    pub bytes: usize,
    /// Commands of one call.
    pub batch: usize,
    pub callers: usize,
}

/// Someone who calls, again and again.
pub trait Caller: Send + 'static {
    /// One call, and a look at its answer.
    fn call(&mut self) -> impl Future<Output = ()> + Send;
}

/// What one cell measured.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// With those that warmed up; all other figures are of the rest.
    pub made: f64,
    pub per_second: f64,
    /// User and system time of this process for one call; the server's is its own.
    pub cpu_micros: f64,
    pub p50_micros: f64,
    pub p99_micros: f64,
    pub p999_micros: f64,
    /// Switches of context of this process' threads, for one call.
    pub switches: f64,
}

/// One of those who are compared: its name, and its way to run a cell.
pub struct Contender {
    pub name: &'static str,
    pub run: Box<dyn Fn(Shape, Duration) -> Run>,
}

pub type Run = Pin<Box<dyn Future<Output = Cell>>>;

impl Contender {
    /// `caller` makes one of the callers of a row.
    pub fn new<C, F>(name: &'static str, caller: F) -> Self
    where
        C: Caller,
        F: Fn(Shape) -> C + Clone + 'static,
    {
        Self {
            name,
            run: Box::new(move |shape, time| {
                let caller = caller.clone();
                Box::pin(cell(shape, time, move || caller(shape)))
            }),
        }
    }
}

impl Shape {
    pub const fn new(verb: Verb, bytes: usize, batch: usize, callers: usize) -> Self {
        Self {
            verb,
            bytes,
            batch,
            callers,
        }
    }

    /// One command, and a value that fits a packet many times.
    pub const fn is_small(self) -> bool {
        self.bytes == 32 && self.batch == 1
    }

    /// The key that has a value of this row's size.
    pub fn key(self) -> String {
        format!("overhead:{}", self.bytes)
    }

    pub fn value(self) -> Vec<u8> {
        vec![7; self.bytes]
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verb = match self.verb {
            Verb::Get => "GET",
            Verb::Set => "SET",
        };
        let size = if self.bytes < 1024 {
            format!("{} B", self.bytes)
        } else {
            format!("{} KiB", self.bytes / 1024)
        };
        let batch = if self.batch == 1 {
            String::new()
        } else {
            format!(" x {}", self.batch)
        };
        let named = format!("{verb} {size}{batch}, {} callers", self.callers);
        f.pad(&named)
    }
}

async fn cell<C: Caller>(shape: Shape, time: Duration, caller: impl Fn() -> C) -> Cell {
    let act = Arc::new(AtomicU8::new(WARM));
    let tasks: Vec<_> = (0..shape.callers)
        .map(|_| tokio::spawn(calls(caller(), Arc::clone(&act))))
        .collect();
    tokio::time::sleep(time / 4).await;
    let before = (Instant::now(), cpu(), switches());
    act.store(COUNT, Ordering::Relaxed);
    tokio::time::sleep(time).await;
    act.store(STOP, Ordering::Relaxed);
    let (elapsed, spent, switched) = (before.0.elapsed(), cpu() - before.1, switches() - before.2);
    let (mut took, mut made): (Vec<u32>, u64) = (Vec::new(), 0);
    for task in tasks {
        let (its, all) = task.await.unwrap();
        took.extend(its);
        made += all;
    }
    took.sort_unstable();
    let calls = took.len() as f64;
    let rank = |part: f64| f64::from(took[((calls * part).ceil() as usize).max(1) - 1]) / 1e3;
    Cell {
        made: made as f64,
        per_second: calls / elapsed.as_secs_f64(),
        cpu_micros: spent.as_secs_f64() * 1e6 / calls,
        p50_micros: rank(0.5),
        p99_micros: rank(0.99),
        p999_micros: rank(0.999),
        switches: switched as f64 / calls,
    }
}

/// All calls made, and the nanoseconds of each that began while calls count: one reading of the clock for each, the end of one is the beginning of the
/// next.
async fn calls<C: Caller>(mut caller: C, act: Arc<AtomicU8>) -> (Vec<u32>, u64) {
    let (mut took, mut made) = (Vec::with_capacity(64), 0);
    let mut began = Instant::now();
    loop {
        let now = act.load(Ordering::Relaxed);
        if now == STOP {
            return (took, made);
        }
        caller.call().await;
        made += 1;
        let ended = Instant::now();
        if now == COUNT {
            took.push(u32::try_from((ended - began).as_nanos()).unwrap_or(u32::MAX));
        }
        began = ended;
    }
}

/// Callers start, and connections that are made late are made.
const WARM: u8 = 0;
const COUNT: u8 = 1;
const STOP: u8 = 2;

/// User and system time of this process' threads so far, to the nanosecond.
pub fn cpu() -> Duration {
    let spent = threads("schedstat", |text| text.split(' ').next()?.parse().ok());
    assert!(spent > 0, "the kernel does not say what a thread spent");
    Duration::from_nanos(spent)
}

/// How often this process' threads gave up a processor, or lost it.
pub fn switches() -> u64 {
    threads("status", |text| {
        let lines = text.lines().filter(|line| line.contains("ctxt_switches:"));
        lines
            .map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum()
    })
}

fn threads(file: &str, read: impl Fn(&str) -> Option<u64>) -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    // A thread may end meanwhile.
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join(file)).ok());
    texts.map(|text| read(&text).unwrap()).sum()
}

/// Sizes of values.
pub const BYTES: [usize; 3] = [32, 1024, 64 * 1024];
