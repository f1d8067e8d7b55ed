//! What calls and clients hold: allocations of a call, bytes of one that waits, and a client that has nothing to do.
//!
//! Owns the counting allocator, which is why this is not a part of `overhead`: it makes every allocation dearer. Bytes are those asked of
//! the allocator, resident memory is that of a child process which does nothing else. `cargo bench --bench memory`; prints
//! `FIGURE memory …`, and exits non-zero where a bar is missed. Next: `overhead/measure`, whose cells these are.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a bench may end here, is one binary, and uses its part of what it shares with `overhead`"
)]

#[path = "overhead/contenders.rs"]
mod contenders;
#[path = "overhead/measure.rs"]
mod measure;
#[path = "overhead/report.rs"]
mod report;

use std::{alloc::System, future::poll_fn, process::Command, task::Poll, time::Duration};

use contenders::{OURS, ours};
use holdfast_lab::{SentinelSet, Server, census, server_or_skip};
use measure::{Shape, Verb};
use redis_holdfast::{
    Client,
    redis::{self, aio::ConnectionLike},
};
use report::Bar;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CELL: Duration = Duration::from_millis(500);
/// Long enough for what happens once a second or two.
const LISTEN: Duration = Duration::from_secs(20);
/// The driver has long taken what it will take.
const TURNS: usize = 200;

/// Allocations of a call as users write it, the caller's own apart: `redis`' `Cmd` and the conversion of the answer are among them.
async fn allocations(url: &str) {
    let shapes = [
        Shape::new(Verb::Get, 32, 1, 64),
        Shape::new(Verb::Set, 32, 1, 64),
        Shape::new(Verb::Get, 1024, 1, 64),
        Shape::new(Verb::Get, 32, 100, 64),
    ];
    let contenders = contenders::connect(url).await;
    for shape in shapes {
        let mut each = Vec::new();
        for contender in &contenders {
            (contender.run)(shape, CELL).await;
            let region = Region::new(COUNTED);
            let cell = (contender.run)(shape, CELL).await;
            let count = region.change().allocations as f64 / cell.made;
            each.push(format!("{} {count:.1}", contender.name));
        }
        println!(
            "FIGURE memory allocations of a call, {shape}: {}",
            each.join(", ")
        );
    }
}

/// Bytes that so many calls hold while nobody answers, without the tasks of their callers.
async fn held(server: &Server, connection: impl ConnectionLike + Clone, calls: usize) -> usize {
    let mut get = redis::cmd("GET");
    get.arg("a:key:of:20:bytes:ok");
    let mut connections: Vec<_> = (0..calls).map(|_| connection.clone()).collect();
    let mut waiting = Vec::with_capacity(calls);
    server.freeze();
    let region = Region::new(COUNTED);
    waiting.extend(
        connections
            .iter_mut()
            .map(|one| one.req_packed_command(&get)),
    );
    for _ in 0..TURNS {
        poll_fn(|cx| {
            for call in &mut waiting {
                assert!(call.as_mut().poll(cx).is_pending(), "nobody answers");
            }
            Poll::Ready(())
        })
        .await;
        tokio::task::yield_now().await;
    }
    let change = region.change();
    server.thaw();
    for call in waiting {
        call.await.unwrap();
    }
    change
        .bytes_allocated
        .saturating_sub(change.bytes_deallocated)
}

/// What one more waiting call holds, between 512 and 4096 of them.
async fn waiting(server: &Server) -> Bar {
    let (fewer, more) = (512, 4096);
    let bare = redis::Client::open(server.url()).unwrap();
    let bare = bare.get_multiplexed_async_connection().await.unwrap();
    // Each its own client: the tables of one that has held 4096 calls stay large.
    let few = held(server, ours(&server.url()).await, fewer).await;
    let many = held(server, ours(&server.url()).await, more).await;
    let few_bare = held(server, bare.clone(), fewer).await;
    let many_bare = held(server, bare, more).await;
    let each = |few: usize, many: usize| many.saturating_sub(few) as f64 / (more - fewer) as f64;
    println!(
        "FIGURE memory of a waiting call: {:.0} B of {more} ({:.0} B of {fewer}); bare, which does not take what it cannot write, {:.0} B",
        many as f64 / more as f64,
        few as f64 / fewer as f64,
        each(few_bare, many_bare),
    );
    Bar::at_most(
        "one more waiting call between 512 and 4096, B",
        each(few, many),
        1024.0,
    )
}

