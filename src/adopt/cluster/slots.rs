//! Which slot a key has, and who serves it, by the word of one node.
//!
//! Owns [`slot`] and [`Slots`]. Promises: what is not well-formed is left out, and never more than so many nodes are known, whatever a peer says. Leaves
//! asking to [`nodes`](super::nodes). Pure. Cannot fail: of a reply that says nothing there is nothing.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use redis::Value;

/// How many a cluster has.
pub(super) const SLOTS: u16 = 16_384;

/// The slot of a key: of the tag in braces within it, where there is one.
pub(super) fn slot(key: &[u8]) -> u16 {
    let open = key.iter().position(|byte| *byte == b'{');
    let tag = open.and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|byte| *byte == b'}')?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    crc(tag.unwrap_or(key)) % SLOTS
}

/// Some key of `slot`.
pub(super) fn key_of(slot: u16) -> String {
    // One in 16,384 is: this ends, after a fraction of a millisecond.
    let mut keys = (0_u32..).map(|n| n.to_string());
    let key = keys.find(|key| self::slot(key.as_bytes()) == slot % SLOTS);
    key.unwrap_or_default()
}

/// The primaries of a cluster, and the slots of each.
#[derive(Debug)]
pub(super) struct Slots {
    /// The place in `primaries` of each slot's, or [`NOBODY`].
    owners: Box<[u16]>,
    primaries: Vec<Primary>,
}

/// A node as the cluster names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Primary {
    /// `host:port`.
    pub(super) name: Arc<str>,
    /// What it answers to `CLUSTER MYID`. Empty where that was not said.
    pub(super) id: Arc<[u8]>,
    /// Where it listens, where that was said in numbers.
    pub(super) address: Option<SocketAddr>,
}

const NOBODY: u16 = u16::MAX;
/// As many as a cluster is recommended to have at most.
const MOST: usize = 1000;

/// Which of the primaries were seen.
#[derive(Debug, Default)]
pub(super) struct Seen([u64; MOST.div_ceil(64)]);

impl Seen {
    /// Whether this one was not; from now on it was.
    pub(super) fn is_new(&mut self, place: usize) -> bool {
        let bit = 1 << (place % 64);
        self.0.get_mut(place / 64).is_some_and(|word| {
            let is_new = *word & bit == 0;
            *word |= bit;
            is_new
        })
    }
}

impl Slots {
    /// Nobody is known to serve any.
    pub(super) fn unknown() -> Self {
        Self {
            owners: vec![NOBODY; usize::from(SLOTS)].into(),
            primaries: Vec::new(),
        }
    }

    /// By a reply to `CLUSTER SLOTS`; `None` where it names nobody.
    pub(super) fn parse(reply: &Value) -> Option<Self> {
        let Value::Array(ranges) = reply else {
            return None;
        };
        let mut slots = Self::unknown();
        for range in ranges {
            slots.add(range);
        }
        (!slots.primaries.is_empty()).then_some(slots)
    }

    pub(super) fn primaries(&self) -> &[Primary] {
        &self.primaries
    }

    /// The place of the primary of `slot` among the [`primaries`](Self::primaries).
    pub(super) fn owner(&self, slot: u16) -> Option<usize> {
        let owner = self.owners.get(usize::from(slot))?;
        (*owner != NOBODY).then_some(usize::from(*owner))
    }

    /// A slot of the primary `name`, the next at or behind `from`, round the ring.
    pub(super) fn slot_of(&self, name: &str, from: u16) -> Option<u16> {
        let place = self
            .primaries
            .iter()
            .position(|known| *known.name == *name)?;
        let ring = (0..SLOTS).map(|step| (from % SLOTS + step) % SLOTS);
        ring.into_iter()
            .find(|slot| self.owner(*slot) == Some(place))
    }

    fn add(&mut self, range: &Value) -> Option<()> {
        let Value::Array(range) = range else {
            return None;
        };
        let [Value::Int(first), Value::Int(last), Value::Array(node), ..] = range.as_slice() else {
            return None;
        };
        let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
        let served = usize::from(first)..=usize::from(last);
        let (name, address) = named(node)?;
        let known = self.primaries.iter().position(|known| known.name == name);
        let place = match known {
            Some(place) => place,
            None if self.primaries.len() == MOST || last >= SLOTS || first > last => return None,
            None => {
                self.primaries.push(Primary {
                    name,
                    id: node.get(2).and_then(text).unwrap_or_default().into(),
                    address,
                });
                self.primaries.len() - 1
            }
        };
        let place = u16::try_from(place).ok()?;
        self.owners.get_mut(served)?.fill(place);
        Some(())
    }
}

