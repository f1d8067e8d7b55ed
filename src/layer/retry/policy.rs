//! What an outcome says of the attempt, and whether another may help.
//!
//! Owns the reading of outcomes. Promises: a refusal of ours is never answered with another try; what a server refused as a whole was not
//! run. Leaves *what* may go again to [`may_repeat`](crate::request::may_repeat), *when* to the [`budget`](super::budget) and the deadline.
//! Pure. Cannot fail.

use crate::{Error, ErrorKind, Reply, request::Reached};

/// How far the attempt came, if another one may help at all; `plain`: whether what refuses the request refuses all of it. A script's error may be one of
/// its own, said after it did something.
pub(crate) fn failed(result: &Result<Reply, Error>, plain: bool) -> Option<Reached> {
    let refused = if plain {
        Reached::NotRun
    } else {
        Reached::MaybeRun
    };
    match result {
        Ok(reply) => is_refusal(reply.code()?).then_some(refused),
        Err(error) => match error.kind() {
            ErrorKind::CircuitOpen
            | ErrorKind::Overloaded
            | ErrorKind::Refused
            | ErrorKind::Auth
            | ErrorKind::Protocol
            | ErrorKind::Tls => None,
            ErrorKind::Redis => error.code().is_some_and(is_refusal).then_some(refused),
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
    fn a_refusal_of_ours_is_final_and_one_of_redis_was_not_run() {
        let error = |kind, executed| Err(Error::new(kind, Phase::Reply, "x").executed(executed));
        for kind in [
            ErrorKind::CircuitOpen,
            ErrorKind::Overloaded,
            ErrorKind::Refused,
            ErrorKind::Auth,
            ErrorKind::Protocol,
        ] {
            assert_eq!(
                failed(&error(kind, Executed::Never), true),
                None,
                "{kind:?}"
            );
        }
        let lost = ErrorKind::ConnectionLost;
        assert_eq!(
            failed(&error(lost, Executed::Never), false),
            Some(Reached::NotRun)
        );
        assert_eq!(
            failed(&error(lost, Executed::Maybe), true),
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
            let error = value.clone().extract_error().err().map(Error::from);
            for (plain, reached) in [(true, Reached::NotRun), (false, Reached::MaybeRun)] {
                let expected = refused.then_some(reached);
                assert_eq!(
                    failed(&Ok(Reply::from(value.clone())), plain),
                    expected,
                    "{line}"
                );
                if let Some(error) = error.clone() {
                    assert_eq!(failed(&Err(error), plain), expected, "{line}");
                }
            }
        }
        assert_eq!(failed(&Ok(Reply::from(Value::Nil)), true), None);
    }
}
