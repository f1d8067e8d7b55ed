//! Promise 6: what may have run is not sent again, what was *not sent* never runs, and behind a fence no value ever goes back.
//!
//! Every write is known by its key or its value, and the server's own `MONITOR` says which of them it ran, in which order.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::*;
use holdfast_lab::history::{Findings, History, Tape, Told};
use holdfast_lab::load::LagMeter;
use holdfast_lab::{Mode, Proxy, Server, server_or_skip};
use redis_holdfast::layer::{Connect, LinkConnector};
use redis_holdfast::redis::{self, RedisError, aio::ConnectionLike};
use redis_holdfast::{Client, Error, HealthState, RedisConnector, telemetry::names};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How long the old path keeps what it holds, once its client is gone: beyond every replay.
const LATE: Duration = ms(400);
const WRITERS: u64 = 20;
/// How the server's list of clients tells our links from others.
const OURS: &str = "lib-name=redis-holdfast";

// ── what writers do, and what they are told ────────────────────────────────────────────────────────────────────────────────────────────

/// Of an ended write. An error *reply* would be an answer, and there is none to these commands.
fn told<T>(ended: &Result<T, RedisError>) -> Told {
    match ended.as_ref().map_err(|error| Error::find_in(error)) {
        Ok(_) => Told::Acked,
        Err(Some(ours)) if ours.may_have_executed() => Told::Maybe,
        Err(Some(_)) => Told::Never,
        Err(None) => panic!("an answer of redis: {}", ended.as_ref().err().unwrap()),
    }
}

