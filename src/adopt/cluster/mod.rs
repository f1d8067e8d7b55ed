//! A cluster connection under guard, with a circuit for each node.
//!
//! Owns [`ClusterGuard`] and the way a [`GuardLayer`] makes one. Promises: a node that is away costs the callers of its slots their deadline,
//! then nothing; those of the others, nothing. Leaves routing, redirects and connections to `redis`' own [`ClusterConnection`]: it is bounded,
//! not healed, but replaced where it is stuck and another can be made. Fails as a guard does. Rooms: [`keys`] and its [`table`] (where a
//! command goes) and [`slots`] (who serves it), pure; [`nodes`] (the circuits), [`reader`] (the map, and a connection that answers nobody),
//! [`probe`] with [`knock`] (what condemns a node in doubt, and what closes a circuit), [`by_node`] (each call under the right one).

mod by_node;
mod keys;
mod knock;
mod nodes;
mod probe;
mod reader;
mod slots;
mod table;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use redis::{cluster::ClusterClient, cluster_async::ClusterConnection};
use tower::{Layer, Service};

use self::{by_node::ByNode, nodes::Nodes};
use crate::{
    Error, Reply, Request,
    layer::{Bounds, Circuit, GuardLayer},
};

type Stack = Bounds<ByNode>;

/// Puts a cluster connection under guard, with a circuit for each node: see [`ClusterGuard`].
impl Layer<ClusterConnection> for GuardLayer {
    type Service = ClusterGuard;

    fn layer(&self, connection: ClusterConnection) -> ClusterGuard {
        let nodes = Arc::new(Nodes::new(connection, self.breaker().clone()));
        nodes.keep_reading();
        ClusterGuard {
            stack: self.bounds(ByNode::new(nodes.clone())),
            nodes,
        }
    }
}

/// What a [`GuardLayer`] makes of a cluster connection of `redis`: one deadline, one cap, and a circuit for each primary. Feature `cluster`.
///
/// A node that is away costs the callers of its slots their deadline, then microseconds; the callers of the others notice nothing. Cheap to
/// clone; clones share everything. It bounds and does not heal: routes, redirects and reconnecting are those of `redis`. A connection that
/// answers nobody any more it replaces, if it was told how: [`healed_by`](Self::healed_by).
///
/// # Which circuit a call is under
/// - **One key, or keys of one slot**: that of the slot's primary, by the cluster's own map. It alone hears of the outcome. Where reads go to
///   replicas, a shard has one circuit: its primary's. A replica that fails may open it, for its writes too, until the primary is asked and
///   answers; and again, for as long as reads go there.
/// - **Several slots** (`MGET`, `DEL` and their like, which `redis` splits) **or every primary** (`DBSIZE`, `FLUSHALL`, `PING`, …): refused while
///   the circuit of any node concerned is open, for its outcome is known. Served, it counts for each of them; late, for none, because nobody
///   says which part was, but each is asked whether it is there. What `redis` 1.8 answers for an `MSET` or the like is one part's reply: it may be
///   `OK` though another part was told `MOVED` (as while its node is away and the circuit has not opened yet).
/// - **No key** (`TIME`, `SCAN`, a script without keys): `redis` draws the node. Under no circuit; its deadline bounds it.
/// - **A pipeline** goes as a whole to the first slot that it names, and is under that circuit.
///
/// The map is read in the background (`CLUSTER SLOTS`: four times a minute, once a second while a node is away), and the first time when the
/// guard is made inside a runtime, else with the first call. Until then, and for slots whose node is not named in it, calls are under no
/// circuit. An open circuit asks its node `CLUSTER MYID` until that answers; the probe that was set on the builder gives its time alone. Where
/// `redis` has no connection to the node, a `PING` goes to the node's address over one of our own, and once that is answered an `EXISTS` of some
/// key has `redis` make its own. A user of an ACL needs `+cluster|slots`, `+cluster|myid` and `+exists`.
///
/// # What to set on the connection
/// `redis` bounds nothing here unless told, and while it reads its own map anew (after a `MOVED`, or a call for a node that it has lost) nobody
/// is served: for as long as the two first of these allow. On the `ClusterClientBuilder`:
///
/// - a short `connection_timeout` (250 ms; 1 s unless set), and a `response_timeout` of about the guard's `call_timeout` (none unless set): without
///   it a single `MOVED` while a node is silent stops the traffic of all for as long as the silence lasts;
/// - by `tcp_settings` a `TCP_USER_TIMEOUT` of some seconds (Linux): without it the connection to a node that vanished lives for a quarter of an
///   hour, and a failover is not followed meanwhile;
/// - `retries(0)`, unless keys move often: else what a lost connection held is sent again, up to 16 times, a second `INCR` as well, and each
///   call for a node that died has the map read anew, over and over, until its circuit is open. Without, the first `MOVED` or lost connection
///   puts the node in doubt, and the others notice nothing. It stops the following of redirects too: while a slot moves, its callers see
///   `MOVED` until `redis` has read its map.
///
/// # A connection that is stuck
/// `redis` 1.8 over `tokio` 1.54 may answer nobody any more, for good, though every node is there: where its map is read anew under a load of
/// hundreds of calls, as after the death of a node. (`tokio`'s locks are since 1.54 held by whoever has used up his turn; `redis` stops polling him
/// to read the map, for which it waits for that lock. With `tokio` below 1.54 we know of no such case.) Give the guard the client, by
/// [`healed_by`](Self::healed_by): where nobody was answered for 3 s, whoever was asked for, while a node is at home, it makes another
/// connection, at most once in 10 s; so too where the runtime that the connection was made in has ended. Without it, it says so once in 10 s, in an event of `redis_holdfast::link`, *cluster connection is stuck*.
/// What was under way ends at its deadline.
///
/// # Readiness
/// Always ready. `poll_ready` reserves nothing.
///
/// # Errors
/// `CircuitOpen`, with the node as its [`endpoint`](Error::endpoint), while its node is away; `Timeout`, `Overloaded`, and what the connection
/// fails with. [`Error::may_have_executed`] is `true` for whatever was handed to it.
///
/// # Cancel safety
/// A call that is dropped gives back all that it holds here, and may run. Dropped late it counts as a failure of its node.
///
/// # Metrics
/// Those of a guard, under its name. `redis.holdfast.breaker.transitions` counts those of all nodes; `redis.holdfast.breaker.state` is how
/// many of theirs are open: which, [`circuits`](Self::circuits) say.
///
/// ```
/// use redis_holdfast::{ServiceConnection, layer::{CircuitState, GuardLayer}, redis};
/// use redis::{AsyncCommands, cluster::ClusterClient};
/// use std::time::Duration;
/// use tower::Layer;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let nodes = ["redis://node-1:6379", "redis://node-2:6379"];
/// # let server = holdfast_lab::Embedded::start().await?; // a cluster of one
/// # let nodes = [server.url()];
/// let client = ClusterClient::builder(nodes)
///     .connection_timeout(Duration::from_millis(250))
///     .response_timeout(Duration::from_millis(250))
/// #   .connection_timeout(Duration::from_secs(30)) // the machine may be busy
/// #   .response_timeout(Duration::from_secs(30))
///     .build()?;
/// let guard = GuardLayer::builder().call_timeout(Duration::from_millis(250)).build()?;
/// # let guard = GuardLayer::builder().call_timeout(Duration::from_secs(30)).build()?;
/// let guarded = guard.layer(client.get_async_connection().await?).healed_by(client);
/// let mut connection = ServiceConnection::new(guarded.clone());
/// let hits: u64 = connection.incr("hits", 1).await?;
/// assert_eq!(hits, 1);
///
/// // The map is read in the background.
/// # let until = tokio::time::Instant::now() + Duration::from_secs(30);
/// # while guarded.circuits().is_empty() && tokio::time::Instant::now() < until { tokio::time::sleep(Duration::from_millis(1)).await }
/// for (node, circuit) in guarded.circuits() {
///     println!("{node}: {:?}", circuit.state());
/// }
/// let of_hits = guarded.circuit_of("hits").expect("its node is known");
/// assert_eq!(of_hits.state(), CircuitState::Closed);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ClusterGuard {
    stack: Stack,
    nodes: Arc<Nodes>,
}

