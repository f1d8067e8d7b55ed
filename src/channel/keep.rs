//! What a supervisor keeps: the link in service, the candidate for its place, the retired, and the recipes for new ones.
//!
//! Owns [`Held`], [`Candidate`] and [`Retired`], and how a configuration becomes a topology and dialling attempts.
//! Promises: a retired link lives until it is drained and is counted as long as it lives. Leaves every decision to
//! [`supervisor`](super::supervisor). Cannot fail.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::watch, time::Instant};

use super::{Sources, verdict::Sight};
use crate::{
    Config, Error, ErrorKind, Phase,
    config::{Protocol, Server},
    net::{
        address::Address,
        dns::default_resolver,
        link::{
            LinkId, LinkState, Pace,
            handshake::{Introduction, Peer},
            mailbox::Retire,
        },
        reach::connect::{Attempt, Stage, Wire},
    },
    telemetry::{
        labels,
        metrics::{LinkCount, Metrics},
    },
    topology::{Node, Topology, fixed::Fixed, named::Named, sentinel::Sentinel},
};

/// An attempt that was accepted but never answered ends after this long, whatever the prober does.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);

const SYN_AGAIN: Duration = Duration::from_secs(1);
/// Timers are late by a millisecond or two; the machine by more.
const SYN_MARGIN: Duration = Duration::from_millis(50);

/// The link in service.
pub(super) struct Held<W> {
    pub(super) wire: W,
    pub(super) adopted: Instant,
    states: watch::Receiver<LinkState>,
    sight: Sight,
    /// Until when its silence is explained.
    excused: Option<Instant>,
    count: LinkCount,
}

impl<W: Wire> Held<W> {
    pub(super) fn new(wire: W, adopted: Instant, metrics: &Metrics) -> Self {
        let mut states = wire.watch();
        // It may have fallen silent since it was verified.
        states.mark_changed();
        Self {
            wire,
            adopted,
            states,
            sight: Sight::Fine,
            excused: None,
            count: metrics.link(labels::LinkState::Active),
        }
    }

    /// Waits for the next change of the held link's state; for ever where none is held.
    pub(super) async fn changed(held: &mut Option<Self>) {
        match held {
            Some(held) => {
                if held.states.changed().await.is_err() {
                    // Its driver is gone, and has said so before.
                    pending::<()>().await;
                }
            }
            None => pending().await,
        }
    }

    /// Takes note of the link's state.
    pub(super) fn observe(&mut self) -> LinkState {
        let state = self.states.borrow_and_update().clone();
        self.sight = match &state {
            LinkState::Healthy => Sight::Fine,
            LinkState::Suspect { .. } => Sight::Suspect,
            LinkState::Unresponsive { .. } => Sight::Unresponsive,
            LinkState::Dead { .. } => Sight::Gone,
        };
        self.excused = match state {
            LinkState::Suspect { excused } | LinkState::Unresponsive { excused } => excused,
            LinkState::Healthy | LinkState::Dead { .. } => None,
        };
        self.count.becomes(if self.sight == Sight::Fine {
            labels::LinkState::Active
        } else {
            labels::LinkState::Suspect
        });
        state
    }

    pub(super) fn sight(&self) -> Sight {
        self.sight
    }

    /// Whether an upload that is on its way explains the link's silence, if its server lives.
    pub(super) fn is_excused(&self, now: Instant) -> bool {
        self.excused.is_some_and(|until| now < until)
    }
}

/// A verified connection that takes a silent link's place if that stays silent for another moment.
pub(super) struct Candidate<W> {
    pub(super) wire: W,
    pub(super) confirm_at: Instant,
}

/// A link that takes no new calls and waits for what it owes.
pub(super) struct Retired<W> {
    wire: W,
    states: watch::Receiver<LinkState>,
    state: labels::LinkState,
    _count: LinkCount,
}

