//! A connection URL, taken apart: where the server is, who we are, which database, which protocol.
//!
//! Owns the way from text to a [`Target`]. Promises: what is not understood is refused by name (redis' own parser skips
//! unknown parameters in silence); no fault and no `Debug` shows a password. Leaves names and addresses to `net`, the knobs that a URL
//! may carry to [`raw`](super::raw). Fails with every fault that can be told apart, never with the first alone.

use std::{fmt, path::PathBuf};

use url::{Host, Url};

use super::{
    builder::check,
    defaults,
    group::PLACEHOLDER,
    percent::{Plus, decode},
    raw::{KNOBS, Settings, shorten},
    target::{Login, Protocol, Secret, Server, Target},
};

const LEGAL: &str = "redis://[user:password@]host[:port][/db][?protocol=resp3], unix:///path[?db=0] or redis+sentinel://s1,s2,s3/NAME";

/// What a URL says, and what is wrong with it. There is a target whenever there is no fault.
#[derive(Clone, Debug, Default)]
pub(super) struct Parsed {
    pub(super) target: Option<Target>,
    pub(super) settings: Settings,
    pub(super) faults: Vec<String>,
}

impl Parsed {
    pub(super) fn from_text(text: &str) -> Self {
        let mut parsed = Self::default();
        match open(text.trim()) {
            Ok((url, Family::Tcp)) => parsed.tcp(&url),
            Ok((url, Family::Unix)) => parsed.unix(&url),
            Ok((url, Family::Sentinel(hosts))) => parsed.group(&url, &hosts),
            Err(fault) => parsed.fault(fault),
        }
        if !parsed.faults.is_empty() {
            parsed.target = None;
        }
        parsed
    }

    pub(super) fn fault(&mut self, fault: impl fmt::Display) {
        self.faults.push(format!("url: {fault}"));
    }

