//! How a name is followed: data, and its legal ranges.
//!
//! Owns [`DnsPolicy`] and [`Families`]. Promises: a value out of range is refused by name and range, never bent.
//! Leaves acting on it to [`policy`](super::policy). Fails as a list of faults, for the one gate in `config`.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use super::{Answer, Resolution};

/// How a host name is followed. [`Default`] is right for Kubernetes and for clouds.
///
/// | setting | default | legal |
/// |---|---|---|
/// | `min_refresh` | 5 s | 1 s to 1 h |
/// | `max_refresh` | 30 s | 1 s to 1 h, not below `min_refresh` |
/// | `urgent_every` | 500 ms | 100 ms to 30 s, not above `max_refresh` |
/// | `lookup_timeout` | 2.2 s | 100 ms to 30 s |
/// | `rotation_memory` | 10 min | 1 min to 24 h |
/// | `families` | both | |
///
/// ```
/// use std::time::Duration;
/// use redis_holdfast::{Config, dns::{DnsPolicy, Families}};
///
/// let policy = DnsPolicy::default()
///     .min_refresh(Duration::from_secs(2))
///     .max_refresh(Duration::from_secs(10))
///     .urgent_every(Duration::from_millis(250))
///     .lookup_timeout(Duration::from_secs(1))
///     .rotation_memory(Duration::from_secs(3600))
///     .families(Families::V4Only);
/// let config = Config::builder("redis://cache.internal").dns(policy).build()?;
/// # Ok::<(), redis_holdfast::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsPolicy {
    pub(super) min_refresh: Duration,
    pub(super) max_refresh: Duration,
    pub(super) urgent_every: Duration,
    pub(super) lookup_timeout: Duration,
    pub(super) rotation_memory: Duration,
    pub(super) families: Families,
}

/// Which address families are used.
///
/// ```
/// use redis_holdfast::dns::{DnsPolicy, Families};
///
/// let policy = DnsPolicy::default().families(Families::V4Only);
/// # let _ = policy;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Families {
    /// IPv4 and IPv6.
    #[default]
    Both,
    /// IPv4 alone.
    V4Only,
    /// IPv6 alone.
    V6Only,
}

impl Families {
    pub(super) fn v4(self) -> bool {
        self != Self::V6Only
    }

    pub(super) fn v6(self) -> bool {
        self != Self::V4Only
    }

    /// Those that were answered for, if any was.
    pub(super) fn heard(v4: &Answer, v6: &Answer) -> Self {
        match (v4.is_transient(), v6.is_transient()) {
            (false, true) => Self::V4Only,
            (true, false) => Self::V6Only,
            _ => Self::Both,
        }
    }

    pub(super) fn has(self, address: IpAddr) -> bool {
        if address.is_ipv4() {
            self.v4()
        } else {
            self.v6()
        }
    }

    /// The resolution, as if the family not wanted had no address.
    pub(super) fn keep(self, resolution: Resolution) -> Resolution {
        let Resolution { v4, v6 } = resolution;
        Resolution {
            v4: if self.v4() { v4 } else { Answer::none() },
            v6: if self.v6() { v6 } else { Answer::none() },
        }
    }
}

impl Default for DnsPolicy {
    fn default() -> Self {
        Self {
            // Below it a TTL of 0 would turn every client into a load on the name server.
            min_refresh: Duration::from_secs(5),
            // A move is noticed by then even where nothing breaks; CoreDNS hands out 30 s as well.
            max_refresh: Duration::from_secs(30),
            // An address that changed while the old one is dead must be followed within half a second.
            urgent_every: Duration::from_millis(500),
            // Time for three name servers in turn; with `urgent_every`, five lookups are under way at most.
            lookup_timeout: Duration::from_millis(2200),
            // A full turn of a round-robin name at `max_refresh`, twenty addresses long.
            rotation_memory: Duration::from_secs(600),
            families: Families::Both,
        }
    }
}

impl DnsPolicy {
    /// Shortest time between two lookups while all is well, whatever the TTL. Default 5 s; legal from 1 s to 1 h.
    #[must_use]
    pub fn min_refresh(mut self, least: Duration) -> Self {
        self.min_refresh = least;
        self
    }

    /// Longest time between two lookups, whatever the TTL and however often they failed. Default 30 s; legal from
    /// [`min_refresh`](Self::min_refresh) to 1 h.
    #[must_use]
    pub fn max_refresh(mut self, most: Duration) -> Self {
        self.max_refresh = most;
        self
    }

