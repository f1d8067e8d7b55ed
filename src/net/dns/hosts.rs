//! The hosts file: names whose addresses are spelt out (`hostAliases`, `--add-host`).
//!
//! Owns [`Hosts`]. Promises: a name found here is not asked for anywhere else, as getaddrinfo has it. Pure; re-reading is
//! [`watched`](super::watched)'s. Lines that make no sense are skipped.

use std::{collections::HashMap, net::IpAddr};

use super::{Resolution, STATIC_TTL};

#[derive(Debug, Default)]
pub(super) struct Hosts {
    names: HashMap<String, Vec<IpAddr>>,
}

impl Hosts {
    pub(super) fn parse(text: &str) -> Self {
        let mut hosts = Self::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse) else {
                continue;
            };
            for name in words {
                let addresses = hosts.names.entry(key(name)).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        hosts
    }

    pub(super) fn find(&self, name: &str) -> Option<Resolution> {
        let addresses = self.names.get(&key(name))?;
        Some(Resolution::addresses(addresses.iter().copied(), STATIC_TTL))
    }
}

fn key(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_aliases_comments_and_nonsense() {
        let hosts = Hosts::parse(
            "# header\n10.0.0.1 redis Redis.internal # the first\n10.0.0.2\tredis\nfd00::1 redis\nnonsense redis\n10.0.0.1 redis\n\n10.0.0.9",
        );
        let all = ["10.0.0.1", "10.0.0.2", "fd00::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let expected = Resolution::addresses(all, STATIC_TTL);
        for name in ["redis", "REDIS", "redis."] {
            assert_eq!(hosts.find(name).as_ref(), Some(&expected), "{name}");
        }
        assert!(hosts.find("redis.internal").is_some());
        assert!(hosts.find("nonsense").is_none());
        assert!(hosts.find("internal").is_none());
    }
}
