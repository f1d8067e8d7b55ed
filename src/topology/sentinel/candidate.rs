//! A replica that may be promoted: asked for its role until it is a primary.
//!
//! Also one that may be read from, and its primary: asked now and then how far their data are.
//!
//! Owns the task of that one connection. Promises: a question each 50 ms or each second, one at a time; nothing but `INFO replication` is
//! ever sent.
//! Leaves the connection to [`asker`](super::asker), what follows to [`failover`](super::failover). Fails as data.

use std::{sync::Arc, time::Duration};

use redis::{Value, cmd};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use super::{
    asker::{Asker, Heard},
    failover::{Claim, Data, PeerId},
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
/// Of the limit on what a replica may lag behind, this much may be our not having asked.
const CALM_ASK_EVERY: Duration = Duration::from_secs(1);
const CALM_GAPS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Why a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It may be promoted.
    Promotion,
    /// Calls read from it, or from its replicas.
    Reads,
}

pub(super) async fn run(
    id: PeerId,
    spot: Spot,
    cause: Cause,
    found: watch::Receiver<Found>,
    reports: mpsc::Sender<(PeerId, Report)>,
    plan: Arc<Plan>,
) {
    let mut asker = Asker::new(spot.clone(), found, plan.introduction(Peer::Server), &plan);
    let (gaps, every) = match cause {
        Cause::Promotion => (GAPS, ASK_EVERY),
        Cause::Reads => (CALM_GAPS, CALM_ASK_EVERY),
    };
    asker.set_gaps(gaps.0, gaps.1);
    let mut ticks = interval(every);
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
    let is_primary = field(info, "role")? == "master";
    Some(Claim {
        is_primary,
        parent: field(info, "master_replid2").map(str::to_owned),
        data: data(info, is_primary),
    })
}

fn data(info: &str, is_primary: bool) -> Data {
    let number = |name| field(info, name).and_then(|number| number.parse().ok());
    let deaf_for = match field(info, "master_link_status") {
        Some("up") => Some(Duration::ZERO),
        // -1 where it never heard one.
        _ => number("master_link_down_since_seconds").map(Duration::from_secs),
    };
    Data {
        lineage: field(info, "master_replid").map(str::to_owned),
        offset: number(if is_primary {
            "master_repl_offset"
        } else {
            "slave_repl_offset"
        }),
        deaf_for,
        syncing: field(info, "master_sync_in_progress") == Some("1"),
    }
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
                parent: Some("bb".into()),
                data: Data {
                    lineage: Some("aa".into()),
                    ..Data::default()
                },
            })
        );
        let replica = "role:slave\r\nmaster_link_status:up\r\nmaster_sync_in_progress:0\r\nslave_repl_offset:42\r\nmaster_repl_offset:40\r\n";
        let up = read(replica).expect("a role").data;
        assert_eq!((up.offset, up.deaf_for), (Some(42), Some(Duration::ZERO)));
        let down = "role:slave\r\nmaster_link_status:down\r\nmaster_sync_in_progress:1\r\nmaster_link_down_since_seconds:";
        let deaf = |seconds: &str| read(&format!("{down}{seconds}\r\n")).expect("a role").data;
        assert_eq!(deaf("7").deaf_for, Some(Duration::from_secs(7)));
        assert!(deaf("-1").deaf_for.is_none() && deaf("-1").syncing);
        assert!(!read("role:slave\r\n").expect("a role").is_primary);
        assert_eq!(read("nothing of it"), None);
        assert_eq!(claim(&Value::Nil), None);
    }
}
