//! One connection of an embedded server: who it is, what it said, and the commands about connections and the server.
//!
//! Owns the state of a connection: its dialect and its MULTI. Promises one reply per command, in order. Leaves sockets
//! to [`super`], keys and the list of connections to [`super::world`]. A command it does not know is an `-ERR`, as in
//! Redis. Next: [`super::wire`].

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::wire::Reply;
use super::world::World;

/// One connection.
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) resp3: bool,
    pub(super) quit: bool,
    pub(super) killed: Arc<Notify>,
    world: Arc<World>,
    queued: Option<Vec<(String, Vec<Vec<u8>>)>>,
}

impl Session {
    pub(super) fn new(world: Arc<World>, peer: SocketAddr) -> Self {
        let (id, killed) = world.enter(peer);
        Self {
            id,
            resp3: false,
            quit: false,
            killed,
            world,
            queued: None,
        }
    }

    /// When a command that comes now is done.
    pub(super) fn done(&self) -> Instant {
        self.world.done()
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
            ("ROLE", []) => self.role(),
            ("INFO", sections) => Reply::Text(self.info(sections)),
            ("CLUSTER", [sub]) => self.cluster(&sub.to_ascii_uppercase()),
            ("CLIENT", [sub, rest @ ..]) => {
                let sub = String::from_utf8_lossy(sub).to_uppercase();
                self.client(&sub, rest)
            }
            _ => {
                let known = self.world.apply(name, args);
                known.unwrap_or_else(|| Reply::error(format!("ERR unknown command '{name}'")))
            }
        }
    }

    /// It is all of a cluster.
    fn cluster(&self, sub: &[u8]) -> Reply {
        let id = replication_id(&self.world.addr);
        match (sub, self.world.addr.rsplit_once(':')) {
            (b"MYID", _) => Reply::bulk(id),
            (b"SLOTS", Some((ip, port))) => {
                let port = Reply::Int(port.parse().unwrap_or(0));
                let node = Reply::Array(vec![Reply::bulk(ip), port, Reply::bulk(id)]);
                let slots = [Reply::Int(0), Reply::Int(16_383), node];
                Reply::Array(vec![Reply::Array(slots.into())])
            }
            _ => Reply::error("ERR unknown subcommand"),
        }
    }

    fn role(&self) -> Reply {
        Reply::Array(match self.world.primary() {
            None => vec![
                Reply::bulk("master"),
                Reply::Int(0),
                Reply::Array(Vec::new()),
            ],
            Some(primary) => vec![
                Reply::bulk("slave"),
                Reply::bulk(primary.ip().to_string()),
                Reply::Int(primary.port().into()),
                Reply::bulk("connected"),
                Reply::Int(0),
            ],
        })
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
            ("role", Reply::bulk(self.role_name("replica"))),
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
            let role = self.role_name("slave");
            text += &format!(
                "# Replication\r\nrole:{role}\r\nconnected_slaves:0\r\nmaster_replid:{id}\r\nmaster_repl_offset:0\r\n"
            );
        }
        text
    }

    fn role_name(&self, replica: &'static str) -> &'static str {
        self.world.primary().map_or("master", |_| replica)
    }

    fn client(&mut self, sub: &str, args: &[Vec<u8>]) -> Reply {
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        match (sub, args) {
            ("ID", []) => Reply::Int(i64::try_from(self.id).unwrap_or(0)),
            ("SETINFO" | "NO-EVICT" | "NO-TOUCH", _) => Reply::Ok,
            ("SETNAME", [name]) => {
                self.world.rename(self.id, text(name));
                Reply::Ok
            }
            ("GETNAME", []) => match self.world.name_of(self.id) {
                name if name.is_empty() => Reply::Nil,
                name => Reply::bulk(name),
            },
            ("INFO", []) => Reply::Text(self.world.list(Some(&[self.id]))),
            ("LIST", []) => Reply::Text(self.world.list(None)),
            ("LIST", [kind, ids @ ..]) if kind.eq_ignore_ascii_case(b"ID") => {
                let ids: Vec<u64> = ids.iter().filter_map(|id| text(id).parse().ok()).collect();
                Reply::Text(self.world.list(Some(&ids)))
            }
            ("KILL", [addr]) => match self.world.kill(self.id, None, Some(&text(addr))) {
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
        Reply::Int(self.world.kill(self.id, id, addr.as_deref()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.world.leave(self.id);
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
