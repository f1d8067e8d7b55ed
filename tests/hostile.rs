//! A server that says what it is told, when it is told: what a hostile review of the supervisor found, kept from coming back.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

mod common;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{
    SECOND,
    fake::{Act, Fake},
    ms,
};
use holdfast_lab::task::{Owned, own};
use redis_holdfast::{
    Client, Error, Request,
    dns::{Lookup, Resolution, Resolve},
    redis,
};
use tokio::time::{Instant, sleep};
use tower::Service;

type Ended = (Instant, Result<String, Error>);

/// A fault that a test switches on and off under the fake's feet.
#[derive(Clone, Default)]
struct Switch(Arc<AtomicBool>);

impl Switch {
    fn on(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn off(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    fn is_on(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    async fn for_a(&self, while_: Duration) {
        self.on();
        sleep(while_).await;
        self.off();
    }

    /// Hangs while it is on.
    fn hang(&self) -> Option<Act> {
        self.is_on().then_some(Act::Hang)
    }
}

fn say(text: &str) -> Option<Act> {
    Some(Act::Say(format!("{text}\r\n")))
}

/// A client of the fake, ready.
async fn client(fake: &Fake, credentials: &str) -> Client {
    let client = build(&fake.url(credentials));
    client.wait_ready(SECOND * 2).await.unwrap();
    client
}

fn build(url: &str) -> Client {
    Client::builder(url).unwrap().build().unwrap()
}

fn read() -> Request {
    Request::from(redis::cmd("GET").arg("k"))
}

async fn get(client: &Client) -> Result<String, Error> {
    client.service().call(read()).await?.parse()
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
    let (stall, rotated) = (Switch::default(), Switch::default());
    let (stalls, rotates) = (stall.clone(), rotated.clone());
    let fake = Fake::start(move |number, command| match &*command[0] {
        "AUTH" if rotates.is_on() => say("-WRONGPASS invalid username-password pair"),
        _ if number == 1 => stalls.hang(),
        _ => None,
    })
    .await;
    let client = client(&fake, ":pw@").await;
    let load = load(&client, SECOND * 3);
    sleep(ms(500)).await;
    rotated.on();
    stall.for_a(ms(300)).await;
    all_ok(&load.join().await.unwrap());
}

#[tokio::test]
async fn a_server_that_answers_handshakes_and_no_calls_is_not_dialled_in_a_storm() {
    let stall = Switch::default();
    let stalls = stall.clone();
    let fake = Fake::start(move |_, command| stalls.hang().filter(|_| command[0] == "GET")).await;
    let client = client(&fake, "").await;
    let load = load(&client, SECOND * 4);
    sleep(ms(500)).await;
    let before = fake.accepts();
    stall.for_a(SECOND * 3).await;
    let dialled = fake.accepts() - before;
    let ended = load.join().await.unwrap();
    println!("FIGURE P11 handshakes answered and no calls: {dialled} dials in 3 s");
    // Four a second, as an absent server sees them.
    assert!(dialled <= 12, "{dialled}; {}", show(&ended));
}

#[tokio::test]
async fn a_swap_under_an_open_circuit_closes_it() {
    let (all, first) = (Switch::default(), Switch::default());
    let (all_hang, first_hangs) = (all.clone(), first.clone());
    let mut seen = HashMap::new();
    let fake = Fake::start(move |number, _| {
        let since = *seen.entry(number).or_insert_with(Instant::now);
        let is_new = number > 2 && since.elapsed() < ms(100);
        let hangs = all_hang.is_on() || (number == 1 && first_hangs.is_on()) || is_new;
        hangs.then_some(Act::Hang)
    })
    .await;
    let client = client(&fake, "").await;
    let load = load(&client, SECOND * 4);
    sleep(ms(500)).await;
    first.on();
    all.for_a(ms(700)).await;
    sleep(ms(1300)).await;
    first.off();
    let kick = Instant::now();
    fake.kick.notify_waiters();
    let mut ended = load.join().await.unwrap();
    ended.retain(|(at, _)| *at > kick);
    all_ok(&ended);
}

#[tokio::test]
async fn a_new_connection_that_does_not_answer_the_fence_is_handed_nothing() {
    let (link, fence) = (Switch::default(), Switch::default());
    let (link_hangs, fence_hangs) = (link.clone(), fence.clone());
    let handed = Switch::default();
    let was_handed = handed.clone();
    let fake = Fake::start(move |number, command| match (number, &*command[0]) {
        (1, _) => link_hangs.hang(),
        (2, "CLIENT") if command[1] == "LIST" => fence_hangs.hang(),
        (2, "GET") => {
            was_handed.on();
            None
        }
        _ => None,
    })
    .await;
    let client = client(&fake, "").await;
    let load = load(&client, SECOND * 2);
    sleep(ms(500)).await;
    link.on();
    fence.on();
    let dialled = Instant::now() + SECOND;
    while fake.accepts() < 3 {
        assert!(Instant::now() < dialled, "no other connection was tried");
        sleep(ms(5)).await;
    }
    // What the second connection was handed meanwhile it would run now, before what the first one still holds.
    fence.off();
    let ended = load.join().await.unwrap();
    assert!(!handed.is_on(), "{}", show(&ended));
    assert!(get(&client).await.is_ok());
}

#[tokio::test]
async fn without_permission_for_info_a_stall_fails_no_read() {
    let stall = Switch::default();
    let stalls = stall.clone();
    let fake = Fake::start(move |number, command| match &*command[0] {
        "INFO" => say("-NOPERM no info"),
        _ if number == 1 => stalls.hang(),
        _ => None,
    })
    .await;
    let client = client(&fake, "").await;
    let load = load(&client, SECOND * 2);
    sleep(ms(500)).await;
    stall.for_a(ms(350)).await;
    all_ok(&load.join().await.unwrap());
}

#[tokio::test]
async fn a_user_without_permission_for_ping_connects() {
    let fake = Fake::start(|_, command| match &*command[0] {
        "PING" => say("-NOPERM this user has no permissions to run the 'ping' command"),
        _ => None,
    })
    .await;
    let client = client(&fake, "").await;
    assert!(client.health().is_ready(), "{}", client.health());
}

#[tokio::test]
async fn a_server_that_refuses_a_name_serves_all_the_same() {
    let asked = Switch::default();
    let hears = asked.clone();
    let fake = Fake::start(move |_, command| match command {
        [client, setname, name] if client == "CLIENT" && setname == "SETNAME" => {
            assert_eq!(name, "cart");
            hears.on();
            say("-NOPERM this user has no permissions to run the 'client|setname' command")
        }
        _ => None,
    })
    .await;
    let builder = Client::builder(&fake.url("")).unwrap();
    let client = builder.name("cart").build().unwrap();
    client.wait_ready(SECOND * 2).await.unwrap();
    assert!(asked.is_on() && get(&client).await.is_ok());
}

#[tokio::test]
async fn a_server_that_quotes_hello_does_not_put_the_password_into_an_error() {
    let fake = Fake::start(|_, command| {
        let quoted = || command[1..].join("`, `");
        (command[0] == "HELLO").then(|| {
            Act::Say(format!(
                "-ERR unknown command `HELLO`, with args beginning with: `{}`\r\n",
                quoted()
            ))
        })
    })
    .await;
    let client = build(&(fake.url(":hunter2@") + "?protocol=resp3"));
    let error = get(&client).await.unwrap_err();
    let shown = format!("{error:?} {error} {:?}", client.health());
    assert!(
        shown.contains("RESP3") && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_timeout_without_end_is_no_panic() {
    let fake = Fake::start(|_, _| None).await;
    let client = client(&fake, "").await;
    let call = client.service().call(read().with_timeout(Duration::MAX));
    assert!(call.await.is_ok());
}

/// A name that moves to an address where nobody listens.
struct Moving {
    moved: Switch,
    from: IpAddr,
}

impl Resolve for Moving {
    fn resolve<'a>(&'a self, _: &'a str) -> Lookup<'a> {
        let gone_to = IpAddr::from([127, 0, 0, 2]);
        let ip = if self.moved.is_on() {
            gone_to
        } else {
            self.from
        };
        Box::pin(async move { Resolution::addresses([ip], SECOND) })
    }
}

#[tokio::test]
async fn a_move_to_an_address_that_refuses_does_not_end_the_old_link_that_stalls() {
    let (stall, moved) = (Switch::default(), Switch::default());
    let stalls = stall.clone();
    let fake = Fake::start(move |_, _| stalls.hang()).await;
    let resolver = Moving {
        moved: moved.clone(),
        from: fake.ip(),
    };
    let url = format!("redis://redis.test:{}", fake.port());
    let builder = Client::builder(&url).unwrap().resolver(resolver);
    let client = builder.build().unwrap();
    client.wait_ready(SECOND * 2).await.unwrap();
    moved.on();
    // The name is refreshed after 5 s at most, and a second answer must confirm that the address has left.
    sleep(SECOND * 9).await;
    let load = load(&client, SECOND * 2);
    sleep(ms(300)).await;
    stall.for_a(ms(250)).await;
    all_ok(&load.join().await.unwrap());
}

#[tokio::test]
async fn a_slow_first_handshake_does_not_blind_the_client() {
    let stall = Switch::default();
    let (stalls, start) = (stall.clone(), Instant::now());
    let fake = Fake::start(move |_, _| {
        let is_slow = start.elapsed() < ms(280);
        (is_slow || stalls.is_on()).then_some(Act::Hang)
    })
    .await;
    let client = client(&fake, "").await;
    sleep(SECOND).await;
    let load = load(&client, ms(2500));
    sleep(ms(500)).await;
    let onset = Instant::now();
    stall.on();
    let ended = load.join().await.unwrap();
    let refused = ended
        .iter()
        .filter(|(at, _)| *at > onset)
        .filter(|(_, result)| result.as_ref().is_err_and(Error::is_circuit_open))
        .map(|(at, _)| *at - onset)
        .min();
    println!("FIGURE P3 silent after a slow first handshake: first refusal after {refused:?}");
    // Promise 3.
    assert!(
        refused.is_some_and(|refused| refused < ms(600)),
        "{}",
        show(&ended)
    );
}
