//! Which calls may go again, and what an outcome says of the attempt.
//!
//! Owns the one rule of replays, for the retry layer and for a channel alike. Promises: what was not sent may go again; what may have run
//! goes again only if running it twice is harmless; a refusal of ours is never answered with another try. Leaves *when* to the
//! [`budget`](super::budget) and the deadline. Pure. Cannot fail.

use crate::{
    Error, ErrorKind, Reply, Request,
    request::{Replay, commands::Effect},
};

/// How far an attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// Redis has certainly not run it.
    NotRun,
    /// It may have run.
    MaybeRun,
}

/// Whether a request of `effect` may go again.
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

/// What running the request twice would do, with what its sender says of it.
pub(crate) fn effect(request: &Request) -> Effect {
    match request.effect() {
        Effect::Once if request.is_tagged_script() => Effect::Overwrite,
        effect => effect,
    }
}

/// How far the attempt came, if another one may help at all.
pub(crate) fn failed(result: &Result<Reply, Error>) -> Option<Reached> {
    match result {
        Ok(reply) => is_refusal(reply.code()?).then_some(Reached::NotRun),
        Err(error) => match error.kind() {
            ErrorKind::CircuitOpen
            | ErrorKind::Overloaded
            | ErrorKind::Refused
            | ErrorKind::Auth
            | ErrorKind::Protocol
            | ErrorKind::Tls => None,
            ErrorKind::Redis => error
                .code()
                .is_some_and(is_refusal)
                .then_some(Reached::NotRun),
            _ if error.may_have_executed() => Some(Reached::MaybeRun),
            _ => Some(Reached::NotRun),
        },
    }
}

/// Replies by which a server refuses a whole command for a reason that passes.
fn is_refusal(code: &str) -> bool {
    matches!(code, "READONLY" | "LOADING" | "MASTERDOWN" | "TRYAGAIN")
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;
    use crate::{Phase, error::Executed};

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
            assert_eq!(effect(&request(line)), plain, "{line}");
            let tagged_request = request(line).with_replay(Replay::Overwrite);
            assert_eq!(effect(&tagged_request), tagged, "{line}");
        }
    }

    #[test]
    fn a_refusal_of_ours_is_final_and_one_of_redis_was_not_run() {
        let error = |kind, executed| Err(Error::new(kind, Phase::Reply, "x").executed(executed));
        for kind in [
            ErrorKind::CircuitOpen,
            ErrorKind::Overloaded,
            ErrorKind::Refused,
            ErrorKind::Auth,
            ErrorKind::Protocol,
        ] {
            assert_eq!(failed(&error(kind, Executed::Never)), None, "{kind:?}");
        }
        let lost = ErrorKind::ConnectionLost;
        assert_eq!(failed(&error(lost, Executed::Never)), Some(Reached::NotRun));
        assert_eq!(
            failed(&error(lost, Executed::Maybe)),
            Some(Reached::MaybeRun)
        );
        for (line, refused) in [
            ("-LOADING soon", true),
            ("-READONLY no", true),
            ("-MASTERDOWN x", true),
            ("-TRYAGAIN x", true),
            ("-OOM x", false),
            ("-WRONGTYPE x", false),
            ("-NOSCRIPT x", false),
            ("-ERR x", false),
            ("+OK", false),
        ] {
            let value = redis::parse_redis_value(format!("{line}\r\n").as_bytes());
            let value = value.expect("a reply");
            let reply = Reply::from(value.clone());
            let expected = refused.then_some(Reached::NotRun);
            assert_eq!(failed(&Ok(reply)), expected, "{line}");
            if let Err(error) = value.extract_error() {
                assert_eq!(failed(&Err(Error::redis(error))), expected, "{line}");
            }
        }
        assert_eq!(failed(&Ok(Reply::from(Value::Nil))), None);
    }
}
