//! What holds for any bytes at all: the bodies of the fuzz targets in `fuzz/`, and of the test that runs them without a fuzzer.
//!
//! Owns three bodies, each of any bytes: [`decode`], [`differential`], [`round_trip`], and the encoder that the last one needs.
//! Promises: the same bytes, the same verdict; whoever breaks a promise of the codec panics here. Leaves finding the bytes to
//! libFuzzer, or to `tests::fuzz`; big numbers, whose Rust type is redis' secret, to [`differential`]. Fails by panicking.

use bytes::BytesMut;
use redis::{PushKind, Value, VerbatimFormat, parse_redis_value};

use super::{
    Decoder, Frame, Limits, Malformed,
    machine::{ALLOCATION, ELEMENT},
    wire::wide,
    without_attributes,
};

/// So tight that short inputs meet every bound.
pub(super) const TIGHT: Limits = Limits {
    depth: 8,
    total: 1000,
    line: 64,
};

/// Pieces do not matter, memory is bounded by the limits and work by the bytes.
#[allow(
    unreachable_pub,
    reason = "reachable where `cfg(fuzzing)` opens the door in lib.rs"
)]
pub fn decode(data: &[u8]) {
    for limits in [Limits::default(), TIGHT] {
        let (whole, broken, _) = decode_cut(limits, data, || data.len());
        let mut cuts = Cuts::of(data);
        let (pieces, broken_too, _) = decode_cut(limits, data, || cuts.next(7));
        assert!(
            same(&whole, &pieces) && broken == broken_too,
            "{}: {whole:?} {broken:?}, in pieces {pieces:?} {broken_too:?}",
            data.escape_ascii()
        );
        let skipped: u64 = whole.iter().map(skipped).sum();
        assert!(skipped <= wide(data.len()), "{}", data.escape_ascii());
        for frame in &whole {
            if let Frame::Reply(value) | Frame::Push(value) = frame {
                assert!(
                    weight(value) <= wide(limits.total),
                    "{} holds {} bytes",
                    data.escape_ascii(),
                    weight(value)
                );
            }
        }
    }
}

/// What [`differential`] saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(unreachable_pub, unnameable_types, reason = "as above")]
pub struct Seen {
    /// Frames that redis' parser reads as we do.
    pub accepted: usize,
    /// It ended with what neither of us takes for a frame.
    pub refused: bool,
}

/// Redis' own parser gives the same values, and refuses what we refuse.
#[allow(unreachable_pub, reason = "as above")]
pub fn differential(data: &[u8]) -> Seen {
    let mut seen = Seen::default();
    // Of a line longer than the limit only the length is judged, which redis does not have.
    if data.len() >= Limits::default().line {
        return seen;
    }
    let (mut decoder, mut buffer) = (Decoder::new(Limits::default()), BytesMut::from(data));
    while !buffer.is_empty() {
        let rest = buffer.clone();
        let ours = decoder.decode(&mut buffer);
        let taken = rest.split_at(rest.len() - buffer.len()).0;
        let (theirs, shown) = (by_redis(&rest), rest.escape_ascii());
        match ours {
            Err(Malformed("negative length")) => break,
            Ok(Some(Frame::TooLarge { .. })) => panic!("{shown} is too large"),
            Ok(Some(frame)) => {
                match theirs {
                    None => assert!(
                        std::str::from_utf8(taken).is_err(),
                        "{shown}: {frame:?}, which redis refuses"
                    ),
                    Some(theirs) => {
                        assert!(same(&[frame], &[theirs]), "{shown}");
                        seen.accepted += 1;
                    }
                }
                // Redis' parser is given all that is left, again for each frame: not for ever.
                if seen.accepted == 16 {
                    break;
                }
            }
            Ok(None) | Err(_) => {
                assert_eq!(theirs, None, "{shown}: {ours:?}");
                seen.refused = true;
                break;
            }
        }
    }
    seen
}

/// A value that is written out and read again is the same value. The bytes are a recipe for the values.
#[allow(unreachable_pub, reason = "as above")]
pub fn round_trip(data: &[u8]) {
    let mut recipe = Recipe { bytes: data };
    let (mut values, mut bytes) = (Vec::new(), Vec::new());
    while !recipe.bytes.is_empty() && values.len() < 8 {
        let value = recipe.frame();
        encode(&value, &mut bytes);
        values.push(if matches!(value, Value::Push { .. }) {
            Frame::Push(value)
        } else {
            Frame::Reply(value)
        });
    }
    let mut cuts = Cuts::of(data);
    let (frames, broken, decoder) = decode_cut(Limits::default(), &bytes, || cuts.next(40));
    assert!(
        broken.is_none() && same(&frames, &values) && decoder.fresh,
        "{}: {frames:?} {broken:?}, written from {values:?}",
        bytes.escape_ascii()
    );
}