/// Resident memory under load, each contender in a process of its own.
fn resident(url: &str, names: &[&str]) {
    for name in names {
        let measured = [1, 64, 512, 4096].map(|callers| {
            let said = again(&[name, url, &callers.to_string()]);
            format!("{said} KiB with {callers}")
        });
        println!(
            "FIGURE memory resident, GET 32 B, {name:<22}: {} callers",
            measured.join(", ")
        );
    }
}

/// In the child: the peak while so many call.
async fn child(url: &str, name: &str, callers: usize) {
    let contenders = contenders::connect(url).await;
    let one = contenders.iter().find(|one| one.name == name).unwrap();
    (one.run)(Shape::new(Verb::Get, 32, 1, callers), CELL).await;
    println!("{}", census::peak_rss_bytes() / 1024);
}

/// In the child: clients that have nothing to do, in its only thread. Kibibytes asked for and resident of each but the first, and wake-ups
/// a second of them all.
async fn idle_child(url: &str, clients: usize) {
    let mut kept = vec![ready(url).await];
    // The allocator has what it takes for one.
    drop(ready(url).await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (region, resident) = (Region::new(COUNTED), census::rss_bytes());
    for _ in 1..clients {
        kept.push(ready(url).await);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let change = region.change();
    let bytes = change
        .bytes_allocated
        .saturating_sub(change.bytes_deallocated);
    let resident = census::rss_bytes().saturating_sub(resident);
    let before = measure::switches();
    tokio::time::sleep(LISTEN).await;
    // Our own sleep is one of them.
    let woken = (measure::switches() - before).saturating_sub(1);
    let each = |bytes: usize| bytes as f64 / 1024.0 / (clients - 1).max(1) as f64;
    let rate = woken as f64 / LISTEN.as_secs_f64();
    println!("{:.1} {:.1} {rate:.2}", each(bytes), each(resident));
}

async fn ready(url: &str) -> Client {
    let client = Client::builder(url).unwrap().build().unwrap();
    client.wait_ready(Duration::from_secs(10)).await.unwrap();
    client
}

/// This program again, for one thing; what it said.
fn again(words: &[&str]) -> String {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .arg("child")
        .args(words)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn idle(url: &str, clients: usize) -> [f64; 3] {
    let said = again(&["idle", url, &clients.to_string()]);
    let mut figures = said.split(' ').map(|figure| figure.parse().unwrap());
    [(); 3].map(|()| figures.next().unwrap())
}

/// One client, one of a hundred, and one behind Sentinels.
fn idle_bars(url: &str, sentinels: Option<&str>) -> Vec<Bar> {
    const MANY: usize = 101;
    let [.., alone] = idle(url, 1);
    let [asked, resident, many] = idle(url, MANY);
    println!(
        "FIGURE memory of an idle client: {resident:.1} KiB resident, {asked:.1} KiB asked for; {alone:.2} wake-ups/s alone, {many:.0} of {MANY} in one thread"
    );
    let mut bars = vec![
        Bar::at_most("one more idle client, KiB resident", resident, 64.0),
        Bar::at_most("an idle client alone, wake-ups/s", alone, 3.0),
        Bar::at_most(
            "one of many idle clients, wake-ups/s",
            many / MANY as f64,
            3.0,
        ),
    ];
    if let Some(url) = sentinels {
        let [.., alone] = idle(url, 1);
        bars.push(Bar::at_most(
            "an idle client of three Sentinels, wake-ups/s",
            alone,
            10.0,
        ));
    }
    bars
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// One thread: what is counted belongs to what is measured.
fn here() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if let [_, child_word, name, url, count] = &words[..]
        && child_word == "child"
    {
        let count = count.parse().unwrap();
        return match name.as_str() {
            "idle" => here().block_on(idle_child(url, count)),
            name => runtime().block_on(child(url, name, count)),
        };
    }
    let lab = runtime();
    let Some(server) = lab.block_on(server_or_skip()) else {
        return;
    };
    let one_thread = here();
    one_thread.block_on(allocations(&server.url()));
    let mut bars = vec![one_thread.block_on(waiting(&server))];
    drop(one_thread);
    resident(
        &server.url(),
        &[
            contenders::BARE,
            "ConnectionManager",
            "deadpool-redis",
            OURS,
        ],
    );
    let set = lab.block_on(SentinelSet::builder().start_or_skip());
    bars.extend(idle_bars(
        &server.url(),
        set.as_ref().map(SentinelSet::url).as_deref(),
    ));
    if !report::all_pass("memory", &bars) {
        std::process::exit(1);
    }
}
