//! A primary found through real Sentinels and followed through a failover, in its simplest form.
//!
//! The table of scenarios is elsewhere; this file is the first to fail when the way from a URL to a followed primary breaks.

mod common;

use std::time::Duration;

use holdfast_lab::sentinel::{Promotion, SentinelSet};
use redis_holdfast::layer::{Connect, LinkConnector};
use redis_holdfast::{Client, Error, RedisConnector, SentinelPolicy, Sentinels, redis};
use tokio::time::{Instant, sleep};

const MS: Duration = Duration::from_millis(1);

async fn incr<C: Connect>(client: &Client<C>) -> redis::RedisResult<i64> {
    redis::cmd("INCR")
        .arg("canary:n")
        .query_async(&mut client.clone())
        .await
}

/// Calls until one succeeds, and gives how long that took and what the others were told.
async fn until_served<C: Connect>(client: &Client<C>, limit: Duration) -> (Duration, Vec<String>) {
    let (start, mut told) = (Instant::now(), Vec::new());
    loop {
        match incr(client).await {
            Ok(_) => return (start.elapsed(), told),
            Err(error) => {
                common::class(&error);
                let text = Error::find_in(&error).map_or(error.to_string(), ToString::to_string);
                if told.last() != Some(&text) {
                    told.push(text);
                }
            }
        }
        assert!(start.elapsed() < limit, "{told:#?}, {}", client.health());
        sleep(5 * MS).await;
    }
}

async fn after_a_kill<C: Connect>(over: C, early: bool) -> Option<Duration> {
    common::watch();
    let set = SentinelSet::builder().start_or_skip().await?;
    let policy = SentinelPolicy::default().early_promotion(early);
    let client = Client::builder(&set.url())
        .map(|builder| builder.sentinel(policy).call_timeout(250 * MS))
        .and_then(|builder| builder.connector(over).build())
        .expect("a sound URL");
    client.wait_ready(2000 * MS).await.expect("found");
    incr(&client).await.expect("served");
    let mut promotion = Promotion::watch([set.node(1).server().addr()]);
    set.node(0).kill();
    let (_, told) = until_served(&client, Duration::from_secs(20)).await;
    let served = Instant::now();
    let (_, promoted) = promotion
        .within(Duration::from_secs(1))
        .await
        .expect("promoted");
    println!("{told:#?}");
    Some(served.saturating_duration_since(promoted))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_is_replaced_soon_after_the_promotion() {
    let Some(took) = after_a_kill(LinkConnector::new(), true).await else {
        return;
    };
    println!("FIGURE P9 first write after the promotion: {took:?}");
    assert!(took <= 300 * MS, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_own_connection_follows_it_as_soon() {
    if !common::is_full() {
        return;
    }
    let Some(took) = after_a_kill(RedisConnector::new(), true).await else {
        return;
    };
    println!("FIGURE P9 first write after the promotion over redis' own connection: {took:?}");
    assert!(took <= 300 * MS, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_early_promotion_the_sentinels_agreement_is_waited_for() {
    let Some(took) = after_a_kill(LinkConnector::new(), false).await else {
        return;
    };
    println!("FIGURE P9 first write after the promotion, Sentinels agreed: {took:?}");
    assert!(took <= 3000 * MS, "{took:?}");
}

/// What clients call themselves at a Sentinel; Sentinels do so among themselves.
async fn names(set: &SentinelSet) -> Vec<String> {
    let asked = SentinelSet::tell(set.sentinel(0), &["CLIENT", "LIST"]).await;
    let list = asked.expect("a list of clients");
    let names = list
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("name="));
    names
        .filter(|name| !name.is_empty() && !name.starts_with("sentinel-"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_is_told_the_name_that_was_given_and_none_that_was_not() {
    let Some(set) = SentinelSet::builder().start_or_skip().await else {
        return;
    };
    let client = |name: Option<&str>| {
        let builder = Client::builder(&set.url()).expect("a sound URL");
        let builder = match name {
            Some(name) => builder.name(name),
            None => builder,
        };
        builder.build().expect("a sound name")
    };
    let before = set.sentinel(0).server().clients().await;
    let arrived = async |clients: u64| {
        let end = Instant::now() + 2000 * MS;
        while set.sentinel(0).server().clients().await < before + clients {
            assert!(Instant::now() < end, "a connection per client");
            sleep(10 * MS).await;
        }
    };
    let _nameless = client(None);
    arrived(1).await;
    let _named = client(Some("cart.v2"));
    arrived(2).await;
    // Named in the handshake, an instant after it was accepted.
    let end = Instant::now() + 1000 * MS;
    while names(&set).await.is_empty() && Instant::now() < end {
        sleep(10 * MS).await;
    }
    assert_eq!(names(&set).await, ["cart.v2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_with_one_handle_share_the_connections_to_the_sentinels() {
    let Some(set) = SentinelSet::builder().start_or_skip().await else {
        return;
    };
    let sentinels = Sentinels::new();
    let before = set.sentinel(0).server().clients().await;
    let clients: Vec<Client> = (0..10)
        .map(|_| {
            Client::builder(&set.url())
                .and_then(|builder| builder.sentinels(&sentinels).build())
                .expect("a sound URL")
        })
        .collect();
    for client in &clients {
        client.wait_ready(2000 * MS).await.expect("found");
    }
    let during = set.sentinel(0).server().clients().await;
    assert_eq!(during - before, 1);
    drop(clients);
    let end = Instant::now() + 2000 * MS;
    while set.sentinel(0).server().clients().await > before {
        assert!(
            Instant::now() < end,
            "the last client to go takes the connections along"
        );
        sleep(10 * MS).await;
    }
}
