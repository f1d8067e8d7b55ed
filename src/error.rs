//! The one error of the crate: what failed, during which wait, where, for how long, and whether Redis may have seen the command.
//!
//! Owns [`Error`], [`ErrorKind`], [`Phase`] and the table of conversions to [`redis::RedisError`].
//! Promises: cloning is one reference count; the source chain survives the redis border; no key, value or secret is ever inside.
//! Leaves the decision to retry to the caller: [`Error::may_have_executed`] is the fact it needs.
//! Cannot fail. Where to look next: [`request`](crate::request) for what was asked, `channel` for who makes these.

use std::{
    borrow::Cow,
    error::Error as StdError,
    fmt, io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use redis::RedisError;

/// What kind of failure ended a call. A closed set, fit for a metric label; more may be added in a minor release.
///
/// ```
/// use redis_holdfast::{Error, ErrorKind};
///
/// /// What an HTTP API answers.
/// fn status(error: &Error) -> u16 {
///     match error.kind() {
///         ErrorKind::Timeout => 504,
///         ErrorKind::CircuitOpen | ErrorKind::Overloaded => 503,
///         _ => 500,
///     }
/// }
/// # let _ = status;
/// assert_eq!(ErrorKind::CircuitOpen.as_str(), "circuit_open");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call's deadline passed.
    Timeout,
    /// The circuit is open: the endpoint is known to be away, nothing was sent.
    CircuitOpen,
    /// This client already holds as many calls or bytes as it may; nothing was sent.
    Overloaded,
    /// The connection ended before the reply came.
    ConnectionLost,
    /// No address is known for the host name.
    Dns,
    /// No server that may serve this call is known.
    NoPrimary,
    /// No replica can be read from, and the call would have nothing else; nothing was sent.
    NoReplica,
    /// The server that answered does not have the role that was asked for.
    RoleMismatch,
    /// The server refused our credentials or permissions.
    Auth,
    /// TLS could not be agreed on.
    Tls,
    /// The peer does not speak Redis, or broke its protocol.
    Protocol,
    /// The request was refused as a whole, by the server (`LOADING`, `BUSY`, too many clients) or by this client (a command that
    /// would damage a shared connection).
    Refused,
    /// Redis answered with an error, or the reply does not have the type that was asked for.
    Redis,
}

impl ErrorKind {
    /// The kind as a metric label: lower case, words joined by `_`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::CircuitOpen => "circuit_open",
            Self::Overloaded => "overloaded",
            Self::ConnectionLost => "connection_lost",
            Self::Dns => "dns",
            Self::NoPrimary => "no_primary",
            Self::NoReplica => "no_replica",
            Self::RoleMismatch => "role_mismatch",
            Self::Auth => "auth",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::Refused => "refused",
            Self::Redis => "redis",
        }
    }
}

/// Which wait a call was in when it ended.
///
/// ```
/// use redis_holdfast::{Error, Phase};
///
/// /// Whether the network was reached at all: where to look first.
/// fn is_far(error: &Error) -> bool {
///     !matches!(error.phase(), Phase::Queue | Phase::Discovery | Phase::Dns)
/// }
/// # let _ = is_far;
/// assert_eq!(Phase::Handshake.as_str(), "handshake");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Inside this client: admission, or waiting for a connection.
    Queue,
    /// Asking the Sentinels who the primary is.
    Discovery,
    /// Looking up the host name.
    Dns,
    /// Opening the TCP connection.
    Connect,
    /// Agreeing on TLS.
    Tls,
    /// Authenticating and checking who answers.
    Handshake,
    /// Handing the request's bytes to the kernel.
    Write,
    /// Waiting for the reply.
    Reply,
}

