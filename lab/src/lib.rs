//! The fault laboratory that every test, bench and example of redis-holdfast stands on.
//!
//! Owns: real Redis processes ([`server`]), Sentinel sets ([`sentinel`]) and clusters ([`cluster`]), a TCP proxy that breaks the network on
//! request ([`proxy`]), scripted DNS ([`dns`]), open-loop load ([`load`]), a checker of what was told and what was run
//! ([`history`]), an embedded RESP server ([`resp`]), private network namespaces ([`netns`]), processes that are denied
//! the processor ([`starve`]) and counts of what a process holds ([`census`]). Promises: what a mode or an answer says is what a client gets (each
//! has a test of its own), everything lives on loopback or in a namespace made here, and everything dies with its
//! handle. Leaves every judgement to the tests above. Fails with [`LabError`]. It never imports the crate above.

pub mod census;
pub mod cluster;
pub mod dns;
mod error;
pub mod history;
pub mod load;
pub mod net;
pub mod netns;
pub mod proxy;
pub mod resp;
pub mod sentinel;
pub mod server;
pub mod starve;
pub mod task;

pub use cluster::Cluster;
pub use dns::{Answer, Dns};
pub use error::LabError;
pub use history::{History, Tape, Told};
pub use load::{Load, Op, Outcome};
pub use net::ip;
pub use proxy::{Mode, Proxy};
pub use resp::{Embedded, RespFake};
pub use sentinel::{FakeSentinel, SentinelSet};
pub use server::{Find, Server, Servers, server_or_skip};
