//! When a name is asked for again, and what is believed meanwhile.
//!
//! Owns [`Policy`]: the state of one name. In go lookups begun and ended, and how urgent it is; out come the next start and what is
//! [`Found`]. Promises: no failed or negative lookup shrinks the set; at most [`MOST_FLIGHTS`] lookups are under way; an old answer
//! never replaces a newer one. Leaves asking to [`refresh`](super::refresh), membership to [`members`](super::members), how closely
//! lookups may follow one another to [`row`].
//! Pure: time is an argument. Cannot fail. Its tests read as the specification.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

use self::row::Row;
use super::{Answer, DnsPolicy, Families, NoAddress, Resolution, members::Members};
use crate::backoff::Backoff;

/// How badly a fresh answer is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Refresh at leisure.
    Calm,
    /// A link is down: look now, then at `urgent_every`, whether or not lookups are answered.
    Urgent,
}

/// What is believed of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Addresses to dial, best first. Empty only if there never was one.
    pub(crate) addresses: Vec<IpAddr>,
    /// How many of them, at the end, the newest answer does not name.
    pub(crate) former: usize,
    /// Addresses that have left the name for good.
    pub(crate) gone: Vec<IpAddr>,
    /// Why the last lookup brought nothing, if it did not.
    pub(crate) trouble: Option<String>,
}

/// A lookup under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    number: u64,
    started: Instant,
}

/// What a resolution comes to, both families together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Positive,
    Negative,
    Transient,
}

#[derive(Debug)]
pub(super) struct Policy {
    name: Arc<str>,
    settings: DnsPolicy,
    pace: Pace,
    members: Members,
    trouble: Option<String>,
    backoff: Backoff,
    /// When to look next, at leisure.
    planned: Instant,
    row: Row,
    flights: usize,
    begun: u64,
    /// The newest lookup that was answered, and the newest that brought an answer other than a failure.
    heard: u64,
    told: u64,
}

impl Policy {
    pub(super) fn new(name: Arc<str>, settings: DnsPolicy, now: Instant) -> Self {
        // The cap leaves room for its own jitter: no gap is longer than `max_refresh`.
        let cap = settings.max_refresh.mul_f64(0.8);
        Self {
            name,
            pace: Pace::Calm,
            members: Members::new(settings.rotation_memory),
            trouble: None,
            backoff: Backoff::new(FIRST_BACKOFF.min(cap), cap, 20),
            planned: now,
            row: Row::new(settings.urgent_every, settings.max_refresh),
            flights: 0,
            begun: 0,
            heard: 0,
            told: 0,
            settings,
        }
    }

    pub(super) fn pace(&mut self, pace: Pace) {
        self.pace = pace;
        self.row.pace(pace);
    }

    /// When the next lookup starts, if no news comes before; `None` while one under way must end first.
    pub(super) fn next_start(&self) -> Option<Instant> {
        let soonest = self.row.soonest(self.pace).unwrap_or(self.planned);
        match self.pace {
            Pace::Urgent if self.flights < MOST_FLIGHTS => Some(soonest),
            Pace::Calm if self.flights == 0 => Some(self.planned.max(soonest)),
            _ => None,
        }
    }

    pub(super) fn start(&mut self, now: Instant) -> Ticket {
        self.row.start(self.pace, now);
        self.flights += 1;
        self.begun += 1;
        Ticket {
            number: self.begun,
            started: now,
        }
    }

    /// A lookup has ended. Says what it came to, even where a newer one has made it stale.
    pub(super) fn ended(
        &mut self,
        ticket: Ticket,
        resolution: Resolution,
        now: Instant,
    ) -> Verdict {
        self.flights = self.flights.saturating_sub(1);
        let Resolution { v4, v6 } = self.settings.families.keep(resolution);
        let verdict = verdict(&v4, &v6);
        // A failure tells nothing of the name: an answer asked for earlier, which comes after it, still is news.
        let stale = match verdict {
            Verdict::Transient => ticket.number < self.heard,
            _ => ticket.number < self.told,
        };
        if stale {
            return verdict;
        }
        self.heard = self.heard.max(ticket.number);
        match verdict {
            Verdict::Positive => {
                self.told = ticket.number;
                self.positive(v4, v6, ticket.started, now);
            }
            Verdict::Negative => {
                self.told = ticket.number;
                self.failed(self.absence(&v4, &v6), now);
            }
            Verdict::Transient => self.failed(failure(v4, v6), now),
        }
        verdict
    }

    fn positive(&mut self, v4: Answer, v6: Answer, started: Instant, now: Instant) {
        let mut good_for = self.settings.max_refresh;
        let mut answer = Vec::new();
        let heard = Families::heard(&v4, &v6);
        for (family, is_v4) in [(v4, true), (v6, false)] {
            match family {
                Answer::Positive { addresses, ttl } => {
                    good_for = good_for.min(ttl);
                    answer.extend(addresses);
                }
                // A family that did not answer keeps what it had.
                Answer::Transient { .. } => {
                    let had = self.members.last().iter();
                    answer.extend(had.filter(|ip| ip.is_ipv4() == is_v4));
                }
                Answer::Negative { .. } => {}
            }
        }
        self.members.answered(answer, heard, started);
        self.trouble = None;
        self.backoff.reset();
        let wait = good_for.max(self.settings.min_refresh);
        self.planned = now + wait.mul_f64(0.8 + 0.2 * fastrand::f64());
        if let Some(confirm) = self.members.confirm_at() {
            self.planned = self.planned.min(confirm.max(now));
        }
    }

    fn failed(&mut self, trouble: String, now: Instant) {
        self.trouble = Some(trouble);
        self.planned = now + self.backoff.next();
    }

    fn absence(&self, v4: &Answer, v6: &Answer) -> String {
        let name = &self.name;
        if is_unknown(v4) || is_unknown(v6) {
            format!("no such name {name}")
        } else {
            format!("no address for name {name}")
        }
    }

    /// What is believed now.
    pub(super) fn found(&self) -> Found {
        let addresses = self.members.addresses(self.trouble.is_none());
        Found {
            former: addresses.len() - self.members.last().len(),
            addresses,
            gone: self.members.gone(),
            trouble: self.trouble.clone(),
        }
    }

    pub(super) fn is_rotating(&self) -> bool {
        self.members.is_rotating()
    }
}

fn verdict(v4: &Answer, v6: &Answer) -> Verdict {
    let positive = |answer: &Answer| matches!(answer, Answer::Positive { addresses, .. } if !addresses.is_empty());
    if positive(v4) || positive(v6) {
        Verdict::Positive
    } else if v4.is_transient() || v6.is_transient() {
        Verdict::Transient
    } else {
        Verdict::Negative
    }
}

fn is_unknown(answer: &Answer) -> bool {
    matches!(
        answer,
        Answer::Negative {
            reason: NoAddress::NxDomain,
            ..
        }
    )
}

fn failure(v4: Answer, v6: Answer) -> String {
    match (v4, v6) {
        (Answer::Transient { reason }, _) | (_, Answer::Transient { reason }) => {
            reason.into_owned()
        }
        _ => String::new(),
    }
}

const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// At the default pace, so many are begun before the first times out.
pub(super) const MOST_FLIGHTS: usize = 5;

mod row;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