/// `INCR` of a key of its own, so that each run of it is seen.
async fn mark(client: &mut impl ConnectionLike, history: &History) -> Told {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let key = format!("write:canary:mark:{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let ended = redis::cmd("INCR")
        .arg(&key)
        .query_async::<u64>(client)
        .await;
    if let Ok(now) = ended {
        assert_eq!(now, 1, "{key} was counted before");
    }
    let told = told(&ended);
    history.incremented(key, told);
    told
}

/// Rising values of one key, each written when the one before has ended, however it ended.
async fn rise(client: &mut impl ConnectionLike, history: &History, key: &str, value: u64) -> Told {
    let set = redis::cmd("SET").arg(key).arg(value).take();
    let told = told(&set.query_async::<String>(client).await);
    history.set(key, value, told);
    told
}

/// Writers of both kinds, until `end`.
struct Writers {
    history: Arc<History>,
    /// Each ends with its calls that were later than [`GRACE`] after their deadline.
    tasks: JoinSet<Vec<(Instant, Instant)>>,
    call_timeout: Duration,
    meter: LagMeter,
}

impl Writers {
    fn start<C: Connect>(client: &Client<C>, end: Instant) -> Self {
        Self::patient(client, end, CALL_TIMEOUT)
    }

    /// Of a client whose calls may take so long.
    fn patient<C: Connect>(client: &Client<C>, end: Instant, call_timeout: Duration) -> Self {
        let (history, mut tasks) = (Arc::<History>::default(), JoinSet::new());
        for number in 0..WRITERS {
            let (mut client, history) = (client.clone(), history.clone());
            tasks.spawn(async move {
                let key = format!("write:canary:rise:{number}");
                let (mut value, mut late) = (0, Vec::new());
                while Instant::now() < end {
                    let called = Instant::now();
                    value += 1;
                    let told = match number % 2 {
                        0 => rise(&mut client, &history, &key, value).await,
                        _ => mark(&mut client, &history).await,
                    };
                    let ended = Instant::now();
                    if ended - called > call_timeout + GRACE {
                        late.push((called, ended));
                    }
                    // A refusal is quick.
                    sleep(if told == Told::Never { ms(10) } else { ms(2) }).await;
                }
                late
            });
        }
        Self {
            history,
            tasks,
            call_timeout,
            meter: LagMeter::start(),
        }
    }

    /// Once all have ended, what they were told against what `servers` ran.
    async fn judge(self, servers: &[(&Server, &Tape)]) -> Findings {
        // A writer's panic is the test's.
        let late = self.tasks.join_all().await.concat();
        // Beyond the lab's own delay nothing comes late any more.
        sleep(LATE * 2).await;
        // However it ended, it did so by its deadline: only the machine's own lag is forgiven.
        let (limit, lag) = (self.call_timeout + GRACE, self.meter.finish());
        for (called, ended) in late {
            let (took, lag) = (ended - called, lag.max_between(called, ended));
            assert!(took <= limit + lag, "a write took {took:?}, lag {lag:?}");
        }
        let mut tapes = Vec::new();
        for (server, tape) in servers {
            tapes.push(tape.so_far(server, "write:").await.unwrap());
        }
        self.history.judge(&tapes)
    }
}

/// The promise itself: each told the truth, none twice, and behind a fence nothing went back.
fn exact(row: &str, findings: &Findings) {
    println!(
        "FIGURE at most once, {row}: {} acknowledged, all run; {} may have run, {} did; {} not sent, 0 run; 0 marks run twice, {} SETs run again, {} \
         values went back",
        findings.acked,
        findings.maybe,
        findings.maybe_ran,
        findings.never,
        findings.again,
        findings.back.len()
    );
    assert!(findings.is_exact(), "{row}: {findings:?}");
}

// ── cuts at every byte ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// One client each, whose only link is cut by `mode` under `writes` calls at once.
async fn cut(proxy: &Proxy, mode: Mode, writes: u64, history: &History) -> [Vec<Told>; 2] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let client = connect(&proxy.url()).await;
    proxy.set_for_old(mode);
    let key = format!(
        "write:canary:rise:cut:{}",
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let (mut marks, mut rises) = (Vec::new(), Vec::new());
    for value in 0..writes {
        let (mut one, mut other) = (client.clone(), client.clone());
        let key = format!("{key}:{value}");
        marks.push(async move { mark(&mut one, history).await });
        rises.push(async move { rise(&mut other, history, &key, value).await });
    }
    tokio::join!(in_turn(marks), in_turn(rises)).into()
}

/// Polls all at once, in order.
async fn in_turn<F: Future<Output = Told>>(calls: Vec<F>) -> Vec<Told> {
    let mut calls: Vec<_> = calls
        .into_iter()
        .map(|call| (Box::pin(call), None))
        .collect();
    std::future::poll_fn(|context| {
        for (call, told) in calls.iter_mut().filter(|(_, told)| told.is_none()) {
            if let std::task::Poll::Ready(ended) = call.as_mut().poll(context) {
                *told = Some(ended);
            }
        }
        match calls.iter().all(|(_, told)| told.is_some()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    calls.into_iter().filter_map(|(_, told)| told).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_cut_at_any_byte_of_a_request_or_reply_runs_nothing_twice() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let (tape, history) = (Tape::of(&server).await.unwrap(), History::default());
    // One INCR and one SET: some 90 bytes there and 9 back. Then eight of each at once, in larger steps unless all is asked for.
    let step = if is_full() { 1 } else { 23 };
    let (mut cuts, mut kept) = (0_u64, 0_u64);
    for (writes, up, down, step) in [(1, 100, 10, 1), (8, 800, 72, step)] {
        let ways = (0..=up)
            .map(Mode::CutUp)
            .chain((0..=down).map(Mode::CutDown));
        for mode in ways.step_by(step) {
            let [marks, rises] = cut(&proxy, mode, writes, &history).await;
            cuts += 1;
            kept += marks.iter().filter(|told| **told == Told::Acked).count() as u64;
            // Behind the fence a plain SET is sent again, wherever it was cut.
            assert!(
                rises.iter().all(|told| *told == Told::Acked),
                "{mode:?}: {rises:?}"
            );
            // Nothing stays unsent while the server is there.
            assert!(!marks.contains(&Told::Never), "{mode:?}: {marks:?}");
        }
    }
    let findings = history.judge(&[tape.so_far(&server, "write:").await.unwrap()]);
    assert!(findings.maybe > cuts / 3, "{cuts} cuts, {findings:?}");
    assert!(
        findings.maybe_ran > 10 && findings.maybe_ran < findings.maybe,
        "{findings:?}"
    );
    assert!(
        findings.back.is_empty() && findings.again > 10,
        "{findings:?}"
    );
    assert!(kept < findings.acked, "{findings:?}");
    exact(&format!("{cuts} cuts, at every byte"), &findings);
}

// ── silence, late delivery, a frozen server ────────────────────────────────────────────────────────────────────────────────────────────

/// Writers over a link that falls silent, and over the next.
async fn silent<C: Connect>(stage: &Stage<C>, mode: Mode, row: &str) -> Findings {
    let tape = Tape::of(&stage.server).await.unwrap();
    let writers = Writers::start(&stage.client, Instant::now() + ms(2500));
    sleep(ms(500)).await;
    stage.proxy.set_for_old(mode);
    sleep(SECOND).await;
    // What the old path still holds it may deliver now.
    stage.proxy.set_for_old(match mode {
        Mode::DeliverAfterClose(_) => mode,
        _ => Mode::Pass,
    });
    let findings = writers.judge(&[(&stage.server, &tape)]).await;
    exact(row, &findings);
    assert!(findings.maybe > 0, "the fault hit no INCR: {findings:?}");
    assert_eq!(
        findings.never, 0,
        "not sent, and not saved either: {findings:?}"
    );
    findings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_the_old_path_delivers_later_runs() {
    gauges::listen();
    let modes = [
        Mode::Stall,
        Mode::StallUp,
        Mode::StallDown,
        Mode::FreezeOpen,
        Mode::DeliverAfterClose(LATE),
    ];
    for _ in 0..if is_full() { 10 } else { 1 } {
        for mode in modes {
            late_delivery(LinkConnector::new(), mode).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_redis_own_old_connection_delivers_later_runs() {
    gauges::listen();
    let modes = [
        Mode::DeliverAfterClose(LATE),
        Mode::Stall,
        Mode::StallUp,
        Mode::StallDown,
        Mode::FreezeOpen,
    ];
    for mode in modes.into_iter().take(if is_full() { 5 } else { 1 }) {
        late_delivery(RedisConnector::new(), mode).await;
    }
}

async fn late_delivery<C: Connect>(over: C, mode: Mode) {
    let Some(mut stage) = stage_over(over.clone()).await else {
        return;
    };
    let name = format!("late-{}", fastrand::u64(..));
    stage.client = connect_over(over, &stage.proxy.url(), &name).await;
    let client = stage.client.clone();
    let row = format!("late delivery {mode:?}{}", by::<C>());
    let findings = silent(&stage, mode, &row).await;
    assert!(findings.back.is_empty(), "a key went back: {findings:?}");
    assert!(client.shutdown(SECOND).await);
    let replays = gauges::counter(&name, names::REPLAYS, "overwrite");
    assert!(replays > 0, "no SET was sent again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_permission_to_fence_nothing_is_sent_again_and_health_says_so() {
    gauges::listen();
    let Some(mut stage) = stage().await else {
        return;
    };
    let said = stage
        .server
        .tell(&["ACL", "SETUSER", "default", "-client|kill"])
        .await;
    assert_eq!(said.unwrap(), "+OK");
    stage.client = connect_as(&stage.proxy.url(), "unfenced").await;
    let client = stage.client.clone();
    let row = "late delivery without permission to fence";
    let findings = silent(&stage, Mode::DeliverAfterClose(LATE), row).await;
    assert_eq!(
        findings.again, 0,
        "a written SET was sent again: {findings:?}"
    );
    // The control of the test above: this path does deliver late, and only the fence keeps that from running.
    assert!(
        findings.maybe_ran > 0 && !findings.back.is_empty(),
        "nothing came late: {findings:?}"
    );
    let health = client.health();
    assert_eq!(health.state(), HealthState::Degraded, "{health}");
    assert!(health.reason().contains("fenced off"), "{health}");
    assert!(client.shutdown(SECOND).await);
    assert_eq!(gauges::counter("unfenced", names::REPLAYS, "overwrite"), 0);
}

/// Answers come one by one and most of them too late: the link is never silent, and the circuit opens over its calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_slow_path_still_holds_runs_after_what_follows_it() {
    gauges::listen();
    // The circuit rests for half a second: by then nobody waits for the old link any more, or somebody does.
    for (call_timeout, name) in [(CALL_TIMEOUT, "slow-left"), (SECOND, "slow-awaited")] {
        for _ in 0..if is_full() { 10 } else { 1 } {
            slow_path(call_timeout, name).await;
        }
    }
}

async fn slow_path(call_timeout: Duration, name: &str) {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let proxy = Proxy::start(server.addr()).await.unwrap();
    let client = Client::builder(&proxy.url()).unwrap().name(name);
    // A reply in 100 ms is no silence.
    let client = client.call_timeout(call_timeout).stall_after(ms(400));
    let client = client.build().unwrap();
    client.wait_ready(SECOND * 5).await.unwrap();
    let tape = Tape::of(&server).await.unwrap();
    // Ten of the writes a second, of twenty writers.
    proxy.set_for_old(Mode::Bandwidth(400));
    let end = Instant::now() + call_timeout + SECOND * 3;
    let writers = Writers::patient(&client, end, call_timeout);
    let findings = writers.judge(&[(&server, &tape)]).await;
    exact(&format!("a slow path, {call_timeout:?} a call"), &findings);
    assert!(findings.maybe > 0 && findings.acked > 100, "{findings:?}");
    assert!(findings.back.is_empty(), "a key went back: {findings:?}");
    assert!(client.shutdown(SECOND).await);
    let window = gauges::counter(name, names::BREAKER_TRANSITIONS, "window");
    assert!(window > 0, "the circuit opened over no slow call");
    let replays = gauges::counter(name, names::REPLAYS, "overwrite");
    assert!(
        call_timeout == CALL_TIMEOUT || replays > 0,
        "no SET that was still waited for went on to the next link"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_frozen_with_our_writes_in_its_hands_runs_each_once() {
    let Some(stage) = stage().await else { return };
    let tape = Tape::of(&stage.server).await.unwrap();
    let freezes = [ms(200), ms(600), ms(1500)];
    let times = if is_full() { 10 } else { 1 };
    let pause = ms(700);
    let long = freezes
        .iter()
        .map(|freeze| *freeze + pause)
        .sum::<Duration>()
        * times;
    let writers = Writers::start(&stage.client, Instant::now() + long + pause);
    for freeze in freezes.repeat(times as usize) {
        sleep(pause).await;
        stage.server.freeze();
        sleep(freeze).await;
        stage.server.thaw();
    }
    let findings = writers.judge(&[(&stage.server, &tape)]).await;
    assert!(findings.maybe_ran > 0 && findings.never > 0, "{findings:?}");
    assert!(findings.back.is_empty(), "a key went back: {findings:?}");
    exact("a server frozen for 0.2, 0.6 and 1.5 s", &findings);
}

/// Whatever the proxy can do, at random.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_the_network_the_ledger_is_exact() {
    let Some(stage) = stage().await else { return };
    let tape = Tape::of(&stage.server).await.unwrap();
    let end = Instant::now() + SECOND * if is_full() { 120 } else { 8 };
    let writers = Writers::start(&stage.client, end);
    let mut faults = 0;
    while Instant::now() + SECOND < end {
        let mode = match fastrand::u8(0..8) {
            0 => Mode::CutUp(fastrand::u64(0..2000)),
            1 => Mode::CutDown(fastrand::u64(0..500)),
            2 => Mode::Reset,
            3 => Mode::StallUp,
            4 => Mode::StallDown,
            5 => Mode::Stall,
            6 => Mode::FreezeOpen,
            _ => Mode::DeliverAfterClose(ms(fastrand::u64(1..400))),
        };
        stage.proxy.set_for_old(mode);
        faults += 1;
        sleep(ms(fastrand::u64(20..500))).await;
        if fastrand::bool() {
            // Those that are held may go on; a late delivery stays late.
            stage.proxy.set_for_old(Mode::Pass);
        }
        sleep(ms(fastrand::u64(20..300))).await;
    }
    stage.proxy.set_for_old(Mode::Pass);
    let findings = writers.judge(&[(&stage.server, &tape)]).await;
    assert!(findings.maybe > 0 && findings.acked > 1000, "{findings:?}");
    assert!(findings.back.is_empty(), "a key went back: {findings:?}");
    exact(&format!("{faults} faults at random"), &findings);
}

// ── a stranger behind the same address ─────────────────────────────────────────────────────────────────────────────────────────────────

/// Clients of another server that have the very id, and one of them also the very address, that our link has at ours.
struct Strangers {
    connections: Vec<(TcpStream, u64)>,
}

impl Strangers {
    /// Connects to `server` until the ids there have passed `id`, and by `socket` for that one.
    async fn around(server: &Server, id: u64, socket: TcpSocket) -> Self {
        let (mut connections, mut socket) = (Vec::new(), Some(socket));
        loop {
            let next = connections.last().map_or(0, |(_, id)| id + 1);
            let mut stream = match socket.take_if(|_| next == id) {
                Some(socket) => socket.connect(server.addr()).await.unwrap(),
                None => server.dial().await.unwrap(),
            };
            let its = client_id(&mut stream).await;
            connections.push((stream, its));
            if its > id + 3 {
                assert!(
                    connections.iter().any(|(_, its)| *its == id),
                    "no stranger has our id"
                );
                return Self { connections };
            }
        }
    }

    /// Each still has its connection.
    async fn are_unharmed(&mut self) {
        for (stream, id) in &mut self.connections {
            assert_eq!(client_id(stream).await, *id, "a stranger was killed");
        }
    }
}

async fn client_id(stream: &mut TcpStream) -> u64 {
    stream.write_all(b"CLIENT ID\r\n").await.unwrap();
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    lines.read_line(&mut line).await.unwrap();
    line.trim().trim_start_matches(':').parse().expect("its id")
}

/// What `server` calls the one connection that our client has there.
async fn our_link(server: &Server) -> (u64, SocketAddr) {
    let list = server.tell(&["CLIENT", "LIST"]).await.unwrap();
    let ours = list
        .lines()
        .find(|line| line.contains(OURS))
        .expect("our link");
    let field = |name: &str| {
        ours.split(' ')
            .find_map(|pair| pair.strip_prefix(name))
            .unwrap()
    };
    (
        field("id=").parse().unwrap(),
        field("addr=").parse().unwrap(),
    )
}

/// A client whose link has an address at `server` that a stranger can have as well, with the link's id and a socket of that address.
async fn to_be_mistaken_for(server: &Server, proxy: &Proxy) -> (Client, u64, TcpSocket) {
    for _ in 0..20 {
        let client = connect_as(&proxy.url(), "strangers").await;
        let (id, from) = our_link(server).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        match socket.bind(from) {
            Ok(()) => return (client, id, socket),
            // Some connection of this machine to somewhere else has it.
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                assert!(client.shutdown(SECOND).await);
                until("our link is gone", SECOND, async || {
                    let list = server.tell(&["CLIENT", "LIST"]).await.unwrap();
                    !list.contains(OURS)
                })
                .await;
            }
            Err(error) => panic!("{from}: {error}"),
        }
    }
    panic!("no address of twenty was free")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_proxy_with_two_servers_no_stranger_is_killed_and_nothing_runs_on_both() {
    let (Some(one), Some(two)) = (server_or_skip().await, server_or_skip().await) else {
        return;
    };
    gauges::listen();
    // So that a stranger can still be given the id that our link has here.
    for _ in 0..10 {
        one.ping().await.unwrap();
    }
    let tapes = [Tape::of(&one).await.unwrap(), Tape::of(&two).await.unwrap()];
    let proxy = Proxy::start(one.addr()).await.unwrap();
    let (client, id, socket) = to_be_mistaken_for(&one, &proxy).await;
    let mut strangers = Strangers::around(&two, id, socket).await;
    let rounds = if is_full() { 20 } else { 2 };
    let writers = Writers::start(&client, Instant::now() + SECOND * (2 * rounds + 1));
    for round in 0..2 * rounds {
        // Those that are open stay with the server they have, and fall silent; whoever dials anew meets the other.
        let other = if round % 2 == 0 { &two } else { &one };
        sleep(ms(700)).await;
        proxy.retarget(other.addr());
        proxy.set_for_old(if fastrand::bool() {
            Mode::Stall
        } else {
            Mode::DeliverAfterClose(ms(50))
        });
        sleep(ms(300)).await;
        strangers.are_unharmed().await;
    }
    let findings = writers.judge(&[(&one, &tapes[0]), (&two, &tapes[1])]).await;
    strangers.are_unharmed().await;
    assert!(findings.maybe > 0 && findings.acked > 100, "{findings:?}");
    // No fence stands before another server: nothing that was written is sent there.
    assert_eq!(findings.again, 0, "{findings:?}");
    exact(
        "two servers behind one address, no stranger killed",
        &findings,
    );
    assert!(client.shutdown(SECOND * 2).await);
    assert_eq!(gauges::counter("strangers", names::REPLAYS, "overwrite"), 0);
}
