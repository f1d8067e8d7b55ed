//! What goes in and what comes out: [`Request`] and [`Reply`].
//!
//! Owns the packed bytes of a command or pipeline, how many replies they are owed, and the way from a [`Value`] to a user's type.
//! Promises: a command is packed once, however often it is cloned; `Debug` prints the command's name and sizes, never a key or value.
//! Leaves the meaning of commands to [`commands`]. Parsing fails as redis' own parsing does.

pub(crate) mod commands;
mod extensions;
mod pack;
mod read_from;
mod refused;
mod replay;

use std::{
    fmt, future::Future, pin::pin, sync::Arc, task::Context, task::Poll, task::Waker,
    time::Duration,
};

use bytes::Bytes;
use redis::{
    Cmd, FromRedisValue, ParsingError, Pipeline, RedisError, RedisFuture, RedisResult, ServerError,
    Value, aio::ConnectionLike, from_redis_value,
};

use tokio::time::Instant;

use crate::{
    Error,
    deadline::Deadline,
    request::commands::{Command, Effect},
};

pub use extensions::Extensions;
pub use read_from::ReadFrom;
pub(crate) use refused::Refusals;
pub use replay::Replay;
pub(crate) use replay::{Reached, may_repeat};

/// One command or pipeline, packed once and cheap to clone.
///
/// ```
/// use redis_holdfast::{ReadFrom, Replay, Request, redis};
/// use std::time::Duration;
///
/// let request = Request::from(redis::cmd("GET").arg("greeting"));
/// assert_eq!(request.command(), "GET");
/// assert_eq!(format!("{request:?}"), "Request { command: \"GET\", bytes: 27, timeout: None }");
///
/// // What it wants otherwise than its client.
/// let mut request = request
///     .with_timeout(Duration::from_millis(50))
///     .with_read_from(ReadFrom::PreferReplica)
///     .with_replay(Replay::Never);
/// assert_eq!(request.timeout(), Some(Duration::from_millis(50)));
/// assert_eq!((request.read_from(), request.replay()), (Some(ReadFrom::PreferReplica), Some(Replay::Never)));
///
/// // What one layer tells another.
/// struct Tenant(u32);
/// request.extensions_mut().insert(Tenant(7));
/// assert_eq!(request.extensions().get::<Tenant>().map(|Tenant(id)| *id), Some(7));
/// ```
#[derive(Clone)]
pub struct Request {
    packed: Bytes,
    expected: Expected,
    shape: Shape,
    command: &'static Command,
    effect: Effect,
    reads: bool,
    time: Time,
    rare: Option<Box<Rare>>,
}

/// What the layers above have read off the clock.
enum Time {
    Unread,
    /// The call began then, and has no deadline yet.
    Begun(Instant),
    Due(Deadline),
}

impl Clone for Time {
    /// A copy of a request is another call: it shares the deadline above it, and begins anew.
    fn clone(&self) -> Self {
        match self {
            Self::Unread | Self::Begun(_) => Self::Unread,
            Self::Due(deadline) => Self::Due(*deadline),
        }
    }
}

/// What few requests carry, in a box of its own: every layer moves the request.
#[derive(Clone, Default)]
struct Rare {
    timeout: Option<Duration>,
    refusal: Option<&'static str>,
    extensions: Extensions,
}

impl Rare {
    fn refused(why: Option<&'static str>) -> Option<Box<Self>> {
        let rare = |why| Self {
            refusal: Some(why),
            ..Self::default()
        };
        why.map(rare).map(Box::new)
    }
}

/// The replies a request is owed: the first `skip` are read and dropped, the next `count` are its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) skip: usize,
    pub(crate) count: usize,
}

impl Expected {
    /// All replies the server will send for it.
    pub(crate) fn owed(self) -> usize {
        self.skip + self.count
    }
}

/// How the answer is handed out.
#[derive(Clone)]
pub(crate) enum Shape {
    /// One command: the value itself.
    Single,
    /// One command whose sender does not wait: answered with nil once written, its reply swallowed.
    NoResponse,
    /// A slice of a pipeline, as redis' trait asks for it: an array of values.
    Slice,
    /// A whole pipeline: parsed by redis' own rules (ignored commands, transactions).
    Pipeline(Arc<Pipeline>),
}

