//! A server known by its host name: its addresses are those that DNS tells, followed in the background.
//!
//! Owns [`Named`]. Promises: the epoch grows with each change of addresses or trouble, and with nothing else; the first lookup starts
//! when it is made; dropping it ends its task. Leaves the rules to [`dns`](crate::net::dns).
//! Fails as [`Node::trouble`], of kind and phase `Dns`.

use std::{net::SocketAddr, sync::Arc};

use tokio::{runtime::Handle, sync::watch};

use super::{Map, Need, Node, Topology};
use crate::{
    Error, ErrorKind, Phase,
    net::{
        address::Address,
        dns::{DnsPolicy, Follower, Found, Lookups, Pace, Resolve, follow},
    },
};

pub(crate) struct Named {
    follower: Follower,
    map: watch::Receiver<Arc<Map>>,
}

impl Named {
    /// Follows `host`, as configured, with `port`. An IP literal is known at once and never asked for.
    pub(crate) fn start(
        endpoint: Arc<str>,
        host: &str,
        port: u16,
        resolver: Arc<dyn Resolve>,
        policy: DnsPolicy,
        runtime: &Handle,
    ) -> Self {
        let unknown = Node::unknown();
        let (sender, map) = watch::channel(Arc::new(Map {
            primary: unknown,
            epoch: 0,
            term: 0,
            deposed: 0,
            doubted: false,
            replicas: [].into(),
        }));
        let tell = move |found| {
            let primary = node(&endpoint, port, found);
            sender.send_modify(|map| {
                let epoch = map.epoch + 1;
                *map = Arc::new(Map {
                    primary,
                    epoch,
                    term: 0,
                    deposed: 0,
                    doubted: false,
                    replicas: [].into(),
                });
            });
        };
        Self {
            follower: follow(host, resolver, policy, runtime, tell),
            map,
        }
    }
}

impl Topology for Named {
    fn map(&self) -> watch::Receiver<Arc<Map>> {
        self.map.clone()
    }

    fn need(&self, need: Need) {
        self.follower.pace(match need {
            Need::Calm => Pace::Calm,
            Need::Urgent => Pace::Urgent,
        });
    }

    fn lookups(&self) -> Lookups {
        self.follower.lookups()
    }
}

/// What DNS tells of a server, as a map has it.
pub(super) fn node(endpoint: &Arc<str>, port: u16, found: Found) -> Node {
    let at_port = |ip| Address::Tcp(SocketAddr::new(ip, port));
    let trouble = |words| Error::new(ErrorKind::Dns, Phase::Dns, words).at(endpoint);
    Node {
        addresses: found.addresses.into_iter().map(at_port).collect(),
        former: found.former,
        gone: found.gone.into_iter().map(at_port).collect(),
        trouble: found.trouble.map(trouble),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Mutex, time::Duration};

    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::net::dns::{Lookup, NoAddress, Resolution};

    struct Script(Mutex<Resolution>);

    impl Resolve for Script {
        fn resolve<'a>(&'a self, _: &'a str) -> Lookup<'a> {
            let says = self.0.lock().unwrap().clone();
            Box::pin(async move { says })
        }
    }

    fn start(says: Resolution) -> (Arc<Script>, Named) {
        let script = Arc::new(Script(Mutex::new(says)));
        let named = Named::start(
            "redis.test:6379".into(),
            "redis.test",
            6379,
            script.clone(),
            DnsPolicy::default(),
            &Handle::current(),
        );
        (script, named)
    }

    fn here(last: u8) -> Resolution {
        let ip = IpAddr::from([10, 0, 0, last]);
        Resolution::addresses([ip], Duration::from_secs(5))
    }

    fn addresses(map: &watch::Receiver<Arc<Map>>) -> Vec<String> {
        let map = map.borrow();
        map.primary
            .addresses
            .iter()
            .map(Address::to_string)
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_not_there_yet_says_so_and_heals() {
        let (script, named) = start(Resolution::negative(NoAddress::NxDomain, Duration::ZERO));
        let mut map = named.map();
        assert_eq!(map.borrow().epoch, 0);
        map.changed().await.unwrap();
        let trouble = map.borrow_and_update().primary.trouble.clone().unwrap();
        assert_eq!(
            (trouble.kind(), trouble.phase()),
            (ErrorKind::Dns, Phase::Dns)
        );
        assert_eq!(
            trouble.to_string(),
            "no such name redis.test (phase dns, endpoint redis.test:6379)"
        );
        *script.0.lock().unwrap() = here(1);
        named.need(Need::Urgent);
        timeout(Duration::from_millis(500), map.changed())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(addresses(&map), ["10.0.0.1:6379"]);
        assert!(map.borrow().primary.trouble.is_none());
        assert_eq!(map.borrow().epoch, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_change_that_means_something_is_told() {
        let (script, named) = start(here(1));
        let mut map = named.map();
        map.changed().await.unwrap();
        map.borrow_and_update();
        sleep(Duration::from_secs(60)).await;
        assert!(!map.has_changed().unwrap(), "refreshes bring no news");
        *script.0.lock().unwrap() = Resolution::transient("silence");
        sleep(Duration::from_secs(60)).await;
        assert_eq!(map.borrow_and_update().epoch, 2, "one trouble, told once");
        assert_eq!(addresses(&map), ["10.0.0.1:6379"]);
        assert!(named.lookups().transient > 1);
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_it_ends_the_task() {
        let (script, named) = start(here(1));
        sleep(Duration::from_millis(10)).await;
        drop(named);
        sleep(Duration::from_millis(10)).await;
        assert_eq!(Arc::strong_count(&script), 1);
    }
}
