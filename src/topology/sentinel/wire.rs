//! What is said to a Sentinel and what it says: questions, answers, events.
//!
//! Owns the words. Promises: nothing a Sentinel sends reaches a panic; RESP2 and RESP3 read the same; an address may be an IP or a host
//! name; events of other primaries are none of ours. Leaves belief to [`vote`](super::vote) and [`failover`](super::failover).
//! Pure. Fails as data: what cannot be read is no answer.

use std::{fmt, str, sync::Arc, time::Duration};

use redis::{PushKind, Value, cmd};

use super::lag::MAX_LAG;
use crate::Request;

/// Where a server is, in a Sentinel's words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Spot {
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

impl Spot {
    pub(crate) fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }

    fn read(host: &str, port: &str) -> Option<Self> {
        let port = port.parse().ok().filter(|port| *port > 0)?;
        (!host.is_empty() && host.len() <= LONGEST_HOST).then(|| Self::new(host, port))
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How much is asked at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Depth {
    /// Also who the other Sentinels are, and who is asked.
    pub(crate) census: bool,
    /// Also the replicas: who they are, and which one is being promoted.
    pub(crate) replicas: bool,
}

/// What one Sentinel says of one primary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) primary: Option<Spot>,
    pub(crate) epoch: u64,
    /// It holds the primary down by itself.
    pub(crate) s_down: bool,
    /// It knows enough others who do.
    pub(crate) o_down: bool,
    /// It leads a failover that somebody has ordered.
    pub(crate) ordered: bool,
    pub(crate) quorum: u32,
    pub(crate) others: u32,
    /// Which Sentinel this is; survives its restart, not the loss of its state.
    pub(crate) id: Option<Arc<str>>,
    /// The other Sentinels it knows, where asked.
    pub(crate) sentinels: Option<Vec<Other>>,
    /// The replica that is being promoted, where replicas were asked for.
    pub(crate) promoting: Option<Spot>,
    /// The replicas it knows, where asked.
    pub(crate) replicas: Option<Vec<Listed>>,
}

/// A replica that a Sentinel knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) spot: Spot,
    /// As far as that Sentinel can tell it is there, is a replica, and hears its primary.
    pub(crate) well: bool,
}

/// A Sentinel that another one knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Other {
    pub(crate) spot: Spot,
    pub(crate) id: Arc<str>,
    pub(crate) down: bool,
}

/// An answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Says(View),
    /// It watches no primary of this name.
    Unknown,
    /// It does not take our credentials, or does not permit the question.
    Refused,
    /// It is no Sentinel.
    Stranger,
}

/// The question about the primary called `name`. The address comes from `GET-MASTER-ADDR-BY-NAME`, which is right a second before
/// `MASTER` is, on the leader of a failover; both stand in one pipeline, so that they are of one moment.
pub(crate) fn question(name: &str, depth: Depth) -> Request {
    let ask = |word: &str| cmd("SENTINEL").arg(word).arg(name).take();
    let mut pipeline = redis::pipe();
    pipeline.add_command(ask("GET-MASTER-ADDR-BY-NAME"));
    pipeline.add_command(ask("MASTER"));
    if depth.census {
        pipeline.add_command(cmd("SENTINEL").arg("MYID").take());
        pipeline.add_command(ask("SENTINELS"));
    }
    if depth.replicas {
        pipeline.add_command(ask("REPLICAS"));
    }
    Request::from(pipeline)
}

