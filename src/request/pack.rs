//! A command as it goes over the wire.
//!
//! Owns [`pack`]. Promises: the bytes that `redis` itself packs, written in one go into room made once: a call spends as much on its few
//! words as on anything else it does. Leaves pipelines, and the one kind of word that only `redis` can read, to `redis`. Cannot fail.

use bytes::Bytes;
use redis::{Arg, Cmd};

/// `cmd`, packed.
pub(super) fn pack(cmd: &Cmd) -> Bytes {
    let words = || cmd.args_iter();
    let count = words().len();
    if count == 0 {
        return Bytes::new();
    }
    // The mark and the end of a line, and of a word the end as well.
    let mut room = length_of(count) + 3;
    for word in words() {
        let Arg::Simple(word) = word else {
            // The cursor of an iterator: a number that it keeps to itself.
            return cmd.get_packed_command().into();
        };
        room += length_of(word.len()) + word.len() + 5;
    }
    let mut packed = Vec::with_capacity(room);
    head(&mut packed, b'*', count);
    for word in words() {
        if let Arg::Simple(word) = word {
            head(&mut packed, b'$', word.len());
            packed.extend_from_slice(word);
            packed.extend_from_slice(b"\r\n");
        }
    }
    packed.into()
}

/// Digits of `number`.
fn length_of(number: usize) -> usize {
    match number {
        0..10 => 1,
        10..100 => 2,
        _ => number.ilog10() as usize + 1,
    }
}

/// A line of `mark` and `number`.
fn head(packed: &mut Vec<u8>, mark: u8, number: usize) {
    let digit = |number: usize| b'0' + (number % 10) as u8;
    match number {
        0..10 => packed.extend_from_slice(&[mark, digit(number), b'\r', b'\n']),
        10..100 => {
            packed.extend_from_slice(&[mark, digit(number / 10), digit(number), b'\r', b'\n']);
        }
        _ => {
            packed.push(mark);
            let mut power = 10_usize.pow(number.ilog10());
            while power > 0 {
                packed.push(digit(number / power));
                power /= 10;
            }
            packed.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn command(words: &[Vec<u8>]) -> Cmd {
        let mut cmd = Cmd::new();
        for word in words {
            cmd.arg(word.as_slice());
        }
        cmd
    }

    fn agrees(cmd: &Cmd) {
        let packed = pack(cmd);
        assert_eq!(packed, cmd.get_packed_command());
    }

    #[test]
    fn every_length_of_a_word_and_of_a_command_is_as_redis_packs_it() {
        agrees(&Cmd::new());
        for length in [
            0, 1, 9, 10, 11, 99, 100, 101, 999, 1000, 12_345, 99_999, 100_000,
        ] {
            agrees(&command(&[b"SET".to_vec(), vec![b'x'; length]]));
            agrees(&command(&vec![b"x".to_vec(); length]));
        }
    }

    #[test]
    fn a_cursor_is_packed_by_redis() {
        let mut scan = redis::cmd("SCAN");
        scan.cursor_arg(7).arg("MATCH").arg("*");
        agrees(&scan);
    }

    #[test]
    fn room_is_made_once_and_for_no_more() {
        for length in [3, 42, 512, 70_000] {
            let set = command(&[b"SET".to_vec(), vec![b'x'; length]]);
            let packed = Vec::from(pack(&set));
            assert_eq!(packed.capacity(), packed.len());
        }
    }

    proptest! {
        #[test]
        fn any_words_are_packed_as_redis_packs_them(words in vec(vec(any::<u8>(), 0..130), 0..130)) {
            agrees(&command(&words));
        }
    }
}
