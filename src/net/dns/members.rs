//! Which addresses a name has, had, and has lost.
//!
//! Owns [`Members`], fed with positive answers and the instants at which their lookups *started*.
//! Promises: an address is gone only when two answers at least [`CONFIRM`] apart lack it, and one answer more for each address that
//! left of late; a name that hands out its addresses in turns hardly loses any; one that did so once, and says the same for [`STEADY`]
//! now, loses the rest; what is gone stays gone until it is named again; at most [`MOST`] of each are remembered. Leaves failed lookups
//! to [`policy`](super::policy), which does not tell of them: so nothing is ever lost by one. Pure: time is an argument. Cannot fail.

use std::{net::IpAddr, time::Duration};

use tokio::time::Instant;

use super::Families;

#[derive(Debug)]
pub(super) struct Members {
    memory: Duration,
    /// The last positive answer: those already known in their old order, then the new.
    current: Vec<IpAddr>,
    /// The families that it told of.
    heard: Families,
    /// Not in the last positive answer, the latest to leave first.
    past: Vec<Past>,
    /// How many answers in a row had nothing in common with the one before.
    strangers: u32,
    /// How many answers in a row named the same addresses, and the first of them.
    alike: u32,
    alike_since: Option<Instant>,
    rotating: bool,
    /// How long answers must be alike to end a rotation, and when they last did.
    steady: Duration,
    rested_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Past {
    address: IpAddr,
    absent_since: Instant,
    /// Answers that lacked it, [`CONFIRM`] apart, and the last of them.
    missed: usize,
    last_missed: Instant,
    gone: bool,
}

impl Members {
    pub(super) fn new(memory: Duration) -> Self {
        Self {
            memory,
            current: Vec::new(),
            heard: Families::Both,
            past: Vec::new(),
            strangers: 0,
            alike: 0,
            alike_since: None,
            rotating: false,
            steady: STEADY,
            rested_at: None,
        }
    }

    /// A positive answer, of a lookup that started at `at`. Never empty. A family that was not `heard` has in it what it had, and
    /// proves no absence.
    pub(super) fn answered(&mut self, mut answer: Vec<IpAddr>, heard: Families, at: Instant) {
        answer.truncate(MOST);
        self.heard = heard;
        self.notice_rotation(&answer, at);
        self.notice_rest(&answer, at);

        self.past.retain(|past| !answer.contains(&past.address));
        let (kept, left): (Vec<_>, Vec<_>) =
            self.current.iter().partition(|ip| answer.contains(ip));
        // A server moves once; what goes on moving is more likely to be a rotation whose first turn is not over.
        let moves = self.past.iter().filter(|past| past.gone);
        let moves = moves.filter(|past| past.is_recent(at, self.memory));
        let patience = 2 + moves.count().min(MOST_PATIENCE);
        for past in &mut self.past {
            if heard.has(past.address) {
                past.miss(at);
            }
            let has_left = past.gone || past.missed >= patience;
            past.gone = has_left && !(self.rotating && past.is_recent(at, self.memory));
        }
        let left = left.into_iter().map(|address| Past {
            address,
            absent_since: at,
            missed: 1,
            last_missed: at,
            gone: false,
        });
        self.past.splice(0..0, left);
        self.past.truncate(MOST);
        answer.retain(|ip| !kept.contains(ip));
        self.current = kept;
        self.current.append(&mut answer);
    }

    /// Two signs: an address that came back of late, and answers that change altogether twice running. A server that moved does neither.
    fn notice_rotation(&mut self, answer: &[IpAddr], at: Instant) {
        let returned = self
            .past
            .iter()
            .any(|past| past.is_recent(at, self.memory) && answer.contains(&past.address));
        let stranger =
            !self.current.is_empty() && !self.current.iter().any(|ip| answer.contains(ip));
        self.strangers = if stranger { self.strangers + 1 } else { 0 };
        if (returned || self.strangers >= 2) && !self.rotating {
            // What begins again soon after it had come to rest is a rotation behind a cache: it rests as long as the cache keeps an answer.
            let soon = |rested| at.saturating_duration_since(rested) < self.memory;
            self.steady = match self.rested_at {
                Some(rested) if soon(rested) => (self.steady * 2).min(self.memory),
                _ => STEADY,
            };
            self.rotating = true;
        }
    }