/// Reads what came to a question of `depth`.
pub(crate) fn answer(values: &[Value], depth: Depth) -> Option<Answer> {
    let mut values = values.iter();
    let (address, master) = (values.next()?, values.next()?);
    for value in [address, master] {
        match value {
            Value::ServerError(error) if REFUSALS.contains(&error.code()) => {
                return Some(Answer::Refused);
            }
            Value::ServerError(error) if is_unknown_command(error) => {
                return Some(Answer::Stranger);
            }
            _ => {}
        }
    }
    let (Some(primary), Some(fields)) = (spot(address), Fields::of(master)) else {
        let unknown = matches!(address, Value::Nil) || matches!(master, Value::ServerError(_));
        return unknown.then_some(Answer::Unknown);
    };
    let flags = fields.text("flags").unwrap_or_default();
    let mut view = View {
        primary: Some(primary),
        epoch: fields.number("config-epoch"),
        s_down: has_flag(flags, "s_down"),
        o_down: has_flag(flags, "o_down"),
        ordered: has_flag(flags, "force_failover"),
        quorum: small(fields.number("quorum")),
        others: small(fields.number("num-other-sentinels")),
        ..View::default()
    };
    if depth.census {
        view.id = values.next().and_then(text).and_then(id);
        view.sentinels = values.next().and_then(others);
    }
    if depth.replicas {
        let rows = values.next();
        view.promoting = rows.and_then(promoting);
        view.replicas = rows.and_then(replicas);
    }
    Some(Answer::Says(view))
}

fn is_unknown_command(error: &redis::ServerError) -> bool {
    error
        .details()
        .is_some_and(|details| details.starts_with("unknown command"))
}

fn spot(value: &Value) -> Option<Spot> {
    let [host, port] = list(value)? else {
        return None;
    };
    Spot::read(text(host)?, text(port)?)
}

fn others(value: &Value) -> Option<Vec<Other>> {
    let rows = list(value)?.iter().take(MOST_ROWS);
    let other = |row| {
        let fields = Fields::of(row)?;
        let flags = fields.text("flags").unwrap_or_default();
        Some(Other {
            spot: fields.spot()?,
            id: id(fields.text("runid")?)?,
            down: has_flag(flags, "s_down"),
        })
    };
    Some(rows.filter_map(other).collect())
}

/// A Sentinel's id is 40 hexadecimal digits.
fn id(text: &str) -> Option<Arc<str>> {
    (!text.is_empty() && text.len() <= LONGEST_ID).then(|| text.into())
}

fn promoting(value: &Value) -> Option<Spot> {
    let rows = list(value)?.iter().take(MOST_ROWS);
    rows.filter_map(Fields::of)
        .find(|fields| has_flag(fields.text("flags").unwrap_or_default(), "promoted"))?
        .spot()
}

fn replicas(value: &Value) -> Option<Vec<Listed>> {
    let rows = list(value)?.iter().take(MOST_ROWS);
    let listed = |row| {
        let fields = Fields::of(row)?;
        let flags = fields.text("flags").unwrap_or_default();
        let says = |name, good| fields.text(name).is_none_or(|said| said == good);
        let away = ["s_down", "o_down", "disconnected", "promoted"];
        let well = !away.into_iter().any(|flag| has_flag(flags, flag))
            && says("role-reported", "slave")
            && (says("master-link-status", "ok") || fields.is_deaf_for_a_moment());
        let spot = fields.spot()?;
        Some(Listed { spot, well })
    };
    Some(rows.filter_map(listed).collect())
}

fn has_flag(flags: &str, wanted: &str) -> bool {
    flags.split(',').any(|flag| flag == wanted)
}

/// A row of names and values: a map in RESP3, an array of both in turn in RESP2.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    fn of(value: &'a Value) -> Option<Self> {
        let pairs = match value {
            Value::Map(pairs) => pairs
                .iter()
                .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
                .collect(),
            Value::Array(parts) => parts
                .chunks_exact(2)
                .filter_map(|pair| match pair {
                    [name, value] => Some((text(name)?, text(value)?)),
                    _ => None,
                })
                .collect(),
            _ => return None,
        };
        Some(Self(pairs))
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value)
    }

    fn number(&self, name: &str) -> u64 {
        let number = self.text(name).and_then(|text| text.parse().ok());
        number.unwrap_or_default()
    }

    /// Its link to its primary has been down, and not for longer than a replica may lag behind.
    fn is_deaf_for_a_moment(&self) -> bool {
        let millis = self.text("master-link-down-time");
        let millis = millis.and_then(|millis| millis.parse().ok());
        // 0 and less where it never heard one.
        millis.is_some_and(|millis| millis > 0 && Duration::from_millis(millis) <= MAX_LAG)
    }

    fn spot(&self) -> Option<Spot> {
        Spot::read(self.text("ip")?, self.text("port")?)
    }
}

fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(parts) | Value::Set(parts) => Some(parts),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Something a Sentinel told unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Which server was the primary when it happened.
    pub(crate) of: Option<Spot>,
    pub(crate) event: Event,
}

/// What happened to our primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It holds the primary down, or no longer does.
    Down(bool),
    /// Enough of them hold it down, so many by name; or no longer.
    AgreedDown { down: bool, votes: u32 },
    /// It was elected to lead a failover.
    Elected,
    /// It leads a failover, and this replica is to become the primary.
    Named(Spot),
    /// It leads a failover, and this replica has become the primary.
    Promoted(Spot),
    /// Its failover has come to nothing.
    Aborted,
    /// It follows another primary now.
    Switched,
    /// Something else moved: worth a question.
    Stir,
    /// Sentinels or replicas came, went or fell: worth a census.
    Census,
}

/// Reads a push message that concerns the primary called `name`.
pub(crate) fn event(push: &Value, name: &str) -> Option<Told> {
    let Value::Push {
        kind: PushKind::PMessage,
        data,
    } = push
    else {
        return None;
    };
    let [_, channel, payload] = data.as_slice() else {
        return None;
    };
    told(text(channel)?, text(payload)?, name)
}

/// Reads an event by its channel and payload.
pub(crate) fn told(channel: &str, payload: &str, name: &str) -> Option<Told> {
    let words: Vec<&str> = payload.split(' ').collect();
    let (of, event) = match words.as_slice() {
        [named, host, port, _, _, ..] if channel == "+switch-master" && *named == name => {
            (Spot::read(host, port), Event::Switched)
        }
        ["master", named, host, port, ..] if *named == name => (
            Spot::read(host, port),
            happened(channel, "master", None, &words)?,
        ),
        [kind, _, host, port, "@", named, of, at, ..] if *named == name => {
            let subject = Spot::read(host, port);
            (
                Spot::read(of, at),
                happened(channel, kind, subject, &words)?,
            )
        }
        _ => return None,
    };
    Some(Told { of, event })
}

fn happened(channel: &str, kind: &str, subject: Option<Spot>, words: &[&str]) -> Option<Event> {
    match (channel, kind) {
        ("+sdown", "master") => Some(Event::Down(true)),
        ("-sdown", "master") => Some(Event::Down(false)),
        ("+odown", "master") => Some(Event::AgreedDown {
            down: true,
            votes: votes(words),
        }),
        ("-odown", "master") => Some(Event::AgreedDown {
            down: false,
            votes: 0,
        }),
        ("+elected-leader", "master") => Some(Event::Elected),
        (
            "+selected-slave"
            | "+failover-state-send-slaveof-noone"
            | "+failover-state-wait-promotion",
            "slave",
        ) => subject.map(Event::Named),
        ("+promoted-slave", "slave") => subject.map(Event::Promoted),
        (channel, "master") if channel.starts_with("-failover-abort") => Some(Event::Aborted),
        (
            "+sentinel"
            | "+slave"
            | "+reboot"
            | "+sdown"
            | "-sdown"
            | "-dup-sentinel"
            | "+sentinel-address-switch",
            _,
        ) => Some(Event::Census),
        ("+try-failover" | "+config-update-from" | "+failover-end" | "+convert-to-slave", _) => {
            Some(Event::Stir)
        }
        (channel, _) if channel.starts_with("+failover-state") => Some(Event::Stir),
        _ => None,
    }
}

/// `… #quorum 2/2`.
fn votes(words: &[&str]) -> u32 {
    let at = words.iter().position(|word| *word == "#quorum");
    at.and_then(|at| words.get(at + 1)?.split('/').next()?.parse().ok())
        .unwrap_or_default()
}

const REFUSALS: [&str; 4] = ["NOAUTH", "WRONGPASS", "NOPERM", "DENIED"];
/// No set of Sentinels is so large; a peer that says so is not believed to the end.
const MOST_ROWS: usize = 256;
const LONGEST_HOST: usize = 255;
const LONGEST_ID: usize = 64;

#[cfg(test)]
mod tests;
