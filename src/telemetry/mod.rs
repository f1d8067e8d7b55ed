//! What operators see: metric families, and one event per change of state.
//!
//! Owns the [`names`], the counts of one client (`metrics`), the closed label sets (`labels`) and the events (`span`).
//! Promises: no key, value, secret or address is ever a label; a recorder installed after a client was built still counts.
//! Leaves exporting to the application's recorder and subscriber. Cannot fail.

pub(crate) mod labels;
pub(crate) mod metrics;
pub mod names;
pub(crate) mod series;
pub(crate) mod span;
pub(crate) mod stopwatch;
