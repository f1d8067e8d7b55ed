//! Getting through to a server: dialling attempts, who makes them, and how often.
//!
//! Owns [`connect`] (the seam between a keeper and the ways to reach a server), [`prober`] (attempts under way, their gaps) and
//! [`scout`] (one probe first). Leaves *which* addresses, and what to do with a connection, to `channel` and `topology`.

pub(crate) mod connect;
pub(crate) mod prober;
mod scout;