/// `host:port` of a node, and its address. A host that is not told would be that of the node that was asked, which `redis` does not tell;
/// that slot is under no circuit then.
fn named(node: &[Value]) -> Option<(Arc<str>, Option<SocketAddr>)> {
    let host = std::str::from_utf8(text(node.first()?)?).ok()?;
    let Value::Int(port) = node.get(1)? else {
        return None;
    };
    let port = u16::try_from(*port).ok()?;
    if ["", "?"].contains(&host) || host.len() > LONGEST_HOST {
        return None;
    }
    let ip = host.parse().ok().or_else(|| ip_beside(node.get(3)?));
    let address = ip.map(|ip: IpAddr| SocketAddr::new(ip, port));
    Some((format!("{host}:{port}").into(), address))
}

/// Where a node is known by its name, the IP address is told beside it.
fn ip_beside(told: &Value) -> Option<IpAddr> {
    let ip = match told {
        Value::Array(pairs) => {
            let mut pairs = pairs.chunks_exact(2);
            pairs.find_map(|pair| match pair {
                [key, ip] if text(key) == Some(b"ip") => text(ip),
                _ => None,
            })
        }
        Value::Map(pairs) => pairs
            .iter()
            .find_map(|(key, ip)| (text(key) == Some(b"ip")).then(|| text(ip))?),
        _ => None,
    };
    std::str::from_utf8(ip?).ok()?.parse().ok()
}

fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// As DNS has it.
const LONGEST_HOST: usize = 255;

/// CRC-16/XMODEM.
fn crc(bytes: &[u8]) -> u16 {
    let step = |crc: u16, byte: &u8| {
        let row = usize::from((crc >> 8) ^ u16::from(*byte));
        (crc << 8) ^ TABLE.get(row).copied().unwrap_or_default()
    };
    bytes.iter().fold(0, step)
}