/// What comes of `bytes` fed in pieces of the lengths that `piece` gives. What is promised of each call is checked after each call.
pub(super) fn decode_cut(
    limits: Limits,
    bytes: &[u8],
    mut piece: impl FnMut() -> usize,
) -> (Vec<Frame>, Option<Malformed>, Decoder) {
    let mut decoder = Decoder::new(limits);
    let (mut buffer, mut frames, mut rest, mut calls) = (BytesMut::new(), Vec::new(), bytes, 0);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
        buffer.extend_from_slice(now);
        rest = later;
        loop {
            calls += 1;
            let outcome = decoder.decode(&mut buffer);
            assert!(
                decoder.machine.room_held() <= limits.total,
                "{} held for {}",
                decoder.machine.room_held(),
                bytes.escape_ascii()
            );
            match outcome {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => {
                    // A tag, a line, and half of its end.
                    assert!(buffer.len() <= limits.line + 2, "{}", bytes.escape_ascii());
                    break;
                }
                Err(malformed) => {
                    assert_eq!(decoder.decode(&mut buffer), Err(malformed), "stays broken");
                    return (frames, Some(malformed), decoder);
                }
            }
        }
    }
    // Any rescan of what was seen before would multiply this.
    let bound = 2 * wide(bytes.len()) + 4 * calls;
    assert!(decoder.machine.work <= bound, "{}", bytes.escape_ascii());
    (frames, None, decoder)
}

/// Redis' verdict on the first value of `bytes`.
pub(super) fn by_redis(bytes: &[u8]) -> Option<Frame> {
    parse_redis_value(bytes).ok().map(|value| {
        let plain = without_attributes(value.clone());
        if matches!(plain, Value::Push { .. }) {
            Frame::Push(plain)
        } else {
            Frame::Reply(value)
        }
    })
}

/// Equal, and a NaN equals a NaN.
pub(super) fn same(left: &[Frame], right: &[Frame]) -> bool {
    left == right || format!("{left:?}") == format!("{right:?}")
}

fn skipped(frame: &Frame) -> u64 {
    match frame {
        Frame::TooLarge { bytes } => *bytes,
        Frame::Reply(_) | Frame::Push(_) => 0,
    }
}

/// Bytes of a frame in memory, reckoned from what came out.
fn weight(value: &Value) -> u64 {
    let each = |value: &Value| {
        let strings = match value {
            Value::BulkString(bytes) => u64::from(!bytes.is_empty()),
            Value::SimpleString(_) | Value::VerbatimString { .. } => 1,
            Value::ServerError(_) => 2,
            _ => 0,
        };
        ELEMENT + strings * ALLOCATION + weight(value)
    };
    let pair = |(key, value): &(Value, Value)| each(key) + each(value);
    match value {
        Value::BulkString(bytes) => wide(bytes.len()),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => wide(text.len()),
        Value::ServerError(error) => wide(error.code().len() + error.details().map_or(0, str::len)),
        Value::Array(values) | Value::Set(values) => values.iter().map(each).sum(),
        Value::Push { data, .. } => data.iter().map(each).sum(),
        Value::Map(pairs) => pairs.iter().map(pair).sum(),
        Value::Attribute { data, attributes } => {
            each(data) + attributes.iter().map(pair).sum::<u64>()
        }
        _ => 0,
    }
}

/// Lengths of pieces, different for different bytes and always the same for the same.
struct Cuts(u64);

impl Cuts {
    /// FNV-1a.
    fn of(data: &[u8]) -> Self {
        Self(data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    /// From 1 to `longest`, by xorshift.
    fn next(&mut self, longest: u64) -> usize {
        self.0 |= 1;
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % longest + 1).unwrap_or(1)
    }
}

/// Bytes as instructions for building values; zeros when they run out.
struct Recipe<'a> {
    bytes: &'a [u8],
}

