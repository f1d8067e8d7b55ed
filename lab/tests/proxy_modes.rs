//! Every mode of the proxy does what it says: a proxy that lies invalidates everything built on it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use holdfast_lab::net::dial;
use holdfast_lab::task::{Owned, own};
use holdfast_lab::{Mode, Proxy, census};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(300);

/// Sends everything back.
async fn echo() -> (SocketAddr, Owned) {
    let listener = TcpListener::bind((holdfast_lab::ip(), 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = own(async move {
        let mut open = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            open.spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    (addr, task)
}

/// Hands over what it accepts.
async fn upstream() -> (SocketAddr, mpsc::Receiver<TcpStream>, Owned) {
    let listener = TcpListener::bind((holdfast_lab::ip(), 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (sender, accepted) = mpsc::channel(16);
    let task = own(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            sender.send(stream).await.unwrap();
        }
    });
    (addr, accepted, task)
}

/// A client and the server's end of its connection, both through the proxy.
async fn pair() -> (Proxy, TcpStream, TcpStream, Owned) {
    let (addr, mut accepted, task) = upstream().await;
    let proxy = Proxy::start(addr).await.unwrap();
    let client = dial(proxy.addr(), LONG).await.unwrap();
    let server = timeout(LONG, accepted.recv()).await.unwrap().unwrap();
    (proxy, client, server, task)
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size)
        .map(|n| u8::try_from((n * 7 + n / 251) % 256).unwrap())
        .collect()
}

async fn says(stream: &mut TcpStream, text: &[u8]) {
    timeout(LONG, stream.write_all(text))
        .await
        .unwrap()
        .unwrap();
}

async fn hears(stream: &mut TcpStream, text: &[u8]) {
    let mut buffer = vec![0; text.len()];
    timeout(LONG, stream.read_exact(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(buffer, text);
}

async fn hears_nothing(stream: &mut TcpStream) {
    let mut byte = [0];
    let read = timeout(SHORT, stream.read(&mut byte)).await;
    assert!(read.is_err(), "expected silence, got {read:?}");
}

/// Reads to the end and says how it came.
async fn last_words(stream: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut all = Vec::new();
    let mut buffer = vec![0; 4096];
    loop {
        match timeout(LONG, stream.read(&mut buffer)).await.unwrap() {
            Ok(0) => return (all, None),
            Ok(size) => all.extend(&buffer[..size]),
            Err(error) => return (all, Some(error.kind())),
        }
    }
}

/// Sends `size` bytes through an echo and compares; gives the time it took.
async fn round_trip(addr: SocketAddr, size: usize) -> Duration {
    let start = Instant::now();
    let sent = pattern(size);
    let stream = dial(addr, LONG).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let out = sent.clone();
    let writer = own(async move {
        write.write_all(&out).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    timeout(Duration::from_secs(60), read.read_to_end(&mut back))
        .await
        .unwrap()
        .unwrap();
    writer.join().await.unwrap();
    assert!(
        back == sent,
        "{} of {size} bytes came back, or in another order",
        back.len()
    );
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pass_loses_and_reorders_nothing_and_counts() {
    let (addr, _echo) = echo().await;
    let proxy = Proxy::start(addr).await.unwrap();
    round_trip(proxy.addr(), 8 << 20).await;
    assert_eq!((proxy.bytes_up(), proxy.bytes_down()), (8 << 20, 8 << 20));
    assert_eq!(proxy.accepts(), 1);
    sleep(Duration::from_millis(50)).await;
    assert_eq!(proxy.open_connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delay_delays_each_direction_and_keeps_throughput() {
    let (addr, _echo) = echo().await;
    let proxy = Proxy::start(addr).await.unwrap();
    proxy.set(Mode::Delay(Duration::from_millis(100)));
    let mut client = dial(proxy.addr(), LONG).await.unwrap();
    let start = Instant::now();
    says(&mut client, b"x").await;
    hears(&mut client, b"x").await;
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(200), "{took:?}");
    assert!(took < Duration::from_millis(350), "{took:?}");
    // 512 reads of 64 KiB: a sleep per chunk would take a minute.
    let took = round_trip(proxy.addr(), 32 << 20).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn the_end_of_delay_keeps_the_order() {
    let (proxy, mut client, mut server, _task) = pair().await;
    proxy.set(Mode::Delay(Duration::from_secs(30)));
    says(&mut client, b"first ").await;
    hears_nothing(&mut server).await;
    proxy.set(Mode::Pass);
    says(&mut client, b"second").await;
    hears(&mut server, b"first second").await;
}

#[tokio::test]
async fn a_stall_holds_its_direction_and_delivers_afterwards() {
    for (mode, up, down) in [
        (Mode::StallUp, true, false),
        (Mode::StallDown, false, true),
        (Mode::Stall, true, true),
    ] {
        let (proxy, mut client, mut server, _task) = pair().await;
        says(&mut client, b"before").await;
        hears(&mut server, b"before").await;
        proxy.set(mode);
        says(&mut client, b"question").await;
        says(&mut server, b"answer").await;
        if up {
            hears_nothing(&mut server).await;
        } else {
            hears(&mut server, b"question").await;
        }
        if down {
            hears_nothing(&mut client).await;
        } else {
            hears(&mut client, b"answer").await;
        }
        proxy.set(Mode::Pass);
        if up {
            hears(&mut server, b"question").await;
        }
        if down {
            hears(&mut client, b"answer").await;
        }
    }
}

#[tokio::test]
async fn a_connection_made_during_a_stall_reaches_the_server_only_afterwards() {
    let (addr, mut accepted, _task) = upstream().await;
    let proxy = Proxy::start(addr).await.unwrap();
    proxy.set(Mode::Stall);
    let mut client = dial(proxy.addr(), LONG).await.unwrap();
    says(&mut client, b"hello").await;
    assert!(timeout(SHORT, accepted.recv()).await.is_err());
    proxy.set(Mode::Pass);
    let mut server = timeout(LONG, accepted.recv()).await.unwrap().unwrap();
    hears(&mut server, b"hello").await;
}

#[tokio::test]
async fn freeze_open_swallows_and_a_connection_that_lost_bytes_is_reset() {
    let (proxy, mut client, mut server, _task) = pair().await;
    proxy.set(Mode::FreezeOpen);
    // Far more than any window: the peer reads.
    timeout(LONG, client.write_all(&pattern(32 << 20)))
        .await
        .unwrap()
        .unwrap();
    hears_nothing(&mut server).await;
    hears_nothing(&mut client).await;
    proxy.set(Mode::Pass);
    let (heard, end) = last_words(&mut client).await;
    assert_eq!((heard.len(), end), (0, Some(ErrorKind::ConnectionReset)));
}

#[tokio::test]
async fn freeze_open_leaves_a_connection_alone_that_said_nothing() {
    let (proxy, mut client, mut server, _task) = pair().await;
    proxy.set(Mode::FreezeOpen);
    hears_nothing(&mut client).await;
    proxy.set(Mode::Pass);
    says(&mut client, b"still here").await;
    hears(&mut server, b"still here").await;
}

#[tokio::test]
async fn freeze_closed_closes_the_window_and_loses_nothing() {
    let (proxy, mut client, mut server, _task) = pair().await;
    proxy.set(Mode::FreezeClosed);
    let sent = pattern(64 << 20);
    let mut taken = 0;
    while let Ok(written) = timeout(SHORT, client.write(&sent[taken..])).await {
        taken += written.unwrap();
        assert!(taken < sent.len(), "64 MiB went into a closed window");
    }
    assert!(
        taken > 64 << 10,
        "only {taken} bytes before the window closed"
    );
    hears_nothing(&mut server).await;
    proxy.set(Mode::Pass);
    hears(&mut server, &sent[..taken]).await;
}

#[tokio::test]
async fn reset_resets_open_connections_and_new_ones() {
    let (proxy, mut client, mut server, _task) = pair().await;
    proxy.set(Mode::Reset);
    assert_eq!(
        last_words(&mut client).await.1,
        Some(ErrorKind::ConnectionReset)
    );
    assert_eq!(
        last_words(&mut server).await.1,
        Some(ErrorKind::ConnectionReset)
    );
    let mut next = dial(proxy.addr(), LONG).await.unwrap();
    assert_eq!(
        last_words(&mut next).await.1,
        Some(ErrorKind::ConnectionReset)
    );
    assert_eq!(proxy.accepts(), 2);
    proxy.set(Mode::Pass);
    dial(proxy.addr(), LONG).await.unwrap();
}

#[tokio::test]
async fn a_reset_reaches_a_client_blocked_in_a_write() {
    let (proxy, mut client, _server, _task) = pair().await;
    let blocked = own(async move { client.write_all(&pattern(64 << 20)).await });
    sleep(SHORT).await;
    proxy.set(Mode::Reset);
    let end = timeout(LONG, blocked.join())
        .await
        .unwrap()
        .unwrap()
        .unwrap_err()
        .kind();
    assert!(
        matches!(end, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        "{end:?}"
    );
}

#[tokio::test]
async fn refuse_refuses_at_once_and_leaves_open_connections_alone() {
    let (proxy, mut client, mut server, _task) = pair().await;
    for _ in 0..3 {
        proxy.set(Mode::Refuse);
        for _ in 0..20 {
            let refused = dial(proxy.addr(), LONG).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        }
        says(&mut client, b"still here").await;
        hears(&mut server, b"still here").await;
        proxy.set(Mode::Pass);
        dial(proxy.addr(), LONG).await.unwrap();
    }
}

#[tokio::test]
async fn down_refuses_and_resets() {
    let (proxy, mut client, _server, _task) = pair().await;
    proxy.set(Mode::Down);
    let refused = dial(proxy.addr(), LONG).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(
        last_words(&mut client).await.1,
        Some(ErrorKind::ConnectionReset)
    );
}

#[tokio::test]
async fn a_black_hole_hangs_connects_and_serves_again_at_once() {
    let (addr, _echo) = echo().await;
    let proxy = Proxy::start(addr).await.unwrap();
    let mut old = dial(proxy.addr(), LONG).await.unwrap();
    says(&mut old, b"x").await;
    hears(&mut old, b"x").await;
    for _ in 0..3 {
        proxy.set(Mode::Blackhole);
        let mut hanging = JoinSet::new();
        for _ in 0..5 {
            let addr = proxy.addr();
            hanging.spawn(async move { dial(addr, Duration::from_millis(500)).await });
        }
        says(&mut old, b"held").await;
        while let Some(end) = hanging.join_next().await {
            assert_eq!(end.unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
        }
        hears_nothing(&mut old).await;
        let accepts = proxy.accepts();
        proxy.set(Mode::Pass);
        let start = Instant::now();
        let mut fresh = dial(proxy.addr(), LONG).await.unwrap();
        says(&mut fresh, b"x").await;
        hears(&mut fresh, b"x").await;
        assert!(
            start.elapsed() < Duration::from_millis(200),
            "{:?}",
            start.elapsed()
        );
        hears(&mut old, b"held").await;
        // Neither our fillers nor the connects that gave up are counted.
        assert_eq!(proxy.accepts(), accepts + 1);
    }
}

#[tokio::test]
async fn every_door_opens_from_every_other() {
    let (addr, _echo) = echo().await;
    let proxy = Proxy::start(addr).await.unwrap();
    for mode in [
        Mode::Refuse,
        Mode::Blackhole,
        Mode::Refuse,
        Mode::Pass,
        Mode::Blackhole,
        Mode::Reset,
        Mode::Pass,
    ] {
        proxy.set(mode);
        let dialled = dial(proxy.addr(), SHORT)
            .await
            .map_err(|error| error.kind());
        match mode {
            Mode::Refuse => assert_eq!(dialled.unwrap_err(), ErrorKind::ConnectionRefused),
            Mode::Blackhole => assert_eq!(dialled.unwrap_err(), ErrorKind::TimedOut),
            _ => drop(dialled.unwrap()),
        }
    }
    round_trip(proxy.addr(), 1 << 16).await;
}

#[tokio::test]
async fn a_refusing_proxy_costs_no_cpu() {
    let (addr, _echo) = echo().await;
    let proxy = Proxy::start(addr).await.unwrap();
    proxy.set(Mode::Refuse);
    proxy.set(Mode::Pass);
    round_trip(proxy.addr(), 1).await;
    let polls = || {
        let metrics = tokio::runtime::Handle::current().metrics();
        (0..metrics.num_workers())
            .map(|n| metrics.worker_park_count(n))
            .sum::<u64>()
    };
    let (before, start) = (polls(), Instant::now());
    sleep(SHORT).await;
    assert!(
        polls() - before < 20,
        "the runtime woke {} times",
        polls() - before
    );
    assert!(start.elapsed() < SHORT * 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_arrive_whole_and_in_order() {
    let (addr, _echo) = echo().await;
    let proxy = Proxy::start(addr).await.unwrap();
    for slice in [1, 3, 1000] {
        proxy.set(Mode::Slice(slice));
        round_trip(proxy.addr(), 50_000).await;
    }
}

#[tokio::test]
async fn slices_are_that_small() {
    let (proxy, mut client, mut server, _task) = pair().await;
    proxy.set(Mode::Slice(3));
    says(&mut client, &pattern(300)).await;
    // The kernel may join slices before they are read, but only what was read first shows a boundary.
    let mut buffer = [0; 300];
    let first = timeout(LONG, server.read(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first % 3, 0, "{first}");
    hears(&mut server, &pattern(300)[first..]).await;
}

#[tokio::test]
async fn a_cut_is_exact_in_either_direction() {
    for size in [0_usize, 1, 7, 4096, 100_000] {
        let (proxy, mut client, mut server, _task) = pair().await;
        says(&mut client, b"before").await;
        hears(&mut server, b"before").await;
        proxy.set(Mode::CutUp(u64::try_from(size).unwrap()));
        let _ = client.write_all(&pattern(200_000)).await;
        let (heard, end) = last_words(&mut server).await;
        assert!(
            heard == pattern(200_000)[..size],
            "{} of {size}",
            heard.len()
        );
        assert_eq!(end, Some(ErrorKind::ConnectionReset));

        let (proxy, mut client, mut server, _task) = pair().await;
        proxy.set(Mode::CutDown(u64::try_from(size).unwrap()));
        let _ = server.write_all(&pattern(200_000)).await;
        let (heard, end) = last_words(&mut client).await;
        assert!(
            heard == pattern(200_000)[..size],
            "{} of {size}",
            heard.len()
        );
        assert_eq!(end, Some(ErrorKind::ConnectionReset));
    }
}

#[tokio::test]
async fn bandwidth_is_kept_and_loses_nothing() {
    let (addr, _echo) = echo().await;
    let proxy = Proxy::start(addr).await.unwrap();
    proxy.set(Mode::Bandwidth(200_000));
    let took = round_trip(proxy.addr(), 100_000).await;
    assert!(took > Duration::from_millis(450), "{took:?}");
    assert!(took < Duration::from_millis(900), "{took:?}");
}

#[tokio::test]
async fn late_delivery_comes_after_the_close_and_only_then() {
    for abort in [false, true] {
        let (proxy, mut client, mut server, _task) = pair().await;
        proxy.set(Mode::DeliverAfterClose(Duration::from_millis(200)));
        says(&mut client, b"SET k old").await;
        says(&mut server, b"down still passes").await;
        hears(&mut client, b"down still passes").await;
        hears_nothing(&mut server).await;
        if abort {
            socket2::SockRef::from(&client)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
        let closed = Instant::now();
        drop(client);
        hears(&mut server, b"SET k old").await;
        assert!(
            closed.elapsed() >= Duration::from_millis(200),
            "{:?}",
            closed.elapsed()
        );
        assert_eq!(last_words(&mut server).await, (Vec::new(), None));
    }
}

#[tokio::test]
async fn old_and_new_connections_are_switched_apart() {
    let (addr, _echo) = echo().await;
    let proxy = Proxy::start(addr).await.unwrap();
    let mut old = dial(proxy.addr(), LONG).await.unwrap();
    says(&mut old, b"x").await;
    hears(&mut old, b"x").await;

    proxy.set_for_old(Mode::Stall);
    let mut new = dial(proxy.addr(), LONG).await.unwrap();
    says(&mut new, b"new").await;
    hears(&mut new, b"new").await;
    says(&mut old, b"old").await;
    hears_nothing(&mut old).await;

    proxy.set_for_old(Mode::Pass);
    hears(&mut old, b"old").await;
    proxy.set_for_new(Mode::Blackhole);
    assert!(dial(proxy.addr(), SHORT).await.is_err());
    says(&mut old, b"again").await;
    hears(&mut old, b"again").await;
}

#[tokio::test]
async fn retarget_moves_only_new_connections() {
    let (first, mut at_first, _one) = upstream().await;
    let (second, mut at_second, _two) = upstream().await;
    let proxy = Proxy::start(first).await.unwrap();
    let mut old = dial(proxy.addr(), LONG).await.unwrap();
    let mut server = timeout(LONG, at_first.recv()).await.unwrap().unwrap();
    proxy.retarget(second);
    let _new = dial(proxy.addr(), LONG).await.unwrap();
    timeout(LONG, at_second.recv()).await.unwrap().unwrap();
    says(&mut old, b"stays").await;
    hears(&mut server, b"stays").await;
}

#[tokio::test]
async fn an_upstream_that_is_gone_resets_the_client() {
    let gone = holdfast_lab::net::free_port(holdfast_lab::ip()).unwrap();
    let proxy = Proxy::start(gone).await.unwrap();
    let mut client = dial(proxy.addr(), LONG).await.unwrap();
    assert_eq!(
        last_words(&mut client).await.1,
        Some(ErrorKind::ConnectionReset)
    );
}

#[tokio::test]
async fn the_end_of_the_server_is_the_end_for_the_client() {
    let (_proxy, mut client, server, _task) = pair().await;
    drop(server);
    assert_eq!(last_words(&mut client).await, (Vec::new(), None));
}

#[tokio::test]
async fn the_accept_queue_of_a_listener_is_seen() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((holdfast_lab::ip(), 0).into()).unwrap();
    let listener = socket.listen(64).unwrap();
    let addr = listener.local_addr().unwrap();
    assert_eq!(census::accept_queue(addr), 0);
    let mut held = Vec::new();
    for n in 1..=5 {
        held.push(dial(addr, LONG).await.unwrap());
        assert_eq!(census::accept_queue(addr), n);
    }
    listener.accept().await.unwrap();
    assert_eq!(census::accept_queue(addr), 4);
}
