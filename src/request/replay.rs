//! What its sender says of running a request twice, and what follows from it.
//!
//! Owns [`Replay`] and the one rule of repeats, [`may_repeat`]: the retry layer asks it, the calls of a channel, and a link that is benched.
//! Promises: what was not run may go again; what may have run goes again only if running it twice is harmless. Leaves *where to* and
//! *when* to those who ask. Pure. Cannot fail.

use super::{Request, Shape, commands::Effect};

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

/// How far an attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// Redis has certainly not run it.
    NotRun,
    /// It may have run.
    MaybeRun,
}

/// Whether a request of `effect` may go again; `fenced`: what its first path still holds can be delivered no more.
pub(crate) fn may_repeat(reached: Reached, effect: Effect, replay: Replay, fenced: bool) -> bool {
    match (reached, effect) {
        (Reached::NotRun, _) => true,
        (Reached::MaybeRun, Effect::None) => replay != Replay::Never,
        (Reached::MaybeRun, Effect::Overwrite) => match replay {
            Replay::Never => false,
            Replay::Default => fenced,
            Replay::Overwrite => true,
        },
        (Reached::MaybeRun, Effect::Once) => false,
    }
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

    /// Whether it is one command and no script: what refuses it refuses all of it, and it has not run.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.shape(), Shape::Single | Shape::NoResponse)
            && !matches!(
                self.command(),
                "EVAL" | "EVALSHA" | "EVAL_RO" | "EVALSHA_RO" | "FCALL" | "FCALL_RO"
            )
    }

    /// The words of the command, its name included; for a pipeline those of its first command.
    pub(crate) fn words(&self) -> Option<usize> {
        let line = self.packed().strip_prefix(b"*")?;
        let end = line.iter().position(|byte| *byte == b'\r')?;
        std::str::from_utf8(line.get(..end)?).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_or_a_pipeline_is_not_refused_as_a_whole() {
        let plain = |line: &str| Request::from(redis::cmd(line).arg("x")).is_plain();
        assert!(plain("GET") && plain("set") && plain("UNHEARD.OF"));
        for script in [
            "EVAL",
            "evalsha",
            "EVAL_RO",
            "EVALSHA_RO",
            "FCALL",
            "FCALL_RO",
        ] {
            assert!(!plain(script), "{script}");
        }
        assert!(!Request::from(&*redis::pipe().get("k")).is_plain());
    }

    #[test]
    fn what_may_have_run_goes_again_only_if_that_is_harmless() {
        use Reached::{MaybeRun, NotRun};
        for (reached, effect, replay, unfenced, fenced) in [
            (NotRun, Effect::Once, Replay::Never, true, true),
            (NotRun, Effect::None, Replay::Default, true, true),
            (MaybeRun, Effect::None, Replay::Never, false, false),
            (MaybeRun, Effect::None, Replay::Default, true, true),
            (MaybeRun, Effect::None, Replay::Overwrite, true, true),
            (MaybeRun, Effect::Overwrite, Replay::Never, false, false),
            (MaybeRun, Effect::Overwrite, Replay::Default, false, true),
            (MaybeRun, Effect::Overwrite, Replay::Overwrite, true, true),
            (MaybeRun, Effect::Once, Replay::Never, false, false),
            (MaybeRun, Effect::Once, Replay::Default, false, false),
            (MaybeRun, Effect::Once, Replay::Overwrite, false, false),
        ] {
            let may = |fenced| may_repeat(reached, effect, replay, fenced);
            assert_eq!(
                (may(false), may(true)),
                (unfenced, fenced),
                "{reached:?} {effect:?} {replay:?}"
            );
        }
    }

    #[test]
    fn a_tag_makes_a_script_an_overwrite_and_nothing_else() {
        let request = |line: &str| {
            let mut words = line.split(' ');
            let mut cmd = redis::cmd(words.next().expect("a name"));
            words.for_each(|word| {
                cmd.arg(word);
            });
            Request::from(&cmd)
        };
        for (line, plain, tagged) in [
            ("EVAL x 0", Effect::Once, Effect::Overwrite),
            ("EVALSHA x 0", Effect::Once, Effect::Overwrite),
            ("FCALL f 0", Effect::Once, Effect::Overwrite),
            ("EVAL_RO x 0", Effect::None, Effect::None),
            ("INCR k", Effect::Once, Effect::Once),
            ("SET k v", Effect::Overwrite, Effect::Overwrite),
            ("FUNCTION LOAD x", Effect::Once, Effect::Once),
        ] {
            assert_eq!(request(line).effect(), plain, "{line}");
            let tagged_request = request(line).with_replay(Replay::Overwrite);
            assert_eq!(tagged_request.effect(), tagged, "{line}");
        }
    }
}
