//! The first words on a new connection: who we are, who answers, and one normal command as the last word.
//!
//! Owns the introduction ([`Introduction`]) and what the server says of itself ([`Greeting`]). Promises: a link that comes out of here
//! has answered a normal command (`HELLO` succeeds while a server is busy or loads its data, and proves nothing); a peer that is not
//! a Redis is named as such; no secret reaches an error. A silent peer is nudged with a `PING` now and then, so that a path which
//! swallowed our first words shows itself when it wakes. Leaves the time limit to the caller: the handshake ends when the socket does.
//! Fails by kind, phase `handshake`.

use std::{future::poll_fn, time::Duration};

use bytes::BytesMut;
use redis::{Cmd, PushKind, Value, cmd};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, sleep},
};
use tokio_util::io::poll_read_buf;

use super::{
    codec::{Decoder, Frame, Limits},
    driver::Start,
    socket::Socket,
};
use crate::{Error, ErrorKind, Phase};

/// A silent peer is asked again this often, on the same connection: asking costs it no new one.
const NUDGE: Duration = Duration::from_millis(300);
/// Whoever answers may say so much before we trust it with more.
const INTRODUCTION: usize = 1 << 20;
/// At most this many nudges wait for an answer.
const NUDGES: usize = 64;

/// What we say first.
#[derive(Clone)]
pub(crate) struct Introduction {
    pub(crate) resp3: bool,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) db: i64,
    pub(crate) name: Option<String>,
    pub(crate) peer: Peer,
}

/// Whom we expect to meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A Redis server, whatever its role.
    Server,
    /// One that says it is a primary.
    Primary,
    /// One that says it is a replica.
    Replica,
    /// A Sentinel, to whose events we listen where it speaks RESP3 and permits it.
    Sentinel,
}

/// What the server said of itself and of this connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Greeting {
    /// Who it is, where it may be asked.
    pub(crate) identity: Option<Identity>,
    /// How it knows this connection, where it may be asked.
    pub(crate) client: Option<ClientHandle>,
    /// The replication id that its data had before it became a primary.
    pub(crate) parent: Option<String>,
    /// How long it took to answer.
    pub(crate) round_trip: Duration,
}

impl Greeting {
    /// Whether its server has taken over from the one of `old`, with the same data.
    pub(crate) fn succeeds(&self, old: &Self) -> bool {
        let old = old.identity.as_ref().map(|old| &old.replication_id);
        old.is_some() && self.parent.as_ref() == old
    }
}

/// Tells one server from another, and one life of a server from the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) run_id: String,
    pub(crate) replication_id: String,
    pub(crate) role: String,
}

/// A connection as the server knows it. Both are given to `CLIENT KILL`, so that a stranger behind the same address is never hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientHandle {
    pub(crate) id: u64,
    pub(crate) addr: String,
}

/// What a reply in the introduction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Hello,
    Auth,
    Select,
    /// Its refusal changes nothing.
    Courtesy,
    ClientInfo,
    InfoServer,
    InfoReplication,
    Role,
    /// Confirmed by a push, refused by a reply.
    Subscribe,
    LastWord,
}

impl Introduction {
    fn steps(&self) -> Vec<(Step, Cmd)> {
        let mut steps = Vec::with_capacity(8);
        if self.resp3 {
            let mut hello = cmd("HELLO");
            hello.arg(3);
            if let Some(password) = &self.password {
                hello
                    .arg("AUTH")
                    .arg(self.username.as_deref().unwrap_or("default"))
                    .arg(password);
            }
            steps.push((Step::Hello, hello));
        } else if let Some(password) = &self.password {
            let mut auth = cmd("AUTH");
            auth.arg(self.username.as_deref()).arg(password);
            steps.push((Step::Auth, auth));
        }
        for (key, value) in [
            ("LIB-NAME", "redis-holdfast"),
            ("LIB-VER", env!("CARGO_PKG_VERSION")),
        ] {
            steps.push((
                Step::Courtesy,
                cmd("CLIENT").arg("SETINFO").arg(key).arg(value).take(),
            ));
        }
        if let Some(name) = &self.name {
            steps.push((
                Step::Courtesy,
                cmd("CLIENT").arg("SETNAME").arg(name).take(),
            ));
        }
        if self.db != 0 {
            steps.push((Step::Select, cmd("SELECT").arg(self.db).take()));
        }
        if self.peer != Peer::Sentinel {
            steps.push((Step::ClientInfo, cmd("CLIENT").arg("INFO").take()));
        }
        steps.push((Step::InfoServer, cmd("INFO").arg("server").take()));
        if self.peer != Peer::Sentinel {
            steps.push((Step::InfoReplication, cmd("INFO").arg("replication").take()));
        }
        if matches!(self.peer, Peer::Primary | Peer::Replica) {
            // Late, so that it is fresh.
            steps.push((Step::Role, cmd("ROLE")));
        }
        if self.peer == Peer::Sentinel && self.resp3 {
            steps.push((Step::Subscribe, cmd("PSUBSCRIBE").arg("*").take()));
        }
        steps.push((Step::LastWord, cmd("PING")));
        steps
    }
}