    /// A server that moved may show them as well, where caches disagree or where it moved back. But then the answers come to rest.
    fn notice_rest(&mut self, answer: &[IpAddr], at: Instant) {
        let same = answer.iter().all(|ip| self.current.contains(ip))
            && self.current.iter().all(|ip| answer.contains(ip));
        let since = self.alike_since.filter(|_| same).unwrap_or(at);
        let before = if same { self.alike } else { 0 };
        (self.alike, self.alike_since) = (before.saturating_add(1), Some(since));
        let is_long = at.saturating_duration_since(since) >= self.steady;
        if self.rotating && self.alike >= STEADY_ANSWERS && is_long {
            self.rotating = false;
            self.rested_at = Some(at);
        }
    }

    /// The addresses to dial, best first. An address outside the last positive answer may be somebody else's by now: it is
    /// among them only while the name rotates or while DNS cannot be asked (`sure` is false), and never once gone.
    pub(super) fn addresses(&self, sure: bool) -> Vec<IpAddr> {
        let mut addresses = self.current.clone();
        if !sure || self.is_rotating() {
            let past = self.past.iter().filter(|past| !past.gone);
            addresses.extend(past.map(|past| past.address));
        }
        addresses
    }

    pub(super) fn gone(&self) -> Vec<IpAddr> {
        let gone = self.past.iter().filter(|past| past.gone);
        gone.map(|past| past.address).collect()
    }

    pub(super) fn last(&self) -> &[IpAddr] {
        &self.current
    }

    pub(super) fn is_rotating(&self) -> bool {
        self.rotating
    }

    /// When to ask again to learn whether an absence lasts. Whoever did not answer just now is not asked for that alone.
    pub(super) fn confirm_at(&self) -> Option<Instant> {
        let doubtful = self.past.iter().filter(|past| !past.gone);
        let doubtful = doubtful.filter(|past| self.heard.has(past.address));
        let first = doubtful.map(|past| past.last_missed + CONFIRM).min();
        first.filter(|_| !self.is_rotating())
    }
}

impl Past {
    /// It left so lately that its return would be a sign of rotation.
    fn is_recent(&self, at: Instant, memory: Duration) -> bool {
        at.saturating_duration_since(self.absent_since) < memory
    }

