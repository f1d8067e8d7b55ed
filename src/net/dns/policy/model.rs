//! The policy of one name against random answers, in any order, at any pace.
//!
//! Owns a world that starts lookups when the policy says so, keeps several under way, and ends them in any order with anything: addresses,
//! none, no such name, a failure, and each of these for one family only. Held against the policy at every step: no failure
//! ever shrinks the set, nobody is asked too often or too seldom, and an old answer never replaces a newer one.

use std::{net::IpAddr, time::Duration};

use proptest::{collection::vec, prelude::*, sample::subsequence};
use tokio::time::Instant;

use super::{MOST_FLIGHTS, Pace, Policy, Ticket, Verdict};
use crate::{
    dns::{Answer, DnsPolicy, NoAddress, Resolution},
    models::try_all,
};

#[derive(Clone, Debug)]
enum Step {
    /// So many milliseconds pass, and every lookup that falls due starts.
    Pass(u64),
    /// Waits for the next start.
    Wait,
    Pace(Pace),
    /// One of those under way ends.
    End(usize, Resolution),
}

fn addresses(v4: bool) -> impl Strategy<Value = Vec<IpAddr>> {
    let all: Vec<IpAddr> = (1..=6_u8)
        .map(|last| match v4 {
            true => IpAddr::from([10, 0, 0, last]),
            false => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)]),
        })
        .collect();
    subsequence(all, 0..=3).prop_shuffle()
}

fn answer(v4: bool) -> impl Strategy<Value = Answer> {
    let ttl = || (0..7_200_u64).prop_map(Duration::from_secs);
    prop_oneof![
        4 => (addresses(v4), ttl()).prop_map(|(addresses, ttl)| Answer::Positive { addresses, ttl }),
        1 => ttl().prop_map(|ttl| Answer::Negative { reason: NoAddress::NxDomain, ttl }),
        2 => ttl().prop_map(|ttl| Answer::Negative { reason: NoAddress::NoData, ttl }),
        3 => Just(Answer::transient("silence")),
    ]
}

