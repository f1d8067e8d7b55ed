//! A server that says what it is told, when it is told: what a hostile review of the supervisor found, kept from coming back.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use holdfast_lab::task::{Owned, own};
use redis_holdfast::{
    Client, Error, Request,
    dns::{Lookup, Resolution, Resolve},
    redis,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::{Instant, sleep},
};
use tower::Service;

/// What the fake does with a command.
enum Act {
    Say(String),
    /// Asks again in a moment.
    Hang,
}

type Brain = Arc<Mutex<Box<dyn FnMut(usize, &[String]) -> Option<Act> + Send>>>;
type Ended = (Instant, Result<String, Error>);

struct Fake {
    port: u16,
    accepts: Arc<AtomicUsize>,
    /// Closes every connection.
    kick: Arc<Notify>,
    _accepting: Owned,
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn bulk(text: &str) -> Act {
    Act::Say(format!("${}\r\n{text}\r\n", text.len()))
}

fn default(n: usize, c: &[String]) -> Act {
    let two = c
        .iter()
        .take(2)
        .map(|s| s.to_uppercase())
        .collect::<Vec<_>>()
        .join(" ");
    match two.as_str() {
        "CLIENT INFO" => bulk(&format!("id={n} addr=127.0.0.1:{n} flags=N\n")),
        "INFO SERVER" => bulk("redis_mode:standalone\r\nrun_id:abc\r\n"),
        "INFO REPLICATION" => bulk("role:master\r\nmaster_replid:def\r\n"),
        "PING" => Act::Say("+PONG\r\n".into()),
        s if s.starts_with("CLIENT LIST") => bulk(&format!("id={n} flags=N\n")),
        s if s.starts_with("CLIENT KILL") => Act::Say(":1\r\n".into()),
        s if s.starts_with("GET") => bulk("value"),
        _ => Act::Say("+OK\r\n".into()),
    }
}
fn parse(buf: &mut Vec<u8>) -> Option<Vec<String>> {
    let text = buf.clone();
    let mut at = 0;
    let line = |at: &mut usize| -> Option<String> {
        let end = text[*at..].windows(2).position(|w| w == b"\r\n")? + *at;
        let s = String::from_utf8_lossy(&text[*at..end]).into_owned();
        *at = end + 2;
        Some(s)
    };
    let n: usize = line(&mut at)?[1..].parse().ok()?;
    let mut out = vec![];
    for _ in 0..n {
        let len: usize = line(&mut at)?[1..].parse().ok()?;
        if text.len() < at + len + 2 {
            return None;
        }
        out.push(String::from_utf8_lossy(&text[at..at + len]).into_owned());
        at += len + 2;
    }
    buf.drain(..at);
    Some(out)
}
/// Answers the commands of one connection as `brain` says.
async fn converse(mut socket: TcpStream, number: usize, brain: Brain, kick: Arc<Notify>) {
    let (mut buffer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        while let Some(command) = parse(&mut buffer) {
            let reply = loop {
                let act = (brain.lock().unwrap())(number, &command);
                match act.unwrap_or_else(|| default(number, &command)) {
                    Act::Say(reply) => break reply,
                    Act::Hang => sleep(ms(2)).await,
                }
            };
            if socket.write_all(reply.as_bytes()).await.is_err() {
                return;
            }
        }
        tokio::select! {
            read = socket.read(&mut chunk) => match read {
                Ok(0) | Err(_) => return,
                Ok(count) => buffer.extend_from_slice(&chunk[..count]),
            },
            () = kick.notified() => return,
        }
    }
}

async fn fake(brain: impl FnMut(usize, &[String]) -> Option<Act> + Send + 'static) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (accepts, kick) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let brain: Brain = Arc::new(Mutex::new(Box::new(brain)));
    let (counted, kicked) = (accepts.clone(), kick.clone());
    let accepting = own(async move {
        let mut conversations = Vec::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
            conversations.push(own(converse(socket, number, brain.clone(), kicked.clone())));
        }
    });
    Fake {
        port,
        accepts,
        kick,
        _accepting: accepting,
    }
}

async fn client(f: &Fake, q: &str) -> Client {
    let c = Client::builder(&format!("redis://{q}127.0.0.1:{}", f.port))
        .unwrap()
        .build()
        .unwrap();
    c.wait_ready(ms(2000)).await.unwrap();
    c
}
async fn get(c: &Client) -> Result<String, Error> {
    c.service()
        .call(Request::from(redis::cmd("GET").arg("k")))
        .await?
        .parse()
}
/// 200 reads a second.
fn load(client: &Client, duration: Duration) -> Owned<Vec<Ended>> {
    let client = client.clone();
    own(async move {
        let end = Instant::now() + duration;
        let mut calls = Vec::new();
        while Instant::now() < end {
            let client = client.clone();
            calls.push(own(async move { (Instant::now(), get(&client).await) }));
            sleep(ms(5)).await;
        }
        let mut ended = Vec::new();
        for call in calls {
            ended.push(call.join().await.unwrap());
        }
        ended
    })
}

