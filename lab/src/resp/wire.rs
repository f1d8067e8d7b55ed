//! RESP as a small server needs it: commands in, replies out.
//!
//! Owns the parser of commands (arrays and inline) and the two dialects of a reply. Promises that a part of a command
//! is `Ok(None)` and nonsense is an error, never a panic. Leaves meaning to [`super::session`]. Pure.

use bytes::{Buf, BytesMut};

/// A reply, before it is written in the dialect of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Ok,
    Simple(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Text(String),
    Nil,
    /// No array: Sentinel's answer for an unknown name.
    NilArray,
    Array(Vec<Reply>),
    /// Pairs; a flat array in RESP2.
    Map(Vec<(Reply, Reply)>),
}

impl Reply {
    pub(crate) fn bulk(text: impl Into<Vec<u8>>) -> Self {
        Reply::Bulk(text.into())
    }

    pub(crate) fn error(text: impl Into<String>) -> Self {
        Reply::Error(text.into())
    }

    /// Appends this reply in RESP2 or RESP3.
    pub(crate) fn write(&self, out: &mut Vec<u8>, resp3: bool) {
        match self {
            Reply::Ok => out.extend(b"+OK\r\n"),
            Reply::Simple(text) => out.extend(format!("+{text}\r\n").bytes()),
            Reply::Error(text) => out.extend(format!("-{text}\r\n").bytes()),
            Reply::Int(number) => out.extend(format!(":{number}\r\n").bytes()),
            Reply::Bulk(bytes) => bulk(out, '$', b"", bytes),
            Reply::Text(text) if resp3 => bulk(out, '=', b"txt:", text.as_bytes()),
            Reply::Text(text) => bulk(out, '$', b"", text.as_bytes()),
            Reply::Nil if resp3 => out.extend(b"_\r\n"),
            Reply::Nil => out.extend(b"$-1\r\n"),
            Reply::NilArray if resp3 => out.extend(b"_\r\n"),
            Reply::NilArray => out.extend(b"*-1\r\n"),
            Reply::Array(items) => {
                out.extend(format!("*{}\r\n", items.len()).bytes());
                items.iter().for_each(|item| item.write(out, resp3));
            }
            Reply::Map(pairs) => {
                let head = if resp3 {
                    format!("%{}\r\n", pairs.len())
                } else {
                    format!("*{}\r\n", pairs.len() * 2)
                };
                out.extend(head.bytes());
                for (key, value) in pairs {
                    key.write(out, resp3);
                    value.write(out, resp3);
                }
            }
        }
    }
}

fn bulk(out: &mut Vec<u8>, mark: char, prefix: &[u8], bytes: &[u8]) {
    out.extend(format!("{mark}{}\r\n", prefix.len() + bytes.len()).bytes());
    out.extend(prefix);
    out.extend(bytes);
    out.extend(b"\r\n");
}

/// Takes one whole command off the front of `input`, if there is one.
pub(crate) fn take_command(input: &mut BytesMut) -> Result<Option<Vec<Vec<u8>>>, String> {
    let Some((line, mut at)) = line(input, 0) else {
        return if input.len() > LINE_MOST {
            Err("too big inline request".to_owned())
        } else {
            Ok(None)
        };
    };
    let Some(count) = line.strip_prefix(b"*") else {
        let words = line.split(u8::is_ascii_whitespace);
        let words = words.filter(|word| !word.is_empty()).map(<[u8]>::to_vec);
        let words = words.collect();
        input.advance(at);
        return Ok(Some(words));
    };
    let count = number(count).ok_or("invalid multibulk length")?;
    let mut words = Vec::new();
    for _ in 0..count {
        let Some((head, body)) = self::line(input, at) else {
            return Ok(None);
        };
        let size = head.strip_prefix(b"$").and_then(number);
        let size = size.ok_or("expected '$'")?;
        let Some(word) = input.get(body..body + size) else {
            return Ok(None);
        };
        if input.len() < body + size + 2 {
            return Ok(None);
        }
        words.push(word.to_vec());
        at = body + size + 2;
    }
    input.advance(at);
    Ok(Some(words))
}

/// The line that starts at `from`, and where the next one starts.
fn line(input: &[u8], from: usize) -> Option<(&[u8], usize)> {
    let rest = input.get(from..)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = rest.get(..end)?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), from + end + 1))
}

fn number(digits: &[u8]) -> Option<usize> {
    let number: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (number <= SIZE_MOST).then_some(number)
}

const LINE_MOST: usize = 64 * 1024;
const SIZE_MOST: usize = 512 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_taken_only_when_it_is_whole() {
        let whole = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n";
        for end in 0..22 {
            let mut part = BytesMut::from(&whole[..end.min(21)]);
            let taken = take_command(&mut part).unwrap();
            assert_eq!(taken.is_some(), end >= 20, "{end}");
        }
        let mut input = BytesMut::from(&whole[..]);
        let first = take_command(&mut input).unwrap().unwrap();
        assert_eq!(first, [b"GET".to_vec(), b"k".to_vec()]);
        assert_eq!(
            take_command(&mut input).unwrap().unwrap(),
            [b"PING".to_vec()]
        );
        assert!(take_command(&mut BytesMut::from(&b"*x\r\n"[..])).is_err());
    }

    #[test]
    fn maps_are_flat_in_resp2() {
        let map = Reply::Map(vec![(Reply::bulk("a"), Reply::Nil)]);
        let (mut two, mut three) = (Vec::new(), Vec::new());
        map.write(&mut two, false);
        map.write(&mut three, true);
        assert_eq!(two, b"*2\r\n$1\r\na\r\n$-1\r\n");
        assert_eq!(three, b"%1\r\n$1\r\na\r\n_\r\n");
    }
}
