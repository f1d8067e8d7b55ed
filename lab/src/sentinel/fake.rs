//! A Sentinel that says what it is told to: for what real ones do only by accident.
//!
//! Owns the listener, the connections and the subscriptions. Promises enough of Sentinel for a client: `PING`, `HELLO`,
//! `AUTH`, `INFO`, `ROLE`, `CLIENT`, the questions of `SENTINEL` and `(P)SUBSCRIBE` in both dialects; a view or a mood is
//! in force for every command that arrives after it was set. Leaves truth to real Sentinels ([`super::SentinelSet`]).
//! Fails with a [`LabError`] when it cannot bind. Next: [`crate::Embedded`] for the Redis it speaks of.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::LabError;
use crate::proxy::Listen;
use crate::resp::wire::{Reply, take_command};
use crate::task::{Owned, own};

/// What a [`FakeSentinel`] believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The name it watches; any other is unknown to it.
    pub name: String,
    /// Host and port of the primary; `None` answers a null.
    pub primary: Option<(String, u16)>,
    /// Flags of the primary, `master` alone while all is well.
    pub flags: String,
    /// `config-epoch`.
    pub epoch: u64,
    /// Its own run id, made from its address where none is given: another one is another generation.
    pub run_id: String,
    /// `quorum`.
    pub quorum: usize,
    /// Host and port of each replica, and its flags.
    pub replicas: Vec<(String, u16, String)>,
    /// Host and port of each other Sentinel.
    pub others: Vec<(String, u16)>,
}

/// How a [`FakeSentinel`] behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mood {
    /// As a healthy one.
    #[default]
    Well,
    /// Answers as usual, says so in `INFO`, and tells no events.
    Tilt,
    /// Accepts, reads, and says nothing: its event loop hangs in a lookup.
    Silent,
    /// Knows the name and has no address for it.
    Null,
    /// Ends each connection once so many questions of `SENTINEL` were answered over it; with 0, at the first one.
    HangsUp(usize),
    /// Every command but `AUTH` and `HELLO` is refused with this error.
    Refuses(String),
}

/// A Sentinel of the test's own; ends with this handle.
#[derive(Debug)]
pub struct FakeSentinel {
    addr: SocketAddr,
    state: Arc<State>,
    _task: Owned,
}

#[derive(Debug)]
struct State {
    told: Mutex<Told>,
    mood: watch::Sender<Mood>,
    events: broadcast::Sender<(String, String)>,
}

#[derive(Debug)]
struct Told {
    view: View,
    accepts: u64,
    open: usize,
    asked: Vec<(Instant, String)>,
}

impl View {
    /// A primary at this address, and nothing else.
    pub fn of(name: impl Into<String>, host: impl ToString, port: u16) -> Self {
        Self {
            name: name.into(),
            primary: Some((host.to_string(), port)),
            flags: "master".to_owned(),
            epoch: 0,
            run_id: String::new(),
            quorum: 2,
            replicas: Vec::new(),
            others: Vec::new(),
        }
    }
}

