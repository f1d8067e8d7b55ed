//! Makes sure that what an old path still holds will never run.
//!
//! Owns the fence: `CLIENT KILL ID … ADDR …` for the old connection, sent over the new one before anybody else may use it. A command
//! written on the old connection *was executed before the fence or never will be* (an aborted socket un-sends nothing).
//! Promises: both the id and the address as the server saw them are given, and only to the very same server, so that a stranger
//! behind a shared address is never hit; a connection that the server itself holds blocked is left alone.
//! Leaves what may be sent again to [`call`](super::call). Fails softly: not permitted, or no answer in time, is *no fence*; what does
//! not answer at all does not take over from a link that is merely silent ([`adopt`](super::supervisor)).

use std::time::Duration;

use redis::{Value, cmd};
use tokio::time::timeout;

use crate::{
    Request,
    net::{
        link::{
            LinkId,
            handshake::{ClientHandle, Identity},
            job::{Job, Origin, Outcome},
        },
        reach::connect::Wire,
    },
    request::Values,
};

/// A new connection that leaves a question unanswered for this long, or for this many of its round trips, is no better than the old.
const PATIENCE: Duration = Duration::from_millis(100);
const ROUND_TRIPS: u32 = 4;

/// An old connection that may still deliver something.
#[derive(Clone, Debug)]
pub(crate) struct Fallen {
    pub(crate) id: LinkId,
    pub(crate) identity: Identity,
    pub(crate) client: ClientHandle,
    /// It was fenced off: it is certain to deliver nothing.
    pub(crate) fenced: bool,
}

/// What is known of an old connection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    /// Nothing it still holds will run.
    Up,
    /// The server holds it blocked: it has our commands and will come to them.
    Blocked,
    /// The server does not let us, or is not known to be the same.
    Denied,
    /// The server did not answer in time.
    Silent,
}

/// The old connection as a fence needs it, where the server told enough.
pub(crate) fn fallen<W: Wire>(wire: &W) -> Option<Fallen> {
    let Origin { id, greeting } = &**wire.origin();
    Some(Fallen {
        id: *id,
        identity: greeting.identity.clone()?,
        client: greeting.client.clone()?,
        fenced: false,
    })
}

/// Fences `old` off over `new`. `alive`: its end is not certain, so the server is asked first whether it merely blocks it.
pub(crate) async fn fence<W: Wire>(new: &W, old: &Fallen, alive: bool) -> Fence {
    if new.origin().greeting.identity.as_ref() != Some(&old.identity) {
        return Fence::Denied;
    }
    if alive {
        let list = cmd("CLIENT")
            .arg("LIST")
            .arg("ID")
            .arg(old.client.id)
            .take();
        match ask(new, list).await {
            None => return Fence::Silent,
            Some(Value::BulkString(clients)) if is_blocked(&clients) => return Fence::Blocked,
            Some(_) => {}
        }
    }
    match ask(new, kill(old)).await {
        // 1: it is gone now. 0: it was gone already.
        Some(Value::Int(_)) => Fence::Up,
        Some(_) => Fence::Denied,
        None => Fence::Silent,
    }
}

/// Has `old` closed by the very same server before anything that `new` is handed later runs. Whether it was is not known.
pub(crate) fn send_kill<W: Wire>(new: &W, old: &Fallen) {
    let (job, ticket) = Job::pair(Request::from(kill(old)));
    if new.submit(job).is_ok() {
        ticket.forget();
    }
}

fn kill(old: &Fallen) -> redis::Cmd {
    cmd("CLIENT")
        .arg("KILL")
        .arg("ID")
        .arg(old.client.id)
        .arg("ADDR")
        .arg(&old.client.addr)
        .take()
}

/// Whether a line of `CLIENT LIST` carries the flag of a client in a blocking wait, `CLIENT PAUSE` included.
fn is_blocked(clients: &[u8]) -> bool {
    let clients = String::from_utf8_lossy(clients);
    clients
        .split_ascii_whitespace()
        .filter_map(|field| field.strip_prefix("flags="))
        .any(|flags| flags.contains('b'))
}

async fn ask<W: Wire>(wire: &W, command: redis::Cmd) -> Option<Value> {
    let (job, ticket) = Job::pair(Request::from(command));
    wire.submit(job).ok()?;
    let patience = PATIENCE.max(wire.origin().greeting.round_trip * ROUND_TRIPS);
    match timeout(patience, ticket).await {
        Ok(Outcome::Replied(Values::One(value))) => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::is_blocked;

    #[test]
    fn a_paused_or_blocked_client_is_told_from_an_idle_one() {
        assert!(is_blocked(
            b"id=7 addr=127.0.0.1:5000 flags=b db=0 cmd=set\n"
        ));
        assert!(!is_blocked(
            b"id=7 addr=127.0.0.1:5000 flags=N db=0 cmd=subscribe\n"
        ));
        assert!(!is_blocked(b""));
    }
}
