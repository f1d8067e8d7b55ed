//! One connection to ask questions over: kept, watched, made anew.
//!
//! Owns [`Asker`]: the link to one server by its name, one question at a time. Promises: it dials like every link of this crate (names
//! followed, unanswered SYNs renewed, one connection in a frozen peer's queue); a question is answered or given up within its time; a
//! peer that is silent for a second is dialled anew, one whose connections do not last after growing pauses. Leaves what is asked to
//! [`peer`](super::peer) and [`candidate`](super::candidate). Fails as data: [`Heard::Failed`].

use std::{future::pending, net::SocketAddr, sync::Arc, time::Duration};

use redis::Value;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout_at},
};

use super::{plan::Plan, wire::Spot};
use crate::{
    Error, ErrorKind, Phase, Request,
    net::{
        address::Address,
        dns::Found,
        link::{
            Link, LinkState,
            handshake::Introduction,
            job::{Job, Outcome, Ticket},
        },
        reach::{
            connect::{Attempt, LinkConnector, Stage},
            prober::{Haste, Prober, Sighting},
        },
    },
    request::Values,
};

/// What came over the connection, or did not.
pub(super) enum Heard {
    /// There is a connection; nothing was asked over it yet.
    Connected,
    Answer(Vec<Value>),
    Push(Value),
    /// No connection, no answer in time, no address.
    Failed(Error),
}

pub(super) struct Asker {
    spot: Spot,
    found: watch::Receiver<Found>,
    template: Attempt,
    prober: Prober<LinkConnector>,
    link: Option<Link>,
    /// When the last connection was made.
    connected: Instant,
    states: Option<watch::Receiver<LinkState>>,
    pushes: mpsc::Receiver<Value>,
    question: Option<Question>,
    answer_timeout: Duration,
    /// When a first connection that is still being made counts as failed.
    first_by: Option<Instant>,
}

struct Question {
    ticket: Ticket,
    by: Instant,
}

impl Asker {
    /// Dials `spot` as soon as its name has addresses, which `found` tells.
    pub(super) fn new(
        spot: Spot,
        found: watch::Receiver<Found>,
        introduction: Introduction,
        plan: &Plan,
    ) -> Self {
        let (pace, pushes) = plan.pace(&spot);
        let template = Attempt {
            address: Address::Tcp(SocketAddr::from(([0, 0, 0, 0], 0))),
            introduction: Arc::new(introduction),
            connect_timeout: plan.connect_timeout,
            handshake_limit: HANDSHAKE_LIMIT,
            pace: Arc::new(pace),
            runtime: plan.runtime.clone(),
            stage: Arc::new(Stage::default()),
        };
        let mut asker = Self {
            prober: Prober::new(LinkConnector::new(), template.clone(), &plan.breaker),
            template,
            spot,
            found,
            link: None,
            connected: Instant::now(),
            states: None,
            pushes,
            question: None,
            answer_timeout: plan.policy.answer_timeout,
            first_by: None,
        };
        asker.found.mark_changed();
        asker
    }

    /// How hard to dial while there is no connection.
    pub(super) fn set_gaps(&mut self, first: Duration, cap: Duration) {
        self.prober.set_gaps(first, cap, Instant::now());
    }

    pub(super) fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// Asks, unless the last question is still out or there is no connection.
    pub(super) fn ask(&mut self, request: Request) -> bool {
        let Some(link) = self.link.as_ref().filter(|_| self.question.is_none()) else {
            return false;
        };
        let (job, ticket) = Job::pair(request);
        let sent = link.submit(job).is_ok();
        if sent {
            let by = Instant::now() + self.answer_timeout;
            self.question = Some(Question { ticket, by });
        }
        sent
    }

    /// The next thing heard. Cancel safe.
    pub(super) async fn next(&mut self) -> Heard {
        loop {
            let first_by = self.first_by;
            tokio::select! {
                outcome = answered(&mut self.question) => return self.on_outcome(outcome),
                Some(push) = self.pushes.recv() => return Heard::Push(push),
                () = changed(&mut self.states) => if let Some(heard) = self.on_state() {
                    return heard;
                },
                sighting = self.prober.next() => if let Some(heard) = self.on_sighting(sighting) {
                    return heard;
                },
                Ok(()) = self.found.changed() => if let Some(heard) = self.on_found() {
                    return heard;
                },
                () = sleep_until(first_by.unwrap_or_else(Instant::now)), if first_by.is_some() => {
                    self.first_by = None;
                    return Heard::Failed(self.silent());
                },
            }
        }
    }