impl FakeSentinel {
    /// Listens on an address of its own.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(view: View) -> Result<Self, LabError> {
        Self::start_on(crate::ip(), view).await
    }

    /// Listens where it is told.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn start_on(listen: impl Into<Listen>, view: View) -> Result<Self, LabError> {
        let wanted = listen.into().addr();
        let cannot = |error: std::io::Error| {
            LabError::new(format!("no fake Sentinel on {wanted}")).because(error)
        };
        let listener = TcpListener::bind(wanted).await.map_err(cannot)?;
        let addr = listener.local_addr().map_err(cannot)?;
        let mut view = view;
        if view.run_id.is_empty() {
            view.run_id = run_id(&addr.ip().to_string(), addr.port());
        }
        let told = Told {
            view,
            accepts: 0,
            open: 0,
            asked: Vec::new(),
        };
        let state = Arc::new(State {
            told: Mutex::new(told),
            mood: watch::Sender::new(Mood::Well),
            events: broadcast::Sender::new(256),
        });
        let task = own(serve(listener, Arc::clone(&state)));
        Ok(Self {
            addr,
            state,
            _task: task,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes what it believes; says nothing of it to anybody.
    pub fn believe(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.state.told().view);
    }

    /// What it believes.
    pub fn view(&self) -> View {
        self.state.told().view.clone()
    }

    /// Changes how it behaves. What is asked of a silent one is answered when it is well again.
    pub fn mood(&self, mood: Mood) {
        self.state.mood.send_replace(mood);
    }

    /// Tells an event to whoever subscribed: `("+switch-master", "orders 127.0.0.1 1 127.0.0.2 2")`.
    pub fn tell(&self, channel: &str, payload: impl Into<String>) {
        let quiet = [Mood::Tilt, Mood::Silent].contains(&self.state.mood.borrow());
        if !quiet {
            let _ = self.state.events.send((channel.to_owned(), payload.into()));
        }
    }

    /// Connections accepted so far.
    pub fn accepts(&self) -> u64 {
        self.state.told().accepts
    }

    /// Connections open now.
    pub fn clients(&self) -> usize {
        self.state.told().open
    }

    /// Every command so far and when it came, in capitals: `SENTINEL MASTER`.
    pub fn asked(&self) -> Vec<(Instant, String)> {
        self.state.told().asked.clone()
    }

    /// How often a command of this name came.
    pub fn count(&self, name: &str) -> usize {
        self.state
            .told()
            .asked
            .iter()
            .filter(|(_, asked)| asked == name)
            .count()
    }
}

impl State {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                let mut told = state.told();
                told.accepts += 1;
                told.open += 1;
                drop(told);
                open.spawn(talk(stream, Talk::new(Arc::clone(&state))));
            },
            Some(_) = open.join_next() => {}
        }
    }
}

/// One connection.
struct Talk {
    state: Arc<State>,
    resp3: bool,
    channels: BTreeSet<String>,
    patterns: BTreeSet<String>,
    questions: usize,
    over: bool,
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.state.told().open -= 1;
    }
}

async fn talk(mut stream: TcpStream, mut talk: Talk) {
    let _ = stream.set_nodelay(true);
    let (mut mood, mut events) = (talk.state.mood.subscribe(), talk.state.events.subscribe());
    let (mut input, mut out) = (BytesMut::new(), Vec::new());
    loop {
        tokio::select! {
            read = stream.read_buf(&mut input) => if !matches!(read, Ok(1..)) { return; },
            event = events.recv() => match event {
                Ok((channel, payload)) => talk.event(&channel, &payload, &mut out),
                Err(_) => return,
            }
        }
        // Read but not looked at: its event loop hangs.
        let _ = mood.wait_for(|mood| *mood != Mood::Silent).await;
        while !talk.over {
            match take_command(&mut input) {
                Ok(None) => break,
                Ok(Some(words)) if words.is_empty() => {}
                Ok(Some(words)) => talk.answer(&words, &mut out),
                Err(_) => return,
            }
        }
        if stream.write_all(&out).await.is_err() || talk.over {
            return;
        }
        out.clear();
    }
}

impl Talk {
    fn new(state: Arc<State>) -> Self {
        Self {
            state,
            resp3: false,
            channels: BTreeSet::new(),
            patterns: BTreeSet::new(),
            questions: 0,
            over: false,
        }
    }