impl ClusterGuard {
    /// Makes another connection by `client` where the one it has is [stuck](Self#a-connection-that-is-stuck). For all clones; the first client
    /// that is given stays.
    ///
    /// ```
    /// # use redis_holdfast::{ClusterGuard, layer::GuardLayer, redis};
    /// # use redis::cluster::ClusterClient;
    /// # use tower::Layer;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = holdfast_lab::Embedded::start().await?; // a cluster of one
    /// # let nodes = [server.url()];
    /// let client = ClusterClient::new(nodes)?;
    /// let connection = client.get_async_connection().await?;
    /// let guarded: ClusterGuard = GuardLayer::builder().build()?.layer(connection).healed_by(client);
    /// # let _ = guarded;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn healed_by(self, client: ClusterClient) -> Self {
        self.nodes.set_client(client);
        self
    }

    /// The primaries that are known now, `host:port`, each with its circuit: to watch and to force. Empty until the map was read. A node
    /// that left and came back has a new one.
    #[must_use]
    pub fn circuits(&self) -> Vec<(String, Circuit)> {
        self.nodes.circuits()
    }

    /// The circuit that a command with this key is under; `None` while its node is not known.
    #[must_use]
    pub fn circuit_of(&self, key: impl AsRef<[u8]>) -> Option<Circuit> {
        self.nodes.circuit_at(slots::slot(key.as_ref()))
    }
}

impl fmt::Debug for ClusterGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterGuard")
            .field("stack", &self.stack)
            .finish()
    }
}

impl Service<Request> for ClusterGuard {
    type Response = Reply;
    type Error = Error;
    type Future = ClusterFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.stack.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> ClusterFuture {
        ClusterFuture {
            inner: self.stack.call(request),
        }
    }
}

pin_project! {
    /// A call of a cluster under guard. Errors and cancel safety are those of [`ClusterGuard`].
    ///
    /// ```
    /// use redis_holdfast::{ClusterFuture, Request, layer::GuardLayer, redis};
    /// use redis::cluster::{ClusterClient, ClusterConfig};
    /// use std::time::Duration;
    /// use tower::{Layer, Service};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = ClusterClient::new(["redis://127.0.0.1:1/"])?;
    /// // Connects in the background: a service starts whether or not there is a cluster.
    /// let connection = client.get_pending_async_connection_with_config(ClusterConfig::new());
    /// let guard = GuardLayer::builder().call_timeout(Duration::from_millis(20)).build()?;
    /// let call: ClusterFuture = guard.layer(connection).call(Request::from(redis::cmd("GET").arg("k")));
    /// assert!(call.await.is_err(), "nobody is there");
    /// # Ok(()) }
    /// ```
    pub struct ClusterFuture {
        #[pin]
        inner: <Stack as Service<Request>>::Future,
    }
}

impl Future for ClusterFuture {
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx)
    }
}

impl fmt::Debug for ClusterFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterFuture").finish_non_exhaustive()
    }
}
