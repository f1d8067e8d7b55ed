//! The handle that a service keeps: redis' own commands on top, the resilience stack below.
//!
//! Owns [`Client`], its [`Builder`] and [`ClientService`]. Promises: building does no I/O and cannot hang; every clone is the same client;
//! `AsyncCommands`, pipelines and scripts run unchanged. Leaves all resilience to `layer` and `channel`. Fails by [`Error`], which
//! travels inside [`redis::RedisError`] where redis' trait demands one.

use std::{fmt, future::ready, sync::Arc, time::Duration};

use redis::{Cmd, Pipeline, RedisFuture, Value, aio::ConnectionLike};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout_at},
};
use tower::Service;

use crate::{
    BreakerPolicy, Config, ConfigBuilder, ConfigError, Error, ErrorKind, Health, HealthState,
    HealthWatch, Phase, ReadFrom, Request, RetryPolicy, SentinelPolicy, Sentinels,
    adopt::{
        service_connection::empty,
        value_future::{ValueFuture, ValuesFuture},
    },
    channel::Sources,
    config::defaults,
    deadline::Deadline,
    dns::{DnsPolicy, Resolve},
    health::HealthCell,
    layer::{Connect, LinkConnector, ResilienceLayer, ResilienceService},
};

/// The stack of a [`Client`] as a tower service. Always ready; cheap to clone. Errors, cancel safety and metrics: [`ResilienceService`].
///
/// ```
/// use redis_holdfast::{Client, ClientService};
///
/// /// What a handler keeps.
/// struct Sessions {
///     redis: ClientService,
/// }
/// let redis = Client::builder("redis://cache.internal")?.build()?;
/// let sessions = Sessions { redis: redis.service() };
/// # let _ = sessions.redis;
/// # Ok::<(), redis_holdfast::ConfigError>(())
/// ```
pub type ClientService<C = LinkConnector> = ResilienceService<C>;

/// A Redis client that bounds every call.
///
/// It is a [`redis::aio::ConnectionLike`]: every `conn.get(k).await?` of [`redis::AsyncTypedCommands`] and [`redis::AsyncCommands`], every
/// pipeline and script runs on it unchanged. Clones share everything: caps, connection, circuit, health. The last one to go ends it.
/// `C` is what makes its connections: [`Builder::connector`].
///
/// # Errors
/// A call fails with a [`redis::RedisError`] that has an [`Error`] of any [kind](ErrorKind) but `Redis` inside ([`Error::find_in`]), or with the
/// server's own error. Commands that would harm the others on a shared connection are `Refused` before a byte is sent.
///
/// # Cancel safety
/// A call may be dropped at any moment; the [crate's guide](crate#cancel-safety) says what it leaves behind.
///
/// ```
/// use redis_holdfast::{Client, redis::{AsyncCommands, pipe}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let url = "redis://cache.internal:6379/0";
/// # let server = holdfast_lab::Embedded::start().await?;
/// # let url: &str = &server.url();
/// let mut redis = Client::builder(url)?.build()?;
/// # let mut redis = redis.with_call_timeout(std::time::Duration::from_secs(30)); // the machine may be busy
/// let hits: u64 = redis.incr("hits", 1).await?;
/// let (again, greeting): (u64, Option<String>) = pipe().incr("hits", 1).get("greeting").query_async(&mut redis).await?;
/// assert_eq!((hits, again, greeting), (1, 2, None));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client<C: Connect = LinkConnector> {
    service: ClientService<C>,
    health: Arc<HealthCell>,
    db: i64,
}

/// Collects the settings of a [`Client`]. Setters take and give the builder; [`build`](Self::build) checks them all.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use redis_holdfast::Client;
///
/// // No I/O: this runs where no Redis is.
/// let redis = Client::builder("redis://cache.internal:6379/0")?
///     .call_timeout(Duration::from_millis(250))
///     .name("sessions")
///     .build()?;
/// assert!(!redis.health().is_ready());
/// let faults = Client::builder("redis://cache.internal")?.max_in_flight(0).build().unwrap_err();
/// assert_eq!(faults.faults().len(), 1);
/// # Ok::<(), redis_holdfast::ConfigError>(())
/// ```
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder<C = LinkConnector> {
    config: ConfigBuilder,
    sources: Sources,
    connector: C,
}