impl<W: Wire> Retired<W> {
    pub(super) fn new(held: Held<W>, state: labels::LinkState) -> Self {
        let Held {
            wire,
            states,
            mut count,
            ..
        } = held;
        count.becomes(state);
        Self {
            wire,
            states,
            state,
            _count: count,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(*self.states.borrow(), LinkState::Dead { .. })
    }

    /// Whether it is the link `id`, and has not ended.
    pub(super) fn lives(&self, id: LinkId) -> bool {
        self.wire.origin().id == id && !self.is_over()
    }

    /// Why it ended.
    pub(super) fn end(&self) -> labels::LinkEnd {
        match self.state {
            labels::LinkState::Benched => labels::LinkEnd::Benched,
            _ => labels::LinkEnd::Drained,
        }
    }

    /// Ends it now: its server is no longer one to write to.
    pub(super) fn abort(&self) {
        let detail = "another server is the primary now";
        let error = Error::new(ErrorKind::ConnectionLost, Phase::Reply, detail);
        self.wire.retire(Retire::Abort(error));
    }

    /// Waits for its end.
    pub(super) async fn over(&mut self) {
        // An error means that the driver is gone.
        let _ = self
            .states
            .wait_for(|state| matches!(state, LinkState::Dead { .. }))
            .await;
    }
}

/// The order in which to dial: those that the newest answer names before the others, and of each the last good address first, then the
/// families in turn.
pub(super) fn dial_order(node: &Node, last_good: Option<&Address>) -> Vec<Address> {
    let named = node.addresses.len().saturating_sub(node.former);
    let (named, former) = node.addresses.split_at(named);
    let mut order = interleave(named, last_good);
    order.extend(interleave(former, last_good));
    order
}

/// The last good address first, then the families in turn (RFC 8305).
fn interleave(addresses: &[Address], last_good: Option<&Address>) -> Vec<Address> {
    let is_v6 = |address: &Address| matches!(address, Address::Tcp(addr) if addr.is_ipv6());
    let first = addresses
        .iter()
        .filter(|address| Some(*address) == last_good);
    let rest = || {
        addresses
            .iter()
            .filter(|address| Some(*address) != last_good)
    };
    let leading = addresses.first().is_some_and(is_v6);
    let mut one = rest().filter(|address| is_v6(address) == leading);
    let mut two = rest().filter(|address| is_v6(address) != leading);
    let mut order: Vec<Address> = first.cloned().collect();
    while order.len() < addresses.len() {
        order.extend(one.next().into_iter().chain(two.next()).cloned());
    }
    order
}

/// What every attempt of a client has in common.
pub(super) fn template(config: &Config, pace: &Arc<Pace>, runtime: &Handle) -> Attempt {
    let login = config.login();
    let introduction = Introduction {
        resp3: config.protocol() == Protocol::Resp3,
        username: login.username.clone(),
        password: login
            .password
            .as_ref()
            .map(|password| password.expose().to_owned()),
        db: config.db(),
        name: config.given_name().map(str::to_owned),
        peer: match config.server() {
            Server::Sentinel(_) => Peer::Primary,
            Server::Replica { .. } => Peer::Replica,
            Server::Tcp { .. } | Server::Unix(_) => Peer::Server,
        },
    };
    Attempt {
        address: Address::Unix(std::path::Path::new("").into()),
        introduction: Arc::new(introduction),
        connect_timeout: besides_the_kernel(config.connect_timeout()),
        handshake_limit: HANDSHAKE_LIMIT,
        pace: pace.clone(),
        runtime: runtime.clone(),
        stage: Arc::new(Stage::default()),
    }
}

/// The kernel sends an unanswered SYN again after a second. Who gives up in that very moment may leave a server that has just come back
/// with a connection that nobody wants: so a little earlier.
fn besides_the_kernel(connect_timeout: Duration) -> Duration {
    let earlier = SYN_AGAIN - SYN_MARGIN;
    if (earlier..SYN_AGAIN + SYN_MARGIN).contains(&connect_timeout) {
        earlier
    } else {
        connect_timeout
    }
}

/// Where the server of `config` is.
pub(super) fn topology(config: &Config, sources: &Sources, runtime: &Handle) -> Arc<dyn Topology> {
    let Sources {
        resolver,
        sentinels,
    } = sources.clone();
    let endpoint = config.endpoint().clone();
    match config.server() {
        Server::Unix(path) => Arc::new(Fixed::new(Address::Unix(path.as_path().into()))),
        Server::Sentinel(group) => Arc::new(Sentinel::start(
            config,
            group,
            sentinels.as_ref(),
            resolver,
            runtime,
        )),
        Server::Tcp { host, port } | Server::Replica { host, port } => {
            let resolver = resolver.unwrap_or_else(|| default_resolver(config.dns()));
            Arc::new(Named::start(
                endpoint,
                host,
                *port,
                resolver,
                config.dns().clone(),
                runtime,
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_good_address_comes_first_then_the_families_in_turn() {
        let address = |text: &str| Address::Tcp(text.parse().expect("an address"));
        let (a, b, c, d) = (
            address("10.0.0.1:1"),
            address("10.0.0.2:1"),
            address("[::1]:1"),
            address("[::2]:1"),
        );
        let all = [a.clone(), b.clone(), c.clone(), d.clone()];
        assert_eq!(
            interleave(&all, None),
            [a.clone(), c.clone(), b.clone(), d.clone()]
        );
        assert_eq!(interleave(&all, Some(&d)), [d, a.clone(), c, b.clone()]);
        let absent = address("10.9.9.9:1");
        assert_eq!(interleave(&[a.clone(), b.clone()], Some(&absent)), [a, b]);
        assert_eq!(interleave(&[], Some(&absent)), []);
    }

    #[test]
    fn what_the_newest_answer_does_not_name_comes_last_though_it_was_good() {
        let address = |text: &str| Address::Tcp(text.parse().expect("an address"));
        let all = ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "[::1]:1"].map(address);
        let [a, b, c, d] = all.clone();
        let mut node = Node {
            addresses: all.into(),
            former: 2,
            ..Node::unknown()
        };
        let expected = [a.clone(), b.clone(), d.clone(), c.clone()];
        assert_eq!(dial_order(&node, Some(&d)), expected);
        assert_eq!(
            dial_order(&node, Some(&b)),
            [b.clone(), a.clone(), c.clone(), d.clone()]
        );
        node.former = 0;
        assert_eq!(dial_order(&node, Some(&d)), [d, a, b, c]);
    }
}
