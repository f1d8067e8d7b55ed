//! What the outcome of one attempt says of the endpoint.
//!
//! Owns [`Judgement`]. Promises: a refusal of ours, a fault of the caller and a wrong password say nothing; an answer is a served call even
//! where it is an error reply, but for those by which a server says that it cannot serve now. Pure. Cannot fail.

use crate::{Error, ErrorKind, Phase, Reply};

/// What an attempt says of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It serves.
    Served,
    /// It does not.
    Failed,
    /// Nothing.
    Neutral,
}

pub(crate) fn judge(result: Result<&Reply, &Error>) -> Judgement {
    match result {
        Ok(reply) => reply.code().map_or(Judgement::Served, judge_code),
        Err(error) => match error.kind() {
            // Nobody was asked: the caller's own queue, a pool's, a service that was not ready.
            ErrorKind::Timeout if error.phase() == Phase::Queue => Judgement::Neutral,
            ErrorKind::Timeout
            | ErrorKind::ConnectionLost
            | ErrorKind::Dns
            | ErrorKind::NoPrimary
            | ErrorKind::Tls
            | ErrorKind::Protocol => Judgement::Failed,
            ErrorKind::CircuitOpen
            | ErrorKind::Overloaded
            | ErrorKind::NoReplica
            | ErrorKind::Refused
            | ErrorKind::RoleMismatch
            | ErrorKind::Auth => Judgement::Neutral,
            ErrorKind::Redis => error.code().map_or(Judgement::Served, judge_code),
        },
    }
}

/// Whether a server that says this serves.
pub(crate) fn is_answer(reply: &Reply) -> bool {
    judge(Ok(reply)) != Judgement::Failed
}

fn judge_code(code: &str) -> Judgement {
    match code {
        "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "BUSY" => Judgement::Failed,
        // Whose turn it is to write, which keys are on the move, who may: no matter of health.
        "READONLY" | "TRYAGAIN" | "NOAUTH" | "NOPERM" | "WRONGPASS" => Judgement::Neutral,
        _ => Judgement::Served,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_kind_and_by_the_servers_word() {
        use Judgement::{Failed, Neutral, Served};
        let error = |kind, phase| judge(Err(&Error::new(kind, phase, "x")));
        for (kind, judgement) in [
            (ErrorKind::Timeout, Failed),
            (ErrorKind::ConnectionLost, Failed),
            (ErrorKind::Dns, Failed),
            (ErrorKind::NoPrimary, Failed),
            (ErrorKind::Protocol, Failed),
            (ErrorKind::CircuitOpen, Neutral),
            (ErrorKind::Overloaded, Neutral),
            (ErrorKind::Refused, Neutral),
            (ErrorKind::Auth, Neutral),
            (ErrorKind::RoleMismatch, Neutral),
            (ErrorKind::Redis, Served),
        ] {
            assert_eq!(error(kind, Phase::Reply), judgement, "{kind:?}");
        }
        assert_eq!(error(ErrorKind::Timeout, Phase::Queue), Neutral);
        for (line, judgement) in [
            ("+OK", Served),
            ("-WRONGTYPE x", Served),
            ("-NOSCRIPT x", Served),
            ("-OOM x", Served),
            ("-ERR x", Served),
            ("-MOVED 1 x:1", Served),
            ("-LOADING x", Failed),
            ("-MASTERDOWN x", Failed),
            ("-CLUSTERDOWN x", Failed),
            ("-BUSY x", Failed),
            ("-READONLY x", Neutral),
            ("-NOAUTH x", Neutral),
        ] {
            let value = redis::parse_redis_value(format!("{line}\r\n").as_bytes());
            let value = value.expect("a reply");
            let reply = Reply::from(value.clone());
            assert_eq!(judge(Ok(&reply)), judgement, "{line}");
            if let Err(error) = value.extract_error() {
                assert_eq!(judge(Err(&Error::redis(error))), judgement, "{line}");
            }
        }
    }
}