impl Client {
    /// Starts a client for the server at `url`, for example `redis://user:pass@host:6379/0?protocol=resp3`, or for the primary that
    /// Sentinels watch, `redis+sentinel://user:pass@s-0:26379,s-1:26379,s-2:26379/orders/0`.
    ///
    /// # Errors
    /// The faults of the URL, all at once.
    pub fn builder(url: &str) -> Result<Builder, ConfigError> {
        Ok(Builder {
            config: Config::builder(url).with_sound_url()?,
            sources: Sources::default(),
            connector: LinkConnector::new(),
        })
    }

    /// A client with a finished configuration, for example from [`Config::from_env`].
    ///
    /// ```
    /// use redis_holdfast::{Client, Config};
    ///
    /// let config = Config::builder("redis://cache.internal:6379").name("hits").build()?;
    /// let redis = Client::from_config(config);
    /// assert_eq!(redis.health().endpoint(), "cache.internal:6379");
    /// # Ok::<(), redis_holdfast::ConfigError>(())
    /// ```
    #[must_use]
    pub fn from_config(config: Config) -> Self {
        Self::assemble(config, Sources::default(), LinkConnector::new())
    }
}

impl<C: Connect> Client<C> {
    fn assemble(config: Config, sources: Sources, connector: C) -> Self {
        let health = Arc::new(HealthCell::starting(&config));
        let db = config.db();
        let service = ResilienceLayer::new(config)
            .sources(sources)
            .health(health.clone())
            .build(connector);
        Self {
            service,
            health,
            db,
        }
    }

