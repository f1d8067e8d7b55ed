//! One probe first: keeps the clients of a process from knocking at a silent address all at once.
//!
//! Owns the list of addresses where a probe of this process is out, its *scout*. Promises: while a scout is out, another client that
//! merely suspects its link takes the scout's silence for its own instead of dialling (one slow script must not cost a server a
//! connection per client); nobody waits longer than [`PATIENCE`]; once a scout was answered everybody may go; a scout that
//! is given up, or dies with its runtime, holds nobody back. Leaves dialling to [`prober`](super::prober).
//! Pure but for one lock: time is an argument. Cannot fail.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::net::address::Address;

/// A stall of 300 ms is over before the first who noticed it (at 150 ms) has waited this long; a verdict (at 450 ms) still finds a probe
/// of each client's own out.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);
/// An answer opens the way for this long.
const FRESH: Duration = Duration::from_secs(1);

static PROCESS: LazyLock<Scouts> = LazyLock::new(Scouts::default);

/// The scouts of one process.
#[derive(Default)]
pub(super) struct Scouts(Mutex<Board>);

#[derive(Default)]
struct Board {
    next: u64,
    places: HashMap<Address, Place>,
}

enum Place {
    Out { number: u64, since: Instant },
    Answered { at: Instant },
}

/// What a client that wants to probe hears.
pub(super) enum Leave {
    /// Go, as the scout of the others.
    First(Scout),
    /// Go: there is nothing to wait for.
    Free,
    /// A scout is out.
    Wait,
}

/// Somebody's probe, for as long as it is out.
pub(super) struct Scout {
    scouts: &'static Scouts,
    address: Address,
    number: u64,
}

impl Scouts {
    pub(super) fn of_process() -> &'static Self {
        &PROCESS
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a client may probe `address` at `now`.
    pub(super) fn ask(&'static self, address: &Address, now: Instant) -> Leave {
        let mut board = self.lock();
        match board.places.get(address) {
            Some(Place::Out { since, .. }) if now.saturating_duration_since(*since) < PATIENCE => {
                return Leave::Wait;
            }
            Some(Place::Out { .. }) => return Leave::Free,
            Some(Place::Answered { at }) if now.saturating_duration_since(*at) < FRESH => {
                return Leave::Free;
            }
            Some(Place::Answered { .. }) | None => {}
        }
        board.places.retain(|_, place| match place {
            Place::Out { .. } => true,
            Place::Answered { at } => now.saturating_duration_since(*at) < FRESH,
        });
        board.next += 1;
        let number = board.next;
        let place = Place::Out { number, since: now };
        board.places.insert(address.clone(), place);
        Leave::First(Scout {
            scouts: self,
            address: address.clone(),
            number,
        })
    }
}

impl Scout {
    /// Its probe was answered, well or badly: the address is not silent.
    pub(super) fn answered(self, now: Instant) {
        self.replace(Some(Place::Answered { at: now }));
    }

    fn replace(&self, place: Option<Place>) {
        let mut board = self.scouts.lock();
        let is_mine = matches!(board.places.get(&self.address), Some(Place::Out { number, .. }) if *number == self.number);
        if is_mine {
            match place {
                Some(place) => drop(board.places.insert(self.address.clone(), place)),
                None => drop(board.places.remove(&self.address)),
            }
        }
    }
}

impl Drop for Scout {
    fn drop(&mut self) {
        self.replace(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scouts() -> &'static Scouts {
        Box::leak(Box::default())
    }

    fn address(text: &str) -> Address {
        Address::Tcp(text.parse().expect("an address"))
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn one_goes_and_the_others_wait_but_no_longer_than_their_patience() {
        let (scouts, now, here) = (scouts(), Instant::now(), address("127.0.0.1:1"));
        let Leave::First(scout) = scouts.ask(&here, now) else {
            panic!("the first may go")
        };
        assert!(matches!(
            scouts.ask(&here, now + PATIENCE - ms(1)),
            Leave::Wait
        ));
        assert!(matches!(scouts.ask(&here, now + PATIENCE), Leave::Free));
        let there = address("127.0.0.1:2");
        assert!(matches!(scouts.ask(&there, now), Leave::First(_)));
        drop(scout);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_opens_the_way_for_all_and_is_forgotten() {
        let (scouts, now, here) = (scouts(), Instant::now(), address("127.0.0.1:1"));
        let Leave::First(scout) = scouts.ask(&here, now) else {
            panic!("the first may go")
        };
        scout.answered(now + ms(10));
        for _ in 0..3 {
            assert!(matches!(scouts.ask(&here, now + ms(20)), Leave::Free));
        }
        assert!(matches!(
            scouts.ask(&here, now + ms(10) + FRESH),
            Leave::First(_)
        ));
        assert!(scouts.lock().places.is_empty(), "given up at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_scout_that_dies_holds_nobody_back() {
        let (scouts, now, here) = (scouts(), Instant::now(), address("127.0.0.1:1"));
        let first = scouts.ask(&here, now);
        assert!(matches!(scouts.ask(&here, now + ms(1)), Leave::Wait));
        drop(first);
        assert!(matches!(scouts.ask(&here, now + ms(2)), Leave::First(_)));
    }
}
