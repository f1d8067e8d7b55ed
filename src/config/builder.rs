//! From what was asked to what is legal: the one gate of every configuration.
//!
//! Owns [`ConfigBuilder`]: the setters, the order in which sources win (setter or variable, then URL, then default) and the check.
//! Promises: nothing is clamped; [`ConfigBuilder::build`] reports every fault at once. Leaves reading text to [`url`](super::url) and
//! [`raw`](super::raw). Fails with a [`ConfigError`].

use std::{fmt::Display, ops::RangeInclusive, time::Duration};

use super::{
    BreakerPolicy, Config, ConfigError, RetryPolicy, SentinelPolicy, defaults,
    raw::{Settings, shorten, show_bytes, show_duration},
    target::{Server, Target},
    url::Parsed,
};
use crate::{ReadFrom, net::dns::DnsPolicy};

/// Collects settings; [`build`](Self::build) checks them all.
///
/// ```
/// use redis_holdfast::{BreakerPolicy, Config, ReadFrom, RetryPolicy, SentinelPolicy, dns::DnsPolicy};
/// use std::time::Duration;
///
/// let config = Config::builder("redis+sentinel://s-0,s-1,s-2/orders")
///     .name("orders")
///     .call_timeout(Duration::from_millis(250))
///     .connect_timeout(Duration::from_millis(500))
///     .stall_after(Duration::from_millis(100))
///     .detect_within(Duration::from_millis(600))
///     .max_in_flight(512)
///     .max_buffered_bytes(16 << 20)
///     .read_from(ReadFrom::PreferReplica)
///     .breaker(BreakerPolicy::default().min_calls(50))
///     .retry(RetryPolicy::default().attempts(0))
///     .sentinel(SentinelPolicy::default().early_promotion(false))
///     .dns(DnsPolicy::default().max_refresh(Duration::from_secs(10)))
///     .build()?;
/// // Every fault at once.
/// let faults = config.into_builder().call_timeout(Duration::ZERO).max_in_flight(0).build().unwrap_err();
/// assert_eq!(faults.faults().len(), 2);
/// # Ok::<(), redis_holdfast::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct ConfigBuilder {
    pub(super) url: Parsed,
    pub(super) given: Settings,
    pub(super) breaker: BreakerPolicy,
    pub(super) retry: RetryPolicy,
    pub(super) dns: DnsPolicy,
    pub(super) sentinel: SentinelPolicy,
}

/// Setters. Nothing is checked here: [`build`](Self::build) reports every fault at once. A setter wins over the URL's parameter of the same name.
impl ConfigBuilder {
    pub(super) fn new(url: &str) -> Self {
        Self {
            url: Parsed::from_text(url),
            given: Settings::default(),
            breaker: BreakerPolicy::default(),
            retry: RetryPolicy::default(),
            dns: DnsPolicy::default(),
            sentinel: SentinelPolicy::default(),
        }
    }

