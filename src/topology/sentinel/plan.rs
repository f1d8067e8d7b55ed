//! What a follower needs to know of a configuration, and what makes two of them the same.
//!
//! Owns [`Plan`]. Promises: followers of equal plans may be shared. Leaves doing to [`follow`](super::follow). Cannot fail.

use std::{sync::Arc, time::Duration};

use redis::Value;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};

use super::wire::Spot;
use crate::{
    BreakerPolicy, Config, SentinelPolicy,
    config::{Group, Login, defaults},
    dns::{DnsPolicy, Resolve},
    net::{
        dns::{Follower, Found, default_resolver, follow},
        link::{
            Pace,
            handshake::{Introduction, Peer},
        },
    },
};

/// Events of one Sentinel that wait to be read; more are dropped, for a question brings what they told.
const EVENTS: usize = 256;
/// Questions at once over one connection, those given up included.
const OWED: usize = 64;

pub(super) struct Plan {
    pub(super) endpoint: Arc<str>,
    /// What to be called at the peers, if anybody said so: the name of the client that is followed for, or the first of several.
    pub(super) name: Option<String>,
    pub(super) group: Group,
    /// For the candidate of a failover, which is a Redis.
    pub(super) login: Login,
    pub(super) policy: SentinelPolicy,
    pub(super) breaker: BreakerPolicy,
    pub(super) dns: DnsPolicy,
    pub(super) connect_timeout: Duration,
    pub(super) resolver: Arc<dyn Resolve>,
    pub(super) runtime: Handle,
}

/// What two clients must have in common to share a follower.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Likeness {
    group: Group,
    login: Login,
    policy: SentinelPolicy,
    dns: DnsPolicy,
}

impl Likeness {
    pub(super) fn of(config: &Config, group: &Group) -> Self {
        Self {
            group: group.clone(),
            login: config.login().clone(),
            policy: config.sentinel().clone(),
            dns: config.dns().clone(),
        }
    }
}

impl Plan {
    pub(super) fn new(
        config: &Config,
        group: &Group,
        resolver: Option<Arc<dyn Resolve>>,
        runtime: &Handle,
    ) -> Self {
        Self {
            endpoint: config.endpoint().clone(),
            name: config.given_name().map(str::to_owned),
            group: group.clone(),
            login: config.login().clone(),
            policy: config.sentinel().clone(),
            breaker: config.breaker().clone(),
            dns: config.dns().clone(),
            connect_timeout: config.connect_timeout(),
            resolver: resolver.unwrap_or_else(|| default_resolver(config.dns())),
            runtime: runtime.clone(),
        }
    }

    /// What is said first to a `peer`.
    pub(super) fn introduction(&self, peer: Peer) -> Introduction {
        let (login, resp3) = match peer {
            Peer::Sentinel => (&self.group.login, true),
            Peer::Server | Peer::Primary | Peer::Replica => (&self.login, false),
        };
        let password = login.password.as_ref();
        Introduction {
            resp3,
            username: login.username.clone(),
            password: password.map(|password| password.expose().to_owned()),
            db: 0,
            name: self.name.clone(),
            peer,
        }
    }

    /// The clocks of a connection to `spot`, whatever those of the client are, and an ear for its events.
    pub(super) fn pace(&self, spot: &Spot) -> (Pace, mpsc::Receiver<Value>) {
        let (pushes, heard) = mpsc::channel(EVENTS);
        let endpoint = spot.to_string().into();
        let (stall, detect) = (defaults::STALL_AFTER, defaults::DETECT_WITHIN);
        let pace = Pace::new(endpoint, OWED, stall, detect).with_pushes(pushes);
        (pace, heard)
    }

    /// Follows `host`, and leaves word in `found`.
    pub(super) fn follow(&self, host: &str, found: watch::Sender<Found>) -> Follower {
        follow(
            host,
            self.resolver.clone(),
            self.dns.clone(),
            &self.runtime,
            move |told| drop(found.send_replace(told)),
        )
    }
}