    /// The value, or the fault noted and nothing.
    pub(super) fn note<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|fault| self.fault(fault)).ok()
    }

    fn tcp(&mut self, url: &Url) {
        let host = self.note(host(url)).unwrap_or_default();
        let port = url.port().unwrap_or(defaults::PORT);
        if port == 0 {
            self.fault("port 0 given; legal from 1 to 65535");
        }
        let username = self.note(decode("user name", url.username(), Plus::Plain));
        let password = url.password().unwrap_or_default();
        let password = self.note(decode("password", password, Plus::Plain));
        let db = self.db(url.path().trim_matches('/'));
        let protocol = self.parameters(url, |_, name, _| match name {
            "db" => {
                Err("parameter `db` is for unix sockets; legal here: redis://host:port/db".into())
            }
            "user" | "pass" => Err(format!(
                "parameter `{name}` is for unix sockets; legal here: redis://user:password@host"
            )),
            _ => Ok(false),
        });
        let login = self.login(username, password);
        let server = Server::Tcp { host, port };
        self.target = Some(Target {
            server,
            login,
            db,
            protocol,
        });
    }

    fn unix(&mut self, url: &Url) {
        if cfg!(not(unix)) {
            self.fault("this platform has no unix sockets");
        }
        let path = self.note(decode("path", url.path(), Plus::Plain));
        if url.has_host() && url.host_str().is_some_and(|host| !host.is_empty()) {
            self.fault("a unix socket has no host; legal: three slashes, unix:///run/redis.sock");
        } else if path.as_deref().is_some_and(|path| path.len() < 2) {
            self.fault("path of the socket missing; legal: unix:///run/redis.sock");
        }
        let (mut db, mut username, mut password) = (0, String::new(), String::new());
        let protocol = self.parameters(url, |parsed, name, value| {
            match name {
                "db" => db = parsed.db(value),
                "user" => username = value.to_owned(),
                "pass" => password = value.to_owned(),
                _ => return Ok(false),
            }
            Ok(true)
        });
        let login = self.login(Some(username), Some(password));
        let server = Server::Unix(PathBuf::from(path.unwrap_or_default()));
        self.target = Some(Target {
            server,
            login,
            db,
            protocol,
        });
    }

    /// Reads the query: the protocol, the knobs, and what `own` says it has taken.
    pub(super) fn parameters(
        &mut self,
        url: &Url,
        mut own: impl FnMut(&mut Self, &str, &str) -> Result<bool, String>,
    ) -> Protocol {
        let mut protocol = Protocol::default();
        let mut password_seen = false;
        for (name, value) in self.pairs(url) {
            password_seen |= name == "pass" || name == "sentinel_password";
            match (name.as_str(), value.as_str()) {
                ("protocol", "resp2" | "2") => protocol = Protocol::Resp2,
                ("protocol", "resp3" | "3") => protocol = Protocol::Resp3,
                ("protocol", other) => self.fault(format_args!(
                    "protocol `{}` given; legal: resp2, resp3",
                    shorten(other)
                )),
                (knob, text) if KNOBS.contains(&knob) => {
                    let set = self.settings.set(knob, knob, text);
                    self.note(set);
                }
                (other, text) => match own(self, other, text) {
                    Ok(true) => {}
                    // A `&` that was not encoded makes the rest of a password a parameter.
                    Ok(false) if password_seen => self.fault(
                        "a parameter after `pass` is unknown; in a password write `&` as `%26`",
                    ),
                    Ok(false) => self.fault(format_args!(
                        "parameter `{}` is unknown; legal: protocol, {}",
                        shorten(other),
                        KNOBS.join(", ")
                    )),
                    Err(fault) => self.fault(fault),
                },
            }
        }
        protocol
    }

    /// The query's names and values, each name once.
    fn pairs(&mut self, url: &Url) -> Vec<(String, String)> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        let query = url.query().unwrap_or_default().split('&');
        for pair in query.filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = self.note(decode("parameter", value, Plus::Space));
            let name = self.note(decode("name of a parameter", name, Plus::Space));
            match name.zip(value) {
                Some((name, _)) if pairs.iter().any(|(seen, _)| *seen == name) => {
                    // One of ours is named; anything else may be a piece of a password.
                    let ours = KNOBS.into_iter().chain(OWN);
                    let shown = ours.into_iter().find(|ours| *ours == name);
                    let shown = shown.unwrap_or("of an unknown name");
                    self.fault(format_args!("parameter `{shown}` given twice"));
                }
                Some(pair) => pairs.push(pair),
                None => {}
            }
        }
        pairs
    }

    pub(super) fn db(&mut self, text: &str) -> i64 {
        if text.is_empty() {
            return 0;
        }
        let db = text.parse().map_err(|_| {
            format!(
                "db `{}` given; legal: a number, redis://host:port/0",
                shorten(text)
            )
        });
        let db = self.note(db).unwrap_or_default();
        if let Some(fault) = check("db", db, &defaults::DB_LEGAL) {
            self.fault(fault);
        }
        db
    }

    /// `None` stands for what could not be decoded, and is told already; empty text for what was not given.
    pub(super) fn login(&mut self, username: Option<String>, password: Option<String>) -> Login {
        let (Some(username), Some(password)) = (username, password) else {
            return Login::default();
        };
        if !username.is_empty() && password.is_empty() {
            // The user name is not shown: where the colon was forgotten, it is the password.
            self.fault("a user name without a password; legal: user:password@, or :password@ for the default user");
        }
        Login {
            username: Some(username).filter(|name| !name.is_empty()),
            password: (!password.is_empty()).then(|| Secret::new(&password)),
        }
    }
}

/// Parameters beside the knobs.
const OWN: [&str; 6] = [
    "protocol",
    "db",
    "user",
    "pass",
    "sentinel_user",
    "sentinel_password",
];

enum Family {
    Tcp,
    Unix,
    /// With the hosts that stood in the URL.
    Sentinel(String),
}

