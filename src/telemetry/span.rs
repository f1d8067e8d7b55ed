//! The events: one per change of state, fields instead of sentences.
//!
//! Owns targets, levels and fields. Promises: a change of state is `info`, the loss of a connection `warn`, a call `trace`; no key, value
//! or secret is ever a field. Leaves the deciding, and saying it once, to whoever calls. Cannot fail.

use std::time::Duration;

use tracing::{info, trace, warn};

use super::labels::{FenceOutcome, Label, LinkEnd, Outcome, Transition};
use crate::{Error, ErrorKind};

/// A call ended; `None` is success.
pub(crate) fn call_ended(
    client: &str,
    command: &str,
    outcome: Option<ErrorKind>,
    waited: Duration,
) {
    trace!(
        target: "redis_holdfast::call",
        client,
        db.system.name = "redis",
        db.operation.name = command,
        outcome = Outcome(outcome).as_str(),
        ?waited,
        "call ended"
    );
}

/// The breaker changed its state.
pub(crate) fn breaker_moved(client: &str, endpoint: &str, transition: Transition) {
    info!(
        target: "redis_holdfast::breaker",
        client,
        endpoint,
        to = transition.to(),
        reason = transition.as_str(),
        "breaker moved"
    );
}

/// A link is lost while `owed` replies were outstanding.
pub(crate) fn link_lost(
    client: &str,
    endpoint: &str,
    reason: LinkEnd,
    owed: usize,
    silent: Duration,
) {
    warn!(
        target: "redis_holdfast::link",
        client,
        endpoint,
        reason = reason.as_str(),
        owed,
        ?silent,
        "link lost"
    );
}

/// A silent link was replaced while its endpoint lived.
pub(crate) fn link_swapped(
    client: &str,
    endpoint: &str,
    fence: Option<FenceOutcome>,
    replayed: u64,
) {
    warn!(
        target: "redis_holdfast::link",
        client,
        endpoint,
        fence = fence.map_or("none", Label::as_str),
        replayed,
        "link swapped"
    );
}

/// A connection could not be made, for the first time since the last that could.
pub(crate) fn dial_failed(client: &str, endpoint: &str, error: &Error) {
    warn!(
        target: "redis_holdfast::link",
        client,
        endpoint,
        kind = error.kind().as_str(),
        phase = error.phase().as_str(),
        %error,
        "cannot connect"
    );
}

/// The addresses of a name changed.
pub(crate) fn addresses_changed(client: &str, endpoint: &str, addresses: usize, gone: usize) {
    info!(target: "redis_holdfast::dns", client, endpoint, addresses, gone, "addresses changed");
}

/// A lookup failed, for the first time since the last that did not. The last good answer stays.
pub(crate) fn lookup_failed(client: &str, endpoint: &str, error: &Error) {
    warn!(target: "redis_holdfast::dns", client, endpoint, %error, "lookup failed");
}
