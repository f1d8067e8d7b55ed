//! Counts calls and failures over the last seconds.
//!
//! Owns a ring of time buckets. Promises: it slides (a day of successes never hides an outage); recording is O(1), and sums are kept
//! up to date as buckets expire. Leaves what the counts mean to [`machine`](super::machine). Pure: time is an argument. Cannot fail.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    calls: u32,
    failures: u32,
}

/// A sliding window of outcomes.
#[derive(Debug)]
pub(crate) struct Window {
    buckets: Vec<Bucket>,
    width: Duration,
    origin: Instant,
    /// Index, since `origin`, of the newest bucket.
    newest: u64,
    sum: Bucket,
}

impl Window {
    pub(crate) fn new(buckets: usize, width: Duration, now: Instant) -> Self {
        Self {
            buckets: vec![Bucket::default(); buckets.max(1)],
            width,
            origin: now,
            newest: 0,
            sum: Bucket::default(),
        }
    }

    /// Counts `calls` of which `failures` failed.
    pub(crate) fn record(&mut self, calls: u32, failures: u32, now: Instant) {
        self.slide(now);
        let slot = self.slot(self.newest);
        for counts in [&mut self.sum, slot_mut(&mut self.buckets, slot)] {
            counts.calls = counts.calls.saturating_add(calls);
            counts.failures = counts.failures.saturating_add(failures);
        }
    }

    pub(crate) fn calls(&self) -> u32 {
        self.sum.calls
    }

    /// Whether at least `basis_points` of 10,000 calls failed.
    pub(crate) fn failed_at_least(&self, basis_points: u32) -> bool {
        u64::from(self.sum.failures) * 10_000 >= u64::from(self.sum.calls) * u64::from(basis_points)
    }

    pub(crate) fn clear(&mut self) {
        self.buckets.fill(Bucket::default());
        self.sum = Bucket::default();
    }

    fn slot(&self, index: u64) -> usize {
        usize::try_from(index % self.buckets.len() as u64).unwrap_or(0)
    }

    fn slide(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.origin);
        let index =
            u64::try_from(age.as_nanos() / self.width.as_nanos().max(1)).unwrap_or(u64::MAX);
        if index <= self.newest {
            return;
        }
        if index - self.newest >= self.buckets.len() as u64 {
            self.clear();
        } else {
            for passed in self.newest + 1..=index {
                let slot = self.slot(passed);
                let old = std::mem::take(slot_mut(&mut self.buckets, slot));
                self.sum.calls = self.sum.calls.saturating_sub(old.calls);
                self.sum.failures = self.sum.failures.saturating_sub(old.failures);
            }
        }
        self.newest = index;
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "a slot is an index modulo the number of buckets"
)]
fn slot_mut(buckets: &mut [Bucket], slot: usize) -> &mut Bucket {
    &mut buckets[slot]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_slides_so_that_a_day_of_successes_hides_nothing() {
        let start = Instant::now();
        let mut window = Window::new(10, Duration::from_secs(1), start);
        for second in 0..86_400_u64 {
            window.record(1, 0, start + Duration::from_secs(second));
        }
        assert_eq!(window.calls(), 10);
        let end = start + Duration::from_secs(86_400);
        for _ in 0..10 {
            window.record(1, 1, end);
        }
        assert!(window.failed_at_least(5000), "10 of 19 or 20");
    }

    #[tokio::test(start_paused = true)]
    async fn sums_agree_with_a_plain_list_of_events() {
        let start = Instant::now();
        let mut window = Window::new(10, Duration::from_secs(1), start);
        let mut events = Vec::new();
        let mut millis = 0;
        for _ in 0..5000 {
            millis += fastrand::u64(0..400) * fastrand::u64(0..20) / 10;
            let (failed, now) = (fastrand::bool(), start + Duration::from_millis(millis));
            window.record(1, u32::from(failed), now);
            events.push((millis / 1000, failed));
            let oldest = (millis / 1000).saturating_sub(9);
            let kept: Vec<_> = events
                .iter()
                .filter(|(second, _)| *second >= oldest)
                .collect();
            assert_eq!(window.calls() as usize, kept.len());
            assert_eq!(
                window.sum.failures as usize,
                kept.iter().filter(|(_, failed)| *failed).count()
            );
        }
    }
}
