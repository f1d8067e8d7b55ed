//! What replies show of the server's role, for connections that must lead to a primary.
//!
//! Owns [`Role`]. Promises: the verdict of a link on the same replies. Leaves what follows to [`driver`](super::driver).
//! Pure. Cannot fail.

use redis::{ServerError, Value};

use crate::{
    net::link::{codec::disowns, job::Job, owed::is_replicas},
    request::Values,
};

/// What a reply says of the server's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Nothing, or that it does not matter.
    Primary,
    /// An error says that it is a replica.
    Replica,
    /// The same, and the command was refused as a whole: it has not run.
    Refused,
}

impl Role {
    /// `matters`: only a primary will do.
    pub(super) fn said(matters: bool, job: &Job, values: &Values) -> Self {
        if !matters || !values.has_error(is_of_replica) {
            return Self::Primary;
        }
        match values {
            Values::One(Value::ServerError(error)) if is_replicas(error) && job.is_plain() => {
                Self::Refused
            }
            _ => Self::Replica,
        }
    }
}

fn is_of_replica(error: &ServerError) -> bool {
    let details = error.details().unwrap_or_default();
    disowns(format!("{} {details}", error.code()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;

    #[test]
    fn a_replica_shows_itself_wherever_the_error_stands() {
        let value = |bytes: &[u8]| redis::parse_redis_value(bytes).expect("a reply");
        let readonly = b"-READONLY You can't write against a read only replica.\r\n";
        let nested = [b"*2\r\n:1\r\n", &readonly[..]].concat();
        let (set, eval) = (redis::cmd("SET"), redis::cmd("EVAL"));
        for (cmd, reply, role) in [
            (&set, &readonly[..], Role::Refused),
            (&eval, readonly, Role::Replica),
            (&set, &nested, Role::Replica),
            (&set, b"-ERR wrong\r\n", Role::Primary),
            (&set, b"+OK\r\n", Role::Primary),
        ] {
            let job = Job::new(Request::from(cmd));
            let values = Values::One(value(reply));
            assert_eq!(Role::said(true, &job, &values), role, "{values:?}");
            assert_eq!(Role::said(false, &job, &values), Role::Primary);
        }
    }
}