impl Request {
    /// The command's name in upper case, `PIPELINE` for a pipeline, `MULTI` for an atomic one, `OTHER` for a command we do not know.
    #[must_use]
    pub fn command(&self) -> &'static str {
        self.command.name
    }

    /// Gives this request its own timeout instead of the client's; it covers everything, admission included. Any value is taken as it
    /// is: zero ends the call in its first poll, and what is beyond the clock's range is as good as never.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.rare_mut().timeout = Some(timeout);
        self
    }

    /// The timeout given by [`with_timeout`](Self::with_timeout).
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.rare.as_ref()?.timeout
    }

    /// Values that layers attached to this request.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        static NONE: Extensions = Extensions::none();
        self.rare.as_ref().map_or(&NONE, |rare| &rare.extensions)
    }

    /// Values for the layers below, to read or change.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.rare_mut().extensions
    }

    fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Takes away what layers attached to it.
    pub(crate) fn detach(&mut self) -> Option<Extensions> {
        Some(self.rare.take()?.extensions)
    }

    /// When the call began, if a layer above has looked at the clock already. Under a deadline a call begins anew with each layer that
    /// asks.
    pub(crate) fn begun(&self) -> Option<Instant> {
        match self.time {
            Time::Begun(at) => Some(at),
            Time::Unread | Time::Due(_) => None,
        }
    }

    pub(crate) fn begin(&mut self, now: Instant) {
        if !matches!(self.time, Time::Due(_)) {
            self.time = Time::Begun(now);
        }
    }

    /// The deadline that the timeout layer gave it.
    pub(crate) fn deadline(&self) -> Option<Deadline> {
        match self.time {
            Time::Due(deadline) => Some(deadline),
            Time::Unread | Time::Begun(_) => None,
        }
    }

    pub(crate) fn set_deadline(&mut self, deadline: Deadline) {
        self.time = Time::Due(deadline);
    }

    pub(crate) fn with_deadline(mut self, deadline: Deadline) -> Self {
        self.set_deadline(deadline);
        self
    }

    pub(crate) fn packed(&self) -> &Bytes {
        &self.packed
    }

    pub(crate) fn expected(&self) -> Expected {
        self.expected
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// What running it twice would do, with what its sender says of it.
    pub(crate) fn effect(&self) -> Effect {
        match self.effect {
            Effect::Once if self.is_tagged_script() => Effect::Overwrite,
            effect => effect,
        }
    }

    /// Why this request may not ride a shared connection, if it may not.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        self.rare.as_ref()?.refusal
    }

    /// The slice of a pipeline's replies that redis' `ConnectionLike` asks for.
    pub(crate) fn slice(pipeline: &Pipeline, skip: usize, count: usize) -> Self {
        let mut request = Self::pipeline(pipeline, Expected { skip, count }, Shape::Slice);
        let replies = pipeline.len() + if pipeline.is_transaction() { 2 } else { 0 };
        if skip.saturating_add(count) != replies {
            // One reply too few or too many would give every later caller somebody else's.
            request.rare_mut().refusal =
                Some("offset and count do not add up to the pipeline's replies");
        }
        request
    }

    fn pipeline(pipeline: &Pipeline, expected: Expected, shape: Shape) -> Self {
        let verdict = commands::classify_pipeline(pipeline);
        Self {
            packed: Bytes::from(pipeline.get_packed_pipeline()),
            expected,
            shape,
            command: verdict.command,
            effect: verdict.effect,
            reads: verdict.reads,
            time: Time::Unread,
            rare: Rare::refused(verdict.refusal),
        }
    }
}

impl From<&Cmd> for Request {
    fn from(cmd: &Cmd) -> Self {
        let verdict = commands::classify(cmd);
        Self {
            packed: pack::pack(cmd),
            expected: Expected { skip: 0, count: 1 },
            shape: if cmd.is_no_response() {
                Shape::NoResponse
            } else {
                Shape::Single
            },
            command: verdict.command,
            effect: verdict.effect,
            reads: verdict.reads,
            time: Time::Unread,
            rare: Rare::refused(verdict.refusal),
        }
    }
}

