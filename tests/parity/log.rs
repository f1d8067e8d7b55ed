//! What a connection said, and how two of them compare.

use std::fmt::Debug;

use redis_holdfast::redis::aio::ConnectionLike;
use redis_holdfast::redis::{ErrorKind, RedisError, RedisResult, Value};

/// Any connection: all that a case knows of what it is played on.
pub trait Con: ConnectionLike + Clone + Send + Sync + 'static {}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Con for C {}

/// What came of one call.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Value(Value),
    /// A value of the user's own type.
    Typed(String),
    Error {
        kind: ErrorKind,
        code: Option<String>,
        detail: String,
        words: String,
    },
}

/// What came of all the calls of a case, in order.
#[derive(Default)]
pub struct Log {
    said: Vec<(String, Said)>,
    /// Names of the typed helpers among them, and whether the server knew the command.
    helpers: Vec<(&'static str, bool)>,
}

impl Log {
    /// Of a typed helper.
    pub fn helper<T: Debug>(&mut self, name: &'static str, words: &str, result: &RedisResult<T>) {
        let known = !result.as_ref().is_err_and(is_unknown);
        self.helpers.push((name, known));
        self.typed(&format!("{name}({words})"), result);
    }

    /// Of anything else that has a type.
    pub fn typed<T: Debug>(&mut self, what: &str, result: &RedisResult<T>) {
        let said = match result {
            Ok(value) => Said::Typed(format!("{value:?}")),
            Err(error) => erred(error),
        };
        self.said.push((what.to_owned(), said));
    }

    /// Of what stays as the server sent it.
    pub fn value(&mut self, what: &str, result: RedisResult<Value>) {
        let said = match result {
            Ok(value) => Said::Value(value),
            Err(error) => erred(&error),
        };
        self.said.push((what.to_owned(), said));
    }

    pub fn len(&self) -> usize {
        self.said.len()
    }

    /// Typed helpers whose command the server knows.
    pub fn helpers(&self) -> impl Iterator<Item = &'static str> {
        let known = self.helpers.iter().filter(|(_, known)| *known);
        known.map(|(name, _)| *name)
    }

    /// Typed helpers whose command the server lacks.
    pub fn lacking(&self) -> impl Iterator<Item = &'static str> {
        let unknown = self.helpers.iter().filter(|(_, known)| !*known);
        unknown.map(|(name, _)| *name)
    }

    /// Where `ours` is not the same.
    pub fn against(&self, case: &str, who: &str, ours: &Self) -> Vec<String> {
        assert_eq!(self.len(), ours.len(), "{case} over {who} took another way");
        let pairs = self.said.iter().zip(&ours.said);
        pairs
            .filter(|(bare, ours)| bare != ours)
            .map(|((what, bare), (_, ours))| {
                format!(
                    "{case}: {what}\n  bare {}\n  {who} {}",
                    shown(bare),
                    shown(ours)
                )
            })
            .collect()
    }
}

fn erred(error: &RedisError) -> Said {
    Said::Error {
        kind: error.kind(),
        code: error.code().map(str::to_owned),
        detail: error.detail().unwrap_or_default().to_owned(),
        words: error.to_string(),
    }
}

fn is_unknown(error: &RedisError) -> bool {
    let detail = error.detail().unwrap_or_default();
    [
        "unknown command",
        "unknown subcommand",
        "Unknown subcommand",
    ]
    .iter()
    .any(|words| detail.contains(words))
}

fn shown(said: &Said) -> String {
    let mut shown = format!("{said:?}");
    if let Some((end, _)) = shown.char_indices().nth(2000) {
        shown.truncate(end);
    }
    shown
}
