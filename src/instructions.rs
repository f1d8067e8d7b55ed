//! What the way of a call costs, in instructions: work to be counted under valgrind, where noise of the machine has no say.
//!
//! Owns one `#[test]` per way, each of `HOLDFAST_ROUNDS` rounds of the same work on one thread, over a pipe, under a paused clock. Promises
//! nothing by itself: `scripts/instructions.sh` runs each twice under callgrind, takes the difference, and compares it with the counts
//! that are kept beside it. Run as ordinary tests they show that the work still works.

use std::{hint::black_box, sync::Arc, time::Duration};

use bytes::BytesMut;
use redis::{AsyncCommands, cmd};
use tokio::{runtime::Handle, time::Instant};
use tower::Service;

use crate::{
    BreakerPolicy, Client, Config, Request,
    cancellation::peer::{Pipes, World},
    layer::{LinkConnector, ResilienceLayer, ResilienceService, breaker::machine::Machine},
    net::{
        address::Address,
        link::{
            Link, Pace,
            codec::{Decoder, Frame, Limits},
            handshake::{Introduction, Peer},
            job::{Job, Outcome},
        },
        reach::connect::{Attempt, Dial, Stage},
    },
};

/// Rounds of the work. A few by default: then it is an ordinary test.
fn rounds() -> usize {
    let asked = std::env::var("HOLDFAST_ROUNDS");
    asked
        .ok()
        .and_then(|number| number.parse().ok())
        .unwrap_or(10)
}

fn quiet_world() -> Arc<World> {
    let world = Arc::new(World::new(false));
    world.behave();
    world
}

fn get() -> Request {
    Request::from(cmd("GET").arg("a:key:of:20:bytes:ok"))
}

/// The link alone: what the stack adds is `call_through_the_stack` less this.
#[tokio::test(start_paused = true)]
async fn call_over_the_link_alone() {
    let pace = Pace::new(
        "pipe".into(),
        64,
        Duration::from_millis(100),
        Duration::from_millis(500),
    );
    let introduction = Introduction {
        resp3: false,
        username: None,
        password: None,
        db: 0,
        name: None,
        peer: Peer::Server,
    };
    let attempt = Attempt {
        address: Address::Tcp(([127, 0, 0, 1], 1).into()),
        introduction: Arc::new(introduction),
        connect_timeout: Duration::from_secs(1),
        handshake_limit: Duration::from_secs(1),
        pace: Arc::new(pace),
        runtime: Handle::current(),
        stage: Arc::new(Stage::default()),
    };
    let link: Link = Pipes::to(&quiet_world())
        .connect(attempt)
        .await
        .expect("a link");
    for _ in 0..rounds() {
        let (job, ticket) = Job::pair(get());
        assert!(link.submit(job).is_ok());
        let outcome = ticket.await;
        assert!(matches!(black_box(outcome), Outcome::Replied(_)));
    }
}

fn stack() -> ResilienceService<Pipes> {
    let config = Config::builder("redis://127.0.0.1:1")
        .build()
        .expect("a sound configuration");
    ResilienceLayer::new(config).build(Pipes::to(&quiet_world()))
}

#[tokio::test(start_paused = true)]
async fn call_through_the_stack() {
    let mut stack = stack();
    for _ in 0..rounds() {
        black_box(stack.call(get()).await.expect("a reply"));
    }
}

#[tokio::test(start_paused = true)]
async fn call_through_the_connection() {
    let builder = Client::builder("redis://127.0.0.1:1").expect("a sound URL");
    let mut client = builder
        .connector(Pipes::to(&quiet_world()))
        .build()
        .expect("a client");
    for _ in 0..rounds() {
        let value: Vec<u8> = client.get("a:key:of:20:bytes:ok").await.expect("a reply");
        black_box(value);
    }
}

#[tokio::test(start_paused = true)]
async fn refused_call() {
    // Nobody listens there.
    let config = Config::builder("redis://127.0.0.1:1")
        .build()
        .expect("a sound configuration");
    let mut stack = ResilienceLayer::new(config).build(LinkConnector::new());
    assert!(stack.call(get()).await.is_err(), "nobody is there");
    let request = get();
    for _ in 0..rounds() {
        let refused = black_box(stack.call(request.clone()).await);
        assert!(refused.is_err());
    }
}

#[test]
fn encode() {
    let mut command = cmd("SET");
    command.arg("a:key:of:20:bytes:ok").arg(&[7_u8; 32]);
    for _ in 0..rounds() {
        black_box(Request::from(black_box(&command)));
    }
}

fn decode_all(reply: &[u8], replies: usize) {
    let (mut decoder, mut buffer) = (
        Decoder::new(Limits::default()),
        BytesMut::with_capacity(1 << 10),
    );
    for _ in 0..rounds() {
        buffer.extend_from_slice(black_box(reply));
        for _ in 0..replies {
            let frame = decoder.decode(&mut buffer);
            assert!(matches!(black_box(frame), Ok(Some(Frame::Reply(_)))));
        }
    }
}

/// A bulk, a status, an integer, and an array of them.
#[test]
fn decode() {
    let some = b"$32\r\n01234567890123456789012345678901\r\n+OK\r\n:12345\r\n";
    decode_all(&[some.as_slice(), b"*3\r\n", some].concat(), 4);
}

/// By redis' own parser: it alone can make an error reply.
#[test]
fn decode_error() {
    decode_all(b"-ERR no such thing\r\n", 1);
}

#[tokio::test(start_paused = true)]
async fn breaker_record() {
    let begun = Instant::now();
    let mut machine = Machine::new(BreakerPolicy::default(), begun);
    for round in 0..rounds() {
        let now = begun + Duration::from_micros(20) * u32::try_from(round).unwrap_or(u32::MAX);
        machine.on_calls(9, now);
        black_box(machine.on_failure(now));
    }
}
