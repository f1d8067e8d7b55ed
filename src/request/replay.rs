//! What its sender says of running a request twice.
//!
//! Owns [`Replay`]. Leaves the rule to `layer/retry/policy`. Cannot fail.

use super::Request;

/// What may be sent again though it may have run. What was certainly not run may always go again.
///
/// ```
/// use redis_holdfast::{Replay, Request, redis};
///
/// // A cache: an older value that is put there late does no harm.
/// let request = Request::from(redis::cmd("SET").arg("cache:7").arg("x")).with_replay(Replay::Overwrite);
/// assert_eq!(request.replay(), Some(Replay::Overwrite));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Replay {
    /// Nothing.
    Never,
    /// What changes nothing; and behind a fence (a link of ours whose predecessor can deliver nothing more) plain overwrites.
    #[default]
    Default,
    /// Plain overwrites too (`SET`, `MSET`, `SETEX`, …), fence or not: a copy that is delivered late may overwrite a later write. On a single
    /// request it also says so of a script (`EVAL`, `EVALSHA`, `FCALL`), which is otherwise never sent again. Commands that do something else
    /// when run twice (`INCR`, `LPUSH`, `SET … NX`) never are.
    Overwrite,
}

impl Request {
    /// Says what may be sent again of this request, instead of what the [`RetryPolicy`](crate::RetryPolicy) says.
    #[must_use]
    pub fn with_replay(mut self, replay: Replay) -> Self {
        self.extensions_mut().insert(replay);
        self
    }

    /// What [`with_replay`](Self::with_replay) said.
    #[must_use]
    pub fn replay(&self) -> Option<Replay> {
        self.extensions().get().copied()
    }

    /// Whether it is a script of which its sender says that running it twice is harmless.
    pub(crate) fn is_tagged_script(&self) -> bool {
        matches!(self.command(), "EVAL" | "EVALSHA" | "FCALL")
            && self.replay() == Some(Replay::Overwrite)
    }

    /// The words of the command, its name included; for a pipeline those of its first command.
    pub(crate) fn words(&self) -> Option<usize> {
        let line = self.packed().strip_prefix(b"*")?;
        let end = line.iter().position(|byte| *byte == b'\r')?;
        std::str::from_utf8(line.get(..end)?).ok()?.parse().ok()
    }
}