    fn answer(&mut self, words: &[Vec<u8>], out: &mut Vec<u8>) {
        let words: Vec<String> = words
            .iter()
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let (name, args) = words
            .split_first()
            .map_or((String::new(), &[][..]), |(name, args)| {
                (name.to_uppercase(), args)
            });
        let sub = args
            .first()
            .map(|sub| sub.to_uppercase())
            .unwrap_or_default();
        let is_compound = ["SENTINEL", "CLIENT"].contains(&name.as_str());
        let full = if is_compound {
            format!("{name} {sub}")
        } else {
            name.clone()
        };
        self.state.told().asked.push((Instant::now(), full.clone()));
        let mood = self.state.mood.borrow().clone();
        if let Mood::Refuses(why) = &mood
            && !["AUTH", "HELLO", "QUIT"].contains(&name.as_str())
        {
            Reply::error(why.clone()).write(out, self.resp3);
            return;
        }
        if let Mood::HangsUp(most) = mood
            && name == "SENTINEL"
        {
            self.questions += 1;
            self.over = self.questions >= most;
            if self.questions > most {
                return;
            }
        }
        match name.as_str() {
            "SUBSCRIBE" | "PSUBSCRIBE" | "UNSUBSCRIBE" | "PUNSUBSCRIBE" => {
                self.subscription(&name, args, out)
            }
            _ => self.reply(&full, args, &mood).write(out, self.resp3),
        }
    }

    fn reply(&mut self, full: &str, args: &[String], mood: &Mood) -> Reply {
        match full {
            "PING" if self.is_subscribed() && !self.resp3 => {
                Reply::Array(vec![Reply::bulk("pong"), Reply::bulk("")])
            }
            "PING" => Reply::Simple("PONG".to_owned()),
            "AUTH" | "CLIENT SETINFO" | "CLIENT SETNAME" => Reply::Ok,
            "CLIENT ID" => Reply::Int(1),
            "HELLO" => self.hello(args),
            "ROLE" => Reply::Array(vec![
                Reply::bulk("sentinel"),
                Reply::Array(vec![Reply::bulk(self.state.told().view.name.clone())]),
            ]),
            "INFO" => Reply::Text(format!(
                "# Server\r\nredis_version:7.2.0\r\nredis_mode:sentinel\r\nrun_id:{}\r\n# Sentinel\r\n\
                 sentinel_masters:1\r\nsentinel_tilt:{}\r\n",
                self.state.told().view.run_id,
                u8::from(*mood == Mood::Tilt)
            )),
            "SENTINEL MYID" => Reply::bulk(self.state.told().view.run_id.clone()),
            "SENTINEL MASTERS" => Reply::Array(vec![master(&self.state.told().view)]),
            _ if full.starts_with("SENTINEL ") => self.sentinel(full, args.get(1), mood),
            _ => Reply::error(format!("ERR unknown command '{full}'")),
        }
    }

    fn sentinel(&self, full: &str, name: Option<&String>, mood: &Mood) -> Reply {
        let view = &self.state.told().view;
        let known = name.is_some_and(|name| *name == view.name);
        if full == "SENTINEL GET-MASTER-ADDR-BY-NAME" {
            return match &view.primary {
                Some((host, port)) if known && *mood != Mood::Null => Reply::Array(vec![
                    Reply::bulk(host.clone()),
                    Reply::bulk(port.to_string()),
                ]),
                _ => Reply::NilArray,
            };
        }
        if !known {
            return Reply::error("ERR No such master with that name");
        }
        match full {
            "SENTINEL MASTER" => master(view),
            "SENTINEL REPLICAS" | "SENTINEL SLAVES" => {
                Reply::Array(view.replicas.iter().map(replica).collect())
            }
            "SENTINEL SENTINELS" => Reply::Array(view.others.iter().map(other).collect()),
            "SENTINEL CKQUORUM" => Reply::Simple("OK 3 usable Sentinels".to_owned()),
            _ => Reply::error("ERR Unknown sentinel subcommand"),
        }
    }

