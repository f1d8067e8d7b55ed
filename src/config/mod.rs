//! Everything a client can be told, checked once.
//!
//! Owns [`Config`]: data only, valid from the moment it exists. Promises: every fault is reported at once; a password shows nowhere.
//! Leaves resolvers and hooks to the stack that is built from it. Fails with a [`ConfigError`], at build time and never later.
//! Where to look next: [`defaults`] for the numbers and their reasons, [`builder`] for the gate, [`url`] and [`raw`] for text.

mod builder;
pub(crate) mod defaults;
mod error;
mod group;
mod percent;
mod policies;
mod raw;
mod retry;
mod sentinel;
pub(crate) mod target;
mod url;

use std::{env, ffi::OsString, sync::Arc, time::Duration};

pub use builder::ConfigBuilder;
pub use error::ConfigError;
pub use policies::BreakerPolicy;
pub(crate) use retry::GuardSettings;
pub use retry::RetryPolicy;
pub use sentinel::SentinelPolicy;
pub(crate) use target::{Group, Login, Protocol, Server};

use raw::{Environment, Settings};
use target::Target;
use url::Parsed;

use crate::{ReadFrom, net::dns::DnsPolicy};

/// A valid configuration.
///
/// ```
/// use redis_holdfast::Config;
/// use std::time::Duration;
///
/// let config = Config::builder("redis://user:secret@cache:6379/0?protocol=resp3")
///     .call_timeout(Duration::from_millis(250))
///     .max_in_flight(256)
///     .name("sessions")
///     .build()?;
/// assert!(!format!("{config:?}").contains("secret"));
/// # Ok::<(), redis_holdfast::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    target: Target,
    endpoint: Arc<str>,
    name: Arc<str>,
    settings: Settings,
    breaker: BreakerPolicy,
    retry: RetryPolicy,
    dns: DnsPolicy,
    sentinel: SentinelPolicy,
}

impl Config {
    /// Starts a configuration for the server at `url`. Nothing is checked before [`build`](ConfigBuilder::build).
    ///
    /// `redis://[user:password@]host[:port][/db]`, `unix:///path`, or a primary found through Sentinels,
    /// `redis+sentinel://[user:password@]s1[:26379],s2,…/NAME[/db]` (with `sentinel_user` and `sentinel_password` where the Sentinels want
    /// credentials of their own), each with parameters: `protocol` (`resp2`, the default, or `resp3`);
    /// the settings that carry a setter's name (`call_timeout=250ms`, `max_in_flight=256`, …); for a socket also `db`, `user`, `pass`.
    /// Characters with a meaning of their own are percent-encoded. An unknown parameter is a fault.
    pub fn builder(url: &str) -> ConfigBuilder {
        ConfigBuilder::new(url)
    }

    /// Reads the variables `{prefix}URL` (required), `{prefix}CALL_TIMEOUT`, `{prefix}MAX_IN_FLIGHT`, `{prefix}NAME`,
    /// `{prefix}DETECT_WITHIN`, `{prefix}STALL_AFTER`, `{prefix}CONNECT_TIMEOUT`, `{prefix}MAX_BUFFERED_BYTES` and `{prefix}READ_FROM`: durations as `250ms`,
    /// `2s`, `1m`, sizes as `1048576` or `64MiB`. A variable wins over the URL's parameter.
    ///
    /// A variable under the prefix that looks like a misspelt one of these is a fault; any other is left alone, for Kubernetes puts
    /// `REDIS_PORT` and more into every pod beside a service called `redis`.
    ///
    /// # Errors
    /// Every fault at once; among them an empty prefix, and a missing URL.
    ///
    /// ```
    /// use redis_holdfast::Config;
    ///
    /// // Reads SESSIONS_URL, SESSIONS_CALL_TIMEOUT and so on.
    /// let error = Config::from_env("SESSIONS_").unwrap_err();
    /// assert!(error.to_string().contains("SESSIONS_URL"), "{error}");
    /// ```
    pub fn from_env(prefix: &str) -> Result<Self, ConfigError> {
        Self::from_variables(prefix, env::vars_os())
    }

