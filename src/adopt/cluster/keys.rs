//! Which slots a request concerns: where `redis`' cluster connection will send it.
//!
//! Owns [`Place`]. Promises: the same node that `redis` 1.8 chooses by its own table (`cluster_routing`, which hands out no slot), read from
//! the packed bytes without a copy; what is not certain is [`Place::Anywhere`], and is under no circuit. The rules by name are in
//! [`table`](super::table). Pure. Cannot fail.

use super::{
    slots::{SLOTS, slot},
    table::{Name, Rule, rule},
};

/// Where a request goes.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// To a node that `redis` draws, or of which nothing is known here.
    Anywhere,
    /// To every primary.
    Everywhere,
    /// To the node of this slot.
    Slot(u16),
    /// In parts to the nodes of the slots of these.
    Slots(Keys<'a>),
}

/// The keys of a command that is split.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    words: Words<'a>,
    step: usize,
    /// The words behind the keys.
    behind: usize,
}

impl<'a> Keys<'a> {
    /// That of each, as often as it is named.
    pub(super) fn slots(self) -> impl Iterator<Item = u16> + use<'a> {
        let up_to = self.words.count.saturating_sub(self.behind);
        let words = self.words.iter().take(up_to);
        words.skip(1).step_by(self.step).map(slot)
    }

    fn place(self) -> Option<Place<'a>> {
        let mut slots = self.slots();
        let first = slots.next()?;
        Some(if slots.all(|other| other == first) {
            Place::Slot(first)
        } else {
            Place::Slots(self)
        })
    }
}

/// The place of a packed command; of a pipeline the first that one of its commands names, for it goes there as a whole.
pub(super) fn place(packed: &[u8]) -> Place<'_> {
    let mut left = packed;
    let Some(first) = Words::next(&mut left) else {
        return Place::Anywhere;
    };
    if left.is_empty() {
        return first.place();
    }
    let mut words = Some(first);
    while let Some(command) = words {
        if let Place::Slot(slot) = command.place() {
            return Place::Slot(slot);
        }
        words = Words::next(&mut left);
    }
    Place::Anywhere
}

/// The words of one command.
#[derive(Clone, Copy)]
struct Words<'a> {
    packed: &'a [u8],
    count: usize,
}

impl<'a> Words<'a> {
    /// Takes one command off the front.
    fn next(bytes: &mut &'a [u8]) -> Option<Self> {
        let count = number(bytes, b'*')?;
        let words = Self {
            packed: bytes,
            count,
        };
        for _ in 0..count {
            word(bytes)?;
        }
        Some(words)
    }

    fn iter(self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut left = self.packed;
        (0..self.count).map_while(move |_| word(&mut left))
    }

    fn at(self, position: usize) -> Option<&'a [u8]> {
        self.iter().nth(position)
    }

    fn place(self) -> Place<'a> {
        self.placed().unwrap_or(Place::Anywhere)
    }

    fn placed(self) -> Option<Place<'a>> {
        let key = match rule(&Name::of(self.iter())) {
            Rule::Anywhere => return None,
            Rule::Everywhere => return Some(Place::Everywhere),
            Rule::Each(step) => return self.keys(step, 0).place(),
            Rule::EachButLast => return self.keys(1, 1).place(),
            Rule::Number(at) => {
                let slot = parsed(self.at(at)?)?;
                return (slot < u64::from(SLOTS))
                    .then(|| u16::try_from(slot).map(Place::Slot))?
                    .ok();
            }
            Rule::At(at) => self.at(at)?,
            Rule::Behind(at) => {
                let keys = parsed(self.at(at)?)?;
                self.at(at + 1).filter(|_| keys > 0)?
            }
            Rule::Streams => {
                let mut words = self.iter();
                words.find(|word| word.eq_ignore_ascii_case(b"STREAMS"))?;
                words.next()?
            }
        };
        Some(Place::Slot(slot(key)))
    }

    fn keys(self, step: usize, behind: usize) -> Keys<'a> {
        Keys {
            words: self,
            step,
            behind,
        }
    }
}

/// Takes a line off the front: `sign` and a number.
fn number(bytes: &mut &[u8], sign: u8) -> Option<usize> {
    let line = bytes.strip_prefix(&[sign])?;
    let end = line.iter().position(|byte| *byte == b'\r')?;
    let number = usize::try_from(parsed(line.get(..end)?)?).ok()?;
    *bytes = line.get(end..)?.strip_prefix(b"\r\n")?;
    Some(number)
}

/// Takes a word off the front.
fn word<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = number(bytes, b'$')?;
    let word = bytes.get(..len)?;
    *bytes = bytes.get(len..)?.strip_prefix(b"\r\n")?;
    Some(word)
}

