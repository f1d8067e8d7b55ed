//! What the scripted server answers to which name, and what it was asked.
//!
//! Owns the table, the turns of rotating answers, and the log. Promises an answer decided in one place for UDP and
//! TCP. Leaves bytes to [`super::wire`] and waiting to [`super`]. Pure but for the clock reading in the log.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::wire::{A, AAAA, Question, Response};

/// What the server says about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// These addresses; a family without any is "no data".
    Addrs {
        /// IPv4 for A, IPv6 for AAAA.
        ips: Vec<IpAddr>,
        /// Seconds.
        ttl: u32,
    },
    /// The next set at each A query, round and round.
    Rotate {
        /// The sets, in turn.
        sets: Vec<Vec<IpAddr>>,
        /// Seconds.
        ttl: u32,
    },
    /// The name does not exist, whatever the type.
    NxDomain,
    /// The server failed.
    ServFail,
    /// The server refuses.
    Refused,
    /// Nothing is ever said.
    Silent,
    /// The name exists and has no address.
    Empty,
    /// The other answer, this much later.
    Slow(Duration, Box<Answer>),
    /// Cut short over UDP, whole over TCP.
    Truncated(Box<Answer>),
}

impl Answer {
    /// These addresses with a TTL in seconds.
    pub fn addrs<I>(ips: impl IntoIterator<Item = I>, ttl: u32) -> Self
    where
        I: Into<IpAddr>,
    {
        let ips = ips.into_iter().map(Into::into).collect();
        Answer::Addrs { ips, ttl }
    }
}

/// One query as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// When.
    pub at: Instant,
    /// Lower case, no trailing dot.
    pub name: String,
    /// `"A"`, `"AAAA"` or the number.
    pub kind: String,
    /// Over TCP instead of UDP.
    pub tcp: bool,
}

/// The table and the log.
#[derive(Debug)]
pub(super) struct Script {
    names: HashMap<String, Answer>,
    fallback: Answer,
    turns: HashMap<String, usize>,
    log: Vec<Asked>,
    counts: HashMap<String, (u64, u64)>,
}

/// When to say what; no response is silence.
pub(super) struct Plan {
    pub(super) wait: Duration,
    pub(super) response: Option<Response>,
}

impl Script {
    pub(super) fn new() -> Self {
        Self {
            names: HashMap::new(),
            fallback: Answer::NxDomain,
            turns: HashMap::new(),
            log: Vec::new(),
            counts: HashMap::new(),
        }
    }

    pub(super) fn set(&mut self, name: &str, answer: Answer) {
        let name = plain(name);
        self.turns.remove(&name);
        self.names.insert(name, answer);
    }

    pub(super) fn fall_back(&mut self, answer: Answer) {
        self.fallback = answer;
    }

    /// All queries and A queries for `name`.
    pub(super) fn count(&self, name: &str) -> (u64, u64) {
        self.counts.get(&plain(name)).copied().unwrap_or_default()
    }

    pub(super) fn log(&self) -> Vec<Asked> {
        self.log.clone()
    }

    /// Notes the query and decides.
    pub(super) fn plan(&mut self, question: &Question, tcp: bool) -> Plan {
        let count = self.counts.entry(question.name.clone()).or_default();
        count.0 += 1;
        count.1 += u64::from(question.kind == A);
        if self.log.len() < LOG_MOST {
            self.log.push(Asked {
                at: Instant::now(),
                name: question.name.clone(),
                kind: match question.kind {
                    A => "A".to_owned(),
                    AAAA => "AAAA".to_owned(),
                    other => other.to_string(),
                },
                tcp,
            });
        }
        let answer = self.names.get(&question.name).unwrap_or(&self.fallback);
        let turn = self.turns.entry(question.name.clone()).or_default();
        let plan = decide(answer, *turn, tcp);
        *turn += usize::from(question.kind == A);
        plan
    }
}

fn decide(answer: &Answer, turn: usize, tcp: bool) -> Plan {
    let say = |code, ips: &[IpAddr], ttl| Plan {
        wait: Duration::ZERO,
        response: Some(Response {
            code,
            truncated: false,
            ttl,
            addrs: ips.to_vec(),
        }),
    };
    match answer {
        Answer::Addrs { ips, ttl } => say(0, ips, *ttl),
        Answer::Rotate { sets, ttl } => {
            let now = sets.get(turn % sets.len().max(1));
            say(0, now.map_or(&[], Vec::as_slice), *ttl)
        }
        Answer::Empty => say(0, &[], 0),
        Answer::NxDomain => say(3, &[], 0),
        Answer::ServFail => say(2, &[], 0),
        Answer::Refused => say(5, &[], 0),
        Answer::Silent => Plan {
            wait: Duration::ZERO,
            response: None,
        },
        Answer::Slow(wait, then) => {
            let mut plan = decide(then, turn, tcp);
            plan.wait += *wait;
            plan
        }
        Answer::Truncated(whole) => {
            let mut plan = decide(whole, turn, tcp);
            if let Some(response) = plan.response.as_mut() {
                response.truncated = !tcp;
            }
            plan
        }
    }
}

fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_lowercase()
}

const LOG_MOST: usize = 200_000;
