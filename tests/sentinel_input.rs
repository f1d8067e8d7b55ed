//! Bad input: each mistake has an error of its own that says what it is.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use common::sentinel::*;
use common::*;
use holdfast_lab::Embedded;
use holdfast_lab::sentinel::{FakeSentinel, View};
use redis_holdfast::{Client, ErrorKind};

fn refused(url: &str) -> String {
    match Client::builder(url).and_then(redis_holdfast::Builder::build) {
        Ok(_) => panic!("{url} was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_url_says_what_is_wrong_with_it() {
    let mut all: Vec<String> = [
        "redis+sentinel:///orders",
        "redis+sentinel://a:1,a:1/orders",
        "redis+sentinel://a:1/",
        "redis+sentinel://a:1/or%20ders",
        "redis+sentinel://a:0/orders",
    ]
    .iter()
    .map(|url| refused(url))
    .collect();
    println!("{}", all.join("\n"));
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 5, "each says something else: {all:?}");
}

/// What a client of this URL is told in the end.
async fn told_by(url: &str, kind: ErrorKind, words: &str) {
    let client = Client::builder(url)
        .unwrap()
        .call_timeout(CALL_TIMEOUT)
        .build()
        .unwrap();
    let mut last = String::new();
    let end = tokio::time::Instant::now() + SECOND * 3;
    loop {
        let error = ask(&client).await.unwrap_err();
        let ours = redis_holdfast::Error::find_in(&error).cloned().unwrap();
        if ours.kind() == kind && told(&error).contains(words) {
            println!("{}", told(&error));
            return;
        }
        last.clone_from(&told(&error));
        assert!(
            tokio::time::Instant::now() < end,
            "{url}: told {last}, not {words}"
        );
        tokio::time::sleep(ms(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_given_as_sentinel_is_called_that() {
    let redis = Embedded::start().await.unwrap();
    let url = format!("redis+sentinel://{}/orders", redis.addr());
    told_by(
        &url,
        ErrorKind::Protocol,
        "peer is a Redis server, not a Sentinel",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_given_as_redis_is_called_that() {
    let fake = FakeSentinel::start(View::of("orders", "127.0.0.1", 1))
        .await
        .unwrap();
    let url = format!("redis://{}/", fake.addr());
    told_by(
        &url,
        ErrorKind::Protocol,
        "peer is a Sentinel, not a Redis server",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_names_a_sentinel_is_found_out() {
    let fake = FakeSentinel::start(View::of("orders", "127.0.0.1", 1))
        .await
        .unwrap();
    fake.believe(|view| view.primary = Some((fake.addr().ip().to_string(), fake.addr().port())));
    let url = format!("redis+sentinel://{}/orders", fake.addr());
    told_by(
        &url,
        ErrorKind::Protocol,
        "peer is a Sentinel, not a Redis server",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_name_is_told_apart_from_silence() {
    let fake = FakeSentinel::start(View::of("orders", "127.0.0.1", 1))
        .await
        .unwrap();
    let url = format!("redis+sentinel://{}/oders", fake.addr());
    told_by(
        &url,
        ErrorKind::NoPrimary,
        "no Sentinel knows a primary of this name",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_characters_in_a_name_arrive_as_they_are() {
    let redis = Embedded::start().await.unwrap();
    let (ip, port) = (redis.addr().ip(), redis.addr().port());
    for (name, encoded) in [
        ("a.b-c_d", "a.b-c_d"),
        ("a:b", "a:b"),
        ("ä%", "%C3%A4%25"),
        ("a+b@c", "a+b%40c"),
    ] {
        let fake = FakeSentinel::start(View::of(name, ip, port)).await.unwrap();
        let client = connect(&format!("redis+sentinel://{}/{encoded}", fake.addr())).await;
        assert!(ask(&client).await.is_ok(), "{name}");
    }
}