    /// Reads the same from `variables`.
    pub(crate) fn from_variables(
        prefix: &str,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let Environment {
            url,
            settings,
            mut faults,
        } = Environment::read(prefix, variables);
        let mut builder = match url {
            Some(url) => Self::builder(&url),
            // The missing URL is among the faults already.
            None => ConfigBuilder {
                url: Parsed::default(),
                ..Self::builder("")
            },
        };
        builder.given = settings;
        match builder.build() {
            Ok(config) if faults.is_empty() => Ok(config),
            Ok(_) => Err(ConfigError::new(faults)),
            Err(error) => {
                faults.extend_from_slice(error.faults());
                Err(ConfigError::new(faults))
            }
        }
    }

    /// Back to a builder, to change a setting.
    ///
    /// ```
    /// use redis_holdfast::Config;
    /// use std::time::Duration;
    ///
    /// let config = Config::builder("redis://cache.internal").name("sessions").build()?;
    /// let patient = config.clone().into_builder().call_timeout(Duration::from_secs(2)).build()?;
    /// assert_ne!(patient, config);
    /// # Ok::<(), redis_holdfast::ConfigError>(())
    /// ```
    pub fn into_builder(self) -> ConfigBuilder {
        ConfigBuilder {
            url: Parsed {
                target: Some(self.target),
                ..Parsed::default()
            },
            given: self.settings,
            breaker: self.breaker,
            retry: self.retry,
            dns: self.dns,
            sentinel: self.sentinel,
        }
    }

    fn checked(
        target: Target,
        settings: Settings,
        breaker: BreakerPolicy,
        retry: RetryPolicy,
        dns: DnsPolicy,
        sentinel: SentinelPolicy,
    ) -> Self {
        Self {
            endpoint: target.server.endpoint(),
            name: settings.name.as_deref().unwrap_or(defaults::NAME).into(),
            target,
            settings,
            breaker,
            retry,
            dns,
            sentinel,
        }
    }
}

/// What the other rooms read.
impl Config {
    /// `host:port` without credentials, for errors and logs.
    pub(crate) fn endpoint(&self) -> &Arc<str> {
        &self.endpoint
    }

    pub(crate) fn server(&self) -> &Server {
        &self.target.server
    }

    pub(crate) fn login(&self) -> &Login {
        &self.target.login
    }

