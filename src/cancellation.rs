//! Promise 5 without a network: the whole stack over pipes of a few bytes, under callers who give up at every moment.
//!
//! Owns the storm, [`drops`] beside it, and [`peer`], the server at the other end. Promises: every answer names its question, so that one reply in the
//! wrong hands ends the test; the clock is paused, so that a peer's silence costs nothing. Leaves real sockets and servers to
//! `tests/wrong_replies.rs`. Three mutants of the link (`--cfg holdfast_mutant="…"`, `scripts/mutants.sh`) show that it can fail.

mod drops;
pub(crate) mod peer;

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use redis::{cmd, pipe};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tower::Service;

use self::peer::{Pipes, World, of_key};
use crate::{
    BreakerPolicy, Config, Error, ErrorKind, Request, ears,
    layer::{ResilienceLayer, ResilienceService},
};

/// Callers at once: enough for a batch on the wire at every cancellation.
const CALLERS: usize = 64;
const CAP: usize = 128;

/// Operations of one storm, of three. A mutant is to be caught within 10⁵ of all three; `./ci.sh` asks for ten times as many, `full` for
/// a hundred times.
fn goal() -> u64 {
    let asked = std::env::var("HOLDFAST_OPERATIONS");
    let all = asked.ok().and_then(|number| number.parse::<u64>().ok());
    all.unwrap_or(100_000) / 3 + 1
}

type Stack = ResilienceService<Pipes>;

