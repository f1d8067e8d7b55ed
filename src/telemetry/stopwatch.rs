//! How long a call took, for those who want to know.
//!
//! Owns [`Stopwatch`]. Promises: the clock is read when the first one asks, and once; where no recorder and no subscriber listens, it is
//! not read at all. Leaves recording to [`metrics`](super::metrics) and [`span`](super::span). Cannot fail.

use std::{cell::Cell, fmt, time::Duration};

use metrics::IntoF64;
use tokio::time::Instant;

/// Runs from the beginning of a call. Made when the call has ended, for that moment.
pub(crate) struct Stopwatch {
    started: Instant,
    read: Cell<Option<Duration>>,
}

impl Stopwatch {
    pub(crate) fn started(started: Instant) -> Self {
        Self {
            started,
            read: Cell::new(None),
        }
    }

    /// One that shows `waited`.
    #[cfg(test)]
    pub(super) fn showing(waited: Duration) -> Self {
        Self {
            read: Cell::new(Some(waited)),
            ..Self::started(Instant::now())
        }
    }

    /// What it shows: the time until somebody first asked.
    pub(crate) fn waited(&self) -> Duration {
        let waited = self.read.get().unwrap_or_else(|| self.started.elapsed());
        self.read.set(Some(waited));
        waited
    }

    pub(crate) fn now(&self) -> Instant {
        self.started + self.waited()
    }
}

/// In seconds, as a histogram takes it: one that nobody listens to does not ask.
impl IntoF64 for &Stopwatch {
    fn into_f64(self) -> f64 {
        self.waited().as_secs_f64()
    }
}

impl fmt::Debug for Stopwatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.waited().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn everybody_is_told_what_the_first_one_was_told() {
        let watch = Stopwatch::started(Instant::now());
        tokio::time::advance(Duration::from_millis(7)).await;
        assert!(watch.read.get().is_none(), "nobody has asked");
        assert_eq!((&watch).into_f64(), 0.007);
        tokio::time::advance(Duration::from_millis(7)).await;
        assert_eq!(watch.waited(), Duration::from_millis(7));
        assert_eq!(format!("{watch:?}"), "7ms");
    }
}