    pub(crate) fn db(&self) -> i64 {
        self.target.db
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.target.protocol
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The name, where the user gave one: what the server is told. A default would name every connection alike.
    pub(crate) fn given_name(&self) -> Option<&str> {
        self.settings.name.as_deref()
    }

    pub(crate) fn call_timeout(&self) -> Duration {
        self.settings.call_timeout.unwrap_or(defaults::CALL_TIMEOUT)
    }

    pub(crate) fn max_in_flight(&self) -> usize {
        self.settings
            .max_in_flight
            .unwrap_or(defaults::MAX_IN_FLIGHT)
    }

    pub(crate) fn detect_within(&self) -> Duration {
        self.settings
            .detect_within
            .unwrap_or(defaults::DETECT_WITHIN)
    }

    /// As given, else derived: never more than half of [`detect_within`](Self::detect_within).
    pub(crate) fn stall_after(&self) -> Duration {
        let derived = || defaults::STALL_AFTER.min(self.detect_within() / 2);
        self.settings.stall_after.unwrap_or_else(derived)
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.settings
            .connect_timeout
            .unwrap_or(defaults::CONNECT_TIMEOUT)
    }

    pub(crate) fn max_buffered_bytes(&self) -> usize {
        self.settings
            .max_buffered_bytes
            .unwrap_or(defaults::MAX_BUFFERED_BYTES)
    }

    pub(crate) fn read_from(&self) -> ReadFrom {
        self.settings.read_from.unwrap_or_default()
    }

    /// The same for one of its replicas: a server like any other that says it is one, counted under a name of its own.
    pub(crate) fn of_replica(&self, host: &str, port: u16) -> Self {
        let mut config = self.clone();
        let host = host.to_owned();
        config.target.server = Server::Replica { host, port };
        config.endpoint = config.target.server.endpoint();
        config.name = format!("{}.replicas", self.name).into();
        config
    }

    pub(crate) fn breaker(&self) -> &BreakerPolicy {
        &self.breaker
    }

    pub(crate) fn retry(&self) -> &RetryPolicy {
        &self.retry
    }

    pub(crate) fn dns(&self) -> &DnsPolicy {
        &self.dns
    }

    pub(crate) fn sentinel(&self) -> &SentinelPolicy {
        &self.sentinel
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn faults(builder: ConfigBuilder) -> Vec<String> {
        builder.build().expect_err("faults").faults().to_vec()
    }

    #[test]
    fn the_defaults_are_the_defaults() {
        let config = Config::builder("redis://h").build().expect("legal");
        assert_eq!(
            (&**config.endpoint(), &**config.name()),
            ("h:6379", "redis")
        );
        assert_eq!(config.call_timeout(), 500 * MS);
        assert_eq!(config.max_in_flight(), 1024);
        assert_eq!(config.detect_within(), 1000 * MS);
        assert_eq!(config.stall_after(), 150 * MS);
        assert_eq!(config.connect_timeout(), 1000 * MS);
        assert_eq!(config.max_buffered_bytes(), 64 << 20);
        assert_eq!((config.db(), config.protocol()), (0, Protocol::Resp2));
        assert_eq!(config.login(), &Login::default());
    }

    #[test]
    fn a_setter_wins_over_the_url_and_the_url_over_the_default() {
        let url = "redis://h?call_timeout=2s&max_in_flight=7";
        let config = Config::builder(url)
            .call_timeout(3 * MS)
            .build()
            .expect("legal");
        assert_eq!((config.call_timeout(), config.max_in_flight()), (3 * MS, 7));
    }

    #[test]
    fn stall_after_follows_detect_within_unless_given() {
        let base = || Config::builder("redis://h").detect_within(100 * MS);
        assert_eq!(base().build().expect("legal").stall_after(), 50 * MS);
        assert_eq!(
            base()
                .stall_after(20 * MS)
                .build()
                .expect("legal")
                .stall_after(),
            20 * MS
        );
        let changed = base().build().expect("legal").into_builder();
        let changed = changed.detect_within(1000 * MS).build().expect("legal");
        assert_eq!(changed.stall_after(), 150 * MS, "derived anew");
        assert_eq!(
            faults(base().stall_after(51 * MS)),
            ["stall_after: 51ms given with detect_within 100ms; legal up to half of detect_within"]
        );
        assert_eq!(
            faults(Config::builder("redis://h").stall_after(501 * MS)).len(),
            1
        );
    }

    #[test]
    fn each_value_out_of_range_is_refused_with_the_range() {
        let base = || Config::builder("redis://h");
        let zero = Duration::ZERO;
        for (builder, fault) in [
            (
                base().call_timeout(zero),
                "call_timeout: 0ms given; legal from 1ms to 1h",
            ),
            (
                base().call_timeout(Duration::from_micros(999)),
                "call_timeout: 999µs given; legal from 1ms to 1h",
            ),
            (
                base().call_timeout(Duration::MAX),
                "call_timeout: 18446744073709551615.999999999s given; legal from 1ms to 1h",
            ),
            (
                base().max_in_flight(0),
                "max_in_flight: 0 given; legal from 1 to 1000000",
            ),
            (
                base().max_in_flight(1_000_001),
                "max_in_flight: 1000001 given; legal from 1 to 1000000",
            ),
            (
                base().detect_within(19 * MS),
                "detect_within: 19ms given; legal from 20ms to 1m",
            ),
            (
                base().stall_after(zero),
                "stall_after: 0ms given; legal from 10ms to 30s",
            ),
            (
                base().connect_timeout(zero),
                "connect_timeout: 0ms given; legal from 10ms to 1m",
            ),
            (
                base().max_buffered_bytes(1),
                "max_buffered_bytes: 1 given; legal from 64KiB to 1GiB",
            ),
            (
                base().name(""),
                "name: `` given; legal: 1 to 64 of A-Z a-z 0-9 . _ -",
            ),
            (
                base().name("a b"),
                "name: `a b` given; legal: 1 to 64 of A-Z a-z 0-9 . _ -",
            ),
            (
                base().breaker(BreakerPolicy::default().min_calls(0)),
                "breaker.min_calls: 0 given; legal from 1 to 1000000",
            ),
            (
                base().retry(RetryPolicy::default().attempts(11)),
                "retry.attempts: 11 given; legal from 0 to 10",
            ),
            (
                base().retry(RetryPolicy::default().backoff(6 * MS, 5 * MS)),
                "retry.backoff: least 6ms is above most 5ms; legal: least ≤ most",
            ),
            (
                base().retry(
                    RetryPolicy::default()
                        .budget_basis_points(0)
                        .floor_per_second(0),
                ),
                "retry.attempts: 2 given with neither budget nor floor to pay for them; legal: 0, or one of the two",
            ),
        ] {
            assert_eq!(faults(builder), [fault]);
        }
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let error = Config::builder("redis://u:canary@h:0/x?call_timeout=never")
            .max_in_flight(0)
            .detect_within(Duration::ZERO)
            .stall_after(100 * MS)
            .breaker(BreakerPolicy::default().auth_retry(Duration::ZERO))
            .build()
            .expect_err("faults");
        let text = error.to_string();
        assert_eq!(error.faults().len(), 7, "{text}");
        assert!(
            text.starts_with("configuration refused, 7 faults:\n- url: port 0 given;"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 8);
        assert!(!format!("{text}{error:?}").contains("canary"));
    }

    #[test]
    fn the_environment_goes_through_the_same_gate() {
        let read = |variables: &[(&str, &str)]| {
            let variables: Vec<_> = variables
                .iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect();
            Config::from_variables("R_", variables.into_iter())
        };
        let config = read(&[
            ("R_URL", "redis://h?call_timeout=1s"),
            ("R_CALL_TIMEOUT", "250ms"),
        ]);
        assert_eq!(config.expect("legal").call_timeout(), 250 * MS);
        let error =
            read(&[("R_CALL_TIMEOUT", "0s"), ("R_MAX_IN_FLIGHT", "x")]).expect_err("faults");
        assert_eq!(error.faults().len(), 3, "{error}");
        let error = read(&[("R_URL", "redis://h:0"), ("R_STAL_AFTER", "x")]).expect_err("faults");
        assert_eq!(error.faults().len(), 2, "{error}");
        assert!(read(&[("R_URL", "redis://h"), ("R_STAL_AFTER", "x")]).is_err());
    }

    #[test]
    fn a_password_shows_nowhere() {
        let builder = Config::builder("redis://user:canary@h/1");
        let shown = format!("{builder:?}{:?}", builder.clone().build().expect("legal"));
        assert!(
            shown.contains("***") && !shown.contains("canary"),
            "{shown}"
        );
    }

    #[test]
    fn a_refused_configuration_passes_a_redis_border() {
        let error = Config::builder("redis://h:0").build().expect_err("a fault");
        let redis = redis::RedisError::from(error);
        assert_eq!(redis.kind(), redis::ErrorKind::InvalidClientConfig);
        assert!(redis.to_string().contains("port 0"), "{redis}");
    }
}
