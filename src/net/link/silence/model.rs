//! The silence clock against random traffic, over random limits, watched by a driver that is late as it happens.
//!
//! Owns one reference, kept in plain milliseconds: when the silence that counts began, how much of it was our own lateness, and when the
//! machine looked. Promises of the machine that are held against it: no level before its time, none without two looks, none later than
//! our own lateness explains, and none at all while nothing is owed.

use std::time::Duration;

use proptest::{collection::vec, prelude::*};
use tokio::time::Instant;

use super::{GRAIN, LOOK, Level, Limits, Silence};
use crate::models::try_all;

#[derive(Clone, Debug)]
enum Step {
    /// A job is handed over, so much later.
    Owe { after: u64 },
    /// Bytes come in, so much later.
    Progress { after: u64, owes_more: bool },
    /// The driver looks when it is due, or so much later.
    Look { late: u64 },
    /// The driver looks though nothing is due, so much later.
    Glance { after: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let late = prop_oneof![6 => Just(0), 3 => 0..=5_u64, 1 => 6..3_000_u64];
    let step = prop_oneof![
        2 => (0..200_u64).prop_map(|after| Step::Owe { after }),
        1 => (0..400_u64, any::<bool>()).prop_map(|(after, owes_more)| Step::Progress { after, owes_more }),
        6 => late.prop_map(|late| Step::Look { late }),
        1 => (0..50_u64).prop_map(|after| Step::Glance { after }),
    ];
    vec(step, 1..60)
}

/// All that a configuration can make of them: `stall_after` up to half of `detect_within`, beyond `unresponsive_after`.
fn limits() -> impl Strategy<Value = Limits> {
    (20..60_000_u64)
        .prop_flat_map(|detect| (Just(detect), 10..=detect / 2))
        .prop_map(|(detect, stall)| {
            let detect_within = Duration::from_millis(detect);
            Limits {
                stall_after: Duration::from_millis(stall),
                unresponsive_after: detect_within * 9 / 20,
                detect_within,
            }
        })
}

/// What has been seen, without a clock of its own.
struct Reference {
    limits: Limits,
    /// Since when it has been silent, if it owes anything.
    since: Option<Instant>,
    level: Level,
    /// Lateness that the machine must not, and all that it may, hold against us.
    excused: Duration,
    late: Duration,
    looks: Vec<Instant>,
    /// When the level last rose.
    rose: Option<Instant>,
}

impl Reference {
    fn threshold(&self, level: Level) -> Duration {
        match level {
            Level::Fine => Duration::ZERO,
            Level::Suspect => self.limits.stall_after,
            Level::Unresponsive => self.limits.unresponsive_after.max(self.limits.stall_after),
            Level::Dead => self.limits.detect_within,
        }
    }

    fn begin(&mut self, since: Option<Instant>) {
        self.since = since;
        self.level = Level::Fine;
        self.excused = Duration::ZERO;
        self.late = Duration::ZERO;
        self.looks.clear();
        self.rose = None;
    }

    fn looked(&mut self, due: Instant, now: Instant, risen: Option<Level>) {
        let late = now - due;
        self.looks.push(now);
        if late > GRAIN {
            self.excused += late;
        }
        self.late += late;
        let Some(level) = risen else { return };
        let since = self.since.expect("a level only while something is owed");
        assert_eq!(level as u8, self.level as u8 + 1, "one level at a time");
        let least = self.threshold(level);
        // The look that found it was late as well: that much of the silence is not in the clock yet, and need not be.
        let counted =
            (now - since).saturating_sub(self.excused - late.max(GRAIN).min(self.excused));
        assert!(counted >= least, "{level:?} after {counted:?} of {least:?}");
        self.two_looks(level);
        let earliest = self
            .rose
            .map_or(since, |rose| rose + LOOK)
            .max(since + least);
        let latest = earliest + self.late + GRAIN;
        assert!(now <= latest, "{level:?} {:?} too late", now - latest);
        self.level = level;
        self.looks.clear();
        self.rose = Some(now);
    }

    /// The looks that made the judgement were [`LOOK`] apart, unless `stall_after` is hardly longer.
    fn two_looks(&self, level: Level) {
        let [first, second] = self.looks.as_slice() else {
            panic!("{level:?} after {} looks", self.looks.len());
        };
        let apart = LOOK.min(self.limits.stall_after / 2);
        assert!(
            *second - *first >= apart,
            "{level:?} by looks {:?} apart",
            *second - *first
        );
    }
}

#[test]
fn no_level_comes_early_or_by_one_look_or_later_than_our_own_lateness_explains() {
    try_all(400, (limits(), steps()), |(limits, steps)| {
        let mut now = Instant::now();
        let mut silence = Silence::new();
        let mut reference = Reference {
            limits,
            since: None,
            level: Level::Fine,
            excused: Duration::ZERO,
            late: Duration::ZERO,
            looks: Vec::new(),
            rose: None,
        };
        for step in steps {
            match step {
                Step::Owe { after } => {
                    now += Duration::from_millis(after);
                    silence.owe(now);
                    reference.since.get_or_insert(now);
                }
                Step::Progress { after, owes_more } => {
                    now += Duration::from_millis(after);
                    let broke = silence.progress(now, owes_more);
                    assert_eq!(broke, reference.level > Level::Fine);
                    reference.begin(owes_more.then_some(now));
                }
                Step::Look { late } => {
                    let Some(due) = silence.due(&limits) else {
                        assert!(reference.since.is_none() || reference.level == Level::Dead);
                        continue;
                    };
                    now = now.max(due) + Duration::from_millis(late);
                    let risen = silence.look(now, &limits);
                    reference.looked(due, now, risen);
                }
                Step::Glance { after } => {
                    now += Duration::from_millis(after);
                    if silence.due(&limits).is_none_or(|due| now < due) {
                        assert_eq!(silence.look(now, &limits), None, "nothing was due");
                    }
                }
            }
        }
    });
}

#[test]
fn whoever_looks_in_time_has_every_verdict_in_time() {
    try_all(400, (limits(), 0..100_u64), |(limits, quiet)| {
        let start = Instant::now();
        let mut silence = Silence::new();
        // Talk before it does not count.
        silence.owe(start);
        let since = start + Duration::from_millis(quiet.min(9));
        silence.progress(since, true);
        let mut rose = None;
        let mut now = since;
        for level in [Level::Suspect, Level::Unresponsive, Level::Dead] {
            let found = loop {
                let due = silence.due(&limits).expect("more to say");
                now = now.max(due);
                if let Some(found) = silence.look(now, &limits) {
                    break found;
                }
            };
            assert_eq!(found, level);
            let threshold = match level {
                Level::Unresponsive => limits.unresponsive_after.max(limits.stall_after),
                Level::Dead => limits.detect_within,
                _ => limits.stall_after,
            };
            // Where two thresholds lie closer than two looks, the second waits for its own.
            let promised = (since + threshold).max(rose.unwrap_or(since));
            assert_eq!(now, promised, "{level:?} {:?} after", now - since);
            if level == Level::Dead {
                assert_eq!(now - since, limits.detect_within, "no excuse left");
            }
            rose = Some(now + LOOK.min(limits.stall_after / 2));
        }
        assert_eq!(silence.due(&limits), None, "all is said");
    });
}
