//! The embedded server is enough of Redis for a client; the fake says what it is told.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

use std::time::Duration;

use holdfast_lab::net::dial;
use holdfast_lab::{Embedded, RespFake, census};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

const LONG: Duration = Duration::from_secs(5);

async fn connect(url: &str) -> MultiplexedConnection {
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(LONG));
    let client = Client::open(url).unwrap();
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .unwrap()
}

async fn ask<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    line: &str,
) -> redis::RedisResult<T> {
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command.query_async(connection).await
}

#[tokio::test]
async fn a_redis_client_is_content_in_both_protocols() {
    let server = Embedded::start().await.unwrap();
    for url in [server.url(), format!("{}?protocol=resp3", server.url())] {
        let mut c = connect(&url).await;
        let () = ask(&mut c, "FLUSHALL").await.unwrap();
        assert_eq!(ask::<String>(&mut c, "PING").await.unwrap(), "PONG");
        assert_eq!(ask::<String>(&mut c, "ECHO hi").await.unwrap(), "hi");
        let () = ask(&mut c, "SET k v").await.unwrap();
        assert_eq!(
            ask::<Option<String>>(&mut c, "GET k")
                .await
                .unwrap()
                .as_deref(),
            Some("v")
        );
        assert_eq!(
            ask::<Option<String>>(&mut c, "GET none").await.unwrap(),
            None
        );
        assert_eq!(
            ask::<Option<String>>(&mut c, "SET k w NX").await.unwrap(),
            None
        );
        let () = ask(&mut c, "SET gone v PX 20").await.unwrap();
        let () = ask(&mut c, "MSET a 1 b 2").await.unwrap();
        assert_eq!(ask::<i64>(&mut c, "INCRBY a 4").await.unwrap(), 5);
        assert_eq!(
            ask::<Vec<Option<i64>>>(&mut c, "MGET a b c").await.unwrap(),
            [Some(5), Some(2), None]
        );
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(ask::<i64>(&mut c, "EXISTS a b gone").await.unwrap(), 2);
        assert_eq!(ask::<i64>(&mut c, "EXPIRE a 100").await.unwrap(), 1);
        assert_eq!(ask::<i64>(&mut c, "DEL a b").await.unwrap(), 2);
        assert_eq!(ask::<i64>(&mut c, "DBSIZE").await.unwrap(), 1);
        let role: Vec<Value> = ask(&mut c, "ROLE").await.unwrap();
        assert_eq!(String::from_redis_value(role[0].clone()).unwrap(), "master");
        let info: redis::InfoDict = ask(&mut c, "INFO").await.unwrap();
        assert_eq!(info.get::<String>("role").as_deref(), Some("master"));
        assert_eq!(info.get::<String>("master_replid").unwrap().len(), 40);
        let error = ask::<Value>(&mut c, "NONSENSE").await.unwrap_err();
        assert!(error.to_string().contains("unknown command"), "{error}");
    }
}

#[tokio::test]
async fn transactions_are_queued_and_run() {
    let server = Embedded::start().await.unwrap();
    let mut c = connect(&server.url()).await;
    let both: (i64, i64) = redis::pipe()
        .atomic()
        .incr("n", 1)
        .incr("n", 1)
        .query_async(&mut c)
        .await
        .unwrap();
    assert_eq!(both, (1, 2));
    let () = ask(&mut c, "MULTI").await.unwrap();
    let () = ask(&mut c, "INCR n").await.unwrap();
    let () = ask(&mut c, "DISCARD").await.unwrap();
    assert_eq!(ask::<i64>(&mut c, "GET n").await.unwrap(), 2);
}

#[tokio::test]
async fn a_client_can_be_killed_by_id_and_address() {
    let server = Embedded::start().await.unwrap();
    let (mut one, mut two) = (connect(&server.url()).await, connect(&server.url()).await);
    let id: i64 = ask(&mut one, "CLIENT ID").await.unwrap();
    let info: String = ask(&mut one, "CLIENT INFO").await.unwrap();
    let addr = info
        .split_whitespace()
        .find_map(|word| word.strip_prefix("addr="))
        .unwrap()
        .to_owned();
    let stranger = format!("CLIENT KILL ID {id} ADDR 127.9.9.9:1");
    assert_eq!(ask::<i64>(&mut two, &stranger).await.unwrap(), 0);
    let fence = format!("CLIENT KILL ID {id} ADDR {addr}");
    assert_eq!(ask::<i64>(&mut two, &fence).await.unwrap(), 1);
    assert!(ask::<String>(&mut one, "PING").await.is_err());
    assert_eq!(ask::<String>(&mut two, "PING").await.unwrap(), "PONG");
    assert_eq!(server.clients(), 1);
}

#[tokio::test]
async fn frozen_it_completes_connections_and_says_nothing() {
    let server = Embedded::start().await.unwrap();
    let mut old = connect(&server.url()).await;
    server.freeze();
    let question = async { ask::<String>(&mut old, "PING").await };
    tokio::pin!(question);
    assert!(
        timeout(Duration::from_millis(200), &mut question)
            .await
            .is_err()
    );
    let _held = dial(server.addr(), LONG).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(census::accept_queue(server.addr()), 1);
    assert_eq!(server.accepts(), 1);
    server.thaw();
    assert_eq!(question.await.unwrap(), "PONG");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.accepts(), 2);
}

#[tokio::test]
async fn with_a_service_time_all_connections_stand_in_one_line_and_who_gives_up_keeps_his_place() {
    let server = Embedded::start().await.unwrap();
    let (mut one, mut two) = (connect(&server.url()).await, connect(&server.url()).await);
    server.set_service_time(Duration::from_millis(10));
    let began = Instant::now();
    for _ in 0..10 {
        let both = tokio::join!(
            ask::<String>(&mut one, "PING"),
            ask::<String>(&mut two, "PING")
        );
        assert!(both.0.is_ok() && both.1.is_ok());
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(200), "20 of them in {took:?}");
    server.set_service_time(LONG * 2);
    gives_up(&mut one, &server, LONG).await;
    drop(one);
    gives_up(&mut two, &server, LONG * 3).await;
}

/// Asks, and goes once the line is so long.
async fn gives_up(connection: &mut MultiplexedConnection, server: &Embedded, line: Duration) {
    let question = ask::<String>(connection, "PING");
    tokio::pin!(question);
    while server.line() < line {
        let answer = timeout(Duration::from_millis(1), &mut question).await;
        assert!(answer.is_err(), "{answer:?}");
    }
}

#[tokio::test]
async fn stopped_it_refuses_and_its_port_can_be_had_again() {
    let server = Embedded::start().await.unwrap();
    let addr = server.addr();
    let mut old = connect(&server.url()).await;
    server.stop().await;
    assert!(dial(addr, LONG).await.is_err());
    assert!(ask::<String>(&mut old, "PING").await.is_err());
    let again = Embedded::start_on(addr).await.unwrap();
    assert_eq!(again.addr(), addr);
    connect(&again.url()).await;
}

#[tokio::test]
async fn a_fake_says_what_it_is_told() {
    let fake = RespFake::start(|number, bytes| {
        assert_eq!(bytes, b"PING\r\n");
        format!("+{number}\r\n").into_bytes()
    })
    .await
    .unwrap();
    for number in 0..3 {
        let mut stream = dial(fake.addr(), LONG).await.unwrap();
        stream.write_all(b"PING\r\n").await.unwrap();
        let mut reply = [0; 4];
        timeout(LONG, stream.read_exact(&mut reply))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&reply, format!("+{number}\r\n").as_bytes());
    }
    assert_eq!(fake.accepts(), 3);
}
