//! The part of a URL that only Sentinel has: several hosts, the name of a primary, credentials of their own.
//!
//! Owns the reading of `redis+sentinel://[user:pass@]s1,s2:26380/NAME[/db]?sentinel_user=…&sentinel_password=…`. Promises: every fault
//! by its own sentence, none with a piece of a password. Leaves the rest of the URL to [`url`](super::url). Fails with faults.

use url::Url;

use super::{
    defaults,
    percent::{Plus, decode},
    raw::shorten,
    target::{Group, Server, Target},
    url::{Parsed, host},
};

/// Stands where the hosts stood, for a parser that knows of one host only.
pub(super) const PLACEHOLDER: &str = "sentinels";
/// A name goes into every question and stands in every event: more is a mistake.
const LONGEST_NAME: usize = 256;

impl Parsed {
    /// `hosts` is what stood between the credentials and the path.
    pub(super) fn group(&mut self, url: &Url, hosts: &str) {
        let seeds = self.seeds(hosts);
        let username = self.note(decode("user name", url.username(), Plus::Plain));
        let password = url.password().unwrap_or_default();
        let password = self.note(decode("password", password, Plus::Plain));
        let path = url.path().trim_matches('/');
        let (name, db) = path.split_once('/').unwrap_or((path, ""));
        let name = self.name(name);
        let db = self.db(db);
        let (mut own_user, mut own_password) = (String::new(), String::new());
        let protocol = self.parameters(url, |_, parameter, value| {
            match parameter {
                "sentinel_user" => own_user = value.to_owned(),
                "sentinel_password" => own_password = value.to_owned(),
                "db" => return Err("parameter `db` is for unix sockets; legal here: redis+sentinel://s1:26379/NAME/db".into()),
                "user" | "pass" => return Err(format!(
                    "parameter `{parameter}` is for unix sockets; legal here: redis+sentinel://user:password@s1:26379/NAME"
                )),
                _ => return Ok(false),
            }
            Ok(true)
        });
        let login = self.login(username, password);
        let own_login = self.login(Some(own_user), Some(own_password));
        self.target = Some(Target {
            server: Server::Sentinel(Group {
                seeds,
                name,
                login: own_login,
            }),
            login,
            db,
            protocol,
        });
    }

    fn seeds(&mut self, hosts: &str) -> Vec<(String, u16)> {
        let mut seeds: Vec<(String, u16)> = Vec::new();
        for text in hosts.split(',') {
            let Some(seed) = self.note(seed(text)) else {
                continue;
            };
            let same =
                |known: &&(String, u16)| known.0.eq_ignore_ascii_case(&seed.0) && known.1 == seed.1;
            if seeds.iter().find(same).is_some() {
                self.fault(format_args!("Sentinel `{}` given twice", shorten(text)));
            }
            seeds.push(seed);
        }
        seeds
    }

    fn name(&mut self, text: &str) -> String {
        let name = self
            .note(decode("name of the primary", text, Plus::Plain))
            .unwrap_or_default();
        if text.is_empty() {
            self.fault(
                "name of the primary missing; legal: redis+sentinel://s1:26379,s2:26379/NAME",
            );
        } else if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            self.fault("name of the primary has a blank or control character inside; no Sentinel takes such a name");
        } else if name.len() > LONGEST_NAME {
            self.fault(format_args!(
                "name of the primary of {} bytes given; legal up to {LONGEST_NAME}",
                name.len()
            ));
        }
        name
    }
}

