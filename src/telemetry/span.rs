//! The events: one per change of state, fields instead of sentences.
//!
//! Owns targets, levels and fields. Promises: a change of state is `info`, the loss of a connection `warn`, a call `trace`; no key, value
//! or secret is ever a field. Leaves the deciding, and saying it once, to whoever calls. Cannot fail.

use tracing::{info, trace, warn};

use super::{
    labels::{FenceOutcome, Label, LinkEnd, Outcome, Transition},
    stopwatch::Stopwatch,
};
use crate::{Error, ErrorKind};

/// A call ended; `None` is success.
pub(crate) fn call_ended(
    client: &str,
    command: &str,
    outcome: Option<ErrorKind>,
    waited: &Stopwatch,
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

/// A link is lost.
pub(crate) fn link_lost(client: &str, endpoint: &str, reason: LinkEnd, error: &Error) {
    warn!(
        target: "redis_holdfast::link",
        client,
        endpoint,
        reason = reason.as_str(),
        %error,
        "link lost"
    );
}

/// A silent link was replaced while its endpoint lived.
pub(crate) fn link_swapped(client: &str, endpoint: &str, fence: FenceOutcome) {
    warn!(
        target: "redis_holdfast::link",
        client,
        endpoint,
        fence = fence.as_str(),
        "link swapped"
    );
}

/// A cluster connection answers nobody, though nodes are at home; and whether another has taken its place.
#[cfg(feature = "cluster")]
pub(crate) fn cluster_stuck(client: &str, renewed: bool) {
    warn!(target: "redis_holdfast::link", client, renewed, "cluster connection is stuck");
}

/// A link was taken into service.
pub(crate) fn link_in_service(client: &str, endpoint: &str, fenced: usize) {
    info!(target: "redis_holdfast::link", client, endpoint, fenced, "link in service");
}

/// Calls are refused, for a reason that is not the last one.
pub(crate) fn calls_refused(client: &str, endpoint: &str, error: &Error) {
    warn!(
        target: "redis_holdfast::breaker",
        client,
        endpoint,
        kind = error.kind().as_str(),
        phase = error.phase().as_str(),
        %error,
        "calls are refused"
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
