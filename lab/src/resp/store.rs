//! The keys of an embedded server: strings with an expiry, and the commands on them.
//!
//! Owns the data. Promises Redis' replies for the few commands it knows. Leaves connections to [`super::session`].
//! Pure but for the clock handed in. Unknown commands are `None`.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::wire::Reply;

/// All keys.
#[derive(Debug, Default)]
pub(super) struct Store {
    keys: HashMap<Vec<u8>, Entry>,
}

#[derive(Debug)]
struct Entry {
    value: Vec<u8>,
    until: Option<Instant>,
}

impl Store {
    /// Carries out a command on keys; `None` when it is not one of these.
    pub(super) fn apply(&mut self, name: &str, args: &[Vec<u8>], now: Instant) -> Option<Reply> {
        if matches!(name, "DEL" | "UNLINK" | "EXISTS" | "DBSIZE") {
            self.keys
                .retain(|_, entry| entry.until.is_none_or(|until| until > now));
        }
        let reply = match (name, args) {
            ("GET", [key]) => self.get(key, now),
            ("SET", [key, value, options @ ..]) => self.set(key, value, options, now),
            ("DEL" | "UNLINK", [_, ..]) => self.count(args, |keys, key| keys.remove(key).is_some()),
            ("EXISTS", [_, ..]) => self.count(args, |keys, key| keys.contains_key(key)),
            ("INCR", [key]) => self.add(key, 1, now),
            ("INCRBY", [key, by]) => match integer(by) {
                Some(by) => self.add(key, by, now),
                None => not_integer(),
            },
            ("MGET", [_, ..]) => Reply::Array(args.iter().map(|key| self.get(key, now)).collect()),
            ("MSET", [_, _, ..]) if args.len().is_multiple_of(2) => self.set_many(args),
            ("EXPIRE", [key, seconds]) => self.expire(key, seconds, now),
            ("FLUSHALL" | "FLUSHDB", _) => {
                self.keys.clear();
                Reply::Ok
            }
            ("DBSIZE", []) => Reply::Int(i64::try_from(self.keys.len()).unwrap_or(i64::MAX)),
            _ if KNOWN.contains(&name) => Reply::error(format!(
                "ERR wrong number of arguments for '{}' command",
                name.to_lowercase()
            )),
            _ => return None,
        };
        Some(reply)
    }

    fn live(&mut self, key: &[u8], now: Instant) -> Option<&mut Entry> {
        if self.keys.get(key)?.until.is_some_and(|until| until <= now) {
            self.keys.remove(key);
        }
        self.keys.get_mut(key)
    }

    fn get(&mut self, key: &[u8], now: Instant) -> Reply {
        self.live(key, now)
            .map_or(Reply::Nil, |entry| Reply::Bulk(entry.value.clone()))
    }

    fn set(&mut self, key: &[u8], value: &[u8], options: &[Vec<u8>], now: Instant) -> Reply {
        let (mut until, mut wants) = (None, None);
        let mut options = options.iter().map(|word| word.to_ascii_uppercase());
        while let Some(option) = options.next() {
            let unit = match option.as_slice() {
                b"NX" => {
                    wants = Some(false);
                    continue;
                }
                b"XX" => {
                    wants = Some(true);
                    continue;
                }
                b"EX" => 1000,
                b"PX" => 1,
                _ => return Reply::error("ERR syntax error"),
            };
            let time = options.next().as_deref().and_then(integer);
            let Some(time) = time.and_then(|time| u64::try_from(time).ok()) else {
                return not_integer();
            };
            until = Some(now + Duration::from_millis(time.saturating_mul(unit)));
        }
        let exists = self.live(key, now).is_some();
        if wants.is_some_and(|wanted| wanted != exists) {
            return Reply::Nil;
        }
        let value = value.to_vec();
        self.keys.insert(key.to_vec(), Entry { value, until });
        Reply::Ok
    }

    fn set_many(&mut self, pairs: &[Vec<u8>]) -> Reply {
        for pair in pairs.chunks_exact(2) {
            if let [key, value] = pair {
                let value = value.clone();
                self.keys.insert(key.clone(), Entry { value, until: None });
            }
        }
        Reply::Ok
    }

    fn add(&mut self, key: &[u8], by: i64, now: Instant) -> Reply {
        let old = match self.live(key, now) {
            None => Some(0),
            Some(entry) => integer(&entry.value),
        };
        let Some(sum) = old.and_then(|old| old.checked_add(by)) else {
            return not_integer();
        };
        let value = sum.to_string().into_bytes();
        match self.keys.get_mut(key) {
            Some(entry) => entry.value = value,
            None => drop(self.keys.insert(key.to_vec(), Entry { value, until: None })),
        }
        Reply::Int(sum)
    }

    fn expire(&mut self, key: &[u8], seconds: &[u8], now: Instant) -> Reply {
        let Some(seconds) = integer(seconds) else {
            return not_integer();
        };
        let wait = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        match self.live(key, now) {
            Some(entry) => {
                entry.until = Some(now + wait);
                Reply::Int(1)
            }
            None => Reply::Int(0),
        }
    }

    fn count(
        &mut self,
        keys: &[Vec<u8>],
        mut hit: impl FnMut(&mut HashMap<Vec<u8>, Entry>, &[u8]) -> bool,
    ) -> Reply {
        let hits = keys.iter().filter(|key| hit(&mut self.keys, key)).count();
        Reply::Int(i64::try_from(hits).unwrap_or(i64::MAX))
    }
}

fn integer(bytes: &[u8]) -> Option<i64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn not_integer() -> Reply {
    Reply::error("ERR value is not an integer or out of range")
}

const KNOWN: [&str; 13] = [
    "GET", "SET", "DEL", "UNLINK", "EXISTS", "INCR", "INCRBY", "MGET", "MSET", "EXPIRE", "DBSIZE",
    "FLUSHALL", "FLUSHDB",
];
