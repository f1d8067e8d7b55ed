//! The one error of the lab: a sentence for the person at the terminal, and the cause.
//!
//! Owns the text. Promises that the sentence says what to do where something can be done. Leaves matching to nobody:
//! a broken lab ends the test, so there are no kinds. Cannot fail itself. Next: whoever returned it.

use std::error::Error;
use std::fmt;

/// A fault of the laboratory itself, never of the client under test.
#[derive(Debug)]
pub struct LabError {
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl LabError {
    /// States what went wrong and, where possible, what to do about it.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            source: None,
        }
    }

    /// Keeps the cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(cause.into());
        self
    }
}

impl fmt::Display for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for LabError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|cause| cause as &(dyn Error + 'static))
    }
}
