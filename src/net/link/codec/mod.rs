//! Turns the bytes of RESP2 and RESP3 into [`Value`]s, however they are cut into pieces.
//!
//! Owns [`Decoder`], one per connection. Promises: the values that redis' own parser gives; work linear in the bytes that arrive, in
//! pieces of whatever size; memory for what has arrived, never for what was announced, and never above [`Limits::total`] (plus one
//! growth step). A reply over that is swallowed unbuffered and told as [`Frame::TooLarge`]: its link lives on.
//! Leaves reading, matching replies to requests and yielding to the driver: one call decodes at most one frame out of what it is
//! given, so whoever bounds its reads bounds a call.
//! Fails with [`Malformed`], for good: behind a broken frame nobody knows where the next one begins.
//!
//! Where it parts from redis' parser, on purpose: a length below -1 is malformed (redis: nil); a status or error line that is not
//! UTF-8 is repaired as redis repairs blob errors (redis: closes the connection, which one caller's script could then do to all); a
//! status, error or big number longer than [`Limits::line`] is too large, and so is a longer text that would have to be repaired; any
//! other such line is malformed; pushes over the limit come as an empty push; a push with attributes comes without them.
//! Next: [`machine`] keeps what is half built, [`wire`] reads single elements, [`open`] holds an aggregate's elements;
//! `fuzz` says what holds for any bytes at all.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod machine;
mod open;
#[cfg(test)]
mod tests;
mod wire;

use std::{error, fmt};

use bytes::{Buf, BytesMut};
use redis::{PushKind, Value};

use machine::Machine;
pub(crate) use wire::disowns;

/// What a peer may make us hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Levels of nesting; redis' parser allows as many.
    pub(crate) depth: usize,
    /// Bytes of one frame in memory: its strings, and for each element of its aggregates the size of a [`Value`] and of an allocation.
    pub(crate) total: usize,
    /// Bytes of a line: a status, an error, a number, a length.
    pub(crate) line: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth: 100,
            total: 128 << 20,
            line: 64 << 10,
        }
    }
}

/// One whole message of the server.
#[derive(Debug, PartialEq)]
pub(crate) enum Frame {
    /// Answers the oldest request; error replies are [`Value::ServerError`], also inside.
    Reply(Value),
    /// A [`Value::Push`]: it answers no request.
    Push(Value),
    /// Answers the oldest request with more than we hold: `bytes` on the wire, all skipped.
    TooLarge { bytes: u64 },
}

/// Why the bytes are no RESP. Says what is wrong, never what was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed reply: {}", self.0)
    }
}

impl error::Error for Malformed {}

/// The decoder of one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    limits: Limits,
    /// Between two frames: nothing is half built.
    fresh: bool,
    machine: Machine,
    /// Bytes of the current frame taken by earlier calls.
    taken: u64,
    broken: Option<Malformed>,
}

impl Decoder {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            fresh: true,
            machine: Machine::default(),
            taken: 0,
            broken: None,
        }
    }

    /// Takes the next frame off the front of `buffer`, or as much of it as is there.
    ///
    /// `None` wants more bytes behind those that are left; they are never more than a line.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
        if self.fresh {
            if let Some((value, used)) = wire::small(buffer, self.limits.total) {
                buffer.advance(used);
                return Ok(Some(Frame::Reply(value)));
            }
            if buffer.is_empty() {
                return Ok(None);
            }
        }
        self.resume(buffer)
    }

    /// Whether an error reply since the last time this was asked, however deep inside, said that the server is no primary.
    pub(crate) fn take_disowned(&mut self) -> bool {
        self.machine.take_disowned()
    }

    /// Whether the frame that is arriving is already known to be too large.
    pub(crate) fn is_skipping(&self) -> bool {
        self.machine.is_skipping()
    }

    fn resume(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
        if let Some(malformed) = self.broken {
            return Err(malformed);
        }
        self.fresh = false;
        let mut input = Input {
            bytes: buffer,
            used: 0,
        };
        let outcome = self.machine.run(&self.limits, &mut input);
        let used = input.used;
        buffer.advance(used);
        self.taken = self.taken.saturating_add(wire::wide(used));
        match outcome {
            Ok(value) => Ok(value.map(|value| self.frame(value))),
            Err(malformed) => {
                self.broken = Some(malformed);
                self.machine.reset();
                Err(malformed)
            }
        }
    }

    fn frame(&mut self, value: Value) -> Frame {
        let bytes = std::mem::take(&mut self.taken);
        let (skipped, pushed) = (self.machine.is_skipping(), self.machine.is_push());
        self.machine.reset();
        self.fresh = true;
        match (pushed, skipped) {
            (true, true) => Frame::Push(empty_push()),
            (true, false) => Frame::Push(without_attributes(value)),
            (false, true) => Frame::TooLarge { bytes },
            (false, false) => Frame::Reply(value),
        }
    }
}

/// What is left to read of a buffer; the buffer itself is advanced once, afterwards.
struct Input<'a> {
    bytes: &'a [u8],
    used: usize,
}

impl<'a> Input<'a> {
    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.used..).unwrap_or_default()
    }

    fn advance(&mut self, bytes: usize) {
        self.used += bytes;
    }
}

fn empty_push() -> Value {
    Value::Push {
        kind: PushKind::Other(String::new()),
        data: Vec::new(),
    }
}

fn without_attributes(mut value: Value) -> Value {
    while let Value::Attribute { data, .. } = value {
        value = *data;
    }
    value
}
