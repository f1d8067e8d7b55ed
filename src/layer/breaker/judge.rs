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
    /// It does not, and nobody has a connection to it: of a node of a cluster.
    #[cfg(feature = "cluster")]
    Lost,
    /// Nothing, for another was asked: the keys have moved, or nobody has a connection to it.
    #[cfg(feature = "cluster")]
    Elsewhere,
}

impl Judgement {
    /// Whether the endpoint is in doubt at once, and not only after a silence.
    pub(super) fn is_of_the_way(self) -> bool {
        match self {
            #[cfg(feature = "cluster")]
            Self::Lost | Self::Elsewhere => true,
            Self::Served | Self::Failed | Self::Neutral => false,
        }
    }
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

/// The same of a node of a cluster. A redirect that comes out of the connection was not followed: somebody else said it, and the node may be
/// away.
#[cfg(feature = "cluster")]
pub(super) fn judge_node(result: Result<&Reply, &Error>) -> Judgement {
    let code = match result {
        Ok(reply) => reply.code(),
        Err(error) if error.kind() == ErrorKind::Redis => error.code(),
        Err(error) if error.kind() == ErrorKind::ConnectionLost => return Judgement::Lost,
        Err(_) => None,
    };
    match code {
        Some("MOVED" | "ASK") => Judgement::Elsewhere,
        _ => judge(result),
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
        // A cluster connection says so itself, and asks nobody.
        "CROSSSLOT" => Judgement::Neutral,
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
        #[cfg(feature = "cluster")]
        for (kind, judgement) in [
            (ErrorKind::ConnectionLost, Judgement::Lost),
            (ErrorKind::Timeout, Failed),
            (ErrorKind::Auth, Neutral),
        ] {
            let error = Error::new(kind, Phase::Reply, "x");
            assert_eq!(judge_node(Err(&error)), judgement, "{kind:?}");
        }
        for (line, judgement) in [
            ("+OK", Served),
            ("-WRONGTYPE x", Served),
            ("-NOSCRIPT x", Served),
            ("-OOM x", Served),
            ("-ERR x", Served),
            ("-MOVED 1 x:1", Served),
            ("-ASK 1 x:1", Served),
            ("-LOADING x", Failed),
            ("-MASTERDOWN x", Failed),
            ("-CLUSTERDOWN x", Failed),
            ("-BUSY x", Failed),
            ("-READONLY x", Neutral),
            ("-NOAUTH x", Neutral),
            ("-CROSSSLOT x", Neutral),
        ] {
            let value = redis::parse_redis_value(format!("{line}\r\n").as_bytes());
            let value = value.expect("a reply");
            let reply = Reply::from(value.clone());
            assert_eq!(judge(Ok(&reply)), judgement, "{line}");
            #[cfg(feature = "cluster")]
            let of_node = match line {
                "-MOVED 1 x:1" | "-ASK 1 x:1" => Judgement::Elsewhere,
                _ => judgement,
            };
            #[cfg(feature = "cluster")]
            assert_eq!(judge_node(Ok(&reply)), of_node, "{line}");
            if let Err(error) = value.extract_error() {
                let error = Error::from(error);
                assert_eq!(judge(Err(&error)), judgement, "{line}");
                #[cfg(feature = "cluster")]
                assert_eq!(judge_node(Err(&error)), of_node, "{line}");
            }
        }
    }
}
