//! The breaker, machine and window together, against a list of everything that ever happened.
//!
//! Owns the reference: it keeps every event and counts them again at each question, in milliseconds and without rings, sums or flags.
//! Held against the machine over random policies and histories: it opens when the list says so and at no other time, stays open until it
//! has rested and a connection was verified, and lets calls back in no faster than promised.

use std::time::Duration;

use proptest::{collection::vec, prelude::*, sample::select};
use tokio::time::Instant;

use super::machine::{Machine, Trip};
use crate::{config::BreakerPolicy, models::try_all};

#[derive(Clone, Debug)]
enum Event {
    Pass(u64),
    Served(u32),
    Failed,
    LinkFailed,
    LinkServed,
    /// The supervisor knows that the endpoint is away.
    Verdict,
    /// A connection was verified.
    Verified,
    /// Another server is meant from now on.
    Forgive,
    Admit(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let pass = prop_oneof![6 => 0..50_u64, 6 => 0..3_000_u64, 1 => 0..70_000_u64];
    let event = prop_oneof![
        8 => pass.prop_map(Event::Pass),
        6 => (1..20_u32).prop_map(Event::Served),
        6 => Just(Event::Failed),
        3 => Just(Event::LinkFailed),
        1 => Just(Event::LinkServed),
        1 => Just(Event::Verdict),
        4 => Just(Event::Verified),
        1 => Just(Event::Forgive),
        3 => (1..5_000_usize).prop_map(Event::Admit),
    ];
    vec(event, 1..400)
}

/// A policy, and its numbers once more for the reference.
#[derive(Clone, Debug)]
struct Numbers {
    window: u64,
    least: u32,
    rate: u32,
    in_a_row: u32,
    ramp_start: u32,
    ramp_step: u64,
    flap: (u64, u64),
}

fn numbers() -> impl Strategy<Value = Numbers> {
    let rate = prop_oneof![Just(5_000), 1..=10_000_u32];
    let flap = (10..5_000_u64, 0..20_000_u64).prop_map(|(first, more)| (first, first + more));
    (
        1..12_u64,
        1..100_u32,
        rate,
        1..8_u32,
        select(&[1, 1_000, 3_333, 10_000][..]),
        1..300_u64,
        flap,
    )
        .prop_map(
            |(seconds, least, rate, in_a_row, ramp_start, ramp_step, flap)| Numbers {
                window: seconds * 1_000,
                least,
                rate,
                in_a_row,
                ramp_start,
                ramp_step,
                flap,
            },
        )
}

impl Numbers {
    fn policy(&self) -> BreakerPolicy {
        let ms = Duration::from_millis;
        let policy = BreakerPolicy::default()
            .window(ms(self.window))
            .min_calls(self.least)
            .failure_rate_basis_points(self.rate)
            .consecutive_failures(self.in_a_row)
            .ramp_start_basis_points(self.ramp_start)
            .ramp_doubling(ms(self.ramp_step))
            .flap_open(ms(self.flap.0), ms(self.flap.1));
        assert_eq!(policy.faults(), Vec::<String>::new());
        policy
    }
}

/// Everything that happened, in milliseconds from the beginning.
#[derive(Default)]
struct Reference {
    now: u64,
    /// When, how many calls, how many of them failed.
    calls: Vec<(u64, u32, u32)>,
    in_a_row: u32,
    /// When each trip was, and whether the window made it.
    trips: Vec<(u64, Trip)>,
    /// Trips before this one are forgiven.
    forgiven: usize,
    /// Until when it rests, if it is open.
    open: Option<u64>,
    closed_at: Option<u64>,
}

impl Reference {
    /// Whether too many of the calls of the last ten tenths of a window failed.
    fn overflows(&self, numbers: &Numbers) -> bool {
        let tenth = numbers.window / 10;
        let newest = self.now / tenth;
        let counted = self
            .calls
            .iter()
            .filter(|(at, ..)| at / tenth + 10 > newest);
        let (calls, failures) = counted.fold((0, 0), |(calls, failures), (_, more, failed)| {
            (calls + more, failures + failed)
        });
        calls >= numbers.least
            && u64::from(failures) * 10_000 >= u64::from(calls) * u64::from(numbers.rate)
    }

