//! An aggregate whose elements are still arriving.
//!
//! Owns [`Open`]. Promises: room for what has arrived, doubled as it fills and never beyond what was announced. Leaves counting it
//! against the limits to [`machine`](super::machine). Fails where a push does not name its kind.

use redis::Value;

use super::{Malformed, wire};
use wire::Shape;

/// Elements for which room is made before the first has arrived.
const FIRST_ROOM: usize = 1024;

#[derive(Debug)]
pub(super) struct Open {
    shape: Shape,
    missing: u64,
    parts: Parts,
}

#[derive(Debug)]
enum Parts {
    /// Skipped: only counted.
    Dropped,
    List(Vec<Value>),
    /// Of an attribute, `odd` ends as the value that the attributes belong to.
    Pairs {
        whole: Vec<(Value, Value)>,
        odd: Option<Value>,
    },
}

impl Open {
    pub(super) fn new(shape: Shape, elements: u64) -> Self {
        let room = usize::try_from(elements).map_or(FIRST_ROOM, |count| count.min(FIRST_ROOM));
        Self {
            shape,
            missing: elements,
            parts: match shape {
                Shape::Array | Shape::Set | Shape::Push => Parts::List(Vec::with_capacity(room)),
                Shape::Map | Shape::Attribute => Parts::Pairs {
                    whole: Vec::with_capacity(room / 2),
                    odd: None,
                },
            },
        }
    }

    pub(super) fn skipped(shape: Shape, elements: u64) -> Self {
        Self {
            shape,
            missing: elements,
            parts: Parts::Dropped,
        }
    }

    pub(super) fn drop_parts(&mut self) {
        self.parts = Parts::Dropped;
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn room_held(&self) -> usize {
        size_of::<Value>()
            * match &self.parts {
                Parts::Dropped => 0,
                Parts::List(values) => values.capacity(),
                Parts::Pairs { whole, .. } => 2 * whole.capacity(),
            }
    }

    /// Only the value itself is missing behind its attributes.
    pub(super) fn awaits_subject(&self) -> bool {
        self.shape == Shape::Attribute && self.missing == 1
    }

    /// Adds the next element. Is the aggregate whole now?
    pub(super) fn add(&mut self, value: Value) -> bool {
        match &mut self.parts {
            Parts::Dropped => {}
            Parts::List(values) => {
                grow(values, self.missing);
                values.push(value);
            }
            Parts::Pairs { whole, odd } => match odd.take() {
                None => *odd = Some(value),
                Some(key) => {
                    grow(whole, self.missing / 2 + 1);
                    whole.push((key, value));
                }
            },
        }
        self.missing = self.missing.saturating_sub(1);
        self.missing == 0
    }

    /// The value of a whole aggregate.
    pub(super) fn close(self) -> Result<Value, Malformed> {
        Ok(match (self.shape, self.parts) {
            (_, Parts::Dropped) => Value::Nil,
            (Shape::Set, Parts::List(values)) => Value::Set(values),
            (Shape::Push, Parts::List(mut values)) => {
                let kind = if values.is_empty() {
                    Value::Nil
                } else {
                    values.remove(0)
                };
                Value::Push {
                    kind: wire::push_kind(kind)?,
                    data: values,
                }
            }
            (_, Parts::List(values)) => Value::Array(values),
            (Shape::Attribute, Parts::Pairs { whole, odd }) => Value::Attribute {
                data: Box::new(odd.unwrap_or_default()),
                attributes: whole,
            },
            (_, Parts::Pairs { whole, .. }) => Value::Map(whole),
        })
    }
}

/// Doubles the room of a full vector, but not beyond what is still to come.
fn grow<T>(values: &mut Vec<T>, missing: u64) {
    if values.len() == values.capacity() {
        let missing = usize::try_from(missing).unwrap_or(usize::MAX);
        values.reserve_exact(missing.min(values.len().max(FIRST_ROOM)));
    }
}