fn show(ended: &[Ended]) -> String {
    let mut classes = BTreeMap::<String, usize>::new();
    for (_, result) in ended {
        let class = result.as_ref().map_or_else(
            |error| format!("{:?} {error:?}", error.kind()),
            |_| "ok".to_owned(),
        );
        *classes
            .entry(class.chars().take(120).collect())
            .or_default() += 1;
    }
    format!("{classes:?}")
}

fn all_ok(ended: &[Ended]) {
    assert!(
        ended.iter().all(|(_, result)| result.is_ok()),
        "{}",
        show(ended)
    );
}

#[tokio::test]
async fn a_password_that_was_rotated_does_not_end_a_link_that_stalls() {
    let stall = Arc::new(Mutex::new((false, false)));
    let s = stall.clone();
    let f = fake(move |n, c| {
        let (stalled, rotated) = *s.lock().unwrap();
        if c[0] == "AUTH" && rotated {
            return Some(Act::Say(
                "-WRONGPASS invalid username-password pair\r\n".into(),
            ));
        }
        if n == 1 && stalled {
            return Some(Act::Hang);
        }
        None
    })
    .await;
    let c = client(&f, ":pw@").await;
    let l = load(&c, ms(3000));
    sleep(ms(500)).await;
    *stall.lock().unwrap() = (true, true);
    sleep(ms(300)).await;
    *stall.lock().unwrap() = (false, true);
    let r = l.join().await.unwrap();
    all_ok(&r);
}

#[tokio::test]
async fn a_server_that_answers_handshakes_and_no_calls_is_not_dialled_in_a_storm() {
    let stall = Arc::new(Mutex::new(false));
    let s = stall.clone();
    let f = fake(move |_, c| {
        if *s.lock().unwrap() && c[0] == "GET" {
            Some(Act::Hang)
        } else {
            None
        }
    })
    .await;
    let c = client(&f, "").await;
    let l = load(&c, ms(4000));
    sleep(ms(500)).await;
    let before = f.accepts.load(Ordering::SeqCst);
    *stall.lock().unwrap() = true;
    sleep(ms(3000)).await;
    let after = f.accepts.load(Ordering::SeqCst);
    *stall.lock().unwrap() = false;
    let r = l.join().await.unwrap();
    println!("D: {} accepts in 3 s; {}", after - before, show(&r));
    assert!(after - before <= 12);
}

#[tokio::test]
async fn a_swap_under_an_open_circuit_closes_it() {
    let st = Arc::new(Mutex::new((false, false)));
    let s = st.clone();
    let mut seen = std::collections::HashMap::new();
    let f = fake(move |n, _| {
        let (all, one) = *s.lock().unwrap();
        let first = *seen.entry(n).or_insert_with(Instant::now);
        if all || (one && n == 1) || (n > 2 && first.elapsed() < ms(100)) {
            Some(Act::Hang)
        } else {
            None
        }
    })
    .await;
    let c = client(&f, "").await;
    let l = load(&c, ms(4000));
    sleep(ms(500)).await;
    *st.lock().unwrap() = (true, true);
    sleep(ms(700)).await;
    *st.lock().unwrap() = (false, true);
    sleep(ms(1300)).await;
    *st.lock().unwrap() = (false, false);
    let kick = Instant::now();
    f.kick.notify_waiters();
    let r = l.join().await.unwrap();
    let late: Vec<_> = r.into_iter().filter(|(at, _)| *at > kick).collect();
    all_ok(&late);
}

#[tokio::test]
async fn without_permission_for_info_a_stall_fails_no_read() {
    let stall = Arc::new(Mutex::new(false));
    let s = stall.clone();
    let f = fake(move |n, c| {
        if c[0] == "INFO" {
            return Some(Act::Say("-NOPERM no info\r\n".into()));
        }
        if n == 1 && *s.lock().unwrap() {
            return Some(Act::Hang);
        }
        None
    })
    .await;
    let c = client(&f, "").await;
    let l = load(&c, ms(2000));
    sleep(ms(500)).await;
    *stall.lock().unwrap() = true;
    sleep(ms(350)).await;
    *stall.lock().unwrap() = false;
    let r = l.join().await.unwrap();
    all_ok(&r);
}