fn seed(text: &str) -> Result<(String, u16), String> {
    if text.is_empty() || text.starts_with(':') {
        return Err("a Sentinel without a host given; legal: s1:26379,s2:26379".into());
    }
    let url = Url::parse(&format!("redis://{text}"))
        // What stands there may be a password whose `@` was forgotten.
        .map_err(|error| format!("address of a Sentinel malformed ({error})"))?;
    let port = url.port().unwrap_or(defaults::SENTINEL_PORT);
    if port == 0 {
        return Err("port 0 given; legal from 1 to 65535".into());
    }
    Ok((host(&url)?, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::target::{Login, Secret};

    fn group(text: &str) -> (Group, Target) {
        let parsed = Parsed::from_text(text);
        assert_eq!(parsed.faults, Vec::<String>::new(), "{text}");
        let target = parsed.target.expect("no fault, so a target");
        match &target.server {
            Server::Sentinel(group) => (group.clone(), target.clone()),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_url_names_sentinels_a_primary_and_both_logins() {
        let (group, target) = group(
            "redis+sentinel://app:p%2Fw@s-0.svc.,10.0.0.2:5000,[::1]:26380/orders%3A1/3?sentinel_user=w&sentinel_password=q+r&call_timeout=250ms",
        );
        let seed = |host: &str, port| (host.to_owned(), port);
        assert_eq!(
            group.seeds,
            [
                seed("s-0.svc.", 26379),
                seed("10.0.0.2", 5000),
                seed("::1", 26380)
            ]
        );
        assert_eq!(group.name, "orders:1");
        let login = |user: &str, password| Login {
            username: Some(user.to_owned()),
            password: Some(Secret::new(password)),
        };
        assert_eq!(group.login, login("w", "q r"));
        assert_eq!((target.login, target.db), (login("app", "p/w"), 3));
        assert_eq!(&*target.server.endpoint(), "sentinel:orders:1");
    }

    #[test]
    fn a_name_and_one_sentinel_are_enough() {
        for text in [
            "redis+sentinel://s/orders",
            "redis-sentinel://s/orders/",
            "VALKEY+sentinel://s:26379/orders/0",
        ] {
            let (group, target) = group(text);
            assert_eq!(
                (group.seeds, group.login),
                (vec![("s".to_owned(), 26379)], Login::default())
            );
            assert_eq!((target.login, target.db), (Login::default(), 0), "{text}");
        }
    }

    #[test]
    fn each_bad_url_is_refused_with_its_reason() {
        for (text, reason) in [
            ("redis+sentinel:///orders", "no Sentinel given"),
            ("redis+sentinel://", "no Sentinel given"),
            ("redis+sentinel://u:p@/orders", "no Sentinel given"),
            ("redis+sentinel://a,,b/orders", "a Sentinel without a host"),
            (
                "redis+sentinel://a,:26379/orders",
                "a Sentinel without a host",
            ),
            ("redis+sentinel://a,b,a:26379/orders", "given twice"),
            ("redis+sentinel://a,A/orders", "given twice"),
            ("redis+sentinel://a:0/orders", "port 0"),
            (
                "redis+sentinel://a:x/orders",
                "address of a Sentinel malformed (invalid port number)",
            ),
            ("redis+sentinel://0.0.0.0/orders", "where servers listen"),
            ("redis+sentinel://a,b", "name of the primary missing"),
            ("redis+sentinel://a,b/", "name of the primary missing"),
            ("redis+sentinel://a/or%20ders", "blank or control"),
            ("redis+sentinel://a/or%00ders", "blank or control"),
            ("redis+sentinel://a/%zz", "name of the primary: `%` without"),
            ("redis+sentinel://a/orders/x", "db `x`"),
            (
                "redis+sentinel://a/orders?db=1",
                "parameter `db` is for unix",
            ),
            (
                "redis+sentinel://a/orders?sentinel_user=x",
                "a user name without a password",
            ),
            (
                "redis+sentinel://a/orders?sentinel_pass=x",
                "parameter `sentinel_pass` is unknown",
            ),
            ("rediss+sentinel://a/orders", "TLS is not supported yet"),
            ("redis://a,b/0", "several hosts"),
        ] {
            let parsed = Parsed::from_text(text);
            assert_eq!(parsed.faults.len(), 1, "{text}: {:?}", parsed.faults);
            assert!(
                parsed.faults[0].contains(reason),
                "{text}: {:?}",
                parsed.faults
            );
            assert!(parsed.target.is_none(), "{text}");
        }
        let long = format!("redis+sentinel://a/{}", "x".repeat(257));
        assert!(Parsed::from_text(&long).faults[0].contains("257 bytes"));
    }

    #[test]
    fn no_fault_shows_a_piece_of_a_password() {
        for text in [
            "redis+sentinel://u:canary@a,a/",
            "redis+sentinel://u:12,canary@/orders",
            "redis+sentinel://canary@a/orders",
            "redis+sentinel://u:canary,b/orders",
            "redis+sentinel://a/orders?sentinel_password=canary&sentinel_password=canary",
            "redis+sentinel://a/orders?sentinel_password=a&canary",
            "redis+sentinel://u:12/canary@a/orders",
        ] {
            let parsed = Parsed::from_text(text);
            assert!(!parsed.faults.is_empty(), "{text}");
            let shown = format!("{parsed:?}");
            assert!(!shown.contains("canary"), "{text}: {shown}");
        }
    }
}