/// Splits off the scheme, refuses what the URL parser would bend into shape, and parses. Until the last line nothing tells a host from
/// a piece of a password, so no fault here shows any text after the scheme.
fn open(text: &str) -> Result<(Url, Family), String> {
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| format!("no scheme given; legal: {LEGAL}"))?;
    let family = match scheme.to_ascii_lowercase().as_str() {
        "redis" | "valkey" => Family::Tcp,
        "unix" | "redis+unix" | "valkey+unix" => Family::Unix,
        "redis+sentinel" | "redis-sentinel" | "valkey+sentinel" => Family::Sentinel(String::new()),
        "rediss" | "valkeys" | "rediss+sentinel" | "valkeys+sentinel" => {
            return Err("TLS is not supported yet by this version".into());
        }
        other => return Err(format!("scheme `{}` given; legal: {LEGAL}", shorten(other))),
    };
    if rest.contains(|c: char| c.is_control() || c == ' ') {
        return Err("a space or control character inside; legal: percent-encoded, `%20`".into());
    }
    if rest.contains('#') {
        return Err("`#` inside; legal: percent-encoded, `%23`".into());
    }
    if !matches!(family, Family::Unix) {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        if tail.contains('@') {
            return Err("`@` after the host; in user name and password write `/` as `%2F`, `?` as `%3F`, elsewhere `@` as `%40`".into());
        }
        let hosts = authority.rsplit('@').next().unwrap_or_default();
        if matches!(family, Family::Sentinel(_)) {
            return open_group(authority, hosts, tail);
        }
        if hosts.contains(',') {
            return Err("several hosts given; legal: one, or redis+sentinel://".into());
        }
        if hosts.is_empty() || hosts.starts_with(':') {
            return Err(format!("no host given; legal: {LEGAL}"));
        }
    }
    Url::parse(text)
        .map(|url| (url, family))
        .map_err(|error| format!("malformed ({error}); legal: {LEGAL}"))
}

/// A URL of several hosts, as one of a single host and the text of the hosts.
fn open_group(authority: &str, hosts: &str, tail: &str) -> Result<(Url, Family), String> {
    if hosts.is_empty() {
        return Err("no Sentinel given; legal: redis+sentinel://s1:26379,s2:26379/NAME".into());
    }
    let login = authority.strip_suffix(hosts).unwrap_or_default();
    Url::parse(&format!("redis://{login}{PLACEHOLDER}{tail}"))
        .map(|url| (url, Family::Sentinel(hosts.to_owned())))
        .map_err(|error| format!("malformed ({error}); legal: {LEGAL}"))
}