#[tokio::test]
async fn a_user_without_permission_for_ping_connects() {
    let f = fake(|_, c| {
        (c[0] == "PING").then(|| {
            Act::Say("-NOPERM this user has no permissions to run the 'ping' command\r\n".into())
        })
    })
    .await;
    let c = Client::builder(&format!("redis://127.0.0.1:{}", f.port))
        .unwrap()
        .build()
        .unwrap();
    c.wait_ready(ms(1000)).await.unwrap();
    assert!(c.health().is_ready(), "{}", c.health());
}

#[tokio::test]
async fn a_server_that_quotes_hello_does_not_put_the_password_into_an_error() {
    let f = fake(|_, c| {
        (c[0] == "HELLO").then(|| {
            Act::Say(format!(
                "-ERR unknown command `HELLO`, with args beginning with: {}\r\n",
                c[1..]
                    .iter()
                    .map(|a| format!("`{a}`, "))
                    .collect::<String>()
            ))
        })
    })
    .await;
    let c = Client::builder(&format!(
        "redis://:hunter2@127.0.0.1:{}?protocol=resp3",
        f.port
    ))
    .unwrap()
    .build()
    .unwrap();
    sleep(ms(300)).await;
    let e = get(&c).await.unwrap_err();
    assert!(!format!("{e:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_timeout_without_end_is_no_panic() {
    let f = fake(|_, _| None).await;
    let c = client(&f, "").await;
    let r = c
        .service()
        .call(Request::from(redis::cmd("GET").arg("k")).with_timeout(Duration::MAX))
        .await;
    assert!(r.is_ok());
}

struct Moving(Arc<AtomicBool>);
impl Resolve for Moving {
    fn resolve<'a>(&'a self, _: &'a str) -> Lookup<'a> {
        let last = if self.0.load(Ordering::SeqCst) { 2 } else { 1 };
        Box::pin(async move {
            Resolution::addresses(
                [std::net::IpAddr::from([127, 0, 0, last])],
                Duration::from_secs(1),
            )
        })
    }
}
#[tokio::test]
async fn a_move_to_an_address_that_refuses_does_not_end_the_old_link_that_stalls() {
    let stall = Arc::new(Mutex::new(false));
    let s = stall.clone();
    let f = fake(move |_, _| {
        if *s.lock().unwrap() {
            Some(Act::Hang)
        } else {
            None
        }
    })
    .await;
    let moved = Arc::new(AtomicBool::new(false));
    let c = Client::builder(&format!("redis://redis.test:{}", f.port))
        .unwrap()
        .resolver(Moving(moved.clone()))
        .build()
        .unwrap();
    c.wait_ready(ms(2000)).await.unwrap();
    moved.store(true, Ordering::SeqCst);
    sleep(ms(9000)).await;
    let l = load(&c, ms(2000));
    sleep(ms(300)).await;
    *stall.lock().unwrap() = true;
    sleep(ms(250)).await;
    *stall.lock().unwrap() = false;
    let r = l.join().await.unwrap();
    all_ok(&r);
}

#[tokio::test]
async fn a_slow_first_handshake_does_not_blind_the_client() {
    let stall = Arc::new(Mutex::new(false));
    let s = stall.clone();
    let t0 = Instant::now();
    let f = fake(move |_, _| {
        if t0.elapsed() < ms(280) || *s.lock().unwrap() {
            Some(Act::Hang)
        } else {
            None
        }
    })
    .await;
    let c = client(&f, "").await;
    sleep(ms(1000)).await;
    let l = load(&c, ms(2500));
    sleep(ms(500)).await;
    let onset = Instant::now();
    *stall.lock().unwrap() = true;
    let r = l.join().await.unwrap();
    let refused = r
        .iter()
        .filter(|(at, r)| *at > onset && r.as_ref().is_err_and(|e| e.is_circuit_open()))
        .map(|(at, _)| *at - onset)
        .min();
    println!("L: first refusal after {refused:?}; {}", show(&r));
    assert!(refused.unwrap() < ms(600));
}

#[test]
fn a_client_whose_runtime_is_gone_finds_a_new_one() {
    let rt1 = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let rt2 = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let f = rt2.block_on(fake(|_, _| None));
    let c = rt1.block_on(client(&f, ""));
    drop(rt1);
    rt2.block_on(async {
        let before = client_state(&c);
        assert_ne!(before, "ready", "nobody keeps the link");
        assert!(get(&c).await.is_ok());
    });
}

fn client_state(client: &Client) -> &'static str {
    client.health().state().as_str()
}
