//! Single elements of RESP: tags, lines, integers, strings.
//!
//! Owns the grammar of what stands on one line, and of a string once its bytes are there. Promises: accepts and gives what redis'
//! parser does, except as the [module above](super) says; nothing here keeps state. Leaves nesting and pieces to
//! [`machine`](super::machine). Fails with [`Malformed`].

use std::str;

use redis::{PushKind, Value, VerbatimFormat, parse_redis_value};

use super::Malformed;

/// What an element is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Line(Line),
    String(Text),
    Aggregate(Shape),
}

/// An element that ends with its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Status,
    Error,
    BigNumber,
    Integer,
    Null,
    Double,
    Boolean,
}

/// An element with a length and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    Bulk,
    Error,
    Verbatim,
}

/// An element with a count and elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Array,
    Set,
    Push,
    Map,
    Attribute,
}

impl Tag {
    pub(super) fn of(byte: u8) -> Result<Self, Malformed> {
        Ok(match byte {
            b'+' => Self::Line(Line::Status),
            b'-' => Self::Line(Line::Error),
            b'(' => Self::Line(Line::BigNumber),
            b':' => Self::Line(Line::Integer),
            b'_' => Self::Line(Line::Null),
            b',' => Self::Line(Line::Double),
            b'#' => Self::Line(Line::Boolean),
            b'$' => Self::String(Text::Bulk),
            b'!' => Self::String(Text::Error),
            b'=' => Self::String(Text::Verbatim),
            b'*' => Self::Aggregate(Shape::Array),
            b'~' => Self::Aggregate(Shape::Set),
            b'>' => Self::Aggregate(Shape::Push),
            b'%' => Self::Aggregate(Shape::Map),
            b'|' => Self::Aggregate(Shape::Attribute),
            _ => return Err(Malformed("unknown type")),
        })
    }

    /// May a well-behaved server make its line as long as it likes?
    pub(super) fn is_free_text(self) -> bool {
        matches!(
            self,
            Self::Line(Line::Status | Line::Error | Line::BigNumber)
        )
    }
}

/// The hot path: a plain element that is here as a whole, and how long it is on the wire. `None` decides nothing.
#[inline]
pub(super) fn small(bytes: &[u8], room: usize) -> Option<(Value, usize)> {
    let (tag, rest) = bytes.split_first()?;
    match tag {
        b'$' => {
            let Some((length, digits)) = decimal(rest) else {
                return rest.starts_with(b"-1\r\n").then_some((Value::Nil, 5));
            };
            if length > room {
                return None;
            }
            let (body, end) = rest.get(digits + 2..)?.split_at_checked(length)?;
            end.starts_with(b"\r\n")
                .then(|| (Value::BulkString(body.to_vec()), digits + length + 5))
        }
        b'+' => rest.starts_with(b"OK\r\n").then_some((Value::Okay, 5)),
        b':' => {
            let (number, digits) = decimal(rest)?;
            Some((Value::Int(i64::try_from(number).ok()?), digits + 3))
        }
        b'_' => rest.starts_with(b"\r\n").then_some((Value::Nil, 3)),
        _ => None,
    }
}

/// One to nine digits and the end of their line; longer ones are read by [`integer`].
#[inline]
fn decimal(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut number = 0_usize;
    for (digits, pair) in bytes.windows(2).take(10).enumerate() {
        match pair {
            [digit @ b'0'..=b'9', _] => number = number * 10 + usize::from(digit - b'0'),
            b"\r\n" if digits > 0 => return Some((number, digits)),
            _ => return None,
        }
    }
    None
}

/// Where the first line end at or after `from` begins.
pub(super) fn line_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == b'\r')?;
        if *bytes.get(at + 1)? == b'\n' {
            return Some(at);
        }
        at += 1;
    }
}

