//! Real servers start, freeze, die and come back as asked, and nothing of them stays.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast_lab::net::dial;
use holdfast_lab::{Find, Server, Servers, census, server_or_skip};
use tokio::time::{Instant, sleep, timeout};

const LONG: Duration = Duration::from_secs(5);

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn a_server_answers_and_is_reaped() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    server.ping().await.unwrap();
    assert!(
        ["redis", "valkey"].contains(&server.kind()),
        "{}",
        server.kind()
    );
    assert!(server.version().contains('.'));
    let mut control = server.control().await.unwrap();
    let () = redis::cmd("SET")
        .arg("k")
        .arg("v")
        .query_async(&mut control)
        .await
        .unwrap();
    let pid = server.pid();
    assert!(exists(pid));
    drop(server);
    assert!(!exists(pid));
}

#[tokio::test]
async fn a_frozen_server_completes_connections_and_says_nothing() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    server.freeze();
    sleep(Duration::from_millis(20)).await;
    assert_eq!(server.accept_queue(), 0);
    let held = [
        dial(server.addr(), LONG).await.unwrap(),
        dial(server.addr(), LONG).await.unwrap(),
    ];
    assert_eq!(server.accept_queue(), 2);
    assert!(
        timeout(Duration::from_millis(300), server.ping())
            .await
            .is_err()
    );
    server.thaw();
    server.ping().await.unwrap();
    assert_eq!(server.accept_queue(), 0);
    assert_eq!(server.clients().await, 2);
    drop(held);
}

#[tokio::test]
async fn a_frozen_server_is_reaped_too() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    server.freeze();
    let pid = server.pid();
    let start = Instant::now();
    drop(server);
    assert!(!exists(pid));
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_killed_server_refuses_and_comes_back_empty_at_the_same_address() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let addr = server.addr();
    let mut control = server.control().await.unwrap();
    let () = redis::cmd("SET")
        .arg("k")
        .arg("v")
        .query_async(&mut control)
        .await
        .unwrap();
    server.kill();
    let refused = dial(addr, LONG).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(server.pid(), 0);
    server.restart().await.unwrap();
    assert_eq!(server.addr(), addr);
    let mut control = server.control().await.unwrap();
    let value: Option<String> = redis::cmd("GET")
        .arg("k")
        .query_async(&mut control)
        .await
        .unwrap();
    assert_eq!(value, None);
}

#[tokio::test]
async fn accepts_counts_only_others() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    server.ping().await.unwrap();
    let _control = server.control().await.unwrap();
    assert_eq!(server.accepts().await, 0);
    let _one = dial(server.addr(), LONG).await.unwrap();
    let _two = dial(server.addr(), LONG).await.unwrap();
    assert_eq!(server.accepts().await, 2);
}

#[tokio::test]
async fn options_and_a_password_reach_the_server() {
    let ip = holdfast_lab::ip();
    let builder = Server::builder()
        .ip(ip)
        .arg("--maxclients", "10")
        .password("sesame");
    let Some(server) = builder.start_or_skip().await else {
        return;
    };
    assert_eq!(server.ip(), ip);
    let limit = server.tell(&["CONFIG", "GET", "maxclients"]).await.unwrap();
    assert_eq!(limit, "*2", "the head of a pair");
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let pong: String = redis::cmd("PING")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(pong, "PONG");
    let bare = redis::Client::open(format!("redis://{}", server.addr())).unwrap();
    let mut refused = bare.get_multiplexed_async_connection().await.unwrap();
    let reply = redis::cmd("PING").query_async::<String>(&mut refused).await;
    assert!(reply.unwrap_err().to_string().contains("NOAUTH"));
}

#[tokio::test]
async fn many_servers_start_side_by_side() {
    let Some(first) = server_or_skip().await else {
        return;
    };
    let all = tokio::join!(
        Server::builder().start(),
        Server::builder().start(),
        Server::builder().start(),
        Server::builder().start(),
    );
    let all = [
        all.0.unwrap(),
        all.1.unwrap(),
        all.2.unwrap(),
        all.3.unwrap(),
    ];
    for server in &all {
        assert_ne!(server.addr(), first.addr());
        server.ping().await.unwrap();
    }
}

#[tokio::test]
async fn every_server_on_this_machine_starts() {
    for binary in Servers::find_all() {
        let server = Server::builder()
            .kind(Find::Path(binary.path))
            .start()
            .await
            .unwrap();
        server.ping().await.unwrap();
        assert_eq!(server.version(), binary.version);
        println!("FIGURE servers {} {} starts", binary.kind, binary.version);
    }
}

#[test]
fn a_server_outlives_the_thread_that_started_it() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let start = move || runtime().block_on(server_or_skip());
    let Some(server) = std::thread::spawn(start).join().unwrap() else {
        return;
    };
    std::thread::sleep(Duration::from_millis(100));
    runtime().block_on(server.ping()).unwrap();
}

/// Runs this test again as a child that starts a server and then waits to be killed.
#[test]
fn a_server_dies_with_the_process_that_started_it() {
    const NAME: &str = "a_server_dies_with_the_process_that_started_it";
    const MARK: &str = "HOLDFAST_LAB_CHILD";
    if std::env::var_os(MARK).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let server = server_or_skip().await;
            println!("\npid {}", server.as_ref().map_or(0, Server::pid));
            sleep(Duration::from_secs(60)).await;
        });
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(MARK, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let pid = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("pid ")?.parse().ok());
    let pid: u32 = pid.unwrap();
    let lives = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    let started = pid != 0;
    assert_eq!(lives(), started);
    child.kill().unwrap();
    child.wait().unwrap();
    let end = std::time::SystemTime::now() + Duration::from_secs(2);
    while lives() && std::time::SystemTime::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!lives());
}

#[tokio::test]
async fn the_census_sees_what_is_there() {
    let before = (census::fds(), census::sockets());
    assert!(before.0 > 0 && census::threads() > 0 && census::rss_bytes() > 1 << 20);
    let listener = tokio::net::TcpListener::bind((holdfast_lab::ip(), 0))
        .await
        .unwrap();
    // Other tests of this binary open sockets at the same time: at least ours is there.
    assert!(census::sockets() > 0 && census::fds() > 0);
    let runtime = tokio::runtime::Handle::current();
    let tasks = census::tokio_tasks(&runtime);
    let owned = holdfast_lab::task::own(std::future::pending::<()>());
    assert_eq!(census::tokio_tasks(&runtime), tasks + 1);
    owned.stop().await;
    assert_eq!(census::tokio_tasks(&runtime), tasks);
    drop(listener);
}