/// Introduces us on `socket`.
pub(crate) async fn handshake<S: Socket>(
    mut socket: S,
    introduction: &Introduction,
) -> Result<(Start<S>, Greeting), Error> {
    let steps = introduction.steps();
    let mut words = Vec::with_capacity(512);
    for (_, command) in &steps {
        command.write_packed_command(&mut words);
    }
    let started = Instant::now();
    socket.write_all(&words).await.map_err(lost)?;
    let mut reader = Reader {
        socket,
        decoder: Decoder::new(Limits {
            total: INTRODUCTION,
            ..Limits::default()
        }),
        inbox: BytesMut::new(),
        nudges: 0,
        heard: false,
    };
    let mut greeting = Greeting::default();
    let (mut run_id, mut role) = (None, None);
    for (step, _) in steps {
        if step == Step::Subscribe {
            reader.subscribed().await?;
            continue;
        }
        let reply = reader.next().await?;
        if step != Step::LastWord && text(&reply) == Some("PONG") {
            // The answer to a nudge: our first words were swallowed on the way.
            return Err(lost(std::io::ErrorKind::InvalidData.into()));
        }
        match step {
            Step::Courtesy => check_alive(&reply)?,
            Step::ClientInfo => greeting.client = text(&reply).and_then(client_handle),
            Step::InfoServer => {
                let peer = introduction.peer;
                run_id = text(&reply)
                    .map(|info| run_id_of(info, peer))
                    .transpose()?
                    .flatten();
            }
            Step::InfoReplication => {
                let info = text(&reply).unwrap_or_default();
                role = field(info, "role").map(str::to_owned);
                greeting.parent = field(info, "master_replid2").map(str::to_owned);
                greeting.identity = run_id.take().and_then(|run_id| identity(run_id, info));
            }
            Step::Role => {
                check_role(role_of(&reply).or(role.as_deref()), introduction.peer)?;
            }
            // Its confirmation is no reply.
            Step::Subscribe => {}
            Step::Hello | Step::Auth | Step::Select => check(step, reply)?,
            Step::LastWord => check_last_word(reply)?,
        }
    }
    greeting.round_trip = started.elapsed();
    let Reader {
        socket,
        inbox,
        nudges,
        ..
    } = reader;
    Ok((
        Start {
            socket,
            decoder: Decoder::new(Limits::default()),
            inbox,
            owed: nudges,
        },
        greeting,
    ))
}

/// Reads the answers to our nudges that are still to come, for a driver that does not know of them.
pub(crate) async fn hear_out<S: Socket>(start: Start<S>) -> Result<Start<S>, Error> {
    let mut reader = Reader {
        socket: start.socket,
        decoder: start.decoder,
        inbox: start.inbox,
        nudges: NUDGES,
        heard: true,
    };
    for _ in 0..start.owed {
        reader.next().await?;
    }
    Ok(Start {
        socket: reader.socket,
        decoder: reader.decoder,
        inbox: reader.inbox,
        owed: 0,
    })
}

struct Reader<S> {
    socket: S,
    decoder: Decoder,
    inbox: BytesMut,
    nudges: usize,
    heard: bool,
}

impl<S: Socket> Reader<S> {
    /// Waits for the word that events will come, or will not.
    async fn subscribed(&mut self) -> Result<(), Error> {
        loop {
            match self.frame().await? {
                Frame::Push(Value::Push {
                    kind: PushKind::PSubscribe,
                    ..
                })
                | Frame::Reply(Value::ServerError(_)) => return Ok(()),
                Frame::Push(_) => {}
                Frame::Reply(_) | Frame::TooLarge { .. } => return Err(not_redis()),
            }
        }
    }

    async fn next(&mut self) -> Result<Value, Error> {
        loop {
            match self.frame().await? {
                Frame::Reply(value) => return Ok(value),
                Frame::Push(_) => {}
                Frame::TooLarge { .. } => return Err(not_redis()),
            }
        }
    }

    async fn frame(&mut self) -> Result<Frame, Error> {
        loop {
            match self.decoder.decode(&mut self.inbox) {
                Ok(Some(frame)) => return Ok(frame),
                // So much is announced that it would be skipped: its end need not be waited for.
                Ok(None) if self.decoder.is_skipping() => return Err(not_redis()),
                Ok(None) => self.read().await?,
                Err(malformed) => return Err(not_redis().because(malformed)),
            }
        }
    }

    /// Reads more bytes; asks again where the peer stays silent.
    async fn read(&mut self) -> Result<(), Error> {
        loop {
            tokio::select! {
                read = poll_fn(|cx| poll_read_buf(std::pin::Pin::new(&mut self.socket), cx, &mut self.inbox)) => {
                    self.heard = true;
                    return match read {
                        Ok(0) => Err(lost(std::io::ErrorKind::UnexpectedEof.into())),
                        Ok(_) => Ok(()),
                        Err(error) => Err(lost(error)),
                    };
                }
                () = sleep(NUDGE), if !self.heard && self.nudges < NUDGES => {
                    self.nudges += 1;
                    self.socket.write_all(b"*1\r\n$4\r\nPING\r\n").await.map_err(lost)?;
                }
            }
        }
    }
}