    /// Longest time a call may take, from the call to its outcome: admission, waiting for a connection, every attempt. Default 500 ms;
    /// legal from 1 ms to 1 h. [`Request::with_timeout`](crate::Request::with_timeout) sets another one for a single call.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.given.call_timeout = Some(timeout);
        self
    }

    /// Calls this client and its clones hold at once; one more is refused as `Overloaded`, never queued. Default 1,024; legal from 1 to
    /// 1,000,000. A pipeline is one call.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.given.max_in_flight = Some(calls);
        self
    }

    /// The client's name in metrics and logs, and, where one is given, in the `CLIENT LIST` of the server and of the Sentinels. Default
    /// `redis`; legal: 1 to 64 of `A–Z a–z 0–9 . _ -`. Who refuses the name serves all the same.
    ///
    /// Clients of one name share their metrics: give each its own, from a small set.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.given.name = Some(name.into());
        self
    }

    /// Longest silence of a server that owes a reply before its connection is dead, no excuse left. Default 1 s; legal from 20 ms to 60 s.
    ///
    /// One excuse is left: an upload of 128 KiB or more, whose caller has a timeout of more than twice this, explains a silence for 1 s for each MiB of
    /// it (8 Mbit/s), 8 s at most, for its last megabytes may lie in the buffers of the way; new calls are refused all the same where a probe is silent too.
    ///
    /// Too low, and a slow `SORT` looks like a dead server; too high, and every caller in flight waits that long to learn of one.
    pub fn detect_within(mut self, silence: Duration) -> Self {
        self.given.detect_within = Some(silence);
        self
    }

    /// Silence after which a connection is *suspect* and one probe is sent. Default 150 ms, or half of `detect_within` where that is less;
    /// legal from 10 ms to 30 s, and at most half of `detect_within`: the probe needs time to answer.
    pub fn stall_after(mut self, silence: Duration) -> Self {
        self.given.stall_after = Some(silence);
        self
    }

    /// Longest time for opening a TCP or Unix connection to one address. Default 1 s; legal from 10 ms to 60 s.
    ///
    /// No call waits for it longer than its own deadline. The first words on the connection have no limit of their own but the prober's: a
    /// server that accepts and stays silent keeps one connection, renewed every 12 s. Values from 950 ms to 1,050 ms are taken as 950 ms:
    /// in that moment the kernel sends an unanswered SYN again.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.given.connect_timeout = Some(timeout);
        self
    }

    /// Bytes of requests this client holds at once; a call that would exceed it is refused as `Overloaded`. One command of more than half of it rides
    /// beside it, whatever its size. Default 64 MiB; legal from 64 KiB to 1 GiB.
    pub fn max_buffered_bytes(mut self, bytes: usize) -> Self {
        self.given.max_buffered_bytes = Some(bytes);
        self
    }

    /// Who answers what only reads, where Sentinels are asked for the primary. Default [`ReadFrom::Primary`]; with anything else a URL that
    /// names a server itself is a fault. [`Request::with_read_from`](crate::Request::with_read_from) says otherwise for a single call.
    pub fn read_from(mut self, read_from: ReadFrom) -> Self {
        self.given.read_from = Some(read_from);
        self
    }

    /// When the circuit opens and how it closes again. Default [`BreakerPolicy::default`].
    pub fn breaker(mut self, policy: BreakerPolicy) -> Self {
        self.breaker = policy;
        self
    }

    /// What may follow from a connection that ended to the next one, though it may have run, and what pays for it. Default
    /// [`RetryPolicy::default`]; what was not sent follows in any case.
    ///
    /// A client sends a call again once at most, as soon as the next connection is there: of `attempts` it reads whether there are any, and
    /// `backoff` is of no effect. All who waited for one connection follow without a price, one connection in ten seconds; others are paid
    /// for by the policy's budget and floor.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// How host names are followed. Default [`DnsPolicy::default`]. Of no effect for an IP address or a socket.
    pub fn dns(mut self, policy: DnsPolicy) -> Self {
        self.dns = policy;
        self
    }

    /// How Sentinels are asked and believed. Default [`SentinelPolicy::default`]. Of no effect for a URL that names a server itself.
    pub fn sentinel(mut self, policy: SentinelPolicy) -> Self {
        self.sentinel = policy;
        self
    }

    /// This builder if its URL is sound, else the URL's faults.
    ///
    /// # Errors
    /// The faults of the URL alone.
    pub(crate) fn with_sound_url(self) -> Result<Self, ConfigError> {
        if self.url.faults.is_empty() {
            Ok(self)
        } else {
            Err(ConfigError::new(self.url.faults))
        }
    }

    /// Checks everything.
    ///
    /// # Errors
    /// Every fault at once: of the URL, of each value out of its range, of each contradiction.
    pub fn build(self) -> Result<Config, ConfigError> {
        let Self {
            url,
            given,
            breaker,
            retry,
            dns,
            sentinel,
        } = self;
        let settings = given.or(url.settings);
        let mut faults = url.faults;
        faults.extend(range_faults(&settings));
        faults.extend(contradictions(&settings));
        faults.extend(
            url.target
                .as_ref()
                .and_then(|at| replica_fault(at, &settings)),
        );
        faults.extend(breaker.faults());
        faults.extend(retry.faults());
        faults.extend(dns.faults());
        faults.extend(sentinel.faults());
        match url.target {
            Some(target) if faults.is_empty() => Ok(Config::checked(
                target, settings, breaker, retry, dns, sentinel,
            )),
            _ => Err(ConfigError::new(faults)),
        }
    }
}