/// How operations ended.
#[derive(Default, Debug)]
struct Tally {
    right: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

impl Tally {
    fn sum(&self) -> u64 {
        [&self.right, &self.dropped, &self.failed]
            .map(|count| count.load(Ordering::Relaxed))
            .iter()
            .sum()
    }
}

/// One operation whose answer can be nobody else's; says whether that is what came.
async fn ask(stack: &mut Stack, number: u64, limit: Option<Duration>) -> Result<bool, Error> {
    let word = format!("<canary {number}>");
    let of = of_key(word.as_bytes());
    let mut call = async |request: Request| {
        let request = match limit {
            Some(limit) => request.with_timeout(limit),
            None => request,
        };
        stack.call(request).await
    };
    match fastrand::u8(0..7) {
        0 => Ok(call(cmd("ECHO").arg(&word).into())
            .await?
            .parse::<String>()?
            == word),
        1 => Ok(call(cmd("GET").arg(&word).into())
            .await?
            .parse::<String>()?
            == of),
        2 => Ok(call(cmd("INCRBY").arg("k").arg(number).into())
            .await?
            .parse::<u64>()?
            == number),
        3 => {
            let reply = call(cmd("SET").arg(&word).arg(&word).into()).await?;
            Ok(reply.parse::<String>()? == "OK")
        }
        4 => {
            // Longer than most pipes: begun in one turn, finished in another.
            let long = word.repeat(fastrand::usize(1..200));
            let reply = call(cmd("ECHO").arg(&long).into()).await?;
            Ok(reply.parse::<String>()? == long)
        }
        5 => {
            let mut asked = pipe();
            asked
                .cmd("ECHO")
                .arg(&word)
                .cmd("INCRBY")
                .arg("k")
                .arg(number)
                .cmd("GET")
                .arg(&word);
            let reply = call(asked.into()).await?;
            Ok(reply.parse::<(String, u64, String)>()? == (word, number, of))
        }
        _ => {
            let mut asked = pipe();
            asked.atomic().cmd("ECHO").arg(&word).cmd("GET").arg(&word);
            let reply = call(asked.into()).await?;
            Ok(reply.parse::<(String, String)>()? == (word, of))
        }
    }
}

/// Polls `work` so many times and drops it then, with its waker still registered, unless it ended.
async fn for_polls<F: Future>(work: F, polls: u32) -> Option<F::Output> {
    let mut work = pin!(work);
    let mut left = polls;
    poll_fn(move |context| match work.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left <= 1 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// Cuts that a storm is to have seen.
fn cuts() -> u64 {
    goal() / 30_000
}

/// Goes on beyond the goal, three times as far at most, where chance has cut too few links.
fn is_over(tally: &Tally, world: &World) -> bool {
    let sum = tally.sum();
    sum >= goal() && (world.cuts() >= cuts() || sum >= 3 * goal())
}

async fn caller(mut stack: Stack, world: Arc<World>, tally: Arc<Tally>, numbers: Arc<AtomicU64>) {
    while !is_over(&tally, &world) {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let limit = Duration::from_micros(fastrand::u64(500..6_000));
        let given = fastrand::bool().then_some(limit);
        let work = ask(&mut stack, number, given);
        let ended = match fastrand::u8(0..8) {
            0 => timeout(limit, work).await.ok(),
            1..3 => for_polls(work, fastrand::u32(1..=5)).await,
            _ => Some(work.await),
        };
        let count = match ended {
            None => &tally.dropped,
            Some(Ok(right)) => {
                assert!(right, "the reply to {number} was somebody else's");
                &tally.right
            }
            Some(Err(error)) => {
                let ours = !matches!(error.kind(), ErrorKind::Redis | ErrorKind::Protocol);
                assert!(ours, "the reply to {number} was somebody else's: {error:?}");
                ears::discreet(format_args!("{error} {error:?}"));
                // What fails while a link is away proves little: most operations are to be served.
                sleep(Duration::from_millis(20)).await;
                &tally.failed
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

async fn storm(dialect: &str, resp3: bool, pushes: bool) {
    ears::watch();
    let world = Arc::new(World::new(pushes));
    let protocol = if resp3 { "?protocol=resp3" } else { "" };
    // Here links are cut all the time, and an open circuit would only refuse.
    let patient = BreakerPolicy::default()
        .min_calls(1_000_000)
        .consecutive_failures(1000);
    let config = Config::builder(&format!("redis://127.0.0.1:1/{protocol}"))
        .call_timeout(Duration::from_millis(250))
        .max_in_flight(CAP)
        .breaker(patient)
        .build()
        .expect("a sound configuration");
    let stack = ResilienceLayer::new(config).build(Pipes::to(&world));
    let (tally, numbers) = (Arc::<Tally>::default(), Arc::<AtomicU64>::default());
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let one = caller(stack.clone(), world.clone(), tally.clone(), numbers.clone());
        callers.spawn(one);
    }
    while let Some(ended) = callers.join_next().await {
        ended.expect("no reply in the wrong hands");
    }
    assert_eq!(
        world.garbage(),
        0,
        "a request was cut short on a connection that went on"
    );
    assert!(
        tally.right.load(Ordering::Relaxed) > tally.sum() / 2,
        "hardly a call was served: {tally:?}"
    );
    assert!(world.cuts() >= cuts(), "hardly a link was cut: {world:?}");
    assert!(world.sliced() > 0, "no answer came byte by byte: {world:?}");
    assert!(
        !pushes || world.pushes() > goal() / 20,
        "hardly a push: {world:?}"
    );
    nothing_is_left(&stack, &world).await;
    let [right, dropped, failed] =
        [&tally.right, &tally.dropped, &tally.failed].map(|count| count.load(Ordering::Relaxed));
    println!(
        "FIGURE cancellation {dialect}: 0 wrong replies in {} operations ({right} right, {dropped} dropped, {failed} failed) over pipes of \
         16 bytes to 64 KiB, {} connections, {} cut, {} answers a byte at a time, {} pushes in between; permits and slots at baseline",
        tally.sum(),
        world.connections(),
        world.cuts(),
        world.sliced(),
        world.pushes()
    );
}

/// As many calls as the cap allows are admitted, twice as many are on the wire once those were dropped, and not one more: no permit and
/// no slot was lost, none was made.
async fn nothing_is_left(stack: &Stack, world: &World) {
    world.behave();
    // Links of the storm end, and the next one serves.
    let mut served = 0;
    while served < 300 {
        let echo = ask(&mut stack.clone(), served, None).await;
        served = if echo.is_ok() { served + 1 } else { 0 };
        sleep(Duration::from_millis(1)).await;
    }
    world.hush();
    let before = world.commands();
    let fill = || async {
        let mut calls: Vec<_> = (0..CAP)
            .map(|n| Box::pin(stack.clone().call(cmd("ECHO").arg(n).into())))
            .collect();
        poll_fn(|context| {
            let waits = calls
                .iter_mut()
                .all(|call| call.as_mut().poll(context).is_pending());
            assert!(waits, "a permit was lost");
            Poll::Ready(())
        })
        .await;
        let refused = stack.clone().call(cmd("PING").into()).await;
        assert!(
            refused.is_err_and(|error| error.is_overloaded()),
            "a permit was made"
        );
        // The driver writes what it may, and the peer reads it: long before the link is suspect.
        sleep(Duration::from_millis(20)).await;
        calls
    };
    drop(fill().await);
    assert_eq!(
        world.commands() - before,
        CAP as u64,
        "not all are on the wire"
    );
    let calls = fill().await;
    assert_eq!(
        world.commands() - before,
        2 * CAP as u64,
        "a tombstone's place was lost"
    );
    world.speak();
    for (number, call) in calls.into_iter().enumerate() {
        let said = call.await.and_then(|reply| reply.parse::<usize>());
        assert_eq!(said.expect("answered"), number);
    }
}

#[tokio::test(start_paused = true)]
async fn no_resp2_reply_reaches_the_wrong_caller() {
    storm("resp2", false, false).await;
}

#[tokio::test(start_paused = true)]
async fn no_resp3_reply_reaches_the_wrong_caller() {
    storm("resp3", true, false).await;
}

#[tokio::test(start_paused = true)]
async fn no_reply_between_pushes_reaches_the_wrong_caller() {
    storm("resp3 with pushes", true, true).await;
}
