//! How closely the lookups of one name may follow one another.
//!
//! Owns [`Row`]: lookups between which nothing has rested, and the gap after each. Two promises pull at it, for the default of 500 ms:
//! what DNS tells right after a lookup is followed within 500 ms, links and all, so gaps are a little *shorter*; and an outage sees no
//! more than two lookups a second, counted from its onset, which takes gaps that are *longer*: n of them have n + 1 lookups. The onset
//! of a silence is 0.8 of a gap or more before it is urgent (450 ms by default); the rest is saved in four gaps that are longer by
//! 0.12, or by 0.32 where the row began with a refresh, for that may have started right after the onset.
//! Promises, in turns of `every`: the sixth lookup starts no sooner than 6 turns after the onset, and so on for ever; between two lie
//! at least 0.988, from the sixth to the twenty-eighth no more; in any span there are at most 1.3 lookups more than turns, whatever the pace.
//! Leaves when a lookup is due at leisure to [`policy`](super). Pure: time is an argument. Cannot fail.

use std::time::Duration;

use tokio::time::Instant;

use super::Pace;

#[derive(Debug)]
pub(super) struct Row {
    every: Duration,
    /// No gap is longer, and if nothing could be saved.
    most: Duration,
    last: Option<Instant>,
    lookups: u32,
    /// By how much the gaps that save are longer than `every`.
    saves: Duration,
    /// The last lookup was no urgent one.
    refreshes: bool,
    /// All was calm at some time since the last lookup.
    rested: bool,
}

impl Row {
    pub(super) fn new(every: Duration, most: Duration) -> Self {
        Self {
            every,
            most,
            last: None,
            lookups: 0,
            saves: Duration::ZERO,
            refreshes: true,
            rested: true,
        }
    }

    pub(super) fn pace(&mut self, pace: Pace) {
        self.rested |= pace == Pace::Calm;
    }

    /// No lookup starts sooner. `None` if there was none.
    pub(super) fn soonest(&self, pace: Pace) -> Option<Instant> {
        let gap = match pace {
            Pace::Calm => self.every,
            Pace::Urgent => self.gap(),
        };
        self.last.map(|last| last + gap)
    }

    pub(super) fn start(&mut self, pace: Pace, now: Instant) {
        let paused = |turns: f64| {
            let long = |last| now.saturating_duration_since(last) >= self.every.mul_f64(turns);
            self.last.is_none_or(long)
        };
        let is_refresh = pace == Pace::Calm;
        // A lookup that comes late while all is urgent was held up, and goes on as before.
        if self.rested && (paused(1.5) || (is_refresh && self.refreshes)) {
            let no_refresh = !is_refresh && paused(2.0);
            self.saves = self.every * if no_refresh { 12 } else { 32 } / 100;
            self.lookups = 0;
        }
        self.lookups = self.lookups.saturating_add(1);
        self.refreshes = is_refresh;
        self.rested = is_refresh;
        self.last = Some(now);
    }

    /// From the last lookup to the next urgent one.
    fn gap(&self) -> Duration {
        let short = self.every * 247 / 250;
        match self.lookups {
            // DNS may well change just after the server did: the second look is not the one to be late.
            0..=1 => short,
            2..=5 => (self.every + self.saves).min(self.most),
            // All that was saved is used up by then.
            6..=27 => short,
            28.. => self.every,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(500);

    fn millis(all: &[u64]) -> Vec<Duration> {
        all.iter().copied().map(Duration::from_millis).collect()
    }

    /// When lookups start, counted from the onset of an outage that becomes `urgent` so much later and goes on; a `refresh` among them.
    fn outage(urgent: Duration, refresh: Option<Duration>) -> Vec<Duration> {
        let onset = Instant::now();
        let mut row = Row::new(EVERY, EVERY * 60);
        row.start(Pace::Calm, onset);
        let onset = onset + Duration::from_secs(5);
        let mut starts = Vec::new();
        if let Some(refresh) = refresh {
            row.start(Pace::Calm, onset + refresh);
            starts.push(refresh);
        }
        row.pace(Pace::Urgent);
        for _ in 0..200 {
            let next = row.soonest(Pace::Urgent).unwrap().max(onset + urgent);
            row.start(Pace::Urgent, next);
            starts.push(next - onset);
        }
        starts
    }

    fn is_two_a_second(starts: &[Duration], from: Duration) {
        for (n, at) in starts.iter().enumerate().filter(|(_, at)| **at >= from) {
            let most = at.as_secs_f64() * 2.0;
            assert!((n + 1) as f64 <= most + 1e-6, "{} in {at:?}", n + 1);
        }
    }

    #[test]
    fn a_black_hole_sees_two_lookups_a_second_from_its_onset_on() {
        let urgent = Duration::from_millis(450);
        let starts = outage(urgent, None);
        let expected = millis(&[450, 944, 1_504, 2_064, 2_624, 3_184, 3_678, 4_172]);
        assert_eq!(starts[..8], expected);
        is_two_a_second(&starts, Duration::from_secs(2));
    }

    #[test]
    fn a_refresh_at_any_moment_before_the_outage_is_known_is_among_them() {
        for urgent in (400..1_500).step_by(50) {
            for refresh in 0..=urgent {
                let [urgent, refresh] = [urgent, refresh].map(Duration::from_millis);
                is_two_a_second(&outage(urgent, Some(refresh)), EVERY * 6);
            }
        }
    }

    #[test]
    fn gaps_are_short_while_what_was_saved_lasts() {
        let short = Duration::from_millis(494);
        for (refresh, long) in [(None, 560), (Some(Duration::ZERO), 660)] {
            let starts = outage(Duration::from_millis(450), refresh);
            let gaps: Vec<Duration> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert_eq!(gaps[0], short);
            assert_eq!(gaps[1..5], [Duration::from_millis(long); 4]);
            assert_eq!(gaps[5..27], [short; 22]);
            assert!(gaps[27..].iter().all(|gap| *gap == EVERY));
        }
    }

    #[test]
    fn a_row_goes_on_through_a_stall_and_a_flap_and_ends_with_a_rest() {
        let pause = |calm: bool, pause: u64| {
            let mut row = Row::new(EVERY, EVERY * 60);
            let mut now = Instant::now();
            for _ in 0..8 {
                row.start(Pace::Urgent, now);
                now += EVERY;
            }
            if calm {
                row.pace(Pace::Calm);
                row.pace(Pace::Urgent);
            }
            row.start(Pace::Urgent, now - EVERY + Duration::from_millis(pause));
            row.lookups
        };
        assert_eq!(pause(false, 5_000), 9, "held up");
        assert_eq!(pause(true, 749), 9, "a flap");
        assert_eq!(pause(true, 750), 1, "a rest");
    }
}
