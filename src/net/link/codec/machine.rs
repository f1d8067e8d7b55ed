//! The half-built frame: where in it we are, what it has cost, and whether it is kept or skipped.
//!
//! Owns [`Machine`]. Promises: a byte is looked at a bounded number of times, whatever the pieces; what is kept was charged first.
//! Skipping walks the same structure and keeps nothing. Leaves advancing the buffer and naming the frame to [`super::Decoder`].
//! Fails with [`Malformed`]; the machine is then to be [reset](Machine::reset).

use redis::Value;

use super::{Input, Limits, Malformed, empty_push, open::Open, wire};
use wire::{Shape, Tag, Text};

/// Bytes for which room is made before any of a string has arrived.
const FIRST_ROOM: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct Machine {
    /// Aggregates begun and not yet whole, outermost first.
    stack: Vec<Open>,
    within: Within,
    /// Bytes of the current line in which no line end was found.
    scanned: usize,
    /// What the frame has been charged of [`Limits::total`].
    charged: u64,
    skipping: bool,
    push: bool,
    /// An error line said that the server is no primary; kept until it is [asked](Self::take_disowned).
    disowned: bool,
    /// Steps taken and bytes looked at: tests hold it against the bytes fed.
    #[cfg(any(test, fuzzing))]
    pub(super) work: u64,
}

/// What the next byte belongs to.
#[derive(Debug, Default)]
enum Within {
    #[default]
    Head,
    /// A string: `missing` bytes, then its line end.
    Text {
        kind: Text,
        bytes: Vec<u8>,
        missing: u64,
    },
    /// A line too long to be kept; malformed when it does not end within `left`.
    LongLine { left: usize },
}

enum Step {
    /// The input ends before the next element does.
    Starved,
    /// Something was begun.
    Begun,
    Whole(Value),
}

impl Machine {
    /// Takes elements until the frame is whole or the input ends.
    pub(super) fn run(
        &mut self,
        limits: &Limits,
        input: &mut Input<'_>,
    ) -> Result<Option<Value>, Malformed> {
        loop {
            self.note(1);
            let step = match self.within {
                Within::Head => self.head(limits, input)?,
                Within::Text { .. } => self.text(limits, input)?,
                Within::LongLine { .. } => self.long_line(input)?,
            };
            match step {
                Step::Starved => return Ok(None),
                Step::Begun => {}
                Step::Whole(value) => {
                    if let Some(frame) = self.settle(value)? {
                        return Ok(Some(frame));
                    }
                }
            }
        }
    }

    pub(super) fn is_skipping(&self) -> bool {
        self.skipping
    }

    pub(super) fn is_push(&self) -> bool {
        self.push
    }

    /// Whether the server has said, since this was last asked, that it is no primary.
    pub(super) fn take_disowned(&mut self) -> bool {
        std::mem::take(&mut self.disowned)
    }

    /// Ready for the next frame; keeps the stack's room, which the depth limit bounds.
    pub(super) fn reset(&mut self) {
        self.stack.clear();
        self.within = Within::Head;
        self.scanned = 0;
        self.charged = 0;
        self.skipping = false;
        self.push = false;
    }

