//! How clients that resolve names themselves are shown the stage's DNS, without root.
//!
//! Owns two ways in: [`StageDns`], redis' resolver hook, for whoever takes one; and [`Doorway`], an address that *is*
//! the name, for `ConnectionManager` and redis' Sentinel client, whose configurations take no resolver. Promises one lookup per connection made,
//! as `getaddrinfo` would do it, and no memory between two. Leaves what is answered to [`super::stage`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use holdfast_lab::net::dial;
use holdfast_lab::task::{Owned, own};
use redis_holdfast::dns::{Answer, Hickory, Resolve};
use redis_holdfast::redis::RedisFuture;
use redis_holdfast::redis::io::AsyncDNSResolver;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Asks the stage's name server, once per question.
#[derive(Clone)]
pub struct StageDns(Arc<Hickory>);

/// Listens in the name's place: each connection is looked up, then joined to where the name leads at that moment.
///
/// While the lookup fails the connection is closed, while the address is silent so is the connection: what the client
/// would have met behind the name, 1 hop later.
pub struct Doorway {
    addr: SocketAddr,
    _task: Owned,
}

impl StageDns {
    pub fn at(server: SocketAddr) -> Self {
        Self(Arc::new(Hickory::servers([server])))
    }

    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        match self.0.resolve(host).await.v4 {
            Answer::Positive { addresses, .. } => Ok(addresses),
            _ => Err(io::Error::other("failed to lookup address information")),
        }
    }
}

impl AsyncDNSResolver for StageDns {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            let found = self.lookup(host).await?.into_iter();
            let found = found.map(move |ip| SocketAddr::new(ip, port));
            Ok(Box::new(found) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}

impl Doorway {
    /// Opens a door that leads to `host:port`.
    pub async fn open(dns: StageDns, host: String, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((holdfast_lab::ip(), 0)).await?;
        Ok(Self {
            addr: listener.local_addr()?,
            _task: own(serve(listener, dns, Arc::from(host), port)),
        })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

async fn serve(listener: TcpListener, dns: StageDns, host: Arc<str>, port: u16) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                open.spawn(join(client, dns.clone(), Arc::clone(&host), port));
            },
            Some(_) = open.join_next() => {}
        }
    }
}

/// Carries bytes both ways until either side ends; any failure closes the client's connection.
async fn join(mut client: TcpStream, dns: StageDns, host: Arc<str>, port: u16) -> io::Result<()> {
    client.set_nodelay(true)?;
    let found = dns.lookup(&host).await?;
    let first = found.first().ok_or(io::ErrorKind::NotFound)?;
    let mut server = dial(SocketAddr::new(*first, port), CONNECT_TIMEOUT).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// redis' own default: a client behind the door has given up by then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
