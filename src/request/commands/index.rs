//! Finds a row by the name a user typed.
//!
//! Owns [`Index`], a hash table filled at compile time. Promises: any case, no allocation, a handful of compared bytes.
//! Cannot fail: a name that is not there is `None`.

use super::Command;

/// Four times the rows, so that a name is mostly found at first sight.
const SLOTS: usize = 1024;
const MASK: u32 = 1023;
const EMPTY: u16 = u16::MAX;

pub(super) struct Index {
    rows: &'static [Command],
    slots: [u16; SLOTS],
}

impl Index {
    #[expect(
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        reason = "runs at compile time, where a slip does not compile"
    )]
    pub(super) const fn new(rows: &'static [Command]) -> Self {
        let mut slots = [EMPTY; SLOTS];
        let mut row = 0;
        while row < rows.len() {
            let mut slot = home(fold(0, rows[row].name.as_bytes()));
            while slots[slot as usize] != EMPTY {
                slot = (slot + 1) & MASK;
            }
            slots[slot as usize] = row as u16;
            row += 1;
        }
        Self { rows, slots }
    }

    /// The row of a command by its first word.
    pub(super) fn word(&self, word: &[u8]) -> Option<&'static Command> {
        self.probe(fold(0, word), |name| name.eq_ignore_ascii_case(word))
    }

    /// The row of a command by its first two words.
    pub(super) fn words(&self, first: &[u8], second: &[u8]) -> Option<&'static Command> {
        let hash = fold(fold(fold(0, first), b" "), second);
        self.probe(hash, |name| {
            name.split_at_checked(first.len())
                .is_some_and(|(head, tail)| {
                    head.eq_ignore_ascii_case(first)
                        && tail
                            .strip_prefix(b" ")
                            .is_some_and(|tail| tail.eq_ignore_ascii_case(second))
                })
        })
    }

    /// Which slots are taken.
    #[cfg(test)]
    pub(super) fn slots(&self) -> impl Iterator<Item = bool> {
        self.slots.iter().map(|slot| *slot != EMPTY)
    }

    fn probe(&self, hash: u32, is_it: impl Fn(&[u8]) -> bool) -> Option<&'static Command> {
        let mut slot = home(hash);
        loop {
            let held = *self.slots.get(usize::try_from(slot).ok()?)?;
            // Empty slots hold no row's number.
            let row = self.rows.get(usize::from(held))?;
            if is_it(row.name.as_bytes()) {
                return Some(row);
            }
            slot = (slot + 1) & MASK;
        }
    }
}

/// Mixes bytes into a hash, letters without their case.
#[expect(
    clippy::indexing_slicing,
    reason = "a const function has no iterators; the loop ends at the length"
)]
const fn fold(mut hash: u32, bytes: &[u8]) -> u32 {
    let mut at = 0;
    while at < bytes.len() {
        hash = hash.rotate_left(5) ^ (bytes[at] & 0xdf) as u32;
        at += 1;
    }
    hash
}

const fn home(hash: u32) -> u32 {
    (hash.wrapping_mul(0x9e37_79b1) >> 16) & MASK
}