impl From<&mut Cmd> for Request {
    fn from(cmd: &mut Cmd) -> Self {
        Self::from(&*cmd)
    }
}

impl From<Cmd> for Request {
    fn from(cmd: Cmd) -> Self {
        Self::from(&cmd)
    }
}

impl From<Pipeline> for Request {
    fn from(pipeline: Pipeline) -> Self {
        let expected = if pipeline.is_transaction() {
            Expected {
                skip: pipeline.len() + 1,
                count: 1,
            }
        } else {
            Expected {
                skip: 0,
                count: pipeline.len(),
            }
        };
        let pipeline = Arc::new(pipeline);
        Self::pipeline(&pipeline, expected, Shape::Pipeline(pipeline.clone()))
    }
}

impl From<&Pipeline> for Request {
    fn from(pipeline: &Pipeline) -> Self {
        Self::from(pipeline.clone())
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("command", &self.command.name)
            .field("bytes", &self.packed.len())
            .field("timeout", &self.timeout())
            .finish()
    }
}

/// What Redis answered. An error *reply* of a single command is still inside: [`Reply::parse`] turns it into an error.
///
/// ```
/// use redis_holdfast::{Error, Reply, Request, redis::{self, Value}};
/// use tower::{Service, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mut service = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::BulkString(b"good day".to_vec()))) });
/// // `service` is a client's, `client.service()`.
/// let reply: Reply = service.call(Request::from(redis::cmd("GET").arg("greeting"))).await?;
/// let greeting: Option<String> = reply.parse()?;
/// # assert_eq!(greeting.as_deref(), Some("good day"));
/// # Ok(()) }
/// ```
pub struct Reply {
    values: Values,
    shape: Shape,
}

/// One value or several: a single command's reply needs no vector.
#[derive(Debug)]
pub(crate) enum Values {
    One(Value),
    Many(Vec<Value>),
    /// Those of a transaction of which the server refused a part, and so the whole.
    Refused(Vec<Value>, Box<Refusals>),
}

impl Reply {
    pub(crate) fn new(values: Values, shape: Shape) -> Self {
        Self { values, shape }
    }

    /// Turns the reply into `T` by redis' own rules.
    ///
    /// # Errors
    /// [`ErrorKind::Redis`](crate::ErrorKind::Redis) with a [`redis::RedisError`] as its source: the server answered with an
    /// error, in its own words, or the reply does not convert to `T`, in words that do not quote it.
    ///
    /// ```
    /// use redis_holdfast::{ErrorKind, Reply, redis::Value};
    ///
    /// let seven = Reply::from(Value::BulkString(b"7".to_vec()));
    /// assert_eq!(seven.parse::<u64>()?, 7);
    /// let error = Reply::from(Value::BulkString(b"x".to_vec())).parse::<u64>().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Redis);
    /// # Ok::<(), redis_holdfast::Error>(())
    /// ```
    pub fn parse<T: FromRedisValue>(self) -> Result<T, Error> {
        match (self.shape, self.values) {
            (Shape::Pipeline(pipeline), values) => parse_pipeline(&pipeline, values),
            (_, values) => values
                .into_value()
                .extract_error()
                .and_then(|value| from_redis_value(value).map_err(Into::into))
                .map_err(unquoted::<T>),
        }
    }

    /// The value as the server sent it; error replies stay [`Value::ServerError`]. A pipeline's replies come as an array.
    ///
    /// ```
    /// use redis_holdfast::{Reply, redis::Value};
    ///
    /// assert_eq!(Reply::from(Value::Int(7)).into_value(), Value::Int(7));
    /// ```
    #[must_use]
    pub fn into_value(self) -> Value {
        self.values.into_value()
    }

    /// The code of the error reply that it is, if it is one.
    pub(crate) fn code(&self) -> Option<&str> {
        match &self.values {
            Values::One(Value::ServerError(error)) => Some(error.code()),
            _ => None,
        }
    }