impl Phase {
    /// The phase as a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Discovery => "discovery",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Handshake => "handshake",
            Self::Write => "write",
            Self::Reply => "reply",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Could the command have reached Redis?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Executed {
    /// No byte of it was handed to the kernel.
    Never,
    /// Its first byte was; nobody can know whether it ran.
    Maybe,
}

/// Why a call failed. One pointer: cloning it costs a reference count, and a refusal is a clone of an error made before.
///
/// At the `redis` border it travels inside an [`io::Error`] ([`RedisError::from`] this type); [`Error::find_in`] gets it back.
///
/// `Display` and `Debug` show no key, value or secret. The [source](StdError::source) of an error of kind [`Redis`](ErrorKind::Redis) is
/// redis' own error: the server's words, which may quote what was asked.
///
/// # Examples
/// ```
/// use redis_holdfast::{Client, Error, ErrorKind, Phase, redis};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), redis_holdfast::ConfigError> {
/// // Nobody listens there.
/// let mut redis = Client::builder("redis://127.0.0.1:1")?.build()?;
/// let error = redis::cmd("INCR").arg("hits").query_async::<u64>(&mut redis).await.unwrap_err();
/// let ours = Error::find_in(&error).expect("ours, inside redis' own");
/// assert_eq!((ours.kind(), ours.phase()), (ErrorKind::ConnectionLost, Phase::Connect));
/// assert_eq!(ours.endpoint(), Some("127.0.0.1:1"));
/// println!("{ours}, after {:?}", ours.waited());
/// assert!(!ours.may_have_executed(), "it is safe to count this hit elsewhere");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    told: Told,
    at_the_border: Border,
}

/// What an error says.
#[derive(Clone)]
struct Told {
    kind: ErrorKind,
    phase: Phase,
    executed: Executed,
    detail: Cow<'static, str>,
    endpoint: Option<Arc<str>>,
    waited: Duration,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The same error as `redis`' own, kept by one that is told over and over: a refusal, which an open circuit hands to every caller.
/// A changed copy is another error, and begins without.
#[derive(Default)]
struct Border(OnceLock<RedisError>);

impl Clone for Border {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, phase: Phase, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::telling(Told {
            kind,
            phase,
            executed: Executed::Never,
            detail: detail.into(),
            endpoint: None,
            waited: Duration::ZERO,
            source: None,
        })
    }

    fn telling(told: Told) -> Self {
        let at_the_border = Border::default();
        Self(Arc::new(Inner {
            told,
            at_the_border,
        }))
    }

    /// What it says, to be changed.
    fn told(&mut self) -> &mut Told {
        let inner = Arc::make_mut(&mut self.0);
        inner.at_the_border = Border::default();
        &mut inner.told
    }

    /// Nobody could wake the caller at its deadline.
    pub(crate) fn homeless() -> Self {
        Self::new(
            ErrorKind::Refused,
            Phase::Queue,
            "called outside a tokio runtime",
        )
    }

    /// The code of the server's error reply, if it is one.
    pub(crate) fn code(&self) -> Option<&str> {
        let source = self.0.told.source.as_deref()?;
        source.downcast_ref::<RedisError>()?.code()
    }

    pub(crate) fn at(mut self, endpoint: &Arc<str>) -> Self {
        self.told().endpoint = Some(endpoint.clone());
        self
    }

    pub(crate) fn after(mut self, waited: Duration) -> Self {
        self.told().waited = waited;
        self
    }

    pub(crate) fn executed(mut self, executed: Executed) -> Self {
        self.told().executed = executed;
        self
    }

    pub(crate) fn because(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.told().source = Some(Arc::new(source));
        self
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.told.kind
    }