    /// The stack as a tower `Service<Request>`, to put other layers around it. Its errors are ours, unwrapped.
    ///
    /// ```
    /// use redis_holdfast::{Client, ErrorKind, Request, redis};
    /// use tower::Service;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), redis_holdfast::ConfigError> {
    /// let mut service = Client::builder("redis://cache.internal")?.build()?.service();
    /// // Would hold up everybody on a shared connection: refused before a byte is sent.
    /// let refused = service.call(Request::from(redis::cmd("BLPOP").arg("jobs").arg(0))).await;
    /// assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn service(&self) -> ClientService<C> {
        self.service.clone()
    }

    /// The same client, whose calls take at most `timeout` unless the request says otherwise. Legal from 1 ms to 1 h; values beyond are
    /// brought into that range.
    ///
    /// ```
    /// use std::time::Duration;
    /// # let redis = redis_holdfast::Client::builder("redis://cache.internal")?.build()?;
    /// let patient = redis.with_call_timeout(Duration::from_secs(5));
    /// # Ok::<(), redis_holdfast::ConfigError>(())
    /// ```
    #[must_use]
    pub fn with_call_timeout(&self, timeout: Duration) -> Self {
        let mut client = self.clone();
        let legal = defaults::CALL_TIMEOUT_LEGAL;
        client
            .service
            .set_call_timeout(timeout.clamp(*legal.start(), *legal.end()));
        client
    }

    /// The same client, whose reads are answered by whom `read_from` says unless the request says otherwise. Where the URL names a server
    /// itself there is no replica: [`ReadFrom::Replica`] is refused with `NoReplica` then.
    ///
    /// ```
    /// use redis_holdfast::ReadFrom;
    /// # let redis = redis_holdfast::Client::builder("redis+sentinel://s-0,s-1,s-2/orders")?.build()?;
    /// let catalogue = redis.with_read_from(ReadFrom::PreferReplica);
    /// # Ok::<(), redis_holdfast::ConfigError>(())
    /// ```
    #[must_use]
    pub fn with_read_from(&self, read_from: ReadFrom) -> Self {
        let mut client = self.clone();
        client.service.set_read_from(read_from);
        client
    }

    /// How the client fares. No I/O.
    ///
    /// ```
    /// # let redis = redis_holdfast::Client::builder("redis://cache.internal")?.build()?;
    /// let health = redis.health();
    /// assert_eq!((health.is_ready(), health.reason()), (false, "connecting for the first time"));
    /// # Ok::<(), redis_holdfast::ConfigError>(())
    /// ```
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.current()
    }

    /// Word of each change of [`health`](Self::health).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), redis_holdfast::ConfigError> {
    /// # let redis = redis_holdfast::Client::builder("redis://127.0.0.1:1")?.build()?;
    /// let mut watch = redis.watch_health();
    /// if let Some(health) = watch.changed().await {
    ///     println!("{health}"); // down for 0.0s: connection refused (connection_lost, phase connect, endpoint 127.0.0.1:1)
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn watch_health(&self) -> HealthWatch {
        self.health.watch()
    }

    /// Waits until calls are served ([`Health::is_ready`]), at most `within`. Starts the client if it was built outside a runtime.
    ///
    /// # Errors
    /// `Timeout`, phase `queue`, with the reason the client was down as its source. `Refused` outside a runtime.
    ///
    /// # Cancel safety
    /// It only watches.
    ///
    /// # Examples
    /// ```
    /// use std::{error::Error, time::Duration};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), redis_holdfast::ConfigError> {
    /// # let redis = redis_holdfast::Client::builder("redis://127.0.0.1:1")?.build()?;
    /// // Nobody listens there. Go on without: it heals by itself.
    /// let error = redis.wait_ready(Duration::from_millis(50)).await.unwrap_err();
    /// assert!(error.is_timeout() && error.source().is_some());
    /// # Ok(()) }
    /// ```
    pub async fn wait_ready(&self, within: Duration) -> Result<(), Error> {
        if Handle::try_current().is_err() {
            return Err(Error::homeless());
        }
        let (deadline, mut watch) = (Deadline::after(within), self.watch_health());
        self.service.route().wake();
        while !watch.current().is_ready() {
            if timeout_at(deadline.at(), watch.changed()).await.is_err() {
                let health = watch.current();
                let reason = Error::new(
                    health.kind().unwrap_or(ErrorKind::ConnectionLost),
                    health.phase().unwrap_or(Phase::Queue),
                    health.reason().to_owned(),
                );
                return Err(Error::new(
                    ErrorKind::Timeout,
                    Phase::Queue,
                    "client did not become ready",
                )
                .after(deadline.waited(Instant::now()))
                .because(reason));
            }
        }
        Ok(())
    }

    /// Refuses new calls (`Refused`, phase `queue`), lets those in flight end, and closes every connection; at most `within`, then by force.
    /// Says whether all ended by themselves. Concerns every clone. Outside a runtime there is no waiting: by force, at once.
    ///
    /// # Cancel safety
    /// The client goes on closing; only nobody forces it after `within`.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// use redis_holdfast::{Client, Error, redis};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), redis_holdfast::ConfigError> {
    /// let redis = Client::builder("redis://127.0.0.1:1")?.build()?;
    /// assert!(redis.shutdown(Duration::from_secs(1)).await);
    /// let late = redis::cmd("PING").query_async::<()>(&mut redis.clone()).await.unwrap_err();
    /// assert!(Error::find_in(&late).is_some_and(|error| !error.may_have_executed()));
    /// # Ok(()) }
    /// ```
    pub async fn shutdown(&self, within: Duration) -> bool {
        let deadline = Deadline::after(within);
        self.service.route().close();
        while !self.service.route().is_closed() {
            if deadline.is_past(Instant::now()) || Handle::try_current().is_err() {
                self.service.route().abort();
                return false;
            }
            // The supervisor's end has no bell: nobody but this method ever waits for it.
            sleep(Duration::from_millis(1).min(deadline.left(Instant::now()))).await;
        }
        self.service.route().seal();
        true
    }
}