    /// Whether its server says that it has not the data, or refuses the command because it is a replica.
    pub(crate) fn is_of_a_replica_that_cannot(&self) -> bool {
        let cannot = |value: &Value| {
            matches!(value, Value::ServerError(error)
                if matches!(error.code(), "MASTERDOWN" | "LOADING" | "READONLY"))
        };
        match &self.values {
            Values::One(value) => cannot(value),
            Values::Many(values) | Values::Refused(values, _) => values.iter().any(cannot),
        }
    }

    /// A pipeline's replies, as redis' own connections give them.
    pub(crate) fn into_replies(self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        self.values.into_replies(pipeline)
    }
}

/// A reply made here, for a fallback or a service of your own.
impl From<Value> for Reply {
    fn from(value: Value) -> Self {
        Self::new(Values::One(value), Shape::Single)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = match &self.values {
            Values::One(_) => 1,
            Values::Many(values) | Values::Refused(values, _) => values.len(),
        };
        f.debug_struct("Reply")
            .field("values", &values)
            .finish_non_exhaustive()
    }
}

impl Values {
    fn into_value(self) -> Value {
        match self {
            Self::One(value) => value,
            Self::Many(values) | Self::Refused(values, _) => Value::Array(values),
        }
    }

    /// Whether `is` holds for an error reply, however deep inside.
    pub(crate) fn has_error(&self, is: impl Fn(&ServerError) -> bool + Copy) -> bool {
        match self {
            Self::One(value) => holds_error(value, is),
            Self::Many(values) => values.iter().any(|value| holds_error(value, is)),
            Self::Refused(values, refusals) => {
                let refused = refusals.errors();
                refused.chain(values).any(|value| holds_error(value, is))
            }
        }
    }

    fn into_replies(self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        match self {
            Self::One(value) => Ok(vec![value]),
            Self::Refused(values, refusals) if pipeline.is_transaction() => {
                refusals.error().map_or(Ok(values), Err)
            }
            Self::Many(values) | Self::Refused(values, _) => Ok(values),
        }
    }
}

fn holds_error(value: &Value, is: impl Fn(&ServerError) -> bool + Copy) -> bool {
    let any = |values: &[Value]| values.iter().any(|value| holds_error(value, is));
    match value {
        Value::ServerError(error) => is(error),
        Value::Array(values) | Value::Set(values) => any(values),
        Value::Map(pairs) => pairs
            .iter()
            .any(|(key, value)| holds_error(key, is) || holds_error(value, is)),
        Value::Attribute { data, .. } => holds_error(data, is),
        _ => false,
    }
}

/// Redis keeps the rules for a pipeline's result to itself, so they are asked through a connection that has the answer already.
fn parse_pipeline<T: FromRedisValue>(pipeline: &Pipeline, values: Values) -> Result<T, Error> {
    let mut recorded = Recorded(Some(values.into_replies(pipeline)));
    let parsed = pin!(pipeline.query_async::<T>(&mut recorded))
        .poll(&mut Context::from_waker(Waker::noop()));
    match parsed {
        Poll::Ready(result) => result.map_err(unquoted::<T>),
        Poll::Pending => Err(Error::new(
            crate::ErrorKind::Protocol,
            crate::Phase::Reply,
            "a recorded reply was not ready",
        )),
    }
}

/// Redis' own error for a reply that does not convert quotes the reply; values are not for logs.
fn unquoted<T>(error: RedisError) -> Error {
    Error::from(match error.kind() {
        redis::ErrorKind::Parse => {
            ParsingError::from(format!("no `{}` in the reply", std::any::type_name::<T>())).into()
        }
        _ => error,
    })
}

/// Replies that have come already, for whoever asks first.
struct Recorded(Option<RedisResult<Vec<Value>>>);

impl Recorded {
    fn take(&mut self) -> RedisResult<Vec<Value>> {
        self.0.take().unwrap_or_else(|| Ok(Vec::new()))
    }
}

impl ConnectionLike for Recorded {
    fn req_packed_command<'a>(&'a mut self, _: &'a Cmd) -> RedisFuture<'a, Value> {
        let values = self.take();
        Box::pin(async move { values.map(Value::Array) })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        _: &'a Pipeline,
        _: usize,
        _: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let values = self.take();
        Box::pin(async move { values })
    }

    fn get_db(&self) -> i64 {
        0
    }
}
