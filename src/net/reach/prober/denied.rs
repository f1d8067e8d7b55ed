//! Who refuses our credentials, and when one of them is tried again.
//!
//! Owns the addresses whose last answer was that. Promises: from the first refusal on, dials of all of them together are at least a gap
//! apart, however slow the way and however many the addresses (a wrong password must not lock an account, or fill a server's log);
//! each has its turn; whoever answers anything else is dialled like the others again. Leaves how long the gap is to its keeper.
//! Pure: time is an argument. Cannot fail.

use tokio::time::Instant;

use crate::net::address::Address;

#[derive(Default)]
pub(super) struct Denied {
    /// Whose turn it is comes first.
    by: Vec<Address>,
    until: Option<Instant>,
}

impl Denied {
    /// `address` refused us; none of them is dialled before `until`.
    pub(super) fn refused(&mut self, address: &Address, until: Instant) {
        if !self.by.contains(address) {
            self.by.push(address.clone());
        }
        self.until = Some(until);
    }

    /// `address` answered something else, or nothing.
    pub(super) fn clear(&mut self, address: &Address) {
        self.by.retain(|denied| denied != address);
    }

    /// Only these are dialled from now on.
    pub(super) fn keep(&mut self, targets: &[Address]) {
        self.by.retain(|denied| targets.contains(denied));
    }

    /// Whether `address` may not be dialled at `now`.
    pub(super) fn holds(&self, address: &Address, now: Instant) -> bool {
        let is_early = self.until.is_some_and(|until| now < until);
        self.by.contains(address) && (is_early || self.by.first() != Some(address))
    }

    /// `address` is dialled. If it is one of them, the next one's turn comes at `then`.
    pub(super) fn dialled(&mut self, address: &Address, then: Instant) {
        if self.pass(address) {
            self.until = Some(then);
        }
    }

    /// `address` needs no dial. Whether it was its turn, which is the next one's now.
    pub(super) fn pass(&mut self, address: &Address) -> bool {
        let is_first = self.by.first() == Some(address);
        if is_first {
            self.by.rotate_left(1);
        }
        is_first
    }

    /// When one of `targets` may be dialled: nothing where that is any time.
    pub(super) fn until(&self, targets: &[Address]) -> Option<Instant> {
        let all = targets.iter().all(|target| self.by.contains(target));
        self.until.filter(|_| all)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(last: u8) -> Address {
        Address::Tcp(([10, 0, 0, last], 6379).into())
    }

    #[tokio::test(start_paused = true)]
    async fn they_take_turns_a_gap_apart_and_nobody_else_waits() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let at = |seconds: u32| start + second * seconds;
        let (one, two, other) = (address(1), address(2), address(3));
        let mut denied = Denied::default();
        assert!(!denied.holds(&one, start), "nothing is known of it");
        denied.refused(&one, at(1));
        denied.refused(&two, at(2));
        denied.refused(&one, at(2));

        let both = [one.clone(), two.clone()];
        assert_eq!(denied.until(&both), Some(at(2)));
        assert_eq!(denied.until(&[one.clone(), other.clone()]), None);
        assert!(!denied.holds(&other, start));
        assert!(denied.holds(&one, at(1)), "too early");
        assert!(denied.holds(&two, at(2)), "not its turn");
        assert!(!denied.holds(&one, at(2)));
        denied.dialled(&one, at(3));
        assert!(denied.holds(&one, at(3)) && denied.holds(&two, at(2)));
        assert!(!denied.holds(&two, at(3)));
        assert!(denied.pass(&two), "it needs no dial");
        assert!(!denied.holds(&one, at(3)) && !denied.pass(&two));
        denied.dialled(&other, at(9));
        assert_eq!(denied.until(&both), Some(at(3)), "it is none of them");

        denied.clear(&one);
        assert!(!denied.holds(&one, at(2)), "it answers otherwise");
        denied.keep(&[one]);
        assert!(!denied.holds(&two, at(2)), "it was given up");
    }
}
