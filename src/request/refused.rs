//! What a server refused while a transaction was queued, and the error that `redis` makes of it.
//!
//! Owns [`Refusals`]. Promises: the error that `redis`' own connections give for an aborted transaction, list of commands and all.
//! Leaves noticing refusals to those who read replies. Fails softly: without that list, the server's word for the abort stands.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use redis::{
    AsyncConnectionConfig, RedisConnectionInfo, RedisError, Value, aio::MultiplexedConnection,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The commands of a transaction that were refused, by their index in it, with the server's error.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Refusals(Vec<(usize, Value)>);

impl Refusals {
    /// Notes `reply`, the `position`-th that is skipped, if it is an error. The first belongs to `MULTI`.
    pub(crate) fn note(&mut self, position: usize, reply: Value) {
        if let (Some(index), Value::ServerError(_)) = (position.checked_sub(1), &reply) {
            self.0.push((index, reply));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn errors(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().map(|(_, error)| error)
    }

    /// The error that they make. Only `redis`' own connections can make it: one is asked that has the replies already.
    pub(crate) fn error(&self) -> Option<RedisError> {
        let asked = tokio::task::coop::unconstrained(self.ask());
        let (mut asked, mut cx) = (pin!(asked), Context::from_waker(Waker::noop()));
        // Nothing in it waits for anybody else: a few turns, in which its two halves take theirs.
        for _ in 0..TURNS {
            if let Poll::Ready(error) = asked.as_mut().poll(&mut cx) {
                return error;
            }
        }
        None
    }

    async fn ask(&self) -> Option<RedisError> {
        let replies = self.replies();
        let mut transaction = redis::pipe();
        transaction.atomic();
        for _ in 0..=self.0.last()?.0 {
            transaction.cmd("PING");
        }
        let mut asked = transaction.get_packed_pipeline();
        let (near, mut far) = tokio::io::duplex(replies.len().max(asked.len()));
        let silent = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (mut connection, driver) =
            MultiplexedConnection::new_with_config(&silent, near, config)
                .await
                .ok()?;
        let server = async {
            // Once it was asked: a reply to nothing would be dropped.
            far.read_exact(&mut asked).await.ok()?;
            far.write_all(&replies).await.ok()?;
            std::future::pending().await
        };
        tokio::select! {
            answer = connection.send_packed_commands(&transaction, transaction.len() + 1, 1) => answer.err(),
            () = driver => None,
            nothing = server => nothing,
        }
    }

    /// The replies of the transaction as they would come from a server.
    fn replies(&self) -> Vec<u8> {
        let mut replies = b"+OK\r\n".to_vec();
        let mut index = 0;
        for (refused, error) in &self.0 {
            while index < *refused {
                replies.extend_from_slice(b"+QUEUED\r\n");
                index += 1;
            }
            if let Value::ServerError(error) = error {
                let line = match error.details() {
                    Some(details) => format!("{} {details}", error.code()),
                    None => error.code().to_owned(),
                };
                replies.extend_from_slice(format!("!{}\r\n{line}\r\n", line.len()).as_bytes());
            }
            index += 1;
        }
        replies.extend_from_slice(b"-EXECABORT\r\n");
        replies
    }
}

/// More than it needs.
const TURNS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn refusals(errors: &[(usize, &str)]) -> Refusals {
        let mut refusals = Refusals::default();
        for (position, line) in errors {
            let reply = redis::parse_redis_value(format!("-{line}\r\n").as_bytes());
            refusals.note(*position, reply.expect("a reply"));
        }
        refusals
    }

    #[test]
    fn the_error_is_redis_own_with_every_command_that_was_refused() {
        let many = 20_000;
        let refusals = refusals(&[(1, "ERR one"), (3, "MINE own words"), (many, "NOPERM")]);
        let error = refusals.error().expect("an error");
        assert_eq!(error.code(), Some("EXECABORT"));
        let list = error.into_server_errors().expect("a list");
        let list: Vec<_> = list
            .iter()
            .map(|(index, error)| (*index, error.code(), error.details()))
            .collect();
        assert_eq!(
            list,
            [
                (0, "ERR", Some("one")),
                (2, "MINE", Some("own words")),
                (many - 1, "NOPERM", None)
            ]
        );
    }

    #[test]
    fn what_was_not_refused_is_not_noted_nor_is_a_refused_multi() {
        let mut refusals = refusals(&[(0, "NOPERM no MULTI")]);
        refusals.note(1, Value::SimpleString("QUEUED".into()));
        assert!(refusals.is_empty() && refusals.error().is_none());
    }
}