    fn miss(&mut self, at: Instant) {
        if at.saturating_duration_since(self.last_missed) >= CONFIRM {
            self.missed += 1;
            self.last_missed = at;
        }
    }
}

/// An answer that lacks an address must be borne out by one that was asked for so much later.
const CONFIRM: Duration = Duration::from_secs(1);

/// So many answers that say the same, over so long, are no rotation's; twice as long where that was an error a while ago. Caches that disagree
/// after a move are of one mind by then, and a rotation that is steady by chance costs a link one swap a minute at most. Longer, and who
/// moved back is written to that much longer where it was.
const STEADY: Duration = Duration::from_secs(60);
const STEADY_ANSWERS: u32 = 3;

/// However much moves, five answers are proof.
const MOST_PATIENCE: usize = 3;

const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// Milliseconds, answer, addresses to dial, gone.
    type Row<'a> = (u64, &'a [u8], &'a [u8], &'a [u8]);

    fn table(rows: &[Row<'_>]) -> Members {
        let start = Instant::now();
        let mut members = Members::new(Duration::from_secs(600));
        let ips = |list: &[u8]| list.iter().copied().map(ip).collect::<Vec<_>>();
        for (row, (at, answer, dial, gone)) in rows.iter().enumerate() {
            let at = start + Duration::from_millis(*at);
            members.answered(ips(answer), Families::Both, at);
            assert_eq!(members.addresses(true), ips(dial), "row {row}");
            assert_eq!(members.gone(), ips(gone), "row {row}");
        }
        members
    }

    #[test]
    fn an_address_is_gone_when_two_answers_a_second_apart_lack_it() {
        let members = table(&[
            (0, &[1], &[1], &[]),
            (5_000, &[2], &[2], &[]),
            (5_900, &[2], &[2], &[]),
            (6_000, &[2], &[2], &[1]),
            (30_000, &[2], &[2], &[1]),
        ]);
        assert_eq!(members.confirm_at(), None);
        assert_eq!(members.addresses(false), [ip(2)], "gone stays gone");
    }

    #[test]
    fn an_absence_is_to_be_confirmed_a_second_later_and_counts_for_nothing_before() {
        let members = table(&[(0, &[1, 2], &[1, 2], &[]), (5_000, &[2], &[2], &[])]);
        assert!(members.confirm_at().is_some());
        assert_eq!(
            members.addresses(false),
            [ip(2), ip(1)],
            "dialled while DNS is away"
        );
    }

    #[test]
    fn order_is_kept_and_newcomers_come_last() {
        table(&[
            (0, &[1, 2, 3], &[1, 2, 3], &[]),
            (5_000, &[3, 4, 1], &[1, 3, 4], &[]),
            (6_000, &[4, 3, 1], &[1, 3, 4], &[2]),
        ]);
    }

    #[test]
    fn an_address_that_returns_marks_a_rotation_and_then_nothing_is_gone() {
        let members = table(&[
            (0, &[1], &[1], &[]),
            (5_000, &[2], &[2], &[]),
            (6_000, &[2], &[2], &[1]),
            (11_000, &[1], &[1, 2], &[]),
            (16_000, &[3], &[3, 1, 2], &[]),
            (21_000, &[3], &[3, 1, 2], &[]),
        ]);
        assert!(members.is_rotating());
        assert_eq!(members.confirm_at(), None);
    }

    #[test]
    fn a_second_move_soon_after_the_first_takes_an_answer_more_to_be_believed() {
        table(&[
            (0, &[1], &[1], &[]),
            (5_000, &[2], &[2], &[]),
            (6_000, &[2], &[2], &[1]),
            (20_000, &[3], &[3], &[1]),
            (21_000, &[3], &[3], &[1]),
            (22_000, &[3], &[3], &[2, 1]),
        ]);
    }

    #[test]
    fn a_round_robin_over_single_addresses_loses_none() {
        table(&[
            (0, &[1], &[1], &[]),
            (5_000, &[2], &[2], &[]),
            (6_000, &[3], &[3, 2, 1], &[]),
            (11_000, &[4], &[4, 3, 2, 1], &[]),
        ]);
    }

    #[test]
    fn a_move_that_wavers_once_is_a_rotation_until_answers_are_steady_for_a_minute() {
        table(&[
            (0, &[1], &[1], &[]),
            (5_000, &[2], &[2], &[]),
            // A cache that has not heard of it yet.
            (6_000, &[1], &[1, 2], &[]),
            (11_000, &[2], &[2, 1], &[]),
            (41_000, &[2], &[2, 1], &[]),
            (70_999, &[2], &[2, 1], &[]),
            (71_000, &[2], &[2], &[1]),
            (700_000, &[2], &[2], &[1]),
        ]);
    }

    #[test]
    fn a_server_that_fails_back_leaves_its_other_address_within_a_minute() {
        table(&[
            (0, &[1], &[1], &[]),
            (5_000, &[2], &[2], &[]),
            (6_000, &[2], &[2], &[1]),
            (300_000, &[1], &[1, 2], &[]),
            (330_000, &[1], &[1, 2], &[]),
            (360_000, &[1], &[1], &[2]),
        ]);
    }

    #[test]
    fn a_rotation_behind_a_cache_costs_a_few_swaps_and_then_none() {
        let (mut members, start) = (Members::new(Duration::from_secs(600)), Instant::now());
        let (mut gone, mut swaps) = (Vec::new(), Vec::new());
        // Half a minute apart for a day, and the cache keeps each answer for five minutes.
        for turn in 0..24 * 120 {
            let at = start + Duration::from_secs(30) * turn;
            members.answered(vec![ip(u8::from(turn / 10 % 2 == 0))], Families::Both, at);
            if members.gone() != gone && !members.gone().is_empty() {
                swaps.push(turn / 2);
            }
            gone = members.gone();
        }
        assert!(
            swaps.len() <= 4 && swaps.last() < Some(&60),
            "in minutes: {swaps:?}"
        );
        assert!(members.is_rotating());
    }

    #[test]
    fn two_answers_are_not_steady_however_far_apart() {
        let members = table(&[
            (0, &[1], &[1], &[]),
            (5_000, &[2], &[2], &[]),
            (6_000, &[1], &[1, 2], &[]),
            (300_000, &[1], &[1, 2], &[]),
            (301_000, &[1], &[1], &[2]),
        ]);
        assert!(!members.is_rotating());
    }

    #[test]
    fn another_order_is_as_steady_and_another_set_starts_over() {
        table(&[
            (0, &[1, 2], &[1, 2], &[]),
            (5_000, &[3], &[3], &[]),
            (6_000, &[1, 2], &[1, 2, 3], &[]),
            (36_000, &[2, 1], &[1, 2, 3], &[]),
            (65_000, &[1], &[1, 2, 3], &[]),
            (66_000, &[1, 2], &[1, 2, 3], &[]),
            (96_000, &[2, 1], &[1, 2, 3], &[]),
            (126_000, &[1, 2], &[1, 2], &[3]),
        ]);
    }

    #[test]
    fn what_is_gone_stays_gone_however_long_ago_it_left() {
        table(&[
            (0, &[1], &[1], &[]),
            (5_000, &[2], &[2], &[]),
            (6_000, &[2], &[2], &[1]),
            (700_000, &[2], &[2], &[1]),
            // It tells nothing of how things are today: two answers are proof again.
            (800_000, &[3], &[3], &[1]),
            (801_000, &[3], &[3], &[2, 1]),
            // Nor is it dialled because another one came back.
            (900_000, &[2], &[2, 3], &[1]),
        ]);
    }

    #[test]
    fn an_address_that_returns_after_long_is_a_server_that_moves() {
        let members = table(&[
            (0, &[1], &[1], &[]),
            (5_000, &[2], &[2], &[]),
            (6_000, &[2], &[2], &[1]),
            (700_000, &[1], &[1], &[]),
            (701_000, &[1], &[1], &[2]),
        ]);
        assert!(!members.is_rotating());
    }

    #[test]
    fn an_address_that_a_rotation_has_not_named_for_ten_minutes_is_gone() {
        let mut rows: Vec<Row<'_>> = vec![(0, &[1], &[1], &[]), (5_000, &[2], &[2], &[])];
        rows.extend([
            (10_000, &[3][..], &[3, 2, 1][..], &[][..]),
            (300_000, &[2], &[2, 3, 1], &[]),
            (604_999, &[3], &[3, 2, 1], &[]),
            (605_000, &[2], &[2, 3], &[1]),
        ]);
        assert!(table(&rows).is_rotating());
    }

    #[test]
    fn memory_is_bounded() {
        let start = Instant::now();
        let mut members = Members::new(Duration::from_secs(600));
        for turn in 0..200_u64 {
            let some = (0..100).map(|low| IpAddr::from([10, 0, (turn % 250) as u8, low]));
            let at = start + Duration::from_secs(turn);
            members.answered(some.collect(), Families::Both, at);
        }
        assert!(members.addresses(false).len() <= 2 * MOST);
    }
}
