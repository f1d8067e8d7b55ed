//! Names to addresses, in the background: the trait [`Resolve`], the resolvers that ship, and the policy that follows a name.
//!
//! Owns [`Resolve`] and what it answers ([`Resolution`], one [`Answer`] per address family).
//! Promises: a lookup that failed is never reported as "no such name"; nobody waits for DNS on the way of a request.
//! Leaves dialling to [`link`](super::link), and which server is meant to [`topology`](crate::topology).
//! Fails as data: [`Answer::Transient`] is a failure, and a reason to keep what was known.
//! Where to look next: [`hickory`] and [`system`] ask, [`policy`] decides, [`refresh`] does.

mod conf;
mod exchange;
mod hickory;
mod hosts;
mod members;
mod policy;
mod race;
mod refresh;
#[cfg(test)]
mod scripted;
mod settings;
mod system;
mod trail;
mod watched;

use std::{
    borrow::Cow,
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

pub use hickory::Hickory;
pub(crate) use policy::{Found, Pace};
pub(crate) use refresh::{Follower, Lookups, follow};
pub use settings::{DnsPolicy, Families};
pub use system::System;

/// The future of one lookup. Dropped when it takes too long: see [`Resolve`].
///
/// ```
/// use redis_holdfast::dns::{Lookup, Resolution};
///
/// fn unknown<'a>() -> Lookup<'a> {
///     Box::pin(async { Resolution::transient("the registry is not there yet") })
/// }
/// # let _ = unknown();
/// ```
pub type Lookup<'a> = Pin<Box<dyn Future<Output = Resolution> + Send + 'a>>;

/// Finds the addresses of a host name. Implement it to bring your own service discovery.
///
/// The crate asks in the background, at most twice a second per name, and keeps the last good answer for as long as a resolver
/// fails. So an implementation asks *once*, neither caches nor retries, and says plainly when it does not know:
/// [`Answer::Transient`] keeps the addresses in use, [`Answer::Negative`] means that somebody with authority said "none".
/// IP literals never reach a resolver.
///
/// # Cancel safety
/// A lookup that takes longer than [`DnsPolicy::lookup_timeout`] is dropped and counts as transient; so does one that panics.
/// Up to five lookups of one name may be under way at once. An implementation must not block its thread.
///
/// # Examples
/// ```
/// use std::{net::IpAddr, time::Duration};
/// use redis_holdfast::dns::{Lookup, Resolution, Resolve};
///
/// struct Registry;
///
/// impl Resolve for Registry {
///     fn resolve<'a>(&'a self, name: &'a str) -> Lookup<'a> {
///         Box::pin(async move {
///             match name {
///                 "orders" => Resolution::addresses([IpAddr::from([10, 0, 0, 7])], Duration::from_secs(5)),
///                 _ => Resolution::transient("the registry is not there yet"),
///             }
///         })
///     }
/// }
/// ```
pub trait Resolve: Send + Sync + 'static {
    /// Looks `name` up once, both address families. The name is as configured: absolute if it ends with a dot, else relative.
    fn resolve<'a>(&'a self, name: &'a str) -> Lookup<'a>;
}

impl<R: Resolve + ?Sized> Resolve for Arc<R> {
    fn resolve<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        (**self).resolve(name)
    }
}

/// The resolver of a client that was given none: [`Hickory::system`] on Linux, [`System`] elsewhere.
pub(crate) fn default_resolver(policy: &DnsPolicy) -> Arc<dyn Resolve> {
    if cfg!(target_os = "linux") {
        let resolver = Hickory::system().families(policy.families);
        Arc::new(resolver.lookup_timeout(policy.lookup_timeout))
    } else {
        Arc::new(System::new())
    }
}

/// What one lookup found, per address family: one may fail while the other answers.
///
/// ```
/// use redis_holdfast::dns::{Answer, NoAddress, Resolution};
/// use std::{net::IpAddr, time::Duration};
///
/// let (address, ttl) = (IpAddr::from([10, 0, 0, 7]), Duration::from_secs(5));
/// let found = Resolution::addresses([address], ttl);
/// assert_eq!(found.v4, Answer::positive(vec![address], ttl));
/// assert_eq!(found.v6, Answer::Negative { reason: NoAddress::NoData, ttl });
///
/// let gone = Resolution::negative(NoAddress::NxDomain, ttl);
/// let unknown = Resolution::transient("registry unreachable"); // What was known stays in use.
/// let half = Resolution::new(found.v4, unknown.v6);
/// # let _ = (gone, half);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolution {
    /// What is known of the name's IPv4 addresses.
    pub v4: Answer,
    /// What is known of the name's IPv6 addresses.
    pub v6: Answer,
}