    /// The wait that the call was in.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.0.told.phase
    }

    /// What it was for, without credentials, where that was chosen: `host:port`, the path of a socket, `sentinel:NAME` of a primary that Sentinels
    /// know; under a guard the guard's name.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.0.told.endpoint.as_deref()
    }

    /// How long the call had waited; zero for a refusal.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.0.told.waited
    }

    /// The kind of the I/O error behind it, if one is.
    pub(crate) fn io_kind(&self) -> Option<io::ErrorKind> {
        self.0
            .told
            .source
            .as_deref()?
            .downcast_ref::<io::Error>()
            .map(io::Error::kind)
    }

    /// What happened, in a few words, without the source.
    pub(crate) fn detail(&self) -> &str {
        &self.0.told.detail
    }

    /// Whether the command may have run on the server. `false` is certain: no byte of it left this process.
    /// For an error that Redis itself sent ([`ErrorKind::Redis`]) it is `true`: the server has seen the command.
    #[must_use]
    pub fn may_have_executed(&self) -> bool {
        self.0.told.executed == Executed::Maybe
    }

    /// Whether the call's deadline passed.
    ///
    /// ```
    /// # use redis_holdfast::{Client, Error, redis};
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// # let redis = Client::builder(&format!("redis://{}", silent.local_addr()?))?.build()?;
    /// let mut hurried = redis.with_call_timeout(Duration::from_millis(20));
    /// let late = redis::cmd("GET").arg("price").query_async::<u64>(&mut hurried).await.unwrap_err();
    /// assert!(Error::find_in(&late).is_some_and(Error::is_timeout));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.0.told.kind == ErrorKind::Timeout
    }

    /// Whether the call was refused because the endpoint is known to be away.
    #[must_use]
    pub fn is_circuit_open(&self) -> bool {
        self.0.told.kind == ErrorKind::CircuitOpen
    }

    /// Whether the call was refused because this client holds as many calls or bytes as it may.
    ///
    /// ```
    /// # use redis_holdfast::{Client, Request, redis};
    /// # use tower::Service;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), redis_holdfast::ConfigError> {
    /// let mut service = Client::builder("redis://cache.internal")?.max_in_flight(1).build()?.service();
    /// let _held = service.call(Request::from(&redis::cmd("PING")));
    /// let refused = service.call(Request::from(&redis::cmd("PING"))).await.unwrap_err();
    /// assert!(refused.is_overloaded() && !refused.may_have_executed());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn is_overloaded(&self) -> bool {
        self.0.told.kind == ErrorKind::Overloaded
    }

    /// Our error inside a redis one, if it came from this crate.
    ///
    /// ```
    /// # fn handle(error: redis_holdfast::redis::RedisError) {
    /// if redis_holdfast::Error::find_in(&error).is_some_and(redis_holdfast::Error::is_circuit_open) {
    ///     // answer 503 now
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn find_in(error: &RedisError) -> Option<&Self> {
        // redis hands out its source as `Arc<dyn Error>`, which hides the io::Error from a plain downcast.
        let source = error
            .source()?
            .downcast_ref::<Arc<dyn StdError + Send + Sync>>()?;
        source
            .downcast_ref::<io::Error>()?
            .get_ref()?
            .downcast_ref::<Self>()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.told.detail)?;
        write!(f, " (phase {}", self.0.told.phase)?;
        if let Some(endpoint) = &self.0.told.endpoint {
            write!(f, ", endpoint {endpoint}")?;
        }
        if !self.0.told.waited.is_zero() {
            write!(f, ", waited {:?}", self.0.told.waited)?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.told.kind)
            .field("phase", &self.0.told.phase)
            .field("detail", &self.0.told.detail)
            .field("endpoint", &self.0.told.endpoint)
            .field("waited", &self.0.told.waited)
            .field("may_have_executed", &self.may_have_executed())
            .field("source", &self.0.told.source.as_deref().map(Unquoted))
            .finish()
    }
}