pub(super) fn range_faults(settings: &Settings) -> Vec<String> {
    let durations = [
        (
            "call_timeout",
            settings.call_timeout,
            defaults::CALL_TIMEOUT_LEGAL,
        ),
        (
            "detect_within",
            settings.detect_within,
            defaults::DETECT_WITHIN_LEGAL,
        ),
        (
            "stall_after",
            settings.stall_after,
            defaults::STALL_AFTER_LEGAL,
        ),
        (
            "connect_timeout",
            settings.connect_timeout,
            defaults::CONNECT_TIMEOUT_LEGAL,
        ),
    ];
    let in_flight = settings.max_in_flight;
    let bytes = settings.max_buffered_bytes;
    durations
        .into_iter()
        .filter_map(|(field, given, legal)| check_duration(field, given?, &legal))
        .chain(
            in_flight
                .and_then(|calls| check("max_in_flight", calls, &defaults::MAX_IN_FLIGHT_LEGAL)),
        )
        .chain(bytes.and_then(|bytes| {
            check_as(
                "max_buffered_bytes",
                bytes,
                &defaults::MAX_BUFFERED_BYTES_LEGAL,
                show_bytes,
            )
        }))
        .chain(settings.name.as_deref().and_then(name_fault))
        .collect()
}

fn name_fault(name: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let legal = defaults::NAME_LEN_LEGAL.contains(&name.len()) && name.chars().all(plain);
    (!legal).then(|| {
        format!(
            "name: `{}` given; legal: 1 to 64 of A-Z a-z 0-9 . _ -",
            shorten(name)
        )
    })
}

/// What is legal alone and not together.
fn contradictions(settings: &Settings) -> Option<String> {
    let stall = settings.stall_after?;
    let detect = settings.detect_within.unwrap_or(defaults::DETECT_WITHIN);
    (stall > detect / 2).then(|| {
        format!(
            "stall_after: {} given with detect_within {}; legal up to half of detect_within",
            show_duration(stall),
            show_duration(detect)
        )
    })
}

/// Replicas are known by Sentinels alone.
fn replica_fault(target: &Target, settings: &Settings) -> Option<String> {
    let read_from = settings.read_from.unwrap_or_default();
    let lone = !matches!(target.server, Server::Sentinel(_));
    (lone && read_from != ReadFrom::Primary).then(|| {
        "read_from: a replica given for a URL that names one server; legal with redis+sentinel://s1,s2,s3/NAME".to_owned()
    })
}

/// The fault of a value out of its range.
pub(super) fn check<T: PartialOrd + Display + Copy>(
    field: &str,
    given: T,
    legal: &RangeInclusive<T>,
) -> Option<String> {
    check_as(field, given, legal, |value| value.to_string())
}

pub(super) fn check_duration(
    field: &str,
    given: Duration,
    legal: &RangeInclusive<Duration>,
) -> Option<String> {
    check_as(field, given, legal, show_duration)
}

fn check_as<T: PartialOrd + Copy>(
    field: &str,
    given: T,
    legal: &RangeInclusive<T>,
    show: impl Fn(T) -> String,
) -> Option<String> {
    (!legal.contains(&given)).then(|| {
        format!(
            "{field}: {} given; legal from {} to {}",
            show(given),
            show(*legal.start()),
            show(*legal.end())
        )
    })
}
