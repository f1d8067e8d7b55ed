//! A replica that may be promoted: asked for its role until it is a primary.
//!
//! Owns the task of that one connection. Promises: a question each 50 ms, one at a time; nothing but `INFO replication` is ever sent.
//! Leaves the connection to [`asker`](super::asker), what follows to [`failover`](super::failover). Fails as data.

use std::{sync::Arc, time::Duration};

use redis::{Value, cmd};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use super::{
    asker::{Asker, Heard},
    failover::{Claim, PeerId},
    peer::Report,
    plan::Plan,
    wire::Spot,
};
use crate::{
    Request,
    net::{
        dns::Found,
        link::handshake::{Peer, field},
    },
};

/// A promotion takes about 90 ms from the name to the role; of what is promised after it, a question may cost this much.
const ASK_EVERY: Duration = Duration::from_millis(50);
const GAPS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(100));

pub(super) async fn run(
    id: PeerId,
    spot: Spot,
    found: watch::Receiver<Found>,
    reports: mpsc::Sender<(PeerId, Report)>,
    plan: Arc<Plan>,
) {
    let mut asker = Asker::new(spot.clone(), found, plan.introduction(Peer::Server), &plan);
    asker.set_gaps(GAPS.0, GAPS.1);
    let mut ticks = interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let question = || Request::from(cmd("INFO").arg("replication"));
    loop {
        tokio::select! {
            heard = asker.next() => match heard {
                Heard::Connected => {
                    asker.ask(question());
                }
                Heard::Answer(values) => {
                    let Some(claim) = values.first().and_then(claim) else { continue };
                    if reports.send((id, Report::Claims(spot.clone(), claim))).await.is_err() {
                        return;
                    }
                }
                Heard::Push(_) | Heard::Failed(_) => {}
            },
            _ = ticks.tick(), if asker.is_connected() => {
                asker.ask(question());
            }
        }
    }
}

fn claim(info: &Value) -> Option<Claim> {
    let info = match info {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::VerbatimString { text, .. } => text,
        _ => return None,
    };
    Some(Claim {
        is_primary: field(info, "role")? == "master",
        parent: field(info, "master_replid2").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_read_from_what_a_server_says_of_its_replication() {
        let read = |text: &str| claim(&Value::BulkString(text.as_bytes().to_vec()));
        let told =
            read("# Replication\r\nrole:master\r\nmaster_replid:aa\r\nmaster_replid2:bb\r\n");
        assert_eq!(
            told,
            Some(Claim {
                is_primary: true,
                parent: Some("bb".into())
            })
        );
        assert!(!read("role:slave\r\n").expect("a role").is_primary);
        assert_eq!(read("nothing of it"), None);
        assert_eq!(claim(&Value::Nil), None);
    }
}
