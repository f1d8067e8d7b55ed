//! A deadline: the instant at which a call has ended, whatever happens.
//!
//! Owns [`Deadline`], made once per call, of which every phase takes what is left; and [`scope`], by which the deadline of an API request
//! reaches every call below it without being passed along.
//! Promises: a deadline never moves; a phase cannot give itself more than the whole has; a call outside every scope pays one read of a
//! thread-local word. Leaves the waiting to whoever holds a timer.
//! Pure but for [`Deadline::after`], which reads the clock once. Cannot fail.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Instant;

/// As good as never, and still an instant.
const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);

/// The instant at which a call ends, and the instant at which it began.
///
/// ```
/// use std::time::Duration;
/// use redis_holdfast::deadline::Deadline;
///
/// let deadline = Deadline::after(Duration::from_millis(250));
/// let start = deadline.at() - Duration::from_millis(250);
/// assert_eq!(deadline.left(start + Duration::from_millis(200)), Duration::from_millis(50));
/// assert!(deadline.is_past(deadline.at()));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    start: Instant,
    at: Instant,
}

impl Deadline {
    /// The deadline that lies `timeout` from now.
    #[must_use]
    pub fn after(timeout: Duration) -> Self {
        Self::starting(Instant::now(), timeout)
    }

    pub(crate) fn starting(start: Instant, timeout: Duration) -> Self {
        Self {
            start,
            // No sum or product that is made of it later overflows.
            at: start + timeout.min(FAR),
        }
    }

    /// The same, or `other` if that falls sooner.
    pub(crate) fn or_sooner(mut self, other: Option<Instant>) -> Self {
        self.at = other.map_or(self.at, |other| self.at.min(other));
        self
    }

    /// When it falls.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.at
    }

    /// How long the call may take in all.
    pub(crate) fn timeout(&self) -> Duration {
        self.at.saturating_duration_since(self.start)
    }

    /// Whether the call may take no time at all.
    pub(crate) fn is_spent(&self) -> bool {
        self.at <= self.start
    }

    /// How long the call has run at `now`.
    pub(crate) fn waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }

    /// Whether it has fallen at `now`.
    #[must_use]
    pub fn is_past(&self, now: Instant) -> bool {
        now >= self.at
    }

    /// What is left of it at `now`; zero once it has fallen.
    #[must_use]
    pub fn left(&self, now: Instant) -> Duration {
        self.at.saturating_duration_since(now)
    }
}

thread_local! {
    /// The deadline of the scope that is being polled on this thread.
    static SCOPE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Gives every Redis call that is made inside `future` the deadline `at`, if that is sooner than the call's own. Scopes inside one another
/// count together: the soonest of them stands.
///
/// A call takes the scope that it is *made* in: inside this future, in this task, on whatever thread it runs. A task that is spawned from here is
/// outside; hand the deadline over, `tokio::spawn(scope(at, …))` with [`current`]. What is joined or selected inside one task is inside.
/// The future itself is not ended at `at`: the calls in it are.
///
/// # Cancel safety
/// That of `future`.
///
/// ```
/// use redis_holdfast::{Client, deadline, redis::{AsyncCommands, RedisResult}};
/// use std::time::Duration;
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let redis = Client::builder(&format!("redis://{}", silent.local_addr()?))?.build()?;
/// let at = Instant::now() + Duration::from_millis(80);
/// let (mut one, mut two) = (redis.clone(), redis);
/// let visits: RedisResult<u64> = deadline::scope(at, async {
///     one.set::<_, _, ()>("last", "now").await?; // both of them
///     two.incr("visits", 1).await                // end within the 80 ms
/// })
/// .await;
/// # assert!(visits.unwrap_err().is_timeout());
/// # Ok(()) }
/// ```
pub fn scope<F: Future>(at: Instant, future: F) -> Scope<F> {
    Scope { inner: future, at }
}

/// The deadline of the scope that this is called in.
///
/// ```
/// use redis_holdfast::deadline;
/// use std::time::Duration;
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let at = Instant::now() + Duration::from_millis(80);
/// assert_eq!(deadline::scope(at, async { deadline::current() }).await, Some(at));
/// assert_eq!(deadline::current(), None);
/// # Ok(()) }
/// ```
#[must_use]
pub fn current() -> Option<Instant> {
    SCOPE.get()
}

/// Runs `work` in the scope of `at`, and leaves it however `work` ends.
pub(crate) fn within<T>(at: Instant, work: impl FnOnce() -> T) -> T {
    struct Leave(Option<Instant>);
    impl Drop for Leave {
        fn drop(&mut self) {
            SCOPE.set(self.0);
        }
    }
    let outer = SCOPE.get();
    let _leave = Leave(outer);
    SCOPE.set(Some(outer.map_or(at, |outer| outer.min(at))));
    work()
}

pin_project! {
    /// A future in the scope of a deadline: see [`scope`]. Errors and cancel safety are those of the future.
    ///
    /// ```
    /// use redis_holdfast::deadline::{self, Scope};
    /// use std::{future::Ready, time::Duration};
    /// use tokio::time::Instant;
    ///
    /// let soon = Instant::now() + Duration::from_millis(80);
    /// let call: Scope<Ready<u8>> = deadline::scope(soon, std::future::ready(7));
    /// # let _ = call;
    /// ```
    #[derive(Clone, Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Scope<F> {
        #[pin]
        inner: F,
        at: Instant,
    }
}

impl<F: Future> Future for Scope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        within(*this.at, || this.inner.poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn the_soonest_scope_stands_and_ends_with_its_future() {
        let now = Instant::now();
        let (soon, late) = (now + MS, now + 9 * MS);
        assert_eq!(current(), None);
        scope(soon, async {
            assert_eq!(current(), Some(soon));
            scope(late, async { assert_eq!(current(), Some(soon)) }).await;
            tokio::time::sleep(MS).await;
            assert_eq!(current(), Some(soon), "after a wait as before it");
        })
        .await;
        scope(late, async {
            scope(soon, async { assert_eq!(current(), Some(soon)) }).await;
            assert_eq!(current(), Some(late));
        })
        .await;
        assert_eq!(current(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn neighbours_on_one_thread_and_spawned_tasks_are_outside() {
        let at = Instant::now() + MS;
        let inside = scope(at, async {
            tokio::task::yield_now().await;
            #[expect(clippy::disallowed_methods, reason = "what a user would do")]
            let spawned = tokio::spawn(async { current() });
            (current(), spawned.await.ok().flatten())
        });
        let outside = async {
            tokio::task::yield_now().await;
            current()
        };
        assert_eq!(tokio::join!(inside, outside), ((Some(at), None), None));
    }

    #[test]
    fn a_panic_leaves_the_scope() {
        let at = Instant::now() + MS;
        let caught = std::panic::catch_unwind(|| within(at, || panic!("inside")));
        assert!(caught.is_err() && current().is_none());
    }
}