fn resolution() -> impl Strategy<Value = Resolution> {
    prop_oneof![
        4 => (answer(true), answer(false)).prop_map(|(v4, v6)| Resolution::new(v4, v6)),
        2 => Just(Resolution::transient("silence")),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pace = prop_oneof![Just(Pace::Calm), Just(Pace::Urgent)];
    let step = prop_oneof![
        3 => prop_oneof![0..2_000_u64, 0..60_000_u64].prop_map(Step::Pass),
        3 => Just(Step::Wait),
        1 => pace.prop_map(Step::Pace),
        6 => (any::<usize>(), resolution()).prop_map(|(which, resolution)| Step::End(which, resolution)),
    ];
    vec(step, 1..120)
}

/// Whatever `build()` lets through.
fn settings() -> impl Strategy<Value = DnsPolicy> {
    let legal = (1..3_600_u64, 0..3_600_u64, 100..30_000_u64, 60..86_400_u64).prop_map(
        |(min, more, urgent, memory)| {
            let (min, max) = (min, (min + more).min(3_600));
            DnsPolicy::default()
                .min_refresh(Duration::from_secs(min))
                .max_refresh(Duration::from_secs(max))
                .urgent_every(Duration::from_millis(urgent.min(max * 1_000)))
                .rotation_memory(Duration::from_secs(memory))
        },
    );
    prop_oneof![Just(DnsPolicy::default()), legal]
}

struct World {
    settings: DnsPolicy,
    policy: Policy,
    now: Instant,
    flights: Vec<(usize, Ticket)>,
    first_start: Option<Instant>,
    starts: Vec<(Instant, Pace)>,
    /// The least that any lookup was ahead of one each `urgent_every`, in lookups.
    behind: f64,
    outage: Option<Outage>,
    /// When nothing was under way any more, or the pace changed.
    idle_since: Instant,
    /// The newest lookup that brought an answer other than a failure, by the order of starts.
    told: usize,
}

/// A time of urgency, without a break: when what is urgent may have begun, and how many lookups had started when that was known.
struct Outage {
    onset: Option<(Instant, usize)>,
}

impl Outage {
    /// For what is urgent `now`: 0.8 of a turn ago at the latest. `None` where it follows another outage at once, and is a part of that one.
    fn onset(
        starts: &[(Instant, Pace)],
        now: Instant,
        every: Duration,
    ) -> Option<(Instant, usize)> {
        let urgent = starts.last().filter(|(_, pace)| *pace == Pace::Urgent);
        let is_part = urgent.is_some_and(|(last, _)| now - *last < every * 3 / 2);
        (!is_part).then(|| (now - every * 4 / 5, starts.len()))
    }

    /// Three turns later, and from then on, there were no more urgent lookups than turns.
    fn is_seen_by(&self, starts: &[(Instant, Pace)], every: Duration) {
        let now = starts.last().expect("just begun").0;
        let Some((onset, before)) = self.onset.filter(|(onset, _)| now - *onset >= every * 3)
        else {
            return;
        };
        let (lookups, turns) = (starts.len() - before, now - onset);
        let holds = lookups as f64 <= turns.as_secs_f64() / every.as_secs_f64() + 1e-6;
        assert!(holds, "{lookups} lookups in {turns:?}");
    }
}

impl World {
    fn start(&mut self) {
        let due = self.policy.next_start().expect("due");
        assert!(self.flights.len() < MOST_FLIGHTS, "not more at once");
        let every = self.settings.urgent_every;
        if let Some((last, _)) = self.starts.last() {
            let least = every * 247 / 250;
            assert!(due >= *last + least, "{:?} after the last", due - *last);
        }
        let pace = self.outage.as_ref().map_or(Pace::Calm, |_| Pace::Urgent);
        self.starts.push((self.now, pace));
        self.is_hardly_ahead();
        if let Some(outage) = &self.outage {
            outage.is_seen_by(&self.starts, every);
        }
        let ticket = self.policy.start(self.now);
        self.flights.push((self.starts.len(), ticket));
    }

    /// In any span that begins and ends with a lookup: one each `urgent_every`, one more for the fence post, and 0.3 that were saved up.
    fn is_hardly_ahead(&mut self) {
        let since = self.now - *self.first_start.get_or_insert(self.now);
        let turns = since.as_secs_f64() / self.settings.urgent_every.as_secs_f64();
        let ahead = self.starts.len() as f64 - turns;
        self.behind = self.behind.min(ahead);
        let most = ahead - self.behind;
        assert!(most <= 0.3 + 1e-6, "{most} lookups ahead");
    }

    fn pace(&mut self, pace: Pace) {
        self.policy.pace(pace);
        if pace == Pace::Calm {
            self.outage = None;
        } else if self.outage.is_none() {
            let every = self.settings.urgent_every;
            // Where no gap may be longer nothing can be saved.
            let saves = every * 29 / 20 <= self.settings.max_refresh;
            let onset = saves.then(|| Outage::onset(&self.starts, self.now, every));
            self.outage = Some(Outage {
                onset: onset.flatten(),
            });
        }
    }

    /// Everything that falls due until `until` starts in its time.
    fn pass(&mut self, until: Instant) {
        while let Some(due) = self.policy.next_start().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.start();
        }
        self.now = self.now.max(until);
    }

    /// However often it failed, and whatever the TTL.
    fn is_asked_often_enough(&self) {
        if !self.flights.is_empty() {
            return;
        }
        let next = self.policy.next_start().expect("nothing is under way");
        let latest = self.idle_since + self.settings.max_refresh;
        assert!(next <= latest, "{:?} too late", next - latest);
    }

    fn end(&mut self, which: usize, resolution: Resolution) {
        let (number, ticket) = self.flights.swap_remove(which % self.flights.len());
        let before = self.policy.found();
        let members = self.policy.members.last().to_vec();
        let verdict = self.policy.ended(ticket, resolution.clone(), self.now);
        let after = self.policy.found();
        self.idle_since = self.now;

        let is_old = number < self.told;
        if is_old && verdict != Verdict::Transient {
            assert_eq!(after, before, "an old answer replaces nothing");
        }
        if verdict != Verdict::Positive {
            let kept = before
                .addresses
                .iter()
                .all(|ip| after.addresses.contains(ip));
            assert!(kept, "{verdict:?} has taken from {before:?}: {after:?}");
            assert_eq!(after.gone, before.gone, "{verdict:?} proves no absence");
        } else if !is_old {
            self.heard(&resolution, &members, &after.addresses);
        }
        if verdict != Verdict::Transient {
            self.told = self.told.max(number);
        }
        assert!(before.addresses.is_empty() || !after.addresses.is_empty());
        let lost = after.gone.iter().find(|ip| after.addresses.contains(ip));
        assert_eq!(lost, None, "gone, and to be dialled");
    }

    /// What was answered is believed; a family that was not answered for keeps what it had.
    fn heard(&self, resolution: &Resolution, members: &[IpAddr], believed: &[IpAddr]) {
        for (answer, is_v4) in [(&resolution.v4, true), (&resolution.v6, false)] {
            let expected: Vec<IpAddr> = match answer {
                Answer::Positive { addresses, .. } => addresses.clone(),
                Answer::Transient { .. } => members
                    .iter()
                    .copied()
                    .filter(|ip| ip.is_ipv4() == is_v4)
                    .collect(),
                _ => Vec::new(),
            };
            assert!(
                expected.iter().all(|ip| believed.contains(ip)),
                "{expected:?} in {believed:?}"
            );
        }
        assert_eq!(self.policy.found().trouble, None);
    }
}

