//! What is wrong with a configuration: all of it, at once.
//!
//! Owns [`ConfigError`]. Promises: one line per fault, naming the field, the value given and what is legal; never a password.
//! Leaves finding the faults to [`builder`](super::builder), [`url`](super::url) and [`raw`](super::raw). Cannot fail.

use std::{error::Error as StdError, fmt};

use redis::{ErrorKind, RedisError};

/// Everything that is wrong with a configuration, one line per fault.
///
/// ```
/// use redis_holdfast::Config;
/// use std::time::Duration;
///
/// let error = Config::builder("redis://localhost:0/first")
///     .call_timeout(Duration::ZERO)
///     .build()
///     .unwrap_err();
/// assert_eq!(error.faults().len(), 3);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    faults: Vec<String>,
}

impl ConfigError {
    pub(crate) fn new(faults: Vec<String>) -> Self {
        Self { faults }
    }

    /// Each fault as one line: the field, what was given, what is legal.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.faults
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.faults.as_slice() {
            [only] => write!(f, "configuration refused: {only}"),
            many => {
                write!(f, "configuration refused, {} faults:", many.len())?;
                many.iter().try_for_each(|fault| write!(f, "\n- {fault}"))
            }
        }
    }
}

impl StdError for ConfigError {}

/// So that `?` works in functions that return [`redis::RedisResult`].
impl From<ConfigError> for RedisError {
    fn from(error: ConfigError) -> Self {
        Self::from((
            ErrorKind::InvalidClientConfig,
            "configuration refused",
            error.faults.join("; "),
        ))
    }
}