/// The value of a line, its tag and end left off.
pub(super) fn line(kind: Line, text: &[u8]) -> Result<Value, Malformed> {
    match kind {
        Line::Status if text == b"OK" => Ok(Value::Okay),
        Line::Status => Ok(Value::SimpleString(
            String::from_utf8_lossy(text).into_owned(),
        )),
        Line::Error => by_redis(b"-", String::from_utf8_lossy(text).as_bytes()),
        // Its Rust type depends on a feature of redis that someone else may have switched on.
        Line::BigNumber => by_redis(b"(", text),
        Line::Integer => integer(text).map(Value::Int),
        Line::Null => utf8(text).map(|_| Value::Nil),
        Line::Double => utf8(text)?
            .trim()
            .parse()
            .map(Value::Double)
            .map_err(|_| Malformed("not a double")),
        Line::Boolean => match text {
            b"t" => Ok(Value::Boolean(true)),
            b"f" => Ok(Value::Boolean(false)),
            _ => Err(Malformed("not a boolean")),
        },
    }
}

/// Whether an error line says that the server is no primary: a write that a replica refuses (also inside a script's own error), or a
/// replica that has lost its primary.
pub(crate) fn disowns(error: &[u8]) -> bool {
    const READONLY: &[u8] = b"READONLY You can't write against a read only";
    error.starts_with(b"MASTERDOWN Link with MASTER is down")
        || error.windows(READONLY.len()).any(|part| part == READONLY)
}

/// An integer as redis reads it: signs, zeros in front and white space around are fine.
pub(super) fn integer(text: &[u8]) -> Result<i64, Malformed> {
    utf8(text)?
        .trim()
        .parse()
        .map_err(|_| Malformed("not an integer"))
}

/// The value of a string whose bytes are all there.
pub(super) fn text(kind: Text, bytes: Vec<u8>) -> Result<Value, Malformed> {
    match kind {
        Text::Bulk => Ok(Value::BulkString(bytes)),
        Text::Error => {
            let text = lossy(bytes);
            by_redis(format!("!{}\r\n", text.len()).as_bytes(), text.as_bytes())
        }
        Text::Verbatim => {
            let mut text = lossy(bytes);
            let format = match text.split_once(':') {
                Some(("txt", _)) => VerbatimFormat::Text,
                Some(("mkd", _)) => VerbatimFormat::Markdown,
                Some((other, _)) if other.len() <= LONGEST_FORMAT => {
                    VerbatimFormat::Unknown(other.to_owned())
                }
                _ => return Err(Malformed("verbatim string without a format")),
            };
            // In place: the text may be as large as a frame.
            text.drain(..=text.find(':').unwrap_or_default());
            Ok(Value::VerbatimString { format, text })
        }
    }
}

/// The kind of a push, by its first element.
pub(super) fn push_kind(first: Value) -> Result<PushKind, Malformed> {
    let kind = match first {
        Value::SimpleString(kind) => kind,
        Value::BulkString(kind) => {
            String::from_utf8(kind).map_err(|_| Malformed("push of an unreadable kind"))?
        }
        _ => return Err(Malformed("push without a kind")),
    };
    Ok(match kind.as_str() {
        "invalidate" => PushKind::Invalidate,
        "message" => PushKind::Message,
        "pmessage" => PushKind::PMessage,
        "smessage" => PushKind::SMessage,
        "unsubscribe" => PushKind::Unsubscribe,
        "punsubscribe" => PushKind::PUnsubscribe,
        "sunsubscribe" => PushKind::SUnsubscribe,
        "subscribe" => PushKind::Subscribe,
        "psubscribe" => PushKind::PSubscribe,
        "ssubscribe" => PushKind::SSubscribe,
        _ => PushKind::Other(kind),
    })
}

/// Bytes of a text once it is UTF-8.
pub(super) fn repaired(text: &[u8]) -> u64 {
    wide(match str::from_utf8(text) {
        Ok(text) => text.len(),
        Err(_) => String::from_utf8_lossy(text).len(),
    })
}

/// A number of bytes as a count that no sum of them overflows.
pub(super) fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Redis makes its errors, and its big numbers, only by parsing them.
fn by_redis(head: &[u8], text: &[u8]) -> Result<Value, Malformed> {
    parse_redis_value(&[head, text, b"\r\n"].concat())
        .map_err(|_| Malformed("not an error or number that redis reads"))
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn utf8(text: &[u8]) -> Result<&str, Malformed> {
    str::from_utf8(text).map_err(|_| Malformed("line is not UTF-8"))
}

/// It is three letters; redis' parser takes any, and we need not hold a long one.
const LONGEST_FORMAT: usize = 64 << 10;
