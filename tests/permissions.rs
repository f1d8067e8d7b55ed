//! Users that may do what the README says they need, and nothing else, are served, hear the Sentinels' events, and are fenced off.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use common::*;
use holdfast_lab::sentinel::Member;
use holdfast_lab::{Mode, SentinelSet};
use redis_holdfast::Client;
use redis_holdfast::telemetry::names;

const PASSWORD: &str = "canary-password";
const AT_SENTINELS: &str = "&* +sentinel +psubscribe +hello +ping +info";
/// The last two are the load's.
const AT_REDIS: &str = "+ping +info +client|info +client|list +client|kill +role ~* +get +set";

/// Makes a user of these rights and no others.
async fn permit(member: &Member, user: &str, rights: &str) {
    let password = format!(">{PASSWORD}");
    let mut words = vec!["ACL", "SETUSER", user, "reset", "on", &password];
    words.extend(rights.split(' '));
    let said = SentinelSet::tell(member, &words).await.unwrap();
    assert_eq!(said, "+OK");
    // Servers before 7.2 know no such command.
    let words = ["ACL", "SETUSER", user, "+client|setinfo"];
    SentinelSet::tell(member, &words).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_permissions_that_are_documented_are_enough() {
    let Some(set) = SentinelSet::builder().start_or_skip().await else {
        return;
    };
    for one in set.sentinels() {
        permit(one, "watcher", AT_SENTINELS).await;
    }
    for node in set.nodes() {
        permit(node, "app", AT_REDIS).await;
    }
    let url = set.url().replace("://", &format!("://app:{PASSWORD}@"));
    let url = format!("{url}?sentinel_user=watcher&sentinel_password={PASSWORD}");
    watch();
    // Without a name: to bear one takes another permission.
    let client = Client::builder(&url).unwrap().call_timeout(CALL_TIMEOUT);
    let client = client.build().unwrap();
    client.wait_ready(SECOND * 5).await.unwrap();
    until(
        "every Sentinel's events are heard",
        SECOND * 3,
        async || {
            let mut heard = 0;
            for one in set.sentinels() {
                let list = SentinelSet::tell(one, &["CLIENT", "LIST"]).await.unwrap();
                let mut ours = list.lines().filter(|line| line.contains("user=watcher"));
                heard += usize::from(ours.any(|line| line.contains("psub=1")));
            }
            heard == set.sentinels().len()
        },
    )
    .await;
    let running = start(client.clone(), RATE / 4, SECOND * 3);
    tokio::time::sleep(SECOND).await;
    set.node(0).proxy().set_for_old(Mode::Stall);
    let report = running.finish().await;
    always(&report);
    until("the swap was fenced", SECOND * 2, async || {
        gauges::counter("redis", names::FENCES, "raised") > 0
    })
    .await;
    assert!(client.health().is_ready(), "{}", client.health());
    for member in set.sentinels().iter().chain(set.nodes()) {
        let log = SentinelSet::tell(member, &["ACL", "LOG"]).await.unwrap();
        assert!(log.starts_with("*0"), "refused: {log}");
    }
}