/// The answer for one address family.
///
/// ```
/// use redis_holdfast::dns::{Answer, Resolution};
/// use std::{net::IpAddr, time::Duration};
///
/// // One family may be known while the other is not: its addresses stay in use.
/// let four = Answer::positive(vec![IpAddr::from([10, 0, 0, 7])], Duration::from_secs(5));
/// let half = Resolution::new(four, Answer::transient("no answer for AAAA"));
/// assert!(matches!(half.v6, Answer::Transient { .. }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// These and no others.
    Positive {
        /// The addresses, in order of preference. Empty means the same as [`NoAddress::NoData`].
        addresses: Vec<IpAddr>,
        /// How long they are good for. Read as [`DnsPolicy::min_refresh`] to [`DnsPolicy::max_refresh`].
        ttl: Duration,
    },
    /// Somebody who must know said that there are none.
    Negative {
        /// What there is none of.
        reason: NoAddress,
        /// How long that is good for.
        ttl: Duration,
    },
    /// Nobody could say: no answer in time, a server that failed or refused, an answer that cannot be read.
    Transient {
        /// What went wrong, in a few words, without the name.
        reason: Cow<'static, str>,
    },
}

/// Why there is no address.
///
/// ```
/// use redis_holdfast::dns::{Answer, NoAddress, Resolution};
/// use std::time::Duration;
///
/// let gone = Resolution::negative(NoAddress::NxDomain, Duration::from_secs(5));
/// assert!(matches!(gone.v4, Answer::Negative { reason: NoAddress::NxDomain, .. }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoAddress {
    /// The name does not exist (`NXDOMAIN`).
    NxDomain,
    /// The name exists and has no address of this family.
    NoData,
}

impl Resolution {
    /// An answer per family.
    #[must_use]
    pub fn new(v4: Answer, v6: Answer) -> Self {
        Self { v4, v6 }
    }

    /// These addresses of either family, and no others.
    #[must_use]
    pub fn addresses(addresses: impl IntoIterator<Item = IpAddr>, ttl: Duration) -> Self {
        let (v4, v6) = addresses.into_iter().partition(IpAddr::is_ipv4);
        Self::new(Answer::positive(v4, ttl), Answer::positive(v6, ttl))
    }

    /// Somebody who must know said that there is no address.
    #[must_use]
    pub fn negative(reason: NoAddress, ttl: Duration) -> Self {
        let answer = Answer::Negative { reason, ttl };
        Self::new(answer.clone(), answer)
    }

    /// Nobody could say. `reason` is a few words for logs and errors, without the name: `"registry unreachable"`.
    #[must_use]
    pub fn transient(reason: impl Into<Cow<'static, str>>) -> Self {
        let answer = Answer::transient(reason);
        Self::new(answer.clone(), answer)
    }
}

impl Answer {
    /// These addresses; [`NoAddress::NoData`] if there is none.
    #[must_use]
    pub fn positive(addresses: Vec<IpAddr>, ttl: Duration) -> Self {
        if addresses.is_empty() {
            return Self::Negative {
                reason: NoAddress::NoData,
                ttl,
            };
        }
        Self::Positive { addresses, ttl }
    }

    /// Nobody could say, and why.
    #[must_use]
    pub fn transient(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Transient {
            reason: reason.into(),
        }
    }

    fn none() -> Self {
        Self::positive(Vec::new(), Duration::ZERO)
    }

    fn is_positive(&self) -> bool {
        matches!(self, Self::Positive { .. })
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. })
    }
}

/// The addresses of a host that needs no resolver: an IP literal (IPv6 with or without brackets).
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

/// `localhost` and the names below it are this machine, whatever a name server says (RFC 6761).
fn loopback(name: &str) -> Option<Resolution> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next()?;
    let both = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    last.eq_ignore_ascii_case("localhost")
        .then(|| Resolution::addresses(both, STATIC_TTL))
}

/// What is read from a file or spelt out is cheap to read again.
const STATIC_TTL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_known_by_sight() {
        for (host, literal_) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("[::1]", true),
            ("redis", false),
            ("1.2.3", false),
            ("[redis]", false),
        ] {
            assert_eq!(literal(host).is_some(), literal_, "{host}");
        }
    }

    #[test]
    fn localhost_is_this_machine() {
        for (name, local) in [
            ("localhost", true),
            ("LOCALHOST.", true),
            ("redis.localhost", true),
            ("localhost.example", false),
            ("mylocalhost", false),
        ] {
            assert_eq!(loopback(name).is_some(), local, "{name}");
        }
    }

    #[test]
    fn addresses_are_told_apart_by_family() {
        let (four, six) = (IpAddr::from([10, 0, 0, 1]), IpAddr::V6(Ipv6Addr::LOCALHOST));
        let ttl = Duration::from_secs(7);
        let both = Resolution::addresses([six, four], ttl);
        assert_eq!(both.v4, Answer::positive(vec![four], ttl));
        assert_eq!(both.v6, Answer::positive(vec![six], ttl));
        let none = Resolution::addresses([], ttl);
        assert_eq!(none, Resolution::negative(NoAddress::NoData, ttl));
    }
}