impl Recipe<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().unwrap_or((&0, &[]));
        self.bytes = rest;
        *first
    }

    fn number(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    fn blob(&mut self) -> Vec<u8> {
        let length = usize::from(self.byte());
        let (blob, rest) = self.bytes.split_at(length.min(self.bytes.len()));
        self.bytes = rest;
        blob.to_vec()
    }

    /// Text without a line end, and never the `OK` that is a value of its own.
    fn word(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.blob()).replace(['\r', '\n'], " ");
        if text == "OK" { "ok".to_owned() } else { text }
    }

    fn frame(&mut self) -> Value {
        if !self.byte().is_multiple_of(8) {
            return self.value(0);
        }
        let kind = match self.byte() % 4 {
            0 => PushKind::Message,
            1 => PushKind::Invalidate,
            2 => PushKind::SUnsubscribe,
            _ => PushKind::Other("news".to_owned()),
        };
        Value::Push {
            kind,
            data: self.values(1),
        }
    }

    fn values(&mut self, depth: usize) -> Vec<Value> {
        let count = self.byte() % 8;
        (0..count).map(|_| self.value(depth)).collect()
    }

    fn pairs(&mut self, depth: usize) -> Vec<(Value, Value)> {
        let count = self.byte() % 5;
        (0..count)
            .map(|_| (self.value(depth), self.value(depth)))
            .collect()
    }

    fn value(&mut self, depth: usize) -> Value {
        let kinds = if depth < 6 { 15 } else { 10 };
        match self.byte() % kinds {
            0 => Value::Nil,
            1 => Value::Okay,
            2 => Value::Int(self.number().cast_signed()),
            3 | 4 => Value::BulkString(self.blob()),
            5 => Value::SimpleString(self.word()),
            6 => Value::Double(f64::from_bits(self.number())),
            7 => Value::Boolean(self.byte().is_multiple_of(2)),
            8 => Value::VerbatimString {
                format: match self.byte() % 3 {
                    0 => VerbatimFormat::Text,
                    1 => VerbatimFormat::Markdown,
                    _ => VerbatimFormat::Unknown("abc".to_owned()),
                },
                text: String::from_utf8_lossy(&self.blob()).into_owned(),
            },
            // Only redis can make one.
            9 => parsed(&format!("-ERR{} {}\r\n", self.byte(), self.word())),
            10 => Value::Array(self.values(depth + 1)),
            11 => Value::Set(self.values(depth + 1)),
            12 => Value::Map(self.pairs(depth + 1)),
            13 => Value::Attribute {
                attributes: self.pairs(depth + 1),
                data: Box::new(self.value(depth + 1)),
            },
            _ => Value::Array(vec![self.value(depth + 1)]),
        }
    }
}

fn parsed(text: &str) -> Value {
    parse_redis_value(text.as_bytes()).unwrap_or_default()
}

/// As a server writes it.
fn encode(value: &Value, out: &mut Vec<u8>) {
    let line = |out: &mut Vec<u8>, text: String| out.extend(format!("{text}\r\n").bytes());
    let blob = |out: &mut Vec<u8>, tag: char, bytes: &[u8]| {
        out.extend(format!("{tag}{}\r\n", bytes.len()).bytes());
        out.extend(bytes);
        out.extend(b"\r\n");
    };
    let pairs = |out: &mut Vec<u8>, pairs: &[(Value, Value)]| {
        for (key, value) in pairs {
            encode(key, out);
            encode(value, out);
        }
    };
    match value {
        Value::Nil => line(out, "$-1".to_owned()),
        Value::Okay => line(out, "+OK".to_owned()),
        Value::Int(number) => line(out, format!(":{number}")),
        Value::BulkString(bytes) => blob(out, '$', bytes),
        Value::SimpleString(text) => line(out, format!("+{text}")),
        Value::Double(number) => line(out, format!(",{number}")),
        Value::Boolean(yes) => line(out, if *yes { "#t" } else { "#f" }.to_owned()),
        Value::VerbatimString { format, text } => {
            let format = match format {
                VerbatimFormat::Text => "txt",
                VerbatimFormat::Markdown => "mkd",
                VerbatimFormat::Unknown(other) => other,
                other => panic!("{other:?} is new"),
            };
            blob(out, '=', format!("{format}:{text}").as_bytes());
        }
        Value::ServerError(error) => {
            line(
                out,
                format!("-{} {}", error.code(), error.details().unwrap_or_default()),
            );
        }
        Value::Array(values) => {
            line(out, format!("*{}", values.len()));
            values.iter().for_each(|value| encode(value, out));
        }
        Value::Set(values) => {
            line(out, format!("~{}", values.len()));
            values.iter().for_each(|value| encode(value, out));
        }
        Value::Map(map) => {
            line(out, format!("%{}", map.len()));
            pairs(out, map);
        }
        Value::Attribute { data, attributes } => {
            line(out, format!("|{}", attributes.len()));
            pairs(out, attributes);
            encode(data, out);
        }
        Value::Push { kind, data } => {
            line(out, format!(">{}\r\n+{kind}", data.len() + 1));
            data.iter().for_each(|value| encode(value, out));
        }
        other => panic!("{other:?} is never made"),
    }
}
