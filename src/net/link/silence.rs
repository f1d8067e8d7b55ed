//! Notices a link that has gone quiet while it owes replies.
//!
//! Owns the silence clock of one link; fed by [`driver`](super::driver), which reports owed replies and progress. Promises: silence is
//! counted from the oldest unanswered job or the last progress, whichever is later, never while nothing is owed; each level is
//! judged twice, [`LOOK`] apart; a look that comes late moves the clock by its lateness, because our own starvation is not the
//! peer's guilt. Leaves what follows from a level to `channel::supervisor`.
//! Pure: time is an argument. Cannot fail. The tests at the bottom read as the specification.

use std::time::Duration;

use tokio::time::Instant;

/// The two looks that make a judgement are this far apart.
const LOOK: Duration = Duration::from_millis(20);
/// Lateness below this is the timer's own grain.
const GRAIN: Duration = Duration::from_millis(5);

/// How long a silence may last before it means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) stall_after: Duration,
    pub(crate) unresponsive_after: Duration,
    pub(crate) detect_within: Duration,
}

/// What a silence means by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// It speaks, or owes nothing.
    Fine,
    /// Quiet for `stall_after`: worth a probe.
    Suspect,
    /// Quiet for `unresponsive_after`: if the probe is silent too, new calls are refused.
    Unresponsive,
    /// Quiet for `detect_within`: no excuse left.
    Dead,
}

/// The silence clock of one link.
#[derive(Debug)]
pub(crate) struct Silence {
    since: Option<Instant>,
    level: Level,
    looked: bool,
    /// The last look of this silence.
    last: Option<Instant>,
}

impl Silence {
    pub(crate) fn new() -> Self {
        Self {
            since: None,
            level: Level::Fine,
            looked: false,
            last: None,
        }
    }

    /// A reply is owed, where none was before.
    pub(crate) fn owe(&mut self, now: Instant) {
        if self.since.is_none() {
            self.since = Some(now);
        }
    }

    /// Bytes came in, or a blocked write moved on. Says whether this broke a silence that had been judged.
    pub(crate) fn progress(&mut self, now: Instant, owes_more: bool) -> bool {
        self.since = owes_more.then_some(now);
        self.looked = false;
        self.last = None;
        std::mem::replace(&mut self.level, Level::Fine) > Level::Fine
    }

    /// Since when nothing was heard of what is owed.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// What it means, by the last look.
    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// Whether no silence was judged.
    pub(crate) fn is_fine(&self) -> bool {
        self.level == Level::Fine
    }

    /// When to look next; `None` while nothing is owed or all is said.
    pub(crate) fn due(&self, limits: &Limits) -> Option<Instant> {
        let threshold = match self.level {
            Level::Fine => limits.stall_after,
            Level::Suspect => limits.unresponsive_after.max(limits.stall_after),
            Level::Unresponsive => limits.detect_within,
            Level::Dead => return None,
        };
        let (since, apart) = (self.since?, LOOK.min(limits.stall_after / 2));
        let last = self.last.unwrap_or(since);
        // Where two thresholds lie close together, the looks for the second begin when the first was judged: they are not late.
        Some(if self.looked {
            (since + threshold).max(last + apart)
        } else {
            (since + threshold - apart).max(last)
        })
    }

    /// Looks at the clock, at `now`, after a read found nothing. Gives the level when it has risen.
    pub(crate) fn look(&mut self, now: Instant, limits: &Limits) -> Option<Level> {
        let due = self.due(limits)?;
        if now < due {
            return None;
        }
        let late = now - due;
        if late > GRAIN {
            self.since = self.since.map(|since| since + late);
        }
        self.last = Some(now);
        if !self.looked {
            self.looked = true;
            return None;
        }
        self.looked = false;
        self.level = match self.level {
            Level::Fine => Level::Suspect,
            Level::Suspect => Level::Unresponsive,
            Level::Unresponsive | Level::Dead => Level::Dead,
        };
        Some(self.level)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        stall_after: Duration::from_millis(150),
        unresponsive_after: Duration::from_millis(450),
        detect_within: Duration::from_secs(1),
    };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Looks exactly when due until `until`, and gives the levels with the time at which they were reached.
    fn watch(silence: &mut Silence, start: Instant, until: Duration) -> Vec<(u128, Level)> {
        let mut seen = Vec::new();
        while let Some(due) = silence.due(&LIMITS).filter(|due| *due <= start + until) {
            if let Some(level) = silence.look(due, &LIMITS) {
                seen.push(((due - start).as_millis(), level));
            }
        }
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn silence_rises_level_by_level_from_the_oldest_unanswered_job() {
        let start = Instant::now();
        let mut silence = Silence::new();
        silence.owe(start);
        silence.owe(start + ms(100));
        assert_eq!(
            watch(&mut silence, start, ms(5000)),
            [
                (150, Level::Suspect),
                (450, Level::Unresponsive),
                (1000, Level::Dead)
            ]
        );
        assert_eq!(silence.due(&LIMITS), None);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_with_nothing_owed_is_health() {
        let start = Instant::now();
        let mut silence = Silence::new();
        assert_eq!(silence.due(&LIMITS), None);
        silence.owe(start);
        assert!(!silence.progress(start + ms(10), false));
        assert_eq!(watch(&mut silence, start, ms(10_000)), []);
    }

    #[tokio::test(start_paused = true)]
    async fn progress_starts_the_clock_again_and_says_whether_it_broke_a_silence() {
        let start = Instant::now();
        let mut silence = Silence::new();
        silence.owe(start);
        assert_eq!(watch(&mut silence, start, ms(200)), [(150, Level::Suspect)]);
        assert!(silence.progress(start + ms(300), true), "it spoke");
        assert!(!silence.progress(start + ms(301), true), "said once");
        assert_eq!(watch(&mut silence, start, ms(460)), [(451, Level::Suspect)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_look_moves_the_clock_by_its_lateness() {
        let start = Instant::now();
        let mut silence = Silence::new();
        silence.owe(start);
        // Stopped from 0 to 330 ms: the look due at 130 ms comes 200 ms late.
        assert_eq!(silence.look(start + ms(330), &LIMITS), None);
        assert_eq!(
            silence.due(&LIMITS),
            Some(start + ms(350)),
            "the second look is a full LOOK away"
        );
        assert_eq!(silence.look(start + ms(340), &LIMITS), None);
        assert_eq!(silence.look(start + ms(350), &LIMITS), Some(Level::Suspect));
    }

    #[tokio::test(start_paused = true)]
    async fn no_single_look_ever_raises_the_level() {
        let start = Instant::now();
        for stopped in [ms(131), ms(150), ms(460), ms(5000), ms(60_000)] {
            let mut silence = Silence::new();
            silence.owe(start);
            assert_eq!(silence.look(start + stopped, &LIMITS), None, "{stopped:?}");
        }
    }
}