/// A source as `Debug` shows it: redis' own errors without their words, which may quote a key or a value. Who asks the source itself
/// gets them.
struct Unquoted<'a>(&'a (dyn StdError + Send + Sync + 'static));

impl fmt::Debug for Unquoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.downcast_ref::<RedisError>() {
            Some(redis) => write!(f, "RedisError({:?})", redis.kind()),
            None => fmt::Debug::fmt(self.0, f),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .told
            .source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

/// The one table at the redis border. The io kind decides what redis' own retry helpers think: `TimedOut` and `ConnectionAborted`
/// may be tried again, `Unsupported` and `PermissionDenied` mean *do not retry*. A server's error stays redis' own.
impl From<Error> for RedisError {
    fn from(error: Error) -> Self {
        let told = &error.0.told;
        if let Some(redis) = told
            .source
            .as_deref()
            .and_then(|source| source.downcast_ref::<Self>())
            && told.kind == ErrorKind::Redis
        {
            return redis.clone();
        }
        // Somebody else holds it too: one that was made before, and will be told again.
        if Arc::strong_count(&error.0) > 1 {
            let kept = error.0.at_the_border.0.get_or_init(|| {
                // A copy of it is inside: itself, it would hold itself.
                let copy = Error::telling(told.clone());
                Self::from(io::Error::new(io_kind(told.kind), copy))
            });
            return kept.clone();
        }
        Self::from(io::Error::new(io_kind(told.kind), error))
    }
}

fn io_kind(kind: ErrorKind) -> io::ErrorKind {
    match kind {
        ErrorKind::Timeout => io::ErrorKind::TimedOut,
        ErrorKind::ConnectionLost => io::ErrorKind::ConnectionAborted,
        ErrorKind::Auth => io::ErrorKind::PermissionDenied,
        ErrorKind::Redis
        | ErrorKind::CircuitOpen
        | ErrorKind::Overloaded
        | ErrorKind::Dns
        | ErrorKind::NoPrimary
        | ErrorKind::NoReplica
        | ErrorKind::RoleMismatch
        | ErrorKind::Tls
        | ErrorKind::Protocol
        | ErrorKind::Refused => io::ErrorKind::Unsupported,
    }
}

/// What `redis` says of a call, as ours: `Timeout`, `ConnectionLost` or `Auth` where its connection failed; else `Redis`, a server's error or a reply
/// that does not convert, as it stands. Ours, travelling inside, is taken out again.
///
/// [`Error::may_have_executed`] is what `redis` lets us know: unless the connection was refused, it may have run. A service that makes several
/// attempts of its own is believed in its last one.
impl From<RedisError> for Error {
    fn from(error: RedisError) -> Self {
        if let Some(ours) = Self::find_in(&error) {
            return ours.clone();
        }
        let (lost, maybe) = (ErrorKind::ConnectionLost, Executed::Maybe);
        let (kind, phase, executed, detail) = if error.is_connection_refusal() {
            (lost, Phase::Connect, Executed::Never, "connection refused")
        } else if error.is_timeout() {
            let detail = "connection's own timeout passed";
            (ErrorKind::Timeout, Phase::Reply, maybe, detail)
        } else if error.is_io_error() || error.is_connection_dropped() {
            (lost, Phase::Reply, maybe, "connection failed")
        } else if error.kind() == redis::ErrorKind::ClusterConnectionNotFound {
            // Said after its own attempts, of which an earlier one may have found a connection.
            (lost, Phase::Connect, maybe, "no connection to any node")
        } else if error.kind() == redis::ErrorKind::AuthenticationFailed {
            let detail = "server refused the credentials";
            (ErrorKind::Auth, Phase::Handshake, Executed::Never, detail)
        } else {
            let detail = "redis answered with an error";
            (ErrorKind::Redis, Phase::Reply, maybe, detail)
        };
        Self::new(kind, phase, detail)
            .executed(executed)
            .because(error)
    }
}

/// The error of a foreign layer, which is a box: ours or redis' own, if it is inside, else `tower`'s that we know; any other is `Refused`, and
/// nobody can know whether the command ran.
impl From<Box<dyn StdError + Send + Sync>> for Error {
    fn from(error: Box<dyn StdError + Send + Sync>) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(ours) => return *ours,
            Err(error) => error,
        };
        let error = match error.downcast::<RedisError>() {
            Ok(redis) => return (*redis).into(),
            Err(error) => error,
        };
        let (kind, phase, executed, detail) = if error.is::<tower::timeout::error::Elapsed>() {
            let detail = "a timeout below passed";
            (ErrorKind::Timeout, Phase::Reply, Executed::Maybe, detail)
        } else if error.is::<tower::load_shed::error::Overloaded>() {
            let detail = "a layer below sheds load";
            (ErrorKind::Overloaded, Phase::Queue, Executed::Never, detail)
        } else {
            let detail = "a layer below failed";
            (ErrorKind::Refused, Phase::Queue, Executed::Maybe, detail)
        };
        let mut ours = Self::new(kind, phase, detail).executed(executed);
        ours.told().source = Some(Arc::from(error));
        ours
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::{ErrorKind as RedisKind, RetryMethod};

    fn error(kind: ErrorKind) -> Error {
        let endpoint: Arc<str> = Arc::from("redis.internal:6379");
        Error::new(kind, Phase::Reply, "server silent")
            .at(&endpoint)
            .after(Duration::from_millis(250))
            .because(io::Error::other("cause"))
    }

    #[test]
    fn the_table_at_the_redis_border_keeps_the_error_and_says_what_redis_must_think() {
        let no_retry = |method: RetryMethod| matches!(method, RetryMethod::NoRetry);
        for (kind, timeout, dropped, stop) in [
            (ErrorKind::Timeout, true, false, false),
            (ErrorKind::ConnectionLost, false, true, false),
            (ErrorKind::CircuitOpen, false, false, true),
            (ErrorKind::Overloaded, false, false, true),
            (ErrorKind::Dns, false, false, true),
            (ErrorKind::NoPrimary, false, false, true),
            (ErrorKind::NoReplica, false, false, true),
            (ErrorKind::RoleMismatch, false, false, true),
            (ErrorKind::Tls, false, false, true),
            (ErrorKind::Protocol, false, false, true),
            (ErrorKind::Refused, false, false, true),
            (ErrorKind::Auth, false, false, true),
        ] {
            let redis = RedisError::from(error(kind));
            assert_eq!(redis.kind(), RedisKind::Io, "{kind:?}");
            assert_eq!(redis.is_timeout(), timeout, "{kind:?}");
            assert_eq!(redis.is_connection_dropped(), dropped, "{kind:?}");
            assert_eq!(no_retry(redis.retry_method()), stop, "{kind:?}");
            let found = Error::find_in(&redis).expect("our error is inside");
            assert_eq!((found.kind(), found.phase()), (kind, Phase::Reply));
            assert_eq!(Error::from(redis).kind(), kind, "back again");
        }
    }

    #[test]
    fn a_servers_error_stays_redis_own() {
        let server = redis::parse_redis_value(b"-READONLY no writes here\r\n")
            .and_then(redis::Value::extract_error)
            .expect_err("an error reply");
        let code = server.code().map(str::to_owned);
        let there_and_back = RedisError::from(Error::from(server));
        assert_eq!(there_and_back.code().map(str::to_owned), code);
        assert!(Error::find_in(&there_and_back).is_none());
    }

    #[test]
    fn what_redis_says_of_a_connection_is_what_failed() {
        let io = |kind| Error::from(RedisError::from(io::Error::from(kind)));
        for (kind, ours, phase, maybe) in [
            (
                io::ErrorKind::ConnectionRefused,
                ErrorKind::ConnectionLost,
                Phase::Connect,
                false,
            ),
            (
                io::ErrorKind::ConnectionReset,
                ErrorKind::ConnectionLost,
                Phase::Reply,
                true,
            ),
            (
                io::ErrorKind::UnexpectedEof,
                ErrorKind::ConnectionLost,
                Phase::Reply,
                true,
            ),
            (
                io::ErrorKind::TimedOut,
                ErrorKind::Timeout,
                Phase::Reply,
                true,
            ),
        ] {
            let error = io(kind);
            assert_eq!((error.kind(), error.phase()), (ours, phase), "{kind:?}");
            assert_eq!(error.may_have_executed(), maybe, "{kind:?}");
        }
        let (auth, words) = (RedisKind::AuthenticationFailed, "no");
        let auth = Error::from(RedisError::from((auth, words)));
        assert_eq!(
            (auth.kind(), auth.may_have_executed()),
            (ErrorKind::Auth, false)
        );
        let server = redis::parse_redis_value(b"-NOAUTH first say who\r\n")
            .and_then(redis::Value::extract_error)
            .expect_err("an error reply");
        assert_eq!(Error::from(server).kind(), ErrorKind::Redis);
    }

    #[test]
    fn the_chain_of_sources_says_no_sentence_twice() {
        let error = error(ErrorKind::Timeout);
        let own = error.to_string();
        let source = error.source().expect("a source").to_string();
        assert!(!own.contains(&source), "{own} repeats {source}");
        assert_eq!(
            own,
            "server silent (phase reply, endpoint redis.internal:6379, waited 250ms)"
        );
    }

    #[test]
    fn debug_never_quotes_the_words_of_a_server_and_the_source_still_has_them() {
        let server = redis::parse_redis_value(b"-ERR unknown command 'canary'\r\n")
            .and_then(redis::Value::extract_error)
            .expect_err("an error reply");
        let error = Error::from(server);
        assert!(!format!("{error:?} {error:#?} {error}").contains("canary"));
        assert!(
            format!("{error:?}").contains("RedisError(Server(ResponseError))"),
            "{error:?}"
        );
        let source = error.source().expect("the server's words").to_string();
        assert!(source.contains("canary"), "{source}");
    }

    #[test]
    fn one_that_is_told_again_is_made_redis_own_once_and_a_changed_copy_is_another() {
        let refusal = error(ErrorKind::CircuitOpen);
        let inside = |redis: &RedisError| {
            let found = Error::find_in(redis).expect("ours");
            (found.kind(), found.waited(), Arc::as_ptr(&found.0))
        };
        let (one, two) = (
            RedisError::from(refusal.clone()),
            RedisError::from(refusal.clone()),
        );
        assert_eq!(inside(&one), inside(&two), "made once");
        let later = refusal.clone().after(Duration::from_secs(7));
        let later = (later.clone(), RedisError::from(later)).1;
        assert_eq!(
            inside(&later).1,
            Duration::from_secs(7),
            "says what it says"
        );
        drop((one, two, later));
        let weak = Arc::downgrade(&refusal.0);
        drop(refusal);
        assert!(weak.upgrade().is_none(), "it does not hold itself");
    }

    #[test]
    fn an_error_is_one_pointer() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