fn lost(error: std::io::Error) -> Error {
    Error::new(
        ErrorKind::ConnectionLost,
        Phase::Handshake,
        "connection ended during the handshake",
    )
    .because(error)
}

fn not_redis() -> Error {
    Error::new(
        ErrorKind::Protocol,
        Phase::Handshake,
        "peer does not speak the redis protocol",
    )
}

/// Errors that any command may get before the server is ready for us, or because it will never be.
fn check_alive(reply: &Value) -> Result<(), Error> {
    let Value::ServerError(error) = reply else {
        return Ok(());
    };
    if error.code() == "DENIED" {
        // Protected mode: the answer to whatever was said first, and the end.
        let error = Error::new(ErrorKind::Auth, Phase::Handshake, "server denies us access");
        return Err(error.because(redis_error(reply)));
    }
    let refused = matches!(
        error.code(),
        "LOADING" | "BUSY" | "MASTERDOWN" | "TRYAGAIN" | "CLUSTERDOWN"
    ) || error
        .details()
        .is_some_and(|details| details.contains("max number of clients"));
    if refused {
        return Err(Error::new(
            ErrorKind::Refused,
            Phase::Handshake,
            "server is alive but refuses for now",
        )
        .because(redis_error(reply)));
    }
    Ok(())
}

fn check(step: Step, reply: Value) -> Result<(), Error> {
    check_alive(&reply)?;
    let Value::ServerError(error) = &reply else {
        return Ok(());
    };
    let (kind, detail) = match (step, error.code()) {
        (_, "NOAUTH" | "WRONGPASS" | "NOPERM") | (Step::Auth, _) => {
            (ErrorKind::Auth, "server refused our credentials")
        }
        (Step::Hello, _) => (ErrorKind::Protocol, "server does not speak RESP3"),
        _ => (ErrorKind::Refused, "server refused the database"),
    };
    let error = Error::new(kind, Phase::Handshake, detail);
    // A server that does not know HELLO or AUTH may quote its arguments: the password must not travel on in an error.
    Err(match step {
        Step::Hello | Step::Auth => error,
        _ => error.because(redis_error(&reply)),
    })
}

fn check_last_word(reply: Value) -> Result<(), Error> {
    check_alive(&reply)?;
    match &reply {
        Value::ServerError(error) => match error.code() {
            "NOAUTH" | "WRONGPASS" => Err(Error::new(
                ErrorKind::Auth,
                Phase::Handshake,
                "server wants credentials that we do not have",
            )
            .because(redis_error(&reply))),
            // NOPERM, MISCONF and their like: it answers commands, if not this one.
            _ => Ok(()),
        },
        reply => match text(reply) {
            Some("PONG") => Ok(()),
            _ => Err(not_redis()),
        },
    }
}

fn redis_error(reply: &Value) -> redis::RedisError {
    match reply.clone().extract_error() {
        Err(error) => error,
        Ok(_) => (redis::ErrorKind::Client, "unexpected reply").into(),
    }
}

fn text(reply: &Value) -> Option<&str> {
    match reply {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

/// A field of an `INFO`.
pub(crate) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim_end)
}

fn run_id_of(info: &str, peer: Peer) -> Result<Option<String>, Error> {
    let stranger = |phase, detail| Err(Error::new(ErrorKind::Protocol, phase, detail));
    match (field(info, "redis_mode"), peer) {
        (Some("sentinel"), Peer::Server | Peer::Primary | Peer::Replica) => {
            return stranger(Phase::Handshake, "peer is a Sentinel, not a Redis server");
        }
        (Some(mode), Peer::Sentinel) if mode != "sentinel" => {
            return stranger(Phase::Discovery, "peer is a Redis server, not a Sentinel");
        }
        _ => {}
    }
    Ok(field(info, "run_id").map(str::to_owned))
}

fn identity(run_id: String, replication: &str) -> Option<Identity> {
    Some(Identity {
        run_id,
        replication_id: field(replication, "master_replid")?.to_owned(),
        role: field(replication, "role")?.to_owned(),
    })
}

fn role_of(reply: &Value) -> Option<&str> {
    match reply {
        Value::Array(parts) => text(parts.first()?),
        _ => None,
    }
}

fn check_role(role: Option<&str>, wanted: Peer) -> Result<(), Error> {
    let detail = match (role, wanted) {
        (Some("master"), Peer::Replica) => "server is a primary, not a replica",
        (Some("master"), _) | (Some("slave"), Peer::Replica) => return Ok(()),
        (Some(_), Peer::Replica) => "server is no replica",
        (Some(_), _) => "server is a replica, not a primary",
        (None, _) => "server does not tell its role",
    };
    Err(Error::new(
        ErrorKind::RoleMismatch,
        Phase::Handshake,
        detail,
    ))
}

fn client_handle(info: &str) -> Option<ClientHandle> {
    let value = |name: &str| {
        info.split_ascii_whitespace()
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    Some(ClientHandle {
        id: value("id")?.parse().ok()?,
        addr: value("addr")?.to_owned(),
    })
}
