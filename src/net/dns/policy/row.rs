//! How closely the lookups of one name may follow one another.
//!
//! Owns [`Row`]: lookups between which nothing has rested, and the gap after each. Two promises pull at it, for the default of 500 ms:
//! what DNS tells right after a lookup is followed within 500 ms, links and all, so gaps are a little *shorter*; and an outage sees no
//! more than two urgent lookups a second, counted from its onset, which takes gaps that are *longer*: n of them have n + 1 lookups. The
//! onset of a silence is 0.8 of a gap or more before it is urgent (450 ms by default); the rest is saved in one gap, the second.
//! Promises, in turns of `every`: the sixth urgent lookup starts no sooner than 6 turns after the onset, and so on for ever; between two lie
//! at least 0.988, from the third to the twenty-second no more; in any span there are at most 1.3 lookups more than turns, whatever the pace.
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
    /// Urgent ones, in a row.
    lookups: u32,
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
        let is_far = |last| now.saturating_duration_since(last) >= self.every * 3 / 2;
        // A lookup that comes late while all is urgent was held up, and goes on as before.
        if pace == Pace::Calm || (self.rested && self.last.is_none_or(is_far)) {
            self.lookups = 0;
        }
        self.lookups = match pace {
            Pace::Calm => 0,
            Pace::Urgent => self.lookups.saturating_add(1),
        };
        self.rested = pace == Pace::Calm;
        self.last = Some(now);
    }

    /// From the last lookup to the next urgent one.
    fn gap(&self) -> Duration {
        match self.lookups {
            // DNS may well change just after the server did: the second look is not the one to be late.
            2 => (self.every * 29 / 20).min(self.most),
            // What was saved is used up by then.
            ..=21 => self.every * 247 / 250,
            _ => self.every,
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

    /// When urgent lookups start, counted from the onset of an outage that becomes `urgent` so much later and goes on; the last `refresh` was
    /// at this time.
    fn outage(urgent: Duration, refresh: Duration) -> Vec<Duration> {
        let onset = Instant::now();
        let mut row = Row::new(EVERY, EVERY * 60);
        row.start(Pace::Calm, onset + refresh);
        row.pace(Pace::Urgent);
        let mut starts = Vec::new();
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
        let starts = outage(Duration::from_millis(450), Duration::ZERO);
        let expected = millis(&[494, 988, 1_713, 2_207, 2_701, 3_195, 3_689, 4_183]);
        assert_eq!(starts[..8], expected);
        for urgent in (400..1_500).step_by(50) {
            for refresh in 0..=urgent {
                let [urgent, refresh] = [urgent, refresh].map(Duration::from_millis);
                is_two_a_second(&outage(urgent, refresh), EVERY * 3);
            }
        }
    }

    #[test]
    fn gaps_are_short_while_what_was_saved_lasts() {
        let short = Duration::from_millis(494);
        let starts = outage(Duration::from_millis(450), Duration::ZERO);
        let gaps: Vec<Duration> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps[..2], millis(&[494, 725]));
        assert_eq!(gaps[2..21], [short; 19]);
        assert!(gaps[21..].iter().all(|gap| *gap == EVERY));
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