fn run(settings: DnsPolicy, steps: Vec<Step>) -> World {
    assert_eq!(settings.faults(), Vec::<String>::new());
    // Not so near to the beginning of time that nothing could have been before.
    let now = Instant::now() + Duration::from_secs(60);
    let mut world = World {
        policy: Policy::new("redis.test".into(), settings.clone(), now),
        settings,
        now,
        flights: Vec::new(),
        first_start: None,
        starts: Vec::new(),
        behind: f64::INFINITY,
        outage: None,
        idle_since: now,
        told: 0,
    };
    for step in steps {
        match step {
            Step::Pass(millis) => world.pass(world.now + Duration::from_millis(millis)),
            Step::Wait => {
                if let Some(due) = world.policy.next_start() {
                    world.pass(due);
                }
            }
            Step::Pace(pace) => world.pace(pace),
            Step::End(..) if world.flights.is_empty() => {}
            Step::End(which, resolution) => world.end(which, resolution),
        }
        world.is_asked_often_enough();
    }
    world
}

#[test]
fn no_failure_shrinks_the_set_no_old_answer_returns_and_nobody_is_asked_too_often_or_too_seldom() {
    try_all(300, (settings(), steps()), |(settings, steps)| {
        drop(run(settings, steps))
    });
}

#[test]
fn no_row_of_failures_however_long_loses_what_was_known() {
    let failure = prop_oneof![
        3 => Just(Resolution::transient("silence")),
        1 => Just(Resolution::negative(NoAddress::NxDomain, Duration::ZERO)),
        1 => Just(Resolution::new(Answer::transient("silence"), Answer::positive(Vec::new(), Duration::ZERO))),
    ];
    let failures = vec((0..1_200_u64, failure), 1..200);
    try_all(
        200,
        (settings(), steps(), failures),
        |(settings, steps, failures)| {
            let mut world = run(settings, steps);
            let known = world.policy.found();
            for (seconds, failure) in failures {
                world.pass(world.now + Duration::from_secs(seconds));
                while !world.flights.is_empty() {
                    world.end(0, failure.clone());
                }
                let found = world.policy.found();
                assert!(
                    known
                        .addresses
                        .iter()
                        .all(|ip| found.addresses.contains(ip))
                );
                assert_eq!(found.gone, known.gone);
                world.is_asked_often_enough();
            }
        },
    );
}
