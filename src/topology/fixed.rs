//! A server whose address is known and never changes: an IP literal or a Unix socket.
//!
//! Owns [`Fixed`]. Promises: one map, for ever. Leaves names to [`named`](super::named). Cannot fail.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Map, Need, Node, Topology};
use crate::net::address::Address;

pub(crate) struct Fixed {
    /// Kept so that those who watch wait for ever rather than see an end.
    map: watch::Sender<Arc<Map>>,
}

impl Fixed {
    pub(crate) fn new(address: Address) -> Self {
        let primary = Node {
            addresses: [address].into(),
            ..Node::unknown()
        };
        let map = Arc::new(Map {
            primary,
            epoch: 1,
            term: 0,
            deposed: 0,
            doubted: false,
            replicas: [].into(),
        });
        Self {
            map: watch::Sender::new(map),
        }
    }
}

impl Topology for Fixed {
    fn map(&self) -> watch::Receiver<Arc<Map>> {
        self.map.subscribe()
    }

    fn need(&self, _: Need) {}
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn there_is_one_address_and_no_change() {
        let path: Arc<Path> = Path::new("/run/redis.sock").into();
        let fixed = Fixed::new(Address::Unix(path.clone()));
        fixed.need(Need::Urgent);
        let map = fixed.map();
        assert_eq!(*map.borrow().primary.addresses, [Address::Unix(path)]);
        assert!(!map.has_changed().expect("the topology lives"));
    }
}