    fn silent(&self) -> Error {
        Error::new(ErrorKind::Timeout, Phase::Discovery, "no answer in time")
            .at(&self.endpoint())
            .after(self.answer_timeout)
    }

    fn endpoint(&self) -> Arc<str> {
        self.spot.to_string().into()
    }

    fn on_outcome(&mut self, outcome: Option<Outcome>) -> Heard {
        self.question = None;
        match outcome {
            Some(Outcome::Replied(Values::Many(values) | Values::Refused(values, _))) => {
                Heard::Answer(values)
            }
            Some(Outcome::Replied(Values::One(value))) => Heard::Answer(vec![value]),
            Some(Outcome::Ended(end)) => Heard::Failed(end.error),
            None => Heard::Failed(self.silent()),
        }
    }

    fn on_state(&mut self) -> Option<Heard> {
        let state = self.states.as_mut()?.borrow_and_update().clone();
        let LinkState::Dead { error, .. } = state else {
            return None;
        };
        let now = Instant::now();
        let lived = now.saturating_duration_since(self.connected);
        self.hang_up();
        // A peer whose connections do not last is not dialled in a storm.
        let pause = self.prober.pause_after(lived, now);
        self.dial(now + pause);
        Some(Heard::Failed(error))
    }

    fn on_sighting(&mut self, sighting: Sighting<Link>) -> Option<Heard> {
        match sighting {
            Sighting::Served(link) => {
                self.prober.rest();
                self.first_by = None;
                self.connected = Instant::now();
                let mut states = link.watch();
                states.mark_changed();
                self.states = Some(states);
                self.link = Some(link);
                Some(Heard::Connected)
            }
            Sighting::Failed { error, .. } => {
                self.first_by = None;
                self.speak_plainly(&error);
                Some(Heard::Failed(error.at(&self.endpoint())))
            }
        }
    }

    /// A peer that knows no RESP3 is spoken to in RESP2 from now on: questions alone, no events.
    fn speak_plainly(&mut self, error: &Error) {
        let introduction = &self.template.introduction;
        if !introduction.resp3 || error.detail() != NO_RESP3 {
            return;
        }
        let introduction = Introduction {
            resp3: false,
            ..(**introduction).clone()
        };
        self.template.introduction = Arc::new(introduction);
        self.prober.set_template(self.template.clone());
    }

    fn on_found(&mut self) -> Option<Heard> {
        let found = self.found.borrow_and_update().clone();
        let left = self.link.as_ref().is_some_and(|link| match link.address() {
            Address::Tcp(address) => found.gone.contains(&address.ip()),
            Address::Unix(_) => false,
        });
        if left {
            self.hang_up();
            self.prober.forget();
        }
        if self.link.is_none() {
            self.dial(Instant::now());
        }
        let trouble = found.trouble.filter(|_| found.addresses.is_empty())?;
        self.first_by = None;
        let error = Error::new(ErrorKind::Dns, Phase::Dns, trouble).at(&self.endpoint());
        Some(Heard::Failed(error))
    }

    fn hang_up(&mut self) {
        self.link = None;
        self.states = None;
        self.question = None;
    }

    fn dial(&mut self, at: Instant) {
        let port = self.spot.port;
        let addresses = self.found.borrow().addresses.clone();
        let targets: Vec<Address> = addresses
            .into_iter()
            .map(|ip| Address::Tcp(SocketAddr::new(ip, port)))
            .collect();
        if targets.is_empty() {
            return;
        }
        if self.prober.is_resting() {
            self.first_by = Some(at + self.answer_timeout);
        }
        self.prober.aim(targets, Haste::Urgent, at);
    }
}

/// The outcome of the question that is out, or nothing in time; for ever where none is.
async fn answered(question: &mut Option<Question>) -> Option<Outcome> {
    match question {
        Some(question) => timeout_at(question.by, &mut question.ticket).await.ok(),
        None => pending().await,
    }
}

async fn changed(states: &mut Option<watch::Receiver<LinkState>>) {
    if let Some(states) = states
        && states.changed().await.is_ok()
    {
        return;
    }
    pending().await
}

/// As for every link: the prober renews a silent connection long before.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);
const NO_RESP3: &str = "server does not speak RESP3";