    fn hello(&mut self, args: &[String]) -> Reply {
        match args.first().map(String::as_str) {
            None => {}
            Some("2") => self.resp3 = false,
            Some("3") => self.resp3 = true,
            Some(_) => return Reply::error("NOPROTO unsupported protocol version"),
        }
        let fields = [
            ("server", Reply::bulk("redis")),
            ("version", Reply::bulk("7.2.0")),
            ("proto", Reply::Int(if self.resp3 { 3 } else { 2 })),
            ("id", Reply::Int(1)),
            ("mode", Reply::bulk("sentinel")),
            ("modules", Reply::Array(Vec::new())),
        ];
        Reply::Map(
            fields
                .map(|(name, value)| (Reply::bulk(name), value))
                .into(),
        )
    }

    fn subscription(&mut self, name: &str, args: &[String], out: &mut Vec<u8>) {
        let set = if name.starts_with('P') {
            &mut self.patterns
        } else {
            &mut self.channels
        };
        for word in args {
            if name.contains("UNSUB") {
                set.remove(word);
            } else {
                set.insert(word.clone());
            }
        }
        for (nth, word) in args.iter().enumerate() {
            let count = i64::try_from(nth + 1).unwrap_or(1);
            let reply = [
                Reply::bulk(name.to_lowercase()),
                Reply::bulk(word.clone()),
                Reply::Int(count),
            ];
            self.push(&reply, out);
        }
    }

    fn event(&self, channel: &str, payload: &str, out: &mut Vec<u8>) {
        if self.channels.contains(channel) {
            self.push(&["message", channel, payload].map(Reply::bulk), out);
        }
        for pattern in &self.patterns {
            let fits = pattern
                .strip_suffix('*')
                .is_some_and(|start| channel.starts_with(start));
            if fits || pattern == channel {
                self.push(
                    &["pmessage", pattern, channel, payload].map(Reply::bulk),
                    out,
                );
            }
        }
    }

    fn push(&self, items: &[Reply], out: &mut Vec<u8>) {
        let mark = if self.resp3 { '>' } else { '*' };
        out.extend(format!("{mark}{}\r\n", items.len()).bytes());
        items.iter().for_each(|item| item.write(out, self.resp3));
    }

    fn is_subscribed(&self) -> bool {
        !self.channels.is_empty() || !self.patterns.is_empty()
    }
}

fn master(view: &View) -> Reply {
    let (host, port) = view.primary.clone().unwrap_or_default();
    let (replicas, others) = (view.replicas.len(), view.others.len());
    fields(&[
        ("name", view.name.clone()),
        ("runid", run_id(&host, port)),
        ("ip", host),
        ("port", port.to_string()),
        ("flags", view.flags.clone()),
        ("role-reported", "master".to_owned()),
        ("config-epoch", view.epoch.to_string()),
        ("num-slaves", replicas.to_string()),
        ("num-other-sentinels", others.to_string()),
        ("quorum", view.quorum.to_string()),
    ])
}

fn replica((host, port, flags): &(String, u16, String)) -> Reply {
    fields(&[
        ("name", format!("{host}:{port}")),
        ("ip", host.clone()),
        ("port", port.to_string()),
        ("flags", flags.clone()),
        ("master-link-status", "ok".to_owned()),
        ("slave-priority", "100".to_owned()),
        ("replica-announced", "1".to_owned()),
    ])
}

fn other((host, port): &(String, u16)) -> Reply {
    fields(&[
        ("name", format!("{host}:{port}")),
        ("ip", host.clone()),
        ("port", port.to_string()),
        ("runid", run_id(host, *port)),
        ("flags", "sentinel".to_owned()),
    ])
}

/// Two servers may have the same port at different addresses.
fn run_id(host: &str, port: u16) -> String {
    let mut hasher = DefaultHasher::new();
    host.hash(&mut hasher);
    format!("{:016x}{port:024x}", hasher.finish())
}

fn fields(all: &[(&str, String)]) -> Reply {
    let pairs = all
        .iter()
        .map(|(name, value)| (Reply::bulk(*name), Reply::bulk(value.clone())));
    Reply::Map(pairs.collect())
}
