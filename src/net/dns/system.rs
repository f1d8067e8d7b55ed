//! The operating system's own resolver, `getaddrinfo`, kept on a short leash.
//!
//! Owns [`System`]. Promises: at most one thread of it is ever inside `getaddrinfo`, however often a lookup is abandoned: a call that
//! hangs keeps its thread for as long as the system likes. The thread is its own, so neither the runtime's blocking pool nor its
//! shutdown waits for it. Leaves the time limit to [`refresh`](super::refresh). Fails as [`Answer::Transient`](super::Answer::Transient).

use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
    thread,
};

use tokio::sync::{Semaphore, oneshot};

use super::{Lookup, NoAddress, Resolution, Resolve, STATIC_TTL};

/// Asks `getaddrinfo`: whatever nsswitch, mDNS or a VPN adds is found too. The default off Linux.
///
/// One question at a time: while `getaddrinfo` hangs on one name, lookups of others wait, and time out as transient. It tells no TTL,
/// so names are refreshed at [`DnsPolicy::min_refresh`](super::DnsPolicy::min_refresh).
///
/// # Cancel safety
/// An abandoned lookup leaves its thread behind until `getaddrinfo` returns; there is never a second one.
///
/// # Examples
/// ```
/// use redis_holdfast::{Client, dns::System};
///
/// let redis = Client::builder("redis://cache.corp")?.resolver(System::new()).build()?;
/// # Ok::<(), redis_holdfast::ConfigError>(())
/// ```
pub struct System {
    seat: Arc<Semaphore>,
}

impl System {
    /// A resolver with a thread at most.
    #[must_use]
    pub fn new() -> Self {
        Self {
            seat: Arc::new(Semaphore::new(1)),
        }
    }

    async fn lookup(&self, name: &str) -> Resolution {
        let Ok(seat) = self.seat.clone().acquire_owned().await else {
            return Resolution::transient("the system resolver is gone");
        };
        let (answer, result) = oneshot::channel();
        let name = name.to_owned();
        let started = thread::Builder::new()
            .name("holdfast-dns".to_owned())
            .spawn(move || {
                let found = (name.as_str(), 0).to_socket_addrs();
                // Free before the answer is out: the next to ask finds the seat empty.
                drop(seat);
                let _ = answer.send(found.map(|all| all.map(|one| one.ip()).collect()));
            });
        match started {
            Err(error) => Resolution::transient(format!("no thread for getaddrinfo: {error}")),
            Ok(_) => match result.await {
                Ok(found) => told(found),
                Err(_) => Resolution::transient("getaddrinfo ended without an answer"),
            },
        }
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}

impl Resolve for System {
    fn resolve<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        Box::pin(self.lookup(name))
    }
}

fn told(found: io::Result<Vec<IpAddr>>) -> Resolution {
    match found {
        Ok(mut addresses) => {
            addresses.dedup();
            Resolution::addresses(addresses, STATIC_TTL)
        }
        Err(error) => {
            // The standard library keeps the code of getaddrinfo to itself and shows its text. Unknown text is no proof of absence.
            let text = error.to_string();
            let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
            if says(&NO_NAME) {
                Resolution::negative(NoAddress::NxDomain, STATIC_TTL)
            } else if says(&NO_DATA) {
                Resolution::negative(NoAddress::NoData, STATIC_TTL)
            } else {
                Resolution::transient(text)
            }
        }
    }
}

/// `EAI_NONAME` as glibc, the BSDs and musl put it.
const NO_NAME: [&str; 3] = [
    "Name or service not known",
    "nodename nor servname provided",
    "Name does not resolve",
];

/// `EAI_NODATA`.
const NO_DATA: [&str; 2] = ["No address associated with", "Name has no usable address"];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn localhost_is_known_to_every_system() {
        let found = System::new().resolve("localhost").await;
        assert!(
            found.v4.is_positive() || found.v6.is_positive(),
            "{found:?}"
        );
    }

    #[tokio::test]
    async fn while_one_question_hangs_no_second_thread_is_made() {
        let system = System::new();
        let seat = system.seat.clone().acquire_owned().await.unwrap();
        let waits = timeout(Duration::from_millis(20), system.resolve("localhost")).await;
        assert!(waits.is_err());
        drop(seat);
        assert!(!system.resolve("localhost").await.v4.is_transient());
    }

    #[test]
    fn only_words_that_mean_absence_are_an_absence() {
        for (text, negative) in [
            (
                "failed to lookup address information: Name or service not known",
                true,
            ),
            (
                "failed to lookup address information: Temporary failure in name resolution",
                false,
            ),
            ("failed to lookup address information: Try again", false),
        ] {
            let found = told(Err(io::Error::other(text)));
            assert_eq!(!found.v4.is_transient(), negative, "{text}");
        }
    }
}
