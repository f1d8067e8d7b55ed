//! Where to ask, and under which names: resolv.conf and its search list.
//!
//! Owns [`Conf`]. Promises: the candidates of a name are those of glibc, in its order; a name with a trailing dot has one. Pure, but
//! that it asks the system (Linux) for the number of an interface that a server names; re-reading is [`watched`](super::watched)'s.
//! Words that make no sense are skipped. Not done: a search domain taken from the machine's own host name where the file names none,
//! and the options but `ndots`: `timeout`, `attempts` and `rotate` are ours to decide, and without `edns0` a long answer comes over
//! TCP.

use std::net::{SocketAddr, SocketAddrV6};

use hickory_proto::{ProtoError, rr::Name};
use tracing::warn;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conf {
    pub(super) servers: Vec<SocketAddr>,
    pub(super) search: Vec<Name>,
    /// A name with at least so many dots is asked for as it stands first.
    pub(super) ndots: usize,
}

impl Conf {
    pub(super) fn servers(servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            servers: servers.into_iter().take(MOST_SERVERS).collect(),
            search: Vec::new(),
            ndots: 1,
        }
    }

    pub(super) fn parse(text: &str) -> Self {
        let mut conf = Self::servers([]);
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.add_server(words.next()),
                // The last of them wins, as the manual says.
                Some("search" | "domain") => conf.search = domains(words),
                Some("options") => words.for_each(|option| conf.set(option)),
                _ => {}
            }
        }
        conf
    }

    fn add_server(&mut self, word: Option<&str>) {
        let Some(word) = word.filter(|_| self.servers.len() < MOST_SERVERS) else {
            return;
        };
        match server(word) {
            Some(server) => self.servers.push(server),
            None => warn!(
                server = word,
                "name server left out: no address, or no such interface"
            ),
        }
    }

    fn set(&mut self, option: &str) {
        if let Some(ndots) = option.strip_prefix("ndots:") {
            self.ndots = ndots.parse().unwrap_or(self.ndots).min(15);
        }
    }

    /// The absolute names that `name` may stand for, in the order in which they are tried.
    pub(super) fn candidates(&self, name: &str) -> Result<Vec<Name>, ProtoError> {
        let mut plain = Name::from_str_relaxed(name)?;
        if plain.is_fqdn() {
            return Ok(vec![plain]);
        }
        let mut candidates = Vec::new();
        for domain in &self.search {
            // Too long a name is no name.
            if let Ok(candidate) = plain.clone().append_domain(domain) {
                candidates.push(candidate);
            }
        }
        plain.set_fqdn(true);
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        let place = if dots >= self.ndots {
            0
        } else {
            candidates.len()
        };
        candidates.insert(place, plain);
        Ok(candidates)
    }
}

fn server(word: &str) -> Option<SocketAddr> {
    let Some((address, zone)) = word.split_once('%') else {
        return Some(SocketAddr::new(word.parse().ok()?, 53));
    };
    // A link-local server: without its interface the kernel does not know where to look for it.
    Some(SocketAddrV6::new(address.parse().ok()?, 53, 0, interface(zone)?).into())
}

/// The number of a network interface, which is given as such or by its name.
fn interface(zone: &str) -> Option<u32> {
    let by_name = || std::fs::read_to_string(format!("/sys/class/net/{zone}/ifindex")).ok();
    zone.parse().ok().or_else(|| by_name()?.trim().parse().ok())
}

fn domains<'a>(words: impl Iterator<Item = &'a str>) -> Vec<Name> {
    let mut domains: Vec<Name> = Vec::new();
    for mut domain in words.filter_map(|word| Name::from_str_relaxed(word).ok()) {
        domain.set_fqdn(true);
        // The root adds nothing to a name.
        if !domain.is_root() && !domains.contains(&domain) && domains.len() < MOST_DOMAINS {
            domains.push(domain);
        }
    }
    domains
}

/// As many as glibc reads.
const MOST_SERVERS: usize = 3;

/// Kubernetes allows so many.
const MOST_DOMAINS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "# a pod\nnameserver 10.96.0.10\nnameserver fe80::1%3\nnameserver nonsense\n\
        search old.example\nsearch ns.svc.cluster.local svc.cluster.local cluster.local . svc.cluster.local\noptions ndots:5 edns0 ndots:x\n";

    #[test]
    fn a_pods_resolv_conf_is_read_as_glibc_reads_it() {
        let conf = Conf::parse(POD);
        let servers = ["10.96.0.10:53", "[fe80::1%3]:53"].map(|text| text.parse().unwrap());
        assert_eq!(conf.servers, servers);
        assert_eq!(conf.search.len(), 3);
        assert_eq!(conf.ndots, 5);
        assert_eq!(Conf::parse("garbage\u{0}\nnameserver").servers, []);
        let many = "nameserver 10.0.0.1\n".repeat(9);
        assert_eq!(Conf::parse(&many).servers.len(), 3);
    }

    #[test]
    fn a_link_local_server_is_asked_through_its_interface_and_left_out_if_there_is_none() {
        let zones = [
            ("%7", Some(7)),
            ("%nowhere", None),
            ("%../lo", None),
            ("%", None),
        ];
        let own = cfg!(target_os = "linux").then_some(("%lo", Some(1)));
        for (zone, expected) in zones.into_iter().chain(own) {
            let conf = Conf::parse(&format!("nameserver fe80::1{zone}\nnameserver 10.0.0.1"));
            let mut servers = conf.servers.iter();
            let scope = match servers.next() {
                Some(SocketAddr::V6(server)) => Some(server.scope_id()),
                _ => None,
            };
            assert_eq!(scope, expected, "{zone}");
            assert_eq!(conf.servers.len(), 1 + usize::from(expected.is_some()));
        }
    }

    #[test]
    fn candidates_follow_ndots_the_search_list_and_the_trailing_dot() {
        let pod = Conf::parse(POD);
        let bare = Conf::parse("nameserver 10.0.0.1\nsearch example");
        for (conf, name, expected) in [
            (
                &pod,
                "redis.ns",
                &[
                    "redis.ns.ns.svc.cluster.local.",
                    "redis.ns.svc.cluster.local.",
                    "redis.ns.cluster.local.",
                    "redis.ns.",
                ][..],
            ),
            (&pod, "redis.ns.", &["redis.ns."][..]),
            (&bare, "redis", &["redis.example.", "redis."][..]),
            (&bare, "redis.ns", &["redis.ns.", "redis.ns.example."][..]),
        ] {
            let names = conf.candidates(name).unwrap();
            let names: Vec<String> = names.iter().map(Name::to_string).collect();
            assert_eq!(names, expected, "{name}");
        }
        assert!(pod.candidates(&"a".repeat(64)).is_err(), "too long a label");
        assert!(pod.candidates("").is_ok());
    }
}
