//! One Sentinel: asked on order, listened to all the time.
//!
//! Owns the task of one Sentinel's connection. Promises: one connection; one question at a time; whatever it tells is passed on at once,
//! and so is its silence. Leaves the connection to [`asker`](super::asker), belief to [`follow`](super::follow).
//! Fails as data: [`Report::Failed`].

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

use super::{
    asker::{Asker, Heard},
    failover::{Claim, PeerId},
    plan::Plan,
    wire::{self, Answer, Depth, Spot, Told},
};
use crate::{
    Error,
    net::{dns::Found, link::handshake::Peer},
};

/// What is wanted of every Sentinel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    /// Ask once more when it grows.
    pub(super) round: u64,
    pub(super) depth: Depth,
    /// The primary is away: dial hard.
    pub(super) urgent: bool,
}

/// What a Sentinel, or a candidate, said.
pub(super) enum Report {
    Answered(Answer),
    Told(Told),
    Failed(Error),
    /// A replica that was asked says what it is.
    Claims(Spot, Claim),
}

/// Between attempts at an absent Sentinel while the primary serves, and while it does not: ± 50 %.
const CALM_GAPS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
const URGENT_GAPS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(270));

pub(super) async fn run(
    id: PeerId,
    spot: Spot,
    found: watch::Receiver<Found>,
    mut orders: watch::Receiver<Order>,
    reports: mpsc::Sender<(PeerId, Report)>,
    plan: Arc<Plan>,
) {
    let mut asker = Asker::new(spot, found, plan.introduction(Peer::Sentinel), &plan);
    let name = &plan.group.name;
    let everything = Depth {
        census: true,
        replicas: true,
    };
    // A first discovery is as urgent as any.
    let (mut urgent, mut depth, mut round) = (true, everything, 0);
    asker.set_gaps(URGENT_GAPS.0, URGENT_GAPS.1);
    loop {
        let report = tokio::select! {
            heard = asker.next() => match heard {
                Heard::Connected => {
                    depth = everything;
                    asker.ask(wire::question(name, depth));
                    continue;
                }
                Heard::Answer(values) => match wire::answer(&values, depth) {
                    Some(answer) => Report::Answered(answer),
                    None => Report::Answered(Answer::Stranger),
                },
                Heard::Push(push) => match wire::event(&push, name) {
                    Some(told) => Report::Told(told),
                    None => continue,
                },
                Heard::Failed(error) => Report::Failed(error),
            },
            changed = orders.changed() => {
                if changed.is_err() {
                    return;
                }
                let order = *orders.borrow_and_update();
                if urgent != order.urgent {
                    urgent = order.urgent;
                    let (first, cap) = if urgent { URGENT_GAPS } else { CALM_GAPS };
                    asker.set_gaps(first, cap);
                }
                if order.round != round {
                    round = order.round;
                    if asker.ask(wire::question(name, order.depth)) {
                        depth = order.depth;
                    }
                }
                continue;
            }
        };
        if reports.send((id, report)).await.is_err() {
            return;
        }
    }
}
