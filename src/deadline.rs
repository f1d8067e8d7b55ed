//! A deadline: the instant at which a call has ended, whatever happens.
//!
//! Owns [`Deadline`]. It is made once per call, and every phase takes what is left of it.
//! Promises: it never moves; a phase cannot give itself more than the whole has. Leaves the waiting to whoever holds a timer.
//! Pure but for [`Deadline::after`], which reads the clock once. Cannot fail.

use std::time::Duration;

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
            at: start.checked_add(timeout).unwrap_or(start + FAR),
        }
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