#[expect(
    clippy::indexing_slicing,
    reason = "within 256, at the time of compiling"
)]
const TABLE: [u16; 256] = {
    let mut table = [0_u16; 256];
    let mut row = 0_u16;
    while row < 256 {
        let (mut crc, mut bit) = (row << 8, 0);
        while bit < 8 {
            let has_carry = crc & 0x8000 != 0;
            crc <<= 1;
            if has_carry {
                crc ^= 0x1021;
            }
            bit += 1;
        }
        table[row as usize] = crc;
        row += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use redis::cluster_routing::{Route, Slot, SlotAddr};

    use super::*;

    #[test]
    fn a_slot_is_the_one_that_redis_computes() {
        let mut keys: Vec<Vec<u8>> = [
            "",
            "{",
            "}",
            "{}",
            "{}a",
            "a{b}c",
            "a{b}{c}",
            "{{b}}",
            "a}b{c}",
            "a{",
            "123456789",
        ]
        .map(|key| key.as_bytes().to_vec())
        .into();
        keys.extend((0..2000_u32).map(|n| {
            let len = n as usize % 40;
            (0..len).map(|_| fastrand::u8(..)).collect()
        }));
        for key in keys {
            let theirs = Route::with_key(&key, SlotAddr::Master);
            let ours = Slot::new(slot(&key)).map(|slot| Route::with_slot(slot, SlotAddr::Master));
            assert_eq!(ours, Some(theirs), "{key:?}");
        }
    }

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, host: Value, port: i64, id: &str) -> Value {
        let node = Value::Array(vec![host, Value::Int(port), bulk(id)]);
        let replica = Value::Array(vec![bulk("replica"), Value::Int(1), bulk("r")]);
        Value::Array(vec![Value::Int(first), Value::Int(last), node, replica])
    }

    #[test]
    fn each_slot_has_the_primary_that_was_named() {
        let reply = Value::Array(vec![
            range(0, 99, bulk("a"), 7000, "A"),
            range(100, 100, bulk("b"), 7000, "B"),
            range(200, 16_383, bulk("a"), 7000, "A"),
        ]);
        let slots = Slots::parse(&reply).expect("a map");
        let primary = |name: &str, id: &[u8]| Primary {
            name: name.into(),
            id: id.into(),
            address: None,
        };
        assert_eq!(
            slots.primaries(),
            [primary("a:7000", b"A"), primary("b:7000", b"B")]
        );
        for (from, next) in [
            (0, 0),
            (100, 200),
            (250, 250),
            (16_384, 0),
            (u16::MAX, 16_383),
        ] {
            assert_eq!(slots.slot_of("a:7000", from), Some(next), "{from}");
            assert_eq!(slots.slot_of("b:7000", from), Some(100), "{from}");
        }
        assert_eq!(slots.slot_of("c:7000", 0), None);
        for (slot, owner) in [
            (0, Some(0)),
            (99, Some(0)),
            (100, Some(1)),
            (101, None),
            (199, None),
            (200, Some(0)),
            (16_383, Some(0)),
            (16_384, None),
        ] {
            assert_eq!(slots.owner(slot), owner, "{slot}");
        }
    }

    #[test]
    fn an_address_is_the_host_or_is_told_beside_it() {
        let address = |node: Vec<Value>| named(&node).and_then(|(_, address)| address);
        let seven = Some(SocketAddr::from(([127, 0, 0, 7], 7000)));
        let node =
            |host: &str, beside: Value| vec![bulk(host), Value::Int(7000), bulk("id"), beside];
        assert_eq!(address(node("127.0.0.7", Value::Array(Vec::new()))), seven);
        let flat = ["x", "y", "ip", "127.0.0.7"].map(bulk);
        assert_eq!(address(node("a.example", Value::Array(flat.into()))), seven);
        let pairs = vec![(bulk("ip"), bulk("127.0.0.7"))];
        assert_eq!(address(node("a.example", Value::Map(pairs))), seven);
        for beside in [
            Value::Nil,
            Value::Array(vec![bulk("ip")]),
            Value::Array(["ip", "x"].map(bulk).into()),
        ] {
            assert_eq!(address(node("a.example", beside)), None);
        }
        assert_eq!(
            named(&node("::1", Value::Nil)).map(|(name, _)| name),
            Some("::1:7000".into())
        );
    }

    #[test]
    fn every_slot_has_a_key() {
        for slot in [0, 1, 8191, 16_383] {
            assert_eq!(self::slot(key_of(slot).as_bytes()), slot);
        }
    }

    #[test]
    fn what_is_not_well_formed_is_left_out() {
        let good = range(7, 7, bulk("a"), 1, "A");
        for bad in [
            Value::Nil,
            Value::Array(Vec::new()),
            range(0, 16_384, bulk("b"), 1, "B"),
            range(-1, 3, bulk("b"), 1, "B"),
            range(5, 3, bulk("b"), 1, "B"),
            range(0, 3, bulk("b"), 65_536, "B"),
            range(0, 3, bulk(""), 1, "B"),
            range(0, 3, bulk("?"), 1, "B"),
            range(0, 3, Value::Nil, 1, "B"),
            range(0, 3, bulk(&"b".repeat(256)), 1, "B"),
            // Of one that is known too.
            range(0, 70_000, bulk("a"), 1, "A"),
            range(9, 8, bulk("a"), 1, "A"),
        ] {
            assert!(
                Slots::parse(&Value::Array(vec![bad.clone()]))
                    .is_none_or(|slots| slots.primaries().is_empty()),
                "{bad:?}"
            );
            let slots = Slots::parse(&Value::Array(vec![good.clone(), bad.clone()]));
            let slots = slots.expect("the good one");
            let served = (0..SLOTS).filter(|slot| slots.owner(*slot).is_some());
            assert_eq!(served.collect::<Vec<_>>(), [7], "{bad:?}");
            assert_eq!(slots.primaries().len(), 1, "{bad:?}");
        }
        assert!(Slots::parse(&Value::Okay).is_none());
    }

    #[test]
    fn no_peer_makes_us_hold_more_than_so_many_nodes() {
        let ranges = (0..i64::from(SLOTS)).map(|slot| range(slot, slot, bulk("h"), slot, "x"));
        let slots = Slots::parse(&Value::Array(ranges.collect())).expect("a map");
        assert_eq!(slots.primaries().len(), MOST);
        assert_eq!(slots.owner(999), Some(999));
        assert_eq!(slots.owner(1000), None);
    }
}
