//! A cluster forms, names its nodes by their proxies, and a fault of one proxy is the client's alone.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

use std::time::Duration;

use holdfast_lab::cluster::slot;
use holdfast_lab::net::dial;
use holdfast_lab::{Cluster, Mode};
use redis::{Client, RedisResult};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_millis(300);

async fn set(url: String, key: &str) -> RedisResult<()> {
    let client = Client::open(url)?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut set = redis::cmd("SET");
    set.arg(key).arg("v").query_async(&mut connection).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_serves_its_slots_and_names_the_proxies_of_the_others() {
    let Some(cluster) = Cluster::start_or_skip().await else {
        return;
    };
    let nodes = cluster.nodes();
    for key in ["user1000", "{user1000}.following", "foo{}{bar}", ""] {
        let told = nodes[0].server().tell(&["CLUSTER", "KEYSLOT", key]).await;
        assert_eq!(told.unwrap(), format!(":{}", slot(key.as_bytes())), "{key}");
    }
    for (number, node) in nodes.iter().enumerate() {
        let key = format!("{{{}}}", node.tag(number));
        assert_eq!(
            cluster.node_of(&key).map(|node| node.proxy().addr()),
            Some(node.proxy().addr())
        );
        for asked in nodes {
            let done = set(asked.proxy().url(), &key).await;
            if asked.proxy().addr() == node.proxy().addr() {
                done.unwrap();
                continue;
            }
            let moved = done.unwrap_err();
            let (to, at) = moved.redirect_node().unwrap();
            assert_eq!(to, node.proxy().addr().to_string());
            assert!(node.slots().contains(&at));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_a_black_hole_is_away_for_clients_and_there_for_the_others() {
    let Some(cluster) = Cluster::start_or_skip().await else {
        return;
    };
    let nodes = cluster.nodes();
    nodes[1].set(Mode::Blackhole);
    assert!(dial(nodes[1].proxy().addr(), PATIENCE).await.is_err());
    // Longer than the nodes wait for each other: they do not miss it.
    let gone = timeout(Duration::from_secs(5), async {
        loop {
            let info = nodes[0].server().tell(&["CLUSTER", "INFO"]).await.unwrap();
            if !info.contains("cluster_slots_ok:16384") {
                return info;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(gone.await.is_err(), "the nodes lost each other");
    let key = format!("{{{}}}", nodes[0].tag(0));
    set(nodes[0].proxy().url(), &key).await.unwrap();
    nodes[1].set(Mode::Pass);
    let key = format!("{{{}}}", nodes[1].tag(0));
    set(nodes[1].proxy().url(), &key).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_comes_back_as_the_same_one() {
    let Some(cluster) = Cluster::start_or_skip().await else {
        return;
    };
    let node = &cluster.nodes()[2];
    let id = node.server().tell(&["CLUSTER", "MYID"]).await.unwrap();
    node.server().kill();
    assert!(cluster.nodes()[0].server().ping().await.is_ok());
    node.server().restart().await.unwrap();
    cluster.until_whole().await.unwrap();
    assert_eq!(node.server().tell(&["CLUSTER", "MYID"]).await.unwrap(), id);
    let key = format!("{{{}}}", node.tag(0));
    set(node.proxy().url(), &key).await.unwrap();
}