    fn trip(&mut self, trip: Trip, numbers: &Numbers) {
        // A minute without a trip, and the endpoint's record is clean.
        if self
            .trips
            .last()
            .is_some_and(|(at, _)| self.now - at > 60_000)
        {
            self.forgiven = self.trips.len();
        }
        let flaps = self
            .trips
            .iter()
            .skip(self.forgiven)
            .filter(|(_, trip)| *trip == Trip::Window)
            .count();
        let rest = match trip {
            Trip::Window => {
                (0..flaps).fold(numbers.flap.0, |rest, _| (rest * 2).min(numbers.flap.1))
            }
            Trip::Verdict | Trip::Consecutive => 0,
        };
        self.trips.push((self.now, trip));
        self.open = Some(self.now + rest);
        self.calls.clear();
    }

    fn forgive(&mut self) {
        self.calls.clear();
        self.in_a_row = 0;
        self.forgiven = self.trips.len();
        self.open = self.open.map(|_| self.now);
    }

    fn admitted(&self, cap: usize, numbers: &Numbers) -> usize {
        let Some(closed_at) = self.closed_at.filter(|_| self.open.is_none()) else {
            return cap;
        };
        let mut share = u64::from(numbers.ramp_start);
        for _ in 0..(self.now - closed_at) / numbers.ramp_step {
            share = (share * 2).min(10_000);
        }
        ((cap as u64 * share.min(10_000) / 10_000) as usize)
            .max(1)
            .min(cap)
    }
}

#[test]
fn it_opens_rests_closes_and_ramps_as_a_list_of_all_that_happened_says() {
    try_all(300, (numbers(), events()), |(numbers, events)| {
        let start = Instant::now();
        let mut machine = Machine::new(numbers.policy(), start);
        let mut reference = Reference::default();
        for event in events {
            let now = start + Duration::from_millis(reference.now);
            step(&mut machine, &mut reference, &numbers, &event, now);
            assert_eq!(
                machine.is_open(),
                reference.open.is_some(),
                "after {event:?}"
            );
            let rest = machine
                .rest_until()
                .map(|until| (until - start).as_millis());
            assert_eq!(rest, reference.open.map(u128::from), "after {event:?}");
        }
    });
}

fn step(
    machine: &mut Machine,
    reference: &mut Reference,
    numbers: &Numbers,
    event: &Event,
    now: Instant,
) {
    let was_open = reference.open.is_some();
    match *event {
        Event::Pass(millis) => reference.now += millis,
        Event::Served(calls) => {
            machine.on_calls(calls, now);
            if !was_open {
                reference.calls.push((reference.now, calls, 0));
            }
        }
        Event::Failed => {
            let tripped = machine.on_failure(now);
            if !was_open {
                reference.calls.push((reference.now, 1, 1));
            }
            let expected = (!was_open && reference.overflows(numbers)).then_some(Trip::Window);
            assert_eq!(tripped, expected);
            if expected.is_some() {
                reference.trip(Trip::Window, numbers);
            }
        }
        Event::LinkFailed => {
            let tripped = machine.on_link_failure(now);
            reference.in_a_row += 1;
            let expected =
                (!was_open && reference.in_a_row >= numbers.in_a_row).then_some(Trip::Consecutive);
            assert_eq!(tripped, expected);
            if expected.is_some() {
                reference.trip(Trip::Consecutive, numbers);
            }
        }
        Event::LinkServed => {
            machine.on_link_success();
            reference.in_a_row = 0;
        }
        // The supervisor gives it once: on an open circuit it would cut the rest short.
        Event::Verdict if was_open => {}
        Event::Verdict => {
            machine.trip(Trip::Verdict, now);
            reference.trip(Trip::Verdict, numbers);
        }
        Event::Verified => {
            let may_close = reference.open.is_none_or(|until| reference.now >= until);
            assert_eq!(machine.close(now), may_close);
            if was_open && may_close {
                reference.open = None;
                reference.closed_at = Some(reference.now);
            }
        }
        Event::Forgive => {
            machine.forgive(now);
            reference.forgive();
        }
        Event::Admit(cap) => {
            let admitted = machine.admitted(cap, now);
            assert_eq!(admitted, reference.admitted(cap, numbers));
            assert!(
                admitted <= cap && (admitted > 0 || cap == 0),
                "never nobody, never more than all"
            );
        }
    }
}
