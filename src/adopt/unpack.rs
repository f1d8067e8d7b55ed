//! Packed bytes back into `redis`' own commands, which is all that its connection takes.
//!
//! Owns [`Unpacked`]. Promises: packed again it is the same bytes; a transaction stays the commands that it is on the wire, so that its
//! replies are counted here and over a link alike. Fails only on bytes that `redis` did not pack.

use std::any::type_name;

use bytes::Bytes;
use redis::{
    Cmd, Pipeline, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

use crate::{
    Error, ErrorKind, Phase, Reply, Request,
    error::Executed,
    request::{Expected, Refusals, Shape, Values},
};

/// A request as a connection of `redis` wants it.
pub(crate) enum Unpacked {
    /// One bare value answers it.
    One(Cmd),
    /// Of its replies the first are skipped.
    Many(Pipeline, Expected),
}

impl Unpacked {
    /// For a connection that routes by keys, or that a pool hands out: a transaction is an atomic pipeline again, and what its sender does not wait for is
    /// marked so.
    fn plain(request: &Request) -> Option<Self> {
        let expected = request.expected();
        match request.shape() {
            Shape::Pipeline(pipeline) => Some(Self::Many(Pipeline::clone(pipeline), expected)),
            Shape::Single => Self::new(request.packed(), expected, true),
            Shape::NoResponse => match Self::new(request.packed(), expected, true)? {
                Self::One(mut cmd) => {
                    cmd.set_no_response(true);
                    Some(Self::One(cmd))
                }
                many @ Self::Many(..) => Some(many),
            },
            Shape::Slice if request.command() == "MULTI" => {
                let mut left: &[u8] = request.packed();
                let mut commands = Vec::new();
                while !left.is_empty() {
                    commands.push(command(&mut left)?);
                }
                let mut pipeline = Pipeline::with_capacity(commands.len());
                pipeline.atomic();
                let last = commands.len().checked_sub(1)?;
                for cmd in commands.into_iter().take(last).skip(1) {
                    pipeline.add_command(cmd);
                }
                Some(Self::Many(pipeline, expected))
            }
            Shape::Slice => Self::new(request.packed(), expected, false),
        }
    }

    /// `single`: it is one command, and its answer one bare value.
    pub(crate) fn new(packed: &Bytes, expected: Expected, single: bool) -> Option<Self> {
        let mut left: &[u8] = packed;
        if single {
            let cmd = command(&mut left)?;
            return left.is_empty().then_some(Self::One(cmd));
        }
        let mut pipeline = Pipeline::with_capacity(expected.owed());
        while !left.is_empty() {
            pipeline.add_command(command(&mut left)?);
        }
        Some(Self::Many(pipeline, expected))
    }

    /// Sends it.
    pub(crate) async fn ask(self, mut connection: MultiplexedConnection) -> RedisResult<Values> {
        match self {
            Self::One(cmd) => connection.send_packed_command(&cmd).await.map(Values::One),
            Self::Many(pipeline, expected) => connection
                .send_packed_commands(&pipeline, 0, expected.owed())
                .await
                .map(|replies| skipped(replies, expected)),
        }
    }
}

/// Asks `connection`, whatever it is.
pub(crate) async fn ask<C: ConnectionLike>(
    connection: &mut C,
    request: &Request,
) -> Result<Reply, Error> {
    if let Some(reason) = request.refusal() {
        return Err(Error::new(ErrorKind::Refused, Phase::Queue, reason));
    }
    let Some(unpacked) = Unpacked::plain(request) else {
        let reason = "request was not packed by redis";
        return Err(Error::new(ErrorKind::Refused, Phase::Queue, reason));
    };
    let answered = match unpacked {
        Unpacked::One(cmd) => connection.req_packed_command(&cmd).await.map(Values::One),
        Unpacked::Many(pipeline, _) if pipeline.is_empty() && !pipeline.is_transaction() => {
            Ok(Values::Many(Vec::new()))
        }
        Unpacked::Many(pipeline, expected) => connection
            .req_packed_commands(&pipeline, expected.skip, expected.count)
            .await
            .map(Values::Many),
    };
    answered
        .map(|values| Reply::new(values, request.shape().clone()))
        .map_err(|error| {
            let error = Error::from(error);
            if tries_again::<C>() {
                error.executed(Executed::Maybe)
            } else {
                error
            }
        })
}

/// Whether a connection makes attempts of its own, to several nodes: that the last one found nobody says nothing of those before.
///
/// By its name: its type is there only where somebody asked `redis` for clusters, which need not be us.
fn tries_again<C>() -> bool {
    let name = type_name::<C>();
    let (path, _) = name.split_once('<').unwrap_or((name, ""));
    path.starts_with("redis::") && path.ends_with("::ClusterConnection")
}

/// The replies that were asked for, and what was refused among those that were not.
fn skipped(mut replies: Vec<Value>, expected: Expected) -> Values {
    let wanted = replies.split_off(expected.skip.min(replies.len()));
    let mut refused = Refusals::default();
    for (position, reply) in replies.into_iter().enumerate() {
        refused.note(position, reply);
    }
    if refused.is_empty() {
        Values::Many(wanted)
    } else {
        Values::Refused(wanted, Box::new(refused))
    }
}

/// Takes one command, an array of bulk strings, off the front of `bytes`.
fn command(bytes: &mut &[u8]) -> Option<Cmd> {
    let words = length(bytes, b'*')?;
    let mut cmd = Cmd::with_capacity(words, bytes.len().min(ARGUMENTS));
    for _ in 0..words {
        let len = length(bytes, b'$')?;
        cmd.arg(bytes.get(..len)?);
        *bytes = bytes.get(len..)?.strip_prefix(b"\r\n")?;
    }
    Some(cmd)
}

/// Takes a line off the front: `sign` and a number.
fn length(bytes: &mut &[u8], sign: u8) -> Option<usize> {
    let line = bytes.strip_prefix(&[sign])?;
    let end = line.iter().position(|byte| *byte == b'\r')?;
    let number = std::str::from_utf8(line.get(..end)?).ok()?.parse().ok()?;
    *bytes = line.get(end..)?.strip_prefix(b"\r\n")?;
    Some(number)
}

/// Room for the arguments of a common command. `redis` makes more where it is needed.
const ARGUMENTS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn again(request: &Request, single: bool) -> Option<Vec<u8>> {
        match Unpacked::new(request.packed(), request.expected(), single)? {
            Unpacked::One(cmd) => Some(cmd.get_packed_command()),
            Unpacked::Many(pipeline, expected) => {
                assert_eq!(expected, request.expected());
                assert_eq!(pipeline.len(), expected.owed());
                assert!(!pipeline.is_transaction());
                Some(pipeline.get_packed_pipeline())
            }
        }
    }

    #[test]
    fn what_is_packed_again_is_the_same_bytes() {
        let binary: Vec<u8> = (0..=255).chain(*b"\r\n$-1\r\n*0\r\n").collect();
        let large = vec![b'x'; 3 * ARGUMENTS];
        let mut set = redis::cmd("SET");
        set.arg(&binary).arg("").arg(large).arg(-1.5);
        let mut scan = redis::cmd("SCAN");
        scan.cursor_arg(17).arg("COUNT").arg(3);
        for cmd in [set.clone(), scan] {
            let request = Request::from(&cmd);
            assert_eq!(again(&request, true), Some(cmd.get_packed_command()));
        }
        let mut pipeline = redis::pipe();
        pipeline.add_command(set).cmd("PING").get("k");
        for pipeline in [pipeline.clone(), pipeline.atomic().clone(), redis::pipe()] {
            let request = Request::from(&pipeline);
            assert_eq!(again(&request, false), Some(pipeline.get_packed_pipeline()));
        }
    }

    #[test]
    fn a_transaction_is_an_atomic_pipeline_again() {
        let mut atomic = redis::pipe();
        atomic.atomic().get("k").cmd("INCR").arg("k");
        for request in [Request::from(&atomic), Request::slice(&atomic, 3, 1)] {
            let Some(Unpacked::Many(pipeline, expected)) = Unpacked::plain(&request) else {
                panic!("a pipeline");
            };
            assert!(pipeline.is_transaction() && pipeline.len() == 2);
            assert_eq!(expected, Expected { skip: 3, count: 1 });
            assert_eq!(pipeline.get_packed_pipeline(), atomic.get_packed_pipeline());
        }
    }

    #[test]
    fn a_connection_that_tries_again_is_known_by_its_name() {
        #[cfg(feature = "cluster")]
        assert!(tries_again::<redis::cluster_async::ClusterConnection>());
        assert!(!tries_again::<redis::aio::MultiplexedConnection>());
        assert!(!tries_again::<redis::aio::ConnectionManager>());
        assert!(!tries_again::<Vec<redis::aio::MultiplexedConnection>>());
    }

    #[test]
    fn what_redis_did_not_pack_is_not_guessed_at() {
        let one = Expected { skip: 0, count: 1 };
        for bytes in [
            &b"PING\r\n"[..],
            b"*1\r\n$4\r\nPIN",
            b"*1\r\n$-1\r\n",
            b"*2\r\n$4\r\nPING\r\n",
            b"*1\r\n$4\r\nPING\r\nmore",
        ] {
            let packed = Bytes::copy_from_slice(bytes);
            assert!(Unpacked::new(&packed, one, true).is_none(), "{bytes:?}");
        }
    }
}