    /// How often a lookup starts while a link is down. Default 500 ms; legal from 100 ms to 30 s, and at most
    /// [`max_refresh`](Self::max_refresh).
    ///
    /// A nominal figure. From its onset on an outage sees no more such lookups than one each so long, the first included: the second gap
    /// is 45 % longer, those around it and the 18 after it 1.2 % shorter, so that a change is *found* within it, links and all. An
    /// unanswered lookup does not hold back the next. Lower, and a fleet that lost its Redis loads the name servers; higher, and a move is
    /// followed later.
    #[must_use]
    pub fn urgent_every(mut self, gap: Duration) -> Self {
        self.urgent_every = gap;
        self
    }

    /// After this a lookup has failed. Default 2.2 s; legal from 100 ms to 30 s. A [`Hickory`](super::Hickory) of your own is told of
    /// another by its [setter](super::Hickory::lookup_timeout).
    #[must_use]
    pub fn lookup_timeout(mut self, limit: Duration) -> Self {
        self.lookup_timeout = limit;
        self
    }

    /// How long the return of an address that left the name is a sign of rotation. Default 10 min; legal from 1 min to 24 h.
    ///
    /// While a name rotates, links to its recent addresses are left alone. It does so no longer when its answers have been the same for
    /// a minute, three at least: the others are gone then. So is, while it rotates, an address that was not named for this long.
    #[must_use]
    pub fn rotation_memory(mut self, memory: Duration) -> Self {
        self.rotation_memory = memory;
        self
    }

    /// Which address families are used. Default both.
    #[must_use]
    pub fn families(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    /// Every value out of its range: the field, what it is, what is legal.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |field: &str, value: Duration, legal: RangeInclusive<Duration>| {
            if !legal.contains(&value) {
                faults.push(format!(
                    "dns.{field} is {value:?}, legal is {:?} to {:?}",
                    legal.start(),
                    legal.end()
                ));
            }
        };
        check("min_refresh", self.min_refresh, REFRESH_LEGAL);
        check("max_refresh", self.max_refresh, REFRESH_LEGAL);
        check("urgent_every", self.urgent_every, LOOKUP_LEGAL);
        check("lookup_timeout", self.lookup_timeout, LOOKUP_LEGAL);
        check("rotation_memory", self.rotation_memory, ROTATION_LEGAL);
        if self.urgent_every > self.max_refresh {
            faults.push(format!(
                "dns.urgent_every is {:?}, legal is at most dns.max_refresh, which is {:?}",
                self.urgent_every, self.max_refresh
            ));
        }
        if self.min_refresh > self.max_refresh {
            faults.push(format!(
                "dns.min_refresh is {:?}, legal is at most dns.max_refresh, which is {:?}",
                self.min_refresh, self.max_refresh
            ));
        }
        faults
    }

    /// Its part of the README's table of defaults: setting, default, legal range.
    #[cfg(test)]
    pub(crate) fn table() -> [(&'static str, Duration, RangeInclusive<Duration>); 5] {
        let policy = Self::default();
        [
            ("dns.min_refresh", policy.min_refresh, REFRESH_LEGAL),
            ("dns.max_refresh", policy.max_refresh, REFRESH_LEGAL),
            ("dns.urgent_every", policy.urgent_every, LOOKUP_LEGAL),
            ("dns.lookup_timeout", policy.lookup_timeout, LOOKUP_LEGAL),
            (
                "dns.rotation_memory",
                policy.rotation_memory,
                ROTATION_LEGAL,
            ),
        ]
    }
}

/// More often, and clients are a load on the name server; more seldom, and a move is news of yesterday.
const REFRESH_LEGAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// Shorter than a round trip to a name server makes no sense, longer than half a minute helps nobody who is down.
pub(super) const LOOKUP_LEGAL: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(30);
/// From two turns of a rotating name at `max_refresh` to a day.
const ROTATION_LEGAL: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_legal_and_every_fault_is_named_at_once() {
        assert_eq!(DnsPolicy::default().faults(), Vec::<String>::new());
        let zero = Duration::ZERO;
        let faults = DnsPolicy::default()
            .min_refresh(Duration::from_secs(60))
            .urgent_every(zero)
            .lookup_timeout(zero)
            .rotation_memory(zero)
            .faults();
        for field in [
            "urgent_every",
            "lookup_timeout",
            "rotation_memory",
            "min_refresh",
        ] {
            let named = |fault: &&String| fault.starts_with(&format!("dns.{field} is "));
            assert_eq!(
                faults.iter().filter(named).count(),
                1,
                "{field}: {faults:?}"
            );
        }
        assert!(faults.iter().all(|fault| fault.contains("legal is ")));
    }
}
