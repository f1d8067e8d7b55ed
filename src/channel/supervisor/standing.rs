//! What callers and people are told of an endpoint.
//!
//! Owns the refusal that calls get while the circuit is open, and the client's health. Promises: a reason that a person must act on
//! (credentials, names, protocol) is told as itself, any other as an open circuit with the reason as its source; the same thing is
//! said once. Leaves deciding to [`supervisor`](super). Cannot fail.

use std::time::Duration;

use super::Supervisor;
use crate::{
    Error, ErrorKind, Phase,
    channel::{gate::Gate, verdict::Sight},
    error::Executed,
    health::{Health, HealthState},
    net::reach::connect::Dial,
    telemetry::span,
};

impl<C: Dial> Supervisor<C> {
    /// Tells calls that they are refused, and why.
    pub(super) fn say_down(&self) {
        let refusal = self.refusal();
        if let Gate::Down(said) = &**self.hub.gate.load()
            && (said.kind(), said.phase(), said.detail())
                == (refusal.kind(), refusal.phase(), refusal.detail())
        {
            return;
        }
        span::calls_refused(&self.hub.client, self.hub.endpoint(), &refusal);
        // Health first: a caller who is refused and looks there finds the reason.
        self.tell_health(self.sight());
        self.hub.gate.set(Gate::Down(refusal));
    }

    /// What a call is told while the circuit is open: the reason itself where a person must act or nothing ever worked.
    fn refusal(&self) -> Error {
        let endpoint = self.hub.endpoint();
        let reason = self
            .no_address()
            .or_else(|| self.trouble.clone())
            .unwrap_or_else(|| self.lost("no connection yet"));
        let own = matches!(
            reason.kind(),
            ErrorKind::Auth
                | ErrorKind::Dns
                | ErrorKind::NoPrimary
                | ErrorKind::Protocol
                | ErrorKind::Refused
                | ErrorKind::RoleMismatch
                | ErrorKind::Tls
        );
        if own || !self.served_once {
            return reason
                .at(endpoint)
                .executed(Executed::Never)
                .after(Duration::ZERO);
        }
        let detail = format!("circuit is open: {}", reason.detail());
        Error::new(ErrorKind::CircuitOpen, reason.phase(), detail)
            .at(endpoint)
            .because(reason)
    }

    /// Why no address is known, if none is.
    pub(super) fn no_address(&self) -> Option<Error> {
        let map = self.maps.borrow();
        map.primary
            .addresses
            .is_empty()
            .then(|| map.primary.trouble.clone())
            .flatten()
    }

    pub(super) fn tell_health(&self, sight: Sight) {
        let endpoint = self.hub.endpoint();
        let degraded = |reason| Health::new(HealthState::Degraded, reason, endpoint);
        let health = match sight {
            _ if self.is_down => Health::because(HealthState::Down, &self.refusal(), endpoint),
            Sight::Gone if !self.served_once => {
                Health::new(HealthState::Down, "connecting for the first time", endpoint)
            }
            Sight::Gone => degraded("connection is being replaced"),
            Sight::Suspect | Sight::Unresponsive => degraded("connection is silent"),
            Sight::Fine => match &self.maps.borrow().primary.trouble {
                Some(trouble) => Health::because(HealthState::Degraded, trouble, endpoint),
                None if self.unfenced => {
                    degraded("server does not let old connections be fenced off")
                }
                None => Health::new(HealthState::Ready, "serving", endpoint),
            },
        };
        self.hub.health.set(health);
    }

    pub(super) fn lost(&self, detail: &'static str) -> Error {
        Error::new(ErrorKind::ConnectionLost, Phase::Reply, detail).at(self.hub.endpoint())
    }
}
