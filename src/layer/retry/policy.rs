//! What an outcome says of the attempt, and whether another may help.
//!
//! Owns the reading of outcomes. Promises: a refusal of ours is never answered with another try; what a server refused as a whole was not
//! run. Leaves *what* may go again to [`may_repeat`](crate::request::may_repeat), *when* to the [`budget`](super::budget) and the deadline.
//! Pure. Cannot fail.

use crate::{Error, ErrorKind, Reply, request::Reached};

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
