//! One connection of an embedded server: who it is, what it said, and the commands about connections and the server.
//!
//! Owns the state of a connection (name, dialect, MULTI) and the list of all connections. Promises one reply per
//! command, in order. Leaves sockets to [`super`] and keys to [`super::store`]. A command it does not know is an
//! `-ERR`, as in Redis.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::store::Store;
use super::wire::Reply;

/// What all connections share.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) addr: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    store: Store,
    clients: BTreeMap<u64, Client>,
    next: u64,
}

#[derive(Debug)]
struct Client {
    peer: SocketAddr,
    name: String,
    killed: Arc<Notify>,
}

/// One connection.
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) resp3: bool,
    pub(super) quit: bool,
    pub(super) killed: Arc<Notify>,
    world: Arc<World>,
    queued: Option<Vec<(String, Vec<Vec<u8>>)>>,
}

impl World {
    pub(super) fn at(addr: SocketAddr) -> Self {
        Self {
            addr: addr.to_string(),
            state: Mutex::default(),
        }
    }

    pub(super) fn clients(&self) -> usize {
        self.lock().clients.len()
    }

    pub(super) fn accepts(&self) -> u64 {
        self.lock().next
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    pub(super) fn new(world: Arc<World>, peer: SocketAddr) -> Self {
        let killed = Arc::new(Notify::new());
        let mut state = world.lock();
        state.next += 1;
        let id = state.next;
        let client = Client {
            peer,
            name: String::new(),
            killed: Arc::clone(&killed),
        };
        state.clients.insert(id, client);
        drop(state);
        Self {
            id,
            resp3: false,
            quit: false,
            killed,
            world,
            queued: None,
        }
    }

    /// The reply to one command.
    pub(super) fn answer(&mut self, words: Vec<Vec<u8>>) -> Reply {
        let mut words = words.into_iter();
        let name = words.next().unwrap_or_default();
        let name = String::from_utf8_lossy(&name).to_uppercase();
        let args: Vec<Vec<u8>> = words.collect();
        match name.as_str() {
            "MULTI" if self.queued.is_some() => Reply::error("ERR MULTI calls can not be nested"),
            "MULTI" => {
                self.queued = Some(Vec::new());
                Reply::Ok
            }
            "EXEC" => match self.queued.take() {
                Some(all) => Reply::Array(
                    all.iter()
                        .map(|(name, args)| self.carry_out(name, args))
                        .collect(),
                ),
                None => Reply::error("ERR EXEC without MULTI"),
            },
            "DISCARD" => match self.queued.take() {
                Some(_) => Reply::Ok,
                None => Reply::error("ERR DISCARD without MULTI"),
            },
            _ => match self.queued.as_mut() {
                Some(queued) => {
                    queued.push((name, args));
                    Reply::Simple("QUEUED".to_owned())
                }
                None => self.carry_out(&name, &args),
            },
        }
    }

    fn carry_out(&mut self, name: &str, args: &[Vec<u8>]) -> Reply {
        match (name, args) {
            ("PING", []) => Reply::Simple("PONG".to_owned()),
            ("PING" | "ECHO", [word]) => Reply::bulk(word.clone()),
            ("HELLO", _) => self.hello(args),
            ("AUTH" | "SELECT" | "READONLY" | "WATCH" | "UNWATCH", _) => Reply::Ok,
            ("QUIT", _) => {
                self.quit = true;
                Reply::Ok
            }
            ("COMMAND", _) => Reply::Array(Vec::new()),
            ("ROLE", []) => Reply::Array(vec![
                Reply::bulk("master"),
                Reply::Int(0),
                Reply::Array(Vec::new()),
            ]),
            ("INFO", sections) => Reply::Text(self.info(sections)),
            ("CLIENT", [sub, rest @ ..]) => {
                let sub = String::from_utf8_lossy(sub).to_uppercase();
                self.client(&sub, rest)
            }
            _ => {
                let known = self.world.lock().store.apply(name, args, Instant::now());
                known.unwrap_or_else(|| Reply::error(format!("ERR unknown command '{name}'")))
            }
        }
    }

    fn hello(&mut self, args: &[Vec<u8>]) -> Reply {
        match args.first().map(Vec::as_slice) {
            None => {}
            Some(b"2") => self.resp3 = false,
            Some(b"3") => self.resp3 = true,
            Some(_) => return Reply::error("NOPROTO unsupported protocol version"),
        }
        let proto = if self.resp3 { 3 } else { 2 };
        let fields = [
            ("server", Reply::bulk("redis")),
            ("version", Reply::bulk(VERSION)),
            ("proto", Reply::Int(proto)),
            ("id", Reply::Int(i64::try_from(self.id).unwrap_or(0))),
            ("mode", Reply::bulk("standalone")),
            ("role", Reply::bulk("master")),
            ("modules", Reply::Array(Vec::new())),
        ];
        let pairs = fields.map(|(name, value)| (Reply::bulk(name), value));
        Reply::Map(pairs.into())
    }

    fn info(&self, sections: &[Vec<u8>]) -> String {
        let wanted = |name: &str| {
            sections.is_empty()
                || sections.iter().any(|section| {
                    let section = String::from_utf8_lossy(section).to_lowercase();
                    section == name || section == "all" || section == "everything"
                })
        };
        let id = replication_id(&self.world.addr);
        let mut text = String::new();
        if wanted("server") {
            text += &format!(
                "# Server\r\nredis_version:{VERSION}\r\nredis_mode:standalone\r\nrun_id:{id}\r\n"
            );
        }
        if wanted("clients") {
            text += &format!(
                "# Clients\r\nconnected_clients:{}\r\n",
                self.world.clients()
            );
        }
        if wanted("stats") {
            let accepts = self.world.accepts();
            text += &format!("# Stats\r\ntotal_connections_received:{accepts}\r\n");
        }
        if wanted("replication") {
            text += &format!(
                "# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_replid:{id}\r\nmaster_repl_offset:0\r\n"
            );
        }
        text
    }

    fn client(&mut self, sub: &str, args: &[Vec<u8>]) -> Reply {
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        match (sub, args) {
            ("ID", []) => Reply::Int(i64::try_from(self.id).unwrap_or(0)),
            ("SETINFO" | "NO-EVICT" | "NO-TOUCH", _) => Reply::Ok,
            ("SETNAME", [name]) => {
                if let Some(client) = self.world.lock().clients.get_mut(&self.id) {
                    client.name = text(name);
                }
                Reply::Ok
            }
            ("GETNAME", []) => {
                let state = self.world.lock();
                let name = state.clients.get(&self.id).map(|c| c.name.clone());
                name.filter(|name| !name.is_empty())
                    .map_or(Reply::Nil, Reply::bulk)
            }
            ("INFO", []) => Reply::Text(self.list(Some(&[self.id]))),
            ("LIST", []) => Reply::Text(self.list(None)),
            ("LIST", [kind, ids @ ..]) if kind.eq_ignore_ascii_case(b"ID") => {
                let ids: Vec<u64> = ids.iter().filter_map(|id| text(id).parse().ok()).collect();
                Reply::Text(self.list(Some(&ids)))
            }
            ("KILL", [addr]) => match self.kill(None, Some(&text(addr))) {
                0 => Reply::error("ERR No such client"),
                _ => Reply::Ok,
            },
            ("KILL", filters) => self.kill_by(filters),
            _ => Reply::error(format!("ERR unknown subcommand '{sub}'")),
        }
    }

    fn kill_by(&mut self, filters: &[Vec<u8>]) -> Reply {
        let (mut id, mut addr) = (None, None);
        for pair in filters.chunks(2) {
            let [name, value] = pair else {
                return Reply::error("ERR syntax error");
            };
            let value = String::from_utf8_lossy(value).into_owned();
            match name.to_ascii_uppercase().as_slice() {
                b"ID" => match value.parse() {
                    Ok(number) => id = Some(number),
                    Err(_) => return Reply::error("ERR client-id should be greater than 0"),
                },
                b"ADDR" => addr = Some(value),
                b"SKIPME" | b"TYPE" | b"USER" | b"LADDR" | b"MAXAGE" => {}
                _ => return Reply::error("ERR syntax error"),
            }
        }
        if id.is_none() && addr.is_none() {
            return Reply::error("ERR syntax error");
        }
        Reply::Int(self.kill(id, addr.as_deref()))
    }

    /// Kills every other connection that fits all that is given.
    fn kill(&self, id: Option<u64>, addr: Option<&str>) -> i64 {
        let state = self.world.lock();
        let mut killed = 0;
        for (number, client) in &state.clients {
            let fits = id.is_none_or(|id| id == *number)
                && addr.is_none_or(|addr| addr == client.peer.to_string());
            if fits && *number != self.id {
                client.killed.notify_one();
                killed += 1;
            }
        }
        killed
    }

    fn list(&self, only: Option<&[u64]>) -> String {
        let state = self.world.lock();
        let chosen = state
            .clients
            .iter()
            .filter(|(id, _)| only.is_none_or(|only| only.contains(id)));
        chosen.fold(String::new(), |text, (id, client)| {
            let resp = if *id == self.id && self.resp3 { 3 } else { 2 };
            let Client { peer, name, .. } = client;
            text + &format!(
                "id={id} addr={peer} laddr={} fd=8 name={name} age=0 idle=0 flags=N db=0 cmd=client user=default resp={resp}\n",
                self.world.addr
            )
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.world.lock().clients.remove(&self.id);
    }
}

/// Forty hexadecimal digits that differ per address and process.
fn replication_id(addr: &str) -> String {
    let seed = format!("{addr}-{}-", std::process::id());
    let digits = seed.bytes().flat_map(|byte| [byte >> 4, byte & 0xf]);
    let cycle: Vec<u8> = digits.collect();
    cycle
        .iter()
        .cycle()
        .take(40)
        .map(|digit| char::from_digit(u32::from(*digit), 16).unwrap_or('0'))
        .collect()
}

const VERSION: &str = "7.2.0";
