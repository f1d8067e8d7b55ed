//! How connections are made: the one seam between those who keep a connection and the ways to reach a server.
//!
//! Owns [`Connect`], its working half [`Dial`], and [`Wire`], which a connection must offer to be supervised; [`greet`], with which every
//! connector begins, and [`LinkConnector`], the default.
//! Promises: a connection that comes out of here has answered a normal command. Leaves *when* and *where* to the [`prober`](super::prober) and its keeper.
//! Fails by kind and phase: `connect`, `tls`, `handshake`.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch, time::Instant};

use crate::{
    Error,
    net::{
        address::Address,
        link::{
            Link, LinkState, Pace,
            dial::dial,
            driver::Start,
            handshake::{Greeting, Introduction, handshake},
            job::{Job, Origin},
            mailbox::{Rejected, Retire},
            socket::Stream,
        },
    },
};

/// A way to make connections for a [`ResilienceLayer`](crate::layer::ResilienceLayer). Sealed: [`LinkConnector`] and
/// [`RedisConnector`](crate::RedisConnector) are those that ship.
#[expect(
    private_bounds,
    reason = "sealed: what a connection must offer is the crate's own business"
)]
///
/// ```
/// use redis_holdfast::{Client, ConfigError, RedisConnector, layer::Connect};
///
/// fn client<C: Connect>(over: C) -> Result<Client<C>, ConfigError> {
///     Client::builder("redis://cache.internal")?.connector(over).build()
/// }
/// let over_redis_own_connection = client(RedisConnector::new())?;
/// # let _ = over_redis_own_connection;
/// # Ok::<(), ConfigError>(())
/// ```
pub trait Connect: Dial {}

/// What a [`Connect`] does.
pub(crate) trait Dial: Clone + Send + Sync + 'static {
    /// What it makes.
    type Wire: Wire;
    /// Dials, introduces us, and starts driving.
    fn connect(
        &self,
        attempt: Attempt,
    ) -> impl Future<Output = Result<Self::Wire, Error>> + Send + 'static;
}

/// A connection that can be supervised.
pub(crate) trait Wire: Clone + Send + Sync + Unpin + 'static {
    /// Which link it is, and which server is behind it.
    fn origin(&self) -> &Arc<Origin>;
    fn address(&self) -> &Address;
    /// Takes a job on its way; its outcome comes through the job.
    fn submit(&self, job: Arc<Job>) -> Result<(), Rejected>;
    fn watch(&self) -> watch::Receiver<LinkState>;
    /// Whether it is quiet while it owes replies, or gone.
    fn is_silent(&self) -> bool;
    fn retire(&self, order: Retire);
}

/// One try to reach one address.
#[derive(Clone)]
pub(crate) struct Attempt {
    pub(crate) address: Address,
    pub(crate) introduction: Arc<Introduction>,
    pub(crate) connect_timeout: Duration,
    pub(crate) handshake_limit: Duration,
    pub(crate) pace: Arc<Pace>,
    pub(crate) runtime: Handle,
    pub(crate) stage: Arc<Stage>,
}

/// How far an attempt has come, for the prober to see.
#[derive(Debug, Default)]
pub(crate) struct Stage(AtomicU8);

impl Stage {
    pub(crate) fn established(&self) {
        self.0.store(1, Ordering::Relaxed);
    }

    /// Whether the peer's kernel has accepted the connection.
    pub(crate) fn is_established(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// Opens a hardened socket, introduces us on it, and hears a normal command answered: what comes next is the connector's own.
pub(crate) async fn greet(attempt: &Attempt) -> Result<(Start<Stream>, Greeting), Error> {
    let dialling = Instant::now();
    let socket = dial(&attempt.address, attempt.connect_timeout).await?;
    let dialled = dialling.elapsed();
    attempt.stage.established();
    let greeted = tokio::time::timeout(
        attempt.handshake_limit,
        handshake(socket, &attempt.introduction),
    )
    .await;
    let (start, mut greeting) = greeted.unwrap_or_else(|_| {
        Err(Error::new(
            crate::ErrorKind::Timeout,
            crate::Phase::Handshake,
            "server silent",
        )
        .after(attempt.handshake_limit))
    })?;
    // The network's share: a server that was busy with our introduction is not far away.
    greeting.round_trip = greeting.round_trip.min(dialled);
    Ok((start, greeting))
}

/// Connects with a connection of our own, which knows for each call whether a byte of it was sent.
///
/// ```
/// use redis_holdfast::{Client, layer::LinkConnector};
///
/// // What a client has anyway.
/// let client = Client::builder("redis://cache.internal")?.connector(LinkConnector::new()).build()?;
/// # let _ = client;
/// # Ok::<(), redis_holdfast::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct LinkConnector;

impl LinkConnector {
    /// The default connector.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Connect for LinkConnector {}

impl Dial for LinkConnector {
    type Wire = Link;

    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn would borrow the connector for as long as it dials"
    )]
    fn connect(
        &self,
        attempt: Attempt,
    ) -> impl Future<Output = Result<Link, Error>> + Send + 'static {
        async move {
            let (start, greeting) = greet(&attempt).await?;
            Ok(Link::spawn(
                start,
                greeting,
                attempt.address,
                &attempt.pace,
                &attempt.runtime,
            ))
        }
    }
}

impl Wire for Link {
    fn origin(&self) -> &Arc<Origin> {
        self.origin()
    }

    fn address(&self) -> &Address {
        self.address()
    }

    fn submit(&self, job: Arc<Job>) -> Result<(), Rejected> {
        self.submit(job)
    }

    fn watch(&self) -> watch::Receiver<LinkState> {
        self.watch()
    }

    fn is_silent(&self) -> bool {
        self.is_silent()
    }

    fn retire(&self, order: Retire) {
        self.retire(order);
    }
}
