//! A connection out of a user's pool, by a deadline, and what a call was waiting for when that passed.
//!
//! Owns [`lend`]. Promises: a call whose time is up before it has a connection was never sent, and says so: phase `queue` while others had every
//! place, which is no fault of the server's; phase `connect` once it had a place, for then the pool was waiting for the server, for a dial or for
//! the answer to the `PING` with which it tries each connection. Leaves waking the caller at the deadline to the layer that holds it. Fails by kind.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use deadpool_redis::{Connection, Pool, PoolError, TimeoutType, Timeouts, redis::RedisError};
use tokio::{task::coop::unconstrained, time::Instant};

use crate::{Error, ErrorKind, Phase, deadline::Deadline};

/// A connection of `pool`, if it gives one by `deadline`.
pub(super) async fn lend(pool: &Pool, deadline: Option<Deadline>) -> Result<Connection, Error> {
    let at_once = Timeouts {
        wait: Some(Duration::ZERO),
        ..pool.timeouts()
    };
    // Who finds a place free never waits for anybody but the server.
    let mut get = pin!(pool.timeout_get(&at_once));
    let found = poll_fn(|cx| by(deadline, || Phase::Connect, get.as_mut().poll(cx))).await?;
    if !matches!(found, Err(PoolError::Timeout(TimeoutType::Wait))) {
        return found.map_err(unpooled);
    }
    let turn = Arc::new(Turn::default());
    let waker = Waker::from(turn.clone());
    // Woken by nothing but its turn, not even because its task has done enough for now.
    let mut get = pin!(unconstrained(pool.get()));
    let got = poll_fn(|cx| {
        turn.caller().clone_from(cx.waker());
        let got = get.as_mut().poll(&mut Context::from_waker(&waker));
        by(deadline, || turn.phase(), got)
    });
    got.await?.map_err(unpooled)
}

/// What `got` is at the deadline at the latest.
fn by<T>(
    deadline: Option<Deadline>,
    phase: impl FnOnce() -> Phase,
    got: Poll<T>,
) -> Poll<Result<T, Error>> {
    let late = deadline.filter(|deadline| deadline.is_past(Instant::now()));
    match (got, late) {
        (Poll::Ready(got), _) => Poll::Ready(Ok(got)),
        (Poll::Pending, None) => Poll::Pending,
        (Poll::Pending, Some(deadline)) => {
            let phase = phase();
            let detail = match phase {
                Phase::Queue => "no connection of the pool was free within the deadline",
                _ => "pool had no answer from the server within the deadline",
            };
            let error = Error::new(ErrorKind::Timeout, phase, detail);
            Poll::Ready(Err(error.after(deadline.waited(Instant::now()))))
        }
    }
}

/// Whose turn it is: a pool wakes who waits for a place when it has one, and not before.
struct Turn {
    has_come: AtomicBool,
    caller: Mutex<Waker>,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            has_come: AtomicBool::new(false),
            caller: Mutex::new(Waker::noop().clone()),
        }
    }
}

impl Turn {
    fn caller(&self) -> MutexGuard<'_, Waker> {
        self.caller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn phase(&self) -> Phase {
        if self.has_come.load(Ordering::Acquire) {
            Phase::Connect
        } else {
            Phase::Queue
        }
    }
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.has_come.store(true, Ordering::Release);
        let caller = self.caller().clone();
        caller.wake();
    }
}

/// No connection came out of the pool: nothing was sent.
fn unpooled(error: PoolError) -> Error {
    let (kind, phase, detail) = match &error {
        PoolError::Timeout(TimeoutType::Wait) => (
            ErrorKind::Overloaded,
            Phase::Queue,
            "no connection of the pool is free",
        ),
        PoolError::Timeout(_) => (
            ErrorKind::Timeout,
            Phase::Connect,
            "pool could not connect in time",
        ),
        PoolError::Backend(redis) => return not_connected(redis.clone()),
        _ => (
            ErrorKind::Refused,
            Phase::Queue,
            "pool gives no connections",
        ),
    };
    Error::new(kind, phase, detail).because(error)
}

fn not_connected(error: RedisError) -> Error {
    let ours = Error::from(error.clone());
    Error::new(ours.kind(), Phase::Connect, "pool could not connect").because(error)
}