impl<C> Builder<C> {
    /// See [`ConfigBuilder::call_timeout`].
    pub fn call_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.call_timeout(timeout))
    }

    /// See [`ConfigBuilder::max_in_flight`].
    pub fn max_in_flight(self, calls: usize) -> Self {
        self.with(|config| config.max_in_flight(calls))
    }

    /// See [`ConfigBuilder::name`].
    pub fn name(self, name: impl Into<String>) -> Self {
        self.with(|config| config.name(name))
    }

    /// See [`ConfigBuilder::detect_within`].
    pub fn detect_within(self, silence: Duration) -> Self {
        self.with(|config| config.detect_within(silence))
    }

    /// See [`ConfigBuilder::stall_after`].
    pub fn stall_after(self, silence: Duration) -> Self {
        self.with(|config| config.stall_after(silence))
    }

    /// See [`ConfigBuilder::connect_timeout`].
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.connect_timeout(timeout))
    }

    /// See [`ConfigBuilder::max_buffered_bytes`].
    pub fn max_buffered_bytes(self, bytes: usize) -> Self {
        self.with(|config| config.max_buffered_bytes(bytes))
    }

    /// See [`ConfigBuilder::read_from`].
    pub fn read_from(self, read_from: ReadFrom) -> Self {
        self.with(|config| config.read_from(read_from))
    }

    /// See [`ConfigBuilder::breaker`].
    pub fn breaker(self, policy: BreakerPolicy) -> Self {
        self.with(|config| config.breaker(policy))
    }

    /// See [`ConfigBuilder::retry`].
    pub fn retry(self, policy: RetryPolicy) -> Self {
        self.with(|config| config.retry(policy))
    }

    /// See [`ConfigBuilder::dns`].
    pub fn dns(self, policy: DnsPolicy) -> Self {
        self.with(|config| config.dns(policy))
    }

    /// See [`ConfigBuilder::sentinel`].
    pub fn sentinel(self, policy: SentinelPolicy) -> Self {
        self.with(|config| config.sentinel(policy))
    }

    /// Looks names up with `resolver` instead of the system's name servers.
    ///
    /// ```
    /// use redis_holdfast::{Client, dns::Hickory};
    ///
    /// let consul = Hickory::servers(["127.0.0.1:8600".parse().expect("an address")]);
    /// let redis = Client::builder("redis://cache.service.consul")?.resolver(consul).build()?;
    /// # Ok::<(), redis_holdfast::ConfigError>(())
    /// ```
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.sources.resolver = Some(Arc::new(resolver));
        self
    }

    /// Shares the connections to the Sentinels with other clients that are built with the same handle.
    ///
    /// ```
    /// use redis_holdfast::{Client, SentinelPolicy, Sentinels};
    ///
    /// let sentinels = Sentinels::new(); // optional: clients built with one handle share their connections to the Sentinels
    /// let redis = Client::builder("redis+sentinel://app:secret@s-0:26379,s-1:26379,s-2:26379/orders/0?sentinel_user=w&sentinel_password=x")?
    ///     .sentinel(SentinelPolicy::default())
    ///     .sentinels(&sentinels)
    ///     .build()?;
    /// # Ok::<(), redis_holdfast::ConfigError>(())
    /// ```
    pub fn sentinels(mut self, sentinels: &Sentinels) -> Self {
        self.sources.sentinels = Some(sentinels.clone());
        self
    }

    /// Makes connections with `connector`. Default [`LinkConnector`]; [`RedisConnector`](crate::RedisConnector) is the other.
    ///
    /// ```
    /// use redis_holdfast::{Client, RedisConnector};
    ///
    /// let redis: Client<RedisConnector> = Client::builder("redis://cache.internal")?.connector(RedisConnector::new()).build()?;
    /// # Ok::<(), redis_holdfast::ConfigError>(())
    /// ```
    pub fn connector<D: Connect>(self, connector: D) -> Builder<D> {
        Builder {
            config: self.config,
            sources: self.sources,
            connector,
        }
    }

    fn with(mut self, change: impl FnOnce(ConfigBuilder) -> ConfigBuilder) -> Self {
        self.config = change(self.config);
        self
    }

    /// Checks every setting and makes the client. Does no I/O; connecting begins in the background at once inside a runtime, else with
    /// the first call.
    ///
    /// # Errors
    /// Every fault at once.
    pub fn build(self) -> Result<Client<C>, ConfigError>
    where
        C: Connect,
    {
        let config = self.config.build()?;
        Ok(Client::assemble(config, self.sources, self.connector))
    }
}

impl<C> fmt::Debug for Builder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<C: Connect> fmt::Debug for Client<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

impl HealthCell {
    /// The health of a client that has not connected yet.
    pub(crate) fn starting(config: &Config) -> Self {
        let health = Health::new(
            HealthState::Down,
            "connecting for the first time",
            config.endpoint(),
        );
        Self::new(config.name(), health)
    }
}

impl<C: Connect> ConnectionLike for Client<C> {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        let reply = self.service.call(Request::from(cmd));
        Box::pin(ValueFuture::of(reply))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        if let Some(empty) = empty(pipeline) {
            return Box::pin(ready(Err(empty)));
        }
        let reply = self.service.call(Request::slice(pipeline, offset, count));
        Box::pin(ValuesFuture::of(reply, pipeline))
    }

    fn get_db(&self) -> i64 {
        self.db
    }
}