fn parsed(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use redis::Cmd;

    use super::*;
    use crate::Request;

    fn command(words: &str) -> Cmd {
        let mut cmd = Cmd::new();
        for word in words.split(' ') {
            cmd.arg(word);
        }
        cmd
    }

    /// A place without the keys.
    #[derive(Debug, PartialEq, Eq)]
    enum Where {
        Anywhere,
        Everywhere,
        Slot(u16),
        Slots(Vec<u16>),
    }

    fn where_is(packed: &[u8]) -> Where {
        match place(packed) {
            Place::Anywhere => Where::Anywhere,
            Place::Everywhere => Where::Everywhere,
            Place::Slot(slot) => Where::Slot(slot),
            Place::Slots(keys) => {
                let mut slots: Vec<u16> = keys.slots().collect();
                slots.sort_unstable();
                slots.dedup();
                Where::Slots(slots)
            }
        }
    }

    fn place_of(words: &str) -> Where {
        where_is(Request::from(command(words)).packed())
    }

    fn at(key: &str) -> Where {
        Where::Slot(slot(key.as_bytes()))
    }

    #[test]
    fn a_command_goes_where_its_key_is() {
        for (words, key) in [
            ("GET k", "k"),
            ("get k", "k"),
            ("SET k v", "k"),
            ("NO.SUCH k x", "k"),
            ("CLIENT LIST", "CLIENT LIST"),
            ("EVAL script 2 k l a", "k"),
            ("fcall f 1 k", "k"),
            ("ZUNION 2 k l", "k"),
            ("XREAD COUNT 2 STREAMS k 0", "k"),
            ("xread block 0 streams k l 0 0", "k"),
            ("XGROUP CREATE k g $", "k"),
            ("OBJECT FREQ k", "k"),
            ("BITOP AND k l", "k"),
            ("MGET k", "k"),
            ("MGET {k}a {k}b {k}c", "k"),
            ("MSET {k}a l {k}b m", "k"),
            ("JSON.MGET {k}a {k}b $.p", "k"),
        ] {
            // An unlisted one of two words has its second for its key, as `redis` sees it.
            let key = key.rsplit(' ').next().unwrap_or_default();
            assert_eq!(place_of(words), at(key), "{words}");
        }
        assert_eq!(place_of("CLUSTER COUNTKEYSINSLOT 7"), Where::Slot(7));
    }

    #[test]
    fn what_has_no_key_goes_anywhere_and_what_has_many_to_each() {
        for words in [
            "PUBLISH",
            "SCAN 0",
            "EVAL script 0",
            "EVALSHA x",
            "FCALL f many",
            "ZUNION 0",
            "XREAD COUNT 2",
            "CLUSTER SLOTS",
            "CLUSTER COUNTKEYSINSLOT 16384",
            "TIME",
            "CONFIG GET k",
            "MGET",
            "ECHO k",
            "RANDOMKEY",
            "SCRIPT KILL",
            "FUNCTION KILL",
        ] {
            assert_eq!(place_of(words), Where::Anywhere, "{words}");
        }
        for words in [
            "PING",
            "DBSIZE",
            "FLUSHALL",
            "SCRIPT LOAD x",
            "script load x",
        ] {
            assert_eq!(place_of(words), Where::Everywhere, "{words}");
        }
        let slots = |words| match place_of(words) {
            Where::Slots(slots) => slots,
            other => panic!("{words}: {other:?}"),
        };
        let mut both = vec![slot(b"a"), slot(b"b")];
        both.sort_unstable();
        for words in [
            "MGET a b a",
            "DEL b a",
            "MSET a b b a",
            "JSON.MGET a b $",
            "JSON.MSET a $ 1 b $ 2",
        ] {
            assert_eq!(slots(words), both, "{words}");
        }
    }

    #[test]
    fn a_pipeline_goes_as_a_whole_to_the_first_place_that_it_names() {
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("TIME")
            .cmd("MGET")
            .arg("a")
            .arg("b")
            .get("k")
            .get("k");
        assert_eq!(where_is(Request::from(&pipeline).packed()), at("k"));
        assert_eq!(
            where_is(Request::from(&*pipeline.atomic()).packed()),
            at("k")
        );
        let keyless = redis::pipe().cmd("TIME").cmd("TIME").clone();
        assert_eq!(where_is(Request::from(&keyless).packed()), Where::Anywhere);
    }

    #[test]
    fn what_redis_did_not_pack_goes_anywhere() {
        for bytes in [
            &b""[..],
            b"PING\r\n",
            b"*1\r\n$4\r\nPIN",
            b"*2\r\n$3\r\nGET\r\n",
            b"*1\r\n$-1\r\n",
        ] {
            assert_eq!(where_is(bytes), Where::Anywhere, "{bytes:?}");
        }
    }
}
