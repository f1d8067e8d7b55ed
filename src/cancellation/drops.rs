//! Calls dropped after a random number of polls, wherever they were: waiting for a link, admitted on the ramp, queued, written, refused.
//!
//! Owns the droppers and the weather they live in. Promises: what a call held is back when it is gone, whatever moment it was; a handle
//! that makes no call holds nothing. Leaves whose reply is whose to the storm. The clock is paused.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use redis::cmd;
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, sleep},
};
use tower::Service;

use super::{
    CAP, Stack, for_polls, nothing_is_left,
    peer::{Pipes, World},
};
use crate::{
    BreakerPolicy, Config, ErrorKind,
    layer::{ResilienceLayer, timeout::watched},
};

/// More than the cap, so that calls are refused by it too.
const DROPPERS: usize = CAP * 3 / 2;

/// Drops.
fn goal() -> u64 {
    if std::env::var_os("HOLDFAST_FULL").is_some() {
        1_000_000
    } else {
        50_000
    }
}

/// How the calls went; and the most of them that waited for a link, and that were on the ramp, at once.
#[derive(Debug, Default)]
struct Tally {
    dropped: AtomicU64,
    waiting: AtomicU64,
    ramping: AtomicU64,
    served: AtomicU64,
    timeouts: AtomicU64,
    open: AtomicU64,
    full: AtomicU64,
}

impl Tally {
    fn count(&self, kind: Option<ErrorKind>) {
        let count = match kind {
            None => &self.served,
            Some(ErrorKind::Timeout) => &self.timeouts,
            Some(ErrorKind::CircuitOpen) => &self.open,
            Some(ErrorKind::Overloaded) => &self.full,
            Some(_) => return,
        };
        count.fetch_add(1, Relaxed);
    }

    /// A run in which some moment never came proves nothing of it.
    fn judge(&self) {
        let ended = [
            &self.dropped,
            &self.served,
            &self.timeouts,
            &self.open,
            &self.full,
        ];
        let held = [&self.waiting, &self.ramping];
        let all_met = ended
            .iter()
            .chain(&held)
            .all(|count| count.load(Relaxed) > 0);
        assert!(all_met, "{self:?}");
        // Whoever goes without leaving his place makes the line longer than the cap lets it be.
        let bounded = held.iter().all(|count| count.load(Relaxed) <= CAP as u64);
        assert!(bounded, "more than the cap: {self:?}");
    }
}

async fn dropper(mut stack: Stack, tally: Arc<Tally>) {
    while tally.dropped.load(Relaxed) < goal() {
        let call = stack.call(cmd("ECHO").arg("word").into());
        let polls = fastrand::u32(0..=6);
        let (waiting, ramping) = stack.route().held();
        tally.waiting.fetch_max(waiting as u64, Relaxed);
        tally.ramping.fetch_max(ramping as u64, Relaxed);
        let ended = match polls {
            0 => {
                drop(call);
                None
            }
            _ if fastrand::bool() => for_turns(call, polls).await,
            _ => for_polls(call, polls).await,
        };
        match ended {
            Some(ended) => tally.count(ended.err().map(|error| error.kind())),
            None => {
                tally.dropped.fetch_add(1, Relaxed);
            }
        }
        // In a hurry as a rule; the paused clock goes on only where nobody has anything to do.
        if polls > 0 && fastrand::u8(0..8) == 0 {
            sleep(Duration::from_millis(fastrand::u64(0..400))).await;
        }
    }
}

/// As [`for_polls`], but one poll at each turn of the runtime, woken or not.
async fn for_turns<F: Future>(call: F, polls: u32) -> Option<F::Output> {
    let mut call = pin!(call);
    for _ in 0..polls {
        if let Poll::Ready(ended) = poll_unwoken(call.as_mut()) {
            return Some(ended);
        }
        tokio::task::yield_now().await;
    }
    None
}

fn poll_unwoken<F: Future>(call: Pin<&mut F>) -> Poll<F::Output> {
    call.poll(&mut Context::from_waker(Waker::noop()))
}

/// Silence long enough to open the circuit, and times in which it closes again; what is cut and late comes beside.
async fn weather(world: Arc<World>, is_over: Arc<AtomicBool>) -> u32 {
    let mut silences = 0;
    while !is_over.load(Relaxed) {
        sleep(Duration::from_millis(fastrand::u64(50..500))).await;
        world.hush();
        sleep(Duration::from_millis(fastrand::u64(100..1_500))).await;
        world.speak();
        silences += 1;
    }
    silences
}

/// What is late in the window opens no circuit here: silence does, and a probe closes it.
fn stack_to(world: &Arc<World>) -> Stack {
    let config = Config::builder("redis://127.0.0.1:1/")
        .call_timeout(Duration::from_millis(250))
        .max_in_flight(CAP)
        .breaker(BreakerPolicy::default().min_calls(1_000_000))
        .build()
        .expect("a sound configuration");
    ResilienceLayer::new(config).build(Pipes::to(world))
}

/// Clones that are ready by contract, and never called.
fn idle_clones(stack: &Stack) -> Vec<Stack> {
    let mut idle: Vec<_> = (0..CAP * 2).map(|_| stack.clone()).collect();
    for clone in &mut idle {
        let ready = clone.poll_ready(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(ready, Poll::Ready(Ok(()))));
    }
    idle
}

/// Nobody has a call: nothing is held, also while the client is still finding its way back.
fn nothing_is_held(stack: &Stack) {
    assert_eq!(stack.route().held(), (0, 0), "waiting, and on the ramp");
    assert_eq!(watched(), 0, "deadlines");
    let state = format!("{stack:?}");
    assert!(state.contains("in_flight: 0"), "{state}");
}

/// Waits until no more than so many tasks are alive: a link that was drained looks now and then whether it may go.
async fn settles_at(tasks: usize) {
    let alive = || Handle::current().metrics().num_alive_tasks();
    let end = Instant::now() + Duration::from_secs(60);
    while alive() > tasks && Instant::now() < end {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(alive(), tasks, "tasks");
}

#[tokio::test(start_paused = true)]
async fn calls_dropped_anywhere_leave_permits_places_and_probes_as_they_were() {
    let world = Arc::new(World::new(false));
    let stack = stack_to(&world);
    let idle = idle_clones(&stack);
    let (tally, is_over) = (Arc::<Tally>::default(), Arc::<AtomicBool>::default());
    let mut droppers = JoinSet::new();
    for _ in 0..DROPPERS {
        droppers.spawn(dropper(stack.clone(), tally.clone()));
    }
    let mut sky = JoinSet::new();
    sky.spawn(weather(world.clone(), is_over.clone()));
    while let Some(ended) = droppers.join_next().await {
        ended.expect("no dropper panics");
    }
    is_over.store(true, Relaxed);
    let silences = sky.join_next().await.expect("a sky").expect("no panic");

    nothing_is_held(&stack);
    nothing_is_left(&stack, &world).await;
    nothing_is_held(&stack);
    // Its supervisor, one link and the peer of that: no probe, no link of former days.
    settles_at(3).await;
    drop((stack, idle));
    world.close();
    settles_at(0).await;
    tally.judge();
    println!(
        "FIGURE drops: {tally:?}, {silences} silences, {} connections: permits, places, deadlines, tombstones and tasks at baseline",
        world.connections()
    );
}