    /// An element from its first byte.
    fn head(&mut self, limits: &Limits, input: &mut Input<'_>) -> Result<Step, Malformed> {
        let rest = input.rest();
        let Some(&first) = rest.first() else {
            return Ok(Step::Starved);
        };
        if self.stack.len() >= limits.depth {
            return Err(Malformed("nested too deep"));
        }
        if self.scanned == 0
            && !self.skipping
            && let Some((value, used)) = wire::small(rest, self.room(limits))
        {
            if let Value::BulkString(bytes) = &value {
                self.charge_string(
                    limits,
                    wire::wide(bytes.len()),
                    u64::from(!bytes.is_empty()),
                );
            }
            input.advance(used);
            return Ok(Step::Whole(value));
        }
        let tag = Tag::of(first)?;
        if self.skipping && tag.is_free_text() {
            return Ok(self.begin_long_line(limits, input));
        }
        let (text, used) = match self.line(limits, rest) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(Step::Starved),
            Err(_) if tag.is_free_text() => {
                self.skip();
                return Ok(self.begin_long_line(limits, input));
            }
            Err(malformed) => return Err(malformed),
        };
        input.advance(used);
        match tag {
            Tag::Line(kind) => {
                self.disowned |= kind == wire::Line::Error && wire::disowns(text);
                let value = wire::line(kind, text)?;
                // Not what `small` would have read at no charge: the verdict must not depend on the pieces.
                if tag.is_free_text() && value != Value::Okay {
                    self.charge_string(limits, wire::repaired(text), 2);
                }
                Ok(Step::Whole(value))
            }
            Tag::String(kind) => self.begin_text(limits, kind, wire::integer(text)?, input),
            Tag::Aggregate(shape) => self.begin_aggregate(limits, shape, wire::integer(text)?),
        }
    }

    /// The line that `rest` begins with, its tag and end left off, and its length with both.
    fn line<'a>(
        &mut self,
        limits: &Limits,
        rest: &'a [u8],
    ) -> Result<Option<(&'a [u8], usize)>, Malformed> {
        let from = self.scanned.max(1);
        let end = wire::line_end(rest, from);
        self.note(end.unwrap_or(rest.len()).saturating_sub(from));
        // A last byte that may be half of a line end does not count: the verdict must not depend on the pieces.
        let known = end.unwrap_or(rest.len().saturating_sub(1));
        if known.saturating_sub(1) > limits.line {
            return Err(Malformed("endless line"));
        }
        let Some(end) = end else {
            self.scanned = known;
            return Ok(None);
        };
        self.scanned = 0;
        Ok(rest.get(1..end).map(|text| (text, end + 2)))
    }

    fn begin_text(
        &mut self,
        limits: &Limits,
        kind: Text,
        length: i64,
        input: &Input<'_>,
    ) -> Result<Step, Malformed> {
        if length == -1 && kind == Text::Bulk {
            return Ok(Step::Whole(Value::Nil));
        }
        let missing = u64::try_from(length).map_err(|_| NEGATIVE)?;
        self.charge_string(
            limits,
            missing,
            match kind {
                Text::Bulk => u64::from(missing > 0),
                Text::Verbatim | Text::Error => 2,
            },
        );
        if kind == Text::Error && missing > wire::wide(limits.line) {
            // Redis makes errors by parsing them, which takes several times their length.
            self.skip();
        }
        let room = usize::try_from(missing).unwrap_or(usize::MAX);
        self.within = Within::Text {
            kind,
            bytes: if self.skipping {
                Vec::new()
            } else {
                Vec::with_capacity(room.min(FIRST_ROOM.max(input.rest().len())))
            },
            missing,
        };
        Ok(Step::Begun)
    }

    /// What is there of a string.
    fn text(&mut self, limits: &Limits, input: &mut Input<'_>) -> Result<Step, Malformed> {
        let keep = !self.skipping;
        let Within::Text {
            kind,
            bytes,
            missing,
        } = &mut self.within
        else {
            return Ok(Step::Begun);
        };
        let rest = input.rest();
        let here = usize::try_from(*missing).map_or(rest.len(), |missing| missing.min(rest.len()));
        let (part, end) = rest.split_at_checked(here).unwrap_or_default();
        if keep {
            append(bytes, part, *missing);
        }
        *missing = missing.saturating_sub(wire::wide(here));
        input.advance(here);
        match end {
            _ if *missing > 0 => Ok(Step::Starved),
            [] | [b'\r'] => Ok(Step::Starved),
            [b'\r', b'\n', ..] => {
                input.advance(2);
                let (kind, bytes) = (*kind, std::mem::take(bytes));
                self.within = Within::Head;
                self.disowned |= kind == Text::Error && wire::disowns(&bytes);
                if keep && kind != Text::Bulk {
                    self.charge_repair(limits, &bytes);
                }
                if self.skipping {
                    return Ok(Step::Whole(Value::Nil));
                }
                wire::text(kind, bytes).map(Step::Whole)
            }
            _ => Err(Malformed("string without its line end")),
        }
    }

    fn begin_aggregate(
        &mut self,
        limits: &Limits,
        shape: Shape,
        count: i64,
    ) -> Result<Step, Malformed> {
        self.push |= shape == Shape::Push && self.stack.iter().all(Open::awaits_subject);
        let elements = match (shape, u64::try_from(count)) {
            (Shape::Push, Ok(0)) => return Ok(Step::Whole(empty_push())),
            (Shape::Push, Err(_)) if count == -1 => return Ok(Step::Whole(empty_push())),
            (Shape::Array | Shape::Set, Err(_)) if count == -1 => {
                return Ok(Step::Whole(Value::Nil));
            }
            (_, Err(_)) => return Err(NEGATIVE),
            // A count was an i64, so twice it and one more is still a u64.
            (Shape::Map, Ok(pairs)) => pairs.saturating_mul(2),
            (Shape::Attribute, Ok(pairs)) => pairs.saturating_mul(2).saturating_add(1),
            (_, Ok(elements)) => elements,
        };
        self.charge(limits, elements.saturating_mul(ELEMENT));
        let open = if self.skipping {
            Open::skipped(shape, elements)
        } else {
            Open::new(shape, elements)
        };
        if elements == 0 {
            return open.close().map(Step::Whole);
        }
        self.stack.push(open);
        Ok(Step::Begun)
    }

    fn begin_long_line(&mut self, limits: &Limits, input: &mut Input<'_>) -> Step {
        input.advance(1);
        self.scanned = 0;
        self.within = Within::LongLine { left: limits.total };
        Step::Begun
    }

    /// What is there of a line that is not kept.
    fn long_line(&mut self, input: &mut Input<'_>) -> Result<Step, Malformed> {
        let Within::LongLine { left } = &mut self.within else {
            return Ok(Step::Begun);
        };
        let rest = input.rest();
        let end = wire::line_end(rest, 0);
        let halved = usize::from(rest.last() == Some(&b'\r'));
        let taken = end.unwrap_or(rest.len().saturating_sub(halved));
        *left = left.checked_sub(taken).ok_or(Malformed("endless line"))?;
        self.note(taken);
        input.advance(taken);
        if end.is_none() {
            return Ok(Step::Starved);
        }
        input.advance(2);
        self.within = Within::Head;
        Ok(Step::Whole(Value::Nil))
    }

    /// Puts an element where it belongs; gives the frame when that was its last.
    fn settle(&mut self, mut value: Value) -> Result<Option<Value>, Malformed> {
        loop {
            let Some(open) = self.stack.last_mut() else {
                return Ok(Some(value));
            };
            if !open.add(value) {
                return Ok(None);
            }
            let Some(whole) = self.stack.pop() else {
                return Ok(None);
            };
            value = whole.close()?;
        }
    }

    fn room(&self, limits: &Limits) -> usize {
        let room = wire::wide(limits.total).saturating_sub(self.charged);
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// A string of the frame. What an allocator adds weighs only where there may be many; an error is two strings.
    fn charge_string(&mut self, limits: &Limits, bytes: u64, parts: u64) {
        let added = if self.stack.is_empty() {
            0
        } else {
            parts * ALLOCATION
        };
        self.charge(limits, bytes.saturating_add(added));
    }

    /// Text that is not UTF-8 grows when it is repaired, and is there twice meanwhile.
    fn charge_repair(&mut self, limits: &Limits, bytes: &[u8]) {
        if std::str::from_utf8(bytes).is_ok() {
            return;
        }
        if bytes.len() > limits.line {
            self.skip();
        } else {
            self.charge(limits, wire::repaired(bytes) - wire::wide(bytes.len()));
        }
    }

    /// Counts what is about to be kept, and gives the frame up when that is too much.
    fn charge(&mut self, limits: &Limits, bytes: u64) {
        self.charged = self.charged.saturating_add(bytes);
        if self.charged > wire::wide(limits.total) {
            self.skip();
        }
    }

    /// From here on the frame is only counted.
    fn skip(&mut self) {
        self.skipping = true;
        self.stack.iter_mut().for_each(Open::drop_parts);
    }

    /// Bytes held for what is half built.
    #[cfg(any(test, fuzzing))]
    pub(super) fn room_held(&self) -> usize {
        let text = match &self.within {
            Within::Text { bytes, .. } => bytes.capacity(),
            _ => 0,
        };
        text + self.stack.iter().map(Open::room_held).sum::<usize>()
    }

    #[cfg(any(test, fuzzing))]
    fn note(&mut self, work: usize) {
        self.work += wire::wide(work);
    }

    #[cfg(not(any(test, fuzzing)))]
    fn note(&mut self, _: usize) {}
}

/// Appends what arrived; a full vector doubles, but not beyond what was announced.
fn append(bytes: &mut Vec<u8>, part: &[u8], missing: u64) {
    if bytes.capacity() - bytes.len() < part.len() {
        let missing = usize::try_from(missing).unwrap_or(usize::MAX);
        bytes.reserve_exact(missing.min(part.len().max(bytes.len())));
    }
    bytes.extend_from_slice(part);
}

const NEGATIVE: Malformed = Malformed("negative length");

/// What an allocator adds to a string: its own words, and the rounding up.
pub(super) const ALLOCATION: u64 = 32;

/// What an element of an aggregate costs besides its bytes.
pub(super) const ELEMENT: u64 = size_of::<Value>() as u64;
