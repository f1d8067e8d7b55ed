//! `redis`' connection in our hands, over a pipe whose other end says what a server would, or what none should.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use redis::{Value, cmd};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    net::TcpListener,
    runtime::Handle,
    time::{sleep, timeout},
};

use super::*;
use crate::{
    Request,
    net::link::{
        LinkState, Pace,
        codec::{Decoder, Limits},
        dial::dial,
        driver::Start,
        handshake::Greeting,
        job::{End, Job, Outcome, Sent, Ticket},
        mailbox::Retire,
        socket::Socket,
    },
    request::Values,
};

const SECOND: Duration = Duration::from_secs(1);

async fn link<S: Socket>(socket: S, inbox: &[u8]) -> Link {
    let pace = Arc::new(Pace::new("test".into(), 100, SECOND * 3 / 20, SECOND));
    let meter = Meter::new();
    let socket = Metered::new(socket, BytesMut::from(inbox), meter.clone());
    meter.turn();
    let (connection, driving) =
        MultiplexedConnection::new_with_config(&introduced(), socket, bare(&pace))
            .await
            .expect("it says nothing");
    let driving: Driving = Box::pin(driving);
    let address = SocketAddr::from(([127, 0, 0, 1], 1)).into();
    Link::driven(
        Greeting::default(),
        address,
        &pace,
        &Handle::current(),
        |post| Driver::new(connection, driving, meter, post),
    )
}

fn submit(link: &Link, request: impl Into<Request>) -> Ticket {
    let (job, ticket) = Job::pair(request.into());
    link.submit(job).expect("taken in");
    ticket
}