pub(super) fn host(url: &Url) -> Result<String, String> {
    let (host, wildcard) = match url.host() {
        Some(Host::Domain(name)) => (name.to_owned(), name == "0.0.0.0"),
        Some(Host::Ipv4(ip)) => (ip.to_string(), ip.is_unspecified()),
        Some(Host::Ipv6(ip)) => (ip.to_string(), ip.is_unspecified()),
        None => (String::new(), false),
    };
    if host.is_empty() {
        return Err(format!("no host given; legal: {LEGAL}"));
    }
    if host.contains('%') {
        return Err(format!(
            "host `{}` given; legal: ASCII letters, digits, `-` and `.`, or an IP address",
            shorten(&host)
        ));
    }
    if wildcard {
        return Err(format!(
            "host `{host}` is where servers listen; legal: an address to connect to"
        ));
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn target(text: &str) -> Target {
        let parsed = Parsed::from_text(text);
        assert_eq!(parsed.faults, Vec::<String>::new(), "{text}");
        parsed.target.expect("no fault, so a target")
    }

    fn tcp(host: &str, port: u16) -> Server {
        Server::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn a_url_names_a_server() {
        for (text, server, endpoint) in [
            ("redis://cache", tcp("cache", 6379), "cache:6379"),
            (
                "redis://cache.svc.:7000/",
                tcp("cache.svc.", 7000),
                "cache.svc.:7000",
            ),
            ("valkey://127.0.0.1:1", tcp("127.0.0.1", 1), "127.0.0.1:1"),
            ("REDIS://[::1]:65535/3", tcp("::1", 65535), "[::1]:65535"),
            (" redis://u:p@h/\n", tcp("h", 6379), "h:6379"),
            (
                "unix:///run/a%20b.sock",
                Server::Unix("/run/a b.sock".into()),
                "/run/a b.sock",
            ),
            (
                "redis+unix:///r.sock?db=1",
                Server::Unix("/r.sock".into()),
                "/r.sock",
            ),
        ] {
            let target = target(text);
            assert_eq!(&*target.server.endpoint(), endpoint);
            assert_eq!(target.server, server, "{text}");
        }
    }

    #[test]
    fn a_url_says_who_we_are_and_which_database() {
        let login = |username: Option<&str>, password: Option<&str>| Login {
            username: username.map(str::to_owned),
            password: password.map(Secret::new),
        };
        for (text, expected, db) in [
            ("redis://h", login(None, None), 0),
            ("redis://h/15", login(None, None), 15),
            ("redis://:p@h/2", login(None, Some("p")), 2),
            (
                "redis://u:p%2Fw%3F%40+@h",
                login(Some("u"), Some("p/w?@+")),
                0,
            ),
            ("redis://%25u:p@ss@h", login(Some("%u"), Some("p@ss")), 0),
            ("redis://u:pä@h", login(Some("u"), Some("pä")), 0),
            (
                "unix:///r.sock?user=%25u%25&pass=%23%40%3C+%24&db=2",
                login(Some("%u%"), Some("#@< $")),
                2,
            ),
            ("unix:///r.sock?pass=a@b", login(None, Some("a@b")), 0),
        ] {
            let target = target(text);
            assert_eq!((target.login, target.db), (expected, db), "{text}");
        }
    }

    #[test]
    fn the_protocol_is_resp2_unless_asked() {
        assert_eq!(target("redis://h").protocol, Protocol::Resp2);
        assert_eq!(target("redis://h?protocol=resp2").protocol, Protocol::Resp2);
        assert_eq!(target("redis://h/?protocol=3").protocol, Protocol::Resp3);
        assert_eq!(target("unix:///s?protocol=resp3").protocol, Protocol::Resp3);
    }

    #[test]
    fn a_url_may_carry_knobs() {
        let parsed = Parsed::from_text(
            "redis://h/0?call_timeout=250ms&max_in_flight=7&name=a&max_buffered_bytes=1MiB",
        );
        assert_eq!(parsed.faults, Vec::<String>::new());
        assert_eq!(
            parsed.settings.call_timeout,
            Some(Duration::from_millis(250))
        );
        assert_eq!(parsed.settings.max_in_flight, Some(7));
        assert_eq!(parsed.settings.name.as_deref(), Some("a"));
        assert_eq!(parsed.settings.max_buffered_bytes, Some(1 << 20));
    }

    #[test]
    fn each_bad_url_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "no scheme"),
            ("localhost:6379", "no scheme"),
            ("http://h", "scheme `http`"),
            ("rediss://h", "TLS is not supported yet by this version"),
            ("valkeys://h", "TLS is not supported"),
            ("redis://", "no host"),
            ("redis:///0", "no host"),
            ("redis://:6379", "no host"),
            ("redis://u:p@:6379", "no host"),
            ("redis://h:0", "port 0"),
            ("redis://h:65536", "malformed (invalid port number)"),
            ("redis://h:port", "malformed (invalid port number)"),
            ("redis://a:1,b:2", "several hosts"),
            ("redis://[::1", "malformed (invalid IPv6 address)"),
            ("redis://[::1]x", "malformed"),
            ("redis://0.0.0.0", "where servers listen"),
            ("redis://[::]:1", "where servers listen"),
            ("redis://höst", "host `h%C3%B6st`"),
            ("redis://h/first", "db `first`"),
            ("redis://h/0/1", "db `0/1`"),
            ("redis://h/-1", "db: -1 given; legal from 0 to 2147483647"),
            ("redis://h#insecure", "`#` inside"),
            ("redis://h/0?x y", "space"),
            ("redis://h\t/0", "control character"),
            ("redis://u:%zz@h", "password: `%` without two"),
            ("redis://u%:p@h", "user name: `%` without two"),
            ("redis://u:%ff@h", "password: not valid UTF-8"),
            ("redis://forgotten@h", "a user name without a password"),
            ("redis://h?protocol=4", "protocol `4`"),
            ("redis://h?timeout=4", "parameter `timeout` is unknown"),
            ("redis://h?db=4", "parameter `db` is for unix"),
            ("redis://h?pass=4", "parameter `pass` is for unix"),
            ("redis://h?call_timeout=4", "call_timeout: `4` given"),
            ("redis://h?name=a&name=b", "parameter `name` given twice"),
            ("redis://h?name=%f", "parameter: `%` without two"),
            ("unix://", "path of the socket missing"),
            ("unix://run/r.sock", "has no host"),
            ("unix:///r.sock?db=x", "db `x`"),
            ("unix:///r.sock?user=x", "a user name without a password"),
            ("unix:///r%.sock", "path: `%` without two"),
        ] {
            let parsed = Parsed::from_text(text);
            assert_eq!(parsed.faults.len(), 1, "{text}: {:?}", parsed.faults);
            assert!(parsed.faults[0].starts_with("url: "), "{:?}", parsed.faults);
            assert!(
                parsed.faults[0].contains(reason),
                "{text}: {:?}",
                parsed.faults
            );
            assert!(parsed.target.is_none(), "{text}");
        }
    }

    #[test]
    fn every_fault_of_a_url_is_told() {
        let parsed = Parsed::from_text("redis://u@0.0.0.0:0/x?protocol=9&nope=1&stall_after=soon");
        assert_eq!(parsed.faults.len(), 7, "{:#?}", parsed.faults);
    }

    #[test]
    fn no_fault_shows_a_piece_of_a_password() {
        for text in [
            "redis://u:12/canary@h",
            "redis://u:12?canary@h",
            "redis://u:12?canary&x@h",
            "redis://u:12#canary@h",
            "redis://u:canary@h:0/x?nope=1",
            "redis://u:canary%zz@h:port",
            "redis://u:canary @h",
            "redis://canary@h",
            "redis://:canary@",
            "redis://:canary@a,b",
            "u:canary@h",
            "unix:///r.sock?pass=canary%zz&db=x",
            "unix:///r.sock?pass=canary&pass=canary",
            "unix:///r.sock?pass=a&canary",
            "unix:///r.sock?pass=a&canary&canary=b",
        ] {
            let parsed = Parsed::from_text(text);
            assert!(!parsed.faults.is_empty(), "{text}");
            let shown = format!("{parsed:?}");
            assert!(!shown.contains("canary"), "{text}: {shown}");
        }
        assert!(!format!("{:?}", target("redis://u:canary@h")).contains("canary"));
    }

    #[test]
    fn no_text_panics_and_no_odd_password_shows() {
        const ODD: [&str; 16] = [
            "", "/", "?", "#", "@", ":", "%", "&", "=", ",", " ", "[", "]", "\\", "+", "\u{7f}ä",
        ];
        for (before, after) in ODD.iter().flat_map(|b| ODD.iter().map(move |a| (b, a))) {
            for text in [
                format!("redis://u:{before}canary{after}@h:1/0?call_timeout=x"),
                format!("redis://:x{before}canary{after}@[::1]/x"),
                format!("unix:///r.sock?db=x&pass={before}canary{after}"),
            ] {
                let shown = format!("{:?}", Parsed::from_text(&text));
                assert!(!shown.contains("canary"), "{text}: {shown}");
            }
        }
    }
}