async fn end(ticket: Ticket) -> End {
    match timeout(SECOND * 2, ticket).await.expect("in time") {
        Outcome::Ended(end) => end,
        Outcome::Replied(values) => panic!("{values:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_nth_reply_goes_to_the_nth_call_whoever_left() {
    let (near, mut far) = duplex(1 << 16);
    let link = link(near, b"").await;
    let tickets: Vec<_> = (0..9).map(|n| submit(&link, cmd("ECHO").arg(n))).collect();
    sleep(Duration::from_millis(1)).await;
    for n in 0..9 {
        far.write_all(format!(":{n}\r\n").as_bytes())
            .await
            .expect("room");
    }
    for (n, ticket) in (0..).zip(tickets) {
        if n % 3 == 0 {
            drop(ticket);
            continue;
        }
        let said = timeout(SECOND, ticket).await.expect("in time");
        assert!(
            matches!(said, Outcome::Replied(Values::One(Value::Int(said))) if said == n),
            "{said:?}"
        );
    }
    assert!(!link.is_silent());
}

#[tokio::test(start_paused = true)]
async fn calls_behind_what_the_kernel_does_not_take_were_never_handed_over() {
    let (near, _far) = duplex(1024);
    let link = link(near, b"").await;
    let large = "x".repeat(40 << 10);
    let tickets: Vec<_> = (0..4)
        .map(|_| submit(&link, cmd("SET").arg("k").arg(&large)))
        .collect();
    sleep(Duration::from_millis(1)).await;
    link.retire(Retire::Abort(Error::new(
        ErrorKind::ConnectionLost,
        Phase::Reply,
        "replaced",
    )));
    let mut sent = Vec::new();
    for ticket in tickets {
        sent.push(end(ticket).await.sent);
    }
    assert_eq!(sent, [Sent::Maybe, Sent::Maybe, Sent::Never, Sent::Never]);
}

#[tokio::test(start_paused = true)]
async fn a_benched_connection_lets_its_reads_go_and_waits_for_the_rest() {
    let (near, mut far) = duplex(1 << 16);
    let link = link(near, b"").await;
    let (read, write) = (
        submit(&link, cmd("GET").arg("k")),
        submit(&link, cmd("INCR").arg("k")),
    );
    sleep(Duration::from_millis(1)).await;
    link.retire(Retire::Bench);
    assert_eq!(end(read).await.sent, Sent::Maybe);
    far.write_all(b"$1\r\n1\r\n:2\r\n").await.expect("room");
    let said = timeout(SECOND, write).await.expect("in time");
    assert!(matches!(said, Outcome::Replied(Values::One(Value::Int(2)))));
    let gone = |state: &LinkState| matches!(state, LinkState::Dead { by_peer: false, .. });
    let mut watch = link.watch();
    let over = timeout(SECOND, watch.wait_for(gone)).await;
    assert!(over.is_ok_and(|over| over.is_ok()), "it is done");
}

#[tokio::test(start_paused = true)]
async fn silence_rises_and_ends_the_connection_and_an_idle_one_asks_for_a_sign_of_life() {
    let (near, mut far) = duplex(1 << 16);
    let link = link(near, b"").await;
    let mut word = [0; 14];
    timeout(SECOND * 3, far.read_exact(&mut word))
        .await
        .expect("in time")
        .expect("a ping");
    assert_eq!(&word, b"*1\r\n$4\r\nPING\r\n");
    far.write_all(b"+PONG\r\n").await.expect("room");
    sleep(Duration::from_millis(100)).await;
    assert!(!link.is_silent());
    let ticket = submit(&link, cmd("GET").arg("k"));
    sleep(Duration::from_millis(200)).await;
    assert!(matches!(*link.watch().borrow(), LinkState::Suspect { .. }));
    let end = end(ticket).await;
    assert_eq!(
        (end.sent, end.error.detail()),
        (Sent::Maybe, "server silent")
    );
}

#[tokio::test(start_paused = true)]
async fn the_end_has_its_cause_whatever_redis_makes_of_it() {
    for (said, kind, detail) in [
        (
            &b""[..],
            ErrorKind::ConnectionLost,
            "server closed the connection",
        ),
        (
            b":1\r\n",
            ErrorKind::ConnectionLost,
            "server closed the connection",
        ),
        (
            b"HTTP/1.1 400\r\n",
            ErrorKind::Protocol,
            "peer broke the redis protocol",
        ),
    ] {
        let (near, mut far) = duplex(1 << 16);
        let link = link(near, b"").await;
        let tickets = [submit(&link, cmd("PING")), submit(&link, cmd("PING"))];
        sleep(Duration::from_millis(1)).await;
        far.write_all(said).await.expect("room");
        if kind == ErrorKind::ConnectionLost {
            drop(far);
        }
        let [first, second] = tickets;
        if said.starts_with(b":") {
            assert!(
                matches!(first.await, Outcome::Replied(_)),
                "it was answered before"
            );
        }
        let end = end(second).await;
        assert_eq!((end.error.kind(), end.error.detail()), (kind, detail));
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_came_with_the_handshake_are_heard_and_nudges_are_not() {
    let (near, mut far) = duplex(1 << 16);
    far.write_all(b"NG\r\n>2\r\n$10\r\ninvalidate\r\n*0\r\n:")
        .await
        .expect("room");
    let nudged = Start {
        socket: near,
        decoder: Decoder::new(Limits::default()),
        inbox: BytesMut::from(&b"+PONG\r\n+PO"[..]),
        owed: 2,
    };
    let start = hear_out(nudged).await.expect("both were answered");
    let link = link(start.socket, &start.inbox).await;
    let ticket = submit(&link, cmd("STRLEN").arg("k"));
    sleep(Duration::from_millis(1)).await;
    far.write_all(b"5\r\n").await.expect("room");
    let said = timeout(SECOND, ticket).await.expect("in time");
    assert!(matches!(said, Outcome::Replied(Values::One(Value::Int(5)))));
}

#[tokio::test]
async fn an_abort_resets_the_connection_at_once_and_so_does_the_last_handle() {
    for order in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address").into();
        let near = dial(&addr, SECOND).await.expect("it listens");
        let (mut far, _) = listener.accept().await.expect("a connection");
        let link = link(near, b"").await;
        let ticket = submit(&link, cmd("GET").arg("k"));
        far.read_exact(&mut [0; 4])
            .await
            .expect("it was handed over");
        if order {
            let error = Error::new(ErrorKind::ConnectionLost, Phase::Reply, "replaced");
            link.retire(Retire::Abort(error));
        } else {
            drop(link);
        }
        assert_eq!(end(ticket).await.sent, Sent::Maybe);
        let mut rest = Vec::new();
        let ended = far.read_to_end(&mut rest).await;
        let reset = ended.expect_err("no orderly end").kind();
        assert_eq!(reset, std::io::ErrorKind::ConnectionReset);
    }
}
