//! Promise 13: slow is not dead. Whatever slows a healthy Redis, the network to it or this process, we fail no call that a bare
//! `MultiplexedConnection` in the same run does not fail; we hardly change links, and never open the circuit. Over our link and over
//! `redis`' own connection, side by side.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::baseline::{Baseline, ends};
use common::*;
use holdfast_lab::load::{Report, Running};
use holdfast_lab::starve::{Half, go_on, stop};
use holdfast_lab::task::{Owned, own};
use holdfast_lab::{Load, Mode, Outcome, Proxy, Server};
use redis_holdfast::layer::{Connect, LinkConnector};
use redis_holdfast::redis::{
    self, AsyncConnectionConfig,
    aio::{ConnectionLike, MultiplexedConnection},
};
use redis_holdfast::{Builder, Client, RedisConnector, telemetry::names};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

/// What the matrix is written for, and what the bare connection gets as its response timeout.
const PATIENCE: Duration = Duration::from_millis(500);
/// For each of the three.
const RATE_EACH: u32 = 250;
/// A quiet moment before and after the trouble.
const CALM: Duration = SECOND;

// ── the three, side by side ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A client of ours, and how often its health was down.
struct Ours<C: Connect> {
    client: Client<C>,
    /// For its metrics.
    name: String,
    downs: Arc<AtomicUsize>,
    _watch: Owned,
}

impl<C: Connect> Ours<C> {
    async fn connect(over: C, row: &str, builder: Builder) -> Self {
        let name = format!("{row}{}", by::<C>()).replace([' ', '/', '\''], "_");
        let client = builder.name(name.as_str()).connector(over).build().unwrap();
        client.wait_ready(SECOND * 5).await.unwrap();
        let (downs, mut health) = (Arc::new(AtomicUsize::new(0)), client.watch_health());
        let count = downs.clone();
        let watch = own(async move {
            while let Some(health) = health.changed().await {
                count.fetch_add(usize::from(!health.is_ready()), Ordering::Relaxed);
            }
        });
        Self {
            client,
            name,
            downs,
            _watch: watch,
        }
    }

    async fn score(self, ours: &Report, bare: &Report) -> Score {
        println!("ours{}: {}", by::<C>(), show(ours));
        let downs = self.downs.load(Ordering::Relaxed);
        ends(&self.client, &self.name).await;
        Score {
            ours: ours.failed(),
            bare: bare.failed(),
            only_ours: only_first(ours, bare),
            wrong: ours.wrong() + bare.wrong(),
            swaps: gauges::counter(&self.name, names::SWAPS, ""),
            opened: gauges::counter(&self.name, names::BREAKER_TRANSITIONS, "open"),
            downs,
            refused: refusals(ours),
        }
    }
}

/// Our clients over either connection, and the bare one.
struct Trio {
    patience: Duration,
    link: Ours<LinkConnector>,
    redis: Ours<RedisConnector>,
    bare: MultiplexedConnection,
}

/// How one of ours fared.
#[derive(Debug, PartialEq, Eq)]
struct Score {
    ours: usize,
    bare: usize,
    /// Calls that we failed while the bare connection served the one that was due at the same instant.
    only_ours: usize,
    wrong: usize,
    swaps: u64,
    /// Times that the circuit opened, that health was down, and that a call was refused for it.
    opened: u64,
    downs: usize,
    refused: usize,
}

impl Trio {
    /// `row` names the clients, for their metrics and the figure.
    async fn connect(row: &str, patience: Duration, [link, redis, bare]: [&str; 3]) -> Self {
        watch();
        let ours = |url| {
            let ours = Client::builder(url).unwrap().call_timeout(patience);
            ours.detect_within(patience.max(SECOND))
        };
        let link = Ours::connect(LinkConnector::new(), row, ours(link)).await;
        let redis = Ours::connect(RedisConnector::new(), row, ours(redis)).await;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(SECOND * 5))
            .set_response_timeout(Some(patience));
        let bare = redis::Client::open(bare).unwrap();
        let bare = bare.get_multiplexed_async_connection_with_config(&config);
        let bare = bare.await.unwrap();
        Self {
            patience,
            link,
            redis,
            bare,
        }
    }

    /// All loads are due at the same instants, but for the time it takes to start the others.
    fn start(&self, span: Duration) -> [Running; 3] {
        let load = Load::new(RATE_EACH).duration(span);
        let load = load.deadline(self.patience);
        [
            of(load, self.link.client.clone()),
            of(load, self.redis.client.clone()),
            of(load, self.bare.clone()),
        ]
    }

    /// How we fared over our link, and over redis' own connection.
    async fn finish(self, [link, redis, bare]: [Running; 3]) -> [Score; 2] {
        let (link, redis) = (link.finish().await, redis.finish().await);
        let bare = bare.finish().await;
        println!("bare: {}", show(&bare));
        [
            self.link.score(&link, &bare).await,
            self.redis.score(&redis, &bare).await,
        ]
    }
}

fn of<C: ConnectionLike + Clone + Send + Sync + 'static>(load: Load, connection: C) -> Running {
    load.start(move |op| call(connection.clone(), op))
}

/// Holds both of ours against the bare connection.
fn judge([link, redis]: &[Score; 2], row: &str, how: &str) {
    link.judge(&format!("{row}{how}"), 0);
    redis.judge(&format!("{row}{how}{}", by::<RedisConnector>()), 0);
}

/// Calls that failed here and went well there.
fn only_first(here: &Report, there: &Report) -> usize {
    let pairs = here.samples().iter().zip(there.samples());
    let is_failure = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_));
    pairs
        .filter(|(here, there)| is_failure(&here.outcome) && there.outcome == Outcome::Ok)
        .count()
}

fn refusals(report: &Report) -> usize {
    let refused = |outcome: &Outcome| matches!(outcome, Outcome::Failed(class) if class.starts_with("circuit_open"));
    let samples = report.samples().iter();
    samples.filter(|sample| refused(&sample.outcome)).count()
}

impl Score {
    /// `more`: calls that we may fail and bare does not.
    fn judge(&self, row: &str, more: usize) {
        println!(
            "FIGURE slow_is_not_dead {row}: {} failed where bare failed {} ({} of them not by bare), {} swaps, circuit opened {} times",
            self.ours, self.bare, self.only_ours, self.swaps, self.opened
        );
        assert_eq!(self.wrong, 0, "{row}: wrong replies: {self:?}");
        // They are due at the same instants, and each failure is a call of its own.
        assert!(
            self.ours <= self.bare + more,
            "{row}: we failed calls that bare did not: {self:?}"
        );
        assert!(self.swaps <= 2, "{row}: {self:?}");
        assert_eq!(
            (self.opened, self.downs, self.refused),
            (0, 0, 0),
            "{row}: the circuit opened: {self:?}"
        );
    }
}

// ── one server, and three doors to it that are alike ───────────────────────────────────────────────────────────────────────────────────

struct Stage {
    server: Server,
    doors: [Proxy; 3],
}

impl Stage {
    async fn set_up() -> Option<Self> {
        let server = Server::builder().arg("--enable-debug-command", "yes");
        let server = server.start_or_skip().await?;
        let doors = [
            Proxy::start(server.addr()).await.unwrap(),
            Proxy::start(server.addr()).await.unwrap(),
            Proxy::start(server.addr()).await.unwrap(),
        ];
        Some(Self { server, doors })
    }

    async fn trio(&self, row: &str, patience: Duration) -> Trio {
        let urls = self.doors.each_ref().map(Proxy::url);
        Trio::connect(row, patience, urls.each_ref().map(String::as_str)).await
    }

    fn set(&self, mode: Mode) {
        for door in &self.doors {
            door.set(mode);
        }
    }
}

/// All under load while `trouble` is made, which takes about `long`.
async fn compare(row: &str, long: Duration, trouble: impl AsyncFnOnce(&Stage, &Trio)) {
    compare_with(PATIENCE, row, long, trouble).await;
}

/// The same, of callers who wait this long.
async fn compare_with(
    patience: Duration,
    row: &str,
    long: Duration,
    trouble: impl AsyncFnOnce(&Stage, &Trio),
) {
    if let Some(((), scores)) = scores(patience, row, long, trouble).await {
        judge(&scores, row, "");
    }
}

/// The same, not judged yet; with what `trouble` has to say.
async fn scores<T>(
    patience: Duration,
    row: &str,
    long: Duration,
    trouble: impl AsyncFnOnce(&Stage, &Trio) -> T,
) -> Option<(T, [Score; 2])> {
    let stage = Stage::set_up().await?;
    let baseline = Baseline::take().await;
    let trio = stage.trio(row, patience).await;
    let loads = trio.start(CALM + long + CALM);
    sleep(CALM).await;
    let said = trouble(&stage, &trio).await;
    let scores = trio.finish(loads).await;
    stage.set(Mode::Pass);
    baseline.is_restored().await;
    Some((said, scores))
}

/// What goes on for a minute, or for 6 s in a short run.
fn for_a_minute() -> Duration {
    SECOND * if is_full() { 60 } else { 6 }
}

async fn tell(server: &Server, words: &[&str]) {
    assert_eq!(server.tell(words).await.unwrap(), "+OK", "{words:?}");
}

// ── the server is slow ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_pauses_writes_for_3_s_is_not_dead() {
    compare("PAUSE WRITE 3 s", SECOND * 3, async |stage, _| {
        tell(&stage.server, &["CLIENT", "PAUSE", "3000", "WRITE"]).await;
    })
    .await;
}

/// One link after the other is benched, and what the server holds back on each of them is served in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_pauses_writes_for_3_s_fails_nobody_who_waits_for_5_s() {
    let row = "PAUSE WRITE 3 s waited for";
    compare_with(SECOND * 5, row, SECOND * 3, async |stage, _| {
        tell(&stage.server, &["CLIENT", "PAUSE", "3000", "WRITE"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_pauses_for_300_ms_is_not_dead() {
    compare("PAUSE ALL 300 ms", SECOND, async |stage, _| {
        tell(&stage.server, &["CLIENT", "PAUSE", "300", "ALL"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_busy_for_300_ms_is_not_dead() {
    compare("DEBUG SLEEP 0.3", SECOND, async |stage, _| {
        tell(&stage.server, &["DEBUG", "SLEEP", "0.3"]).await;
    })
    .await;
}

// ── the network is slow ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

async fn stalls(row: &str, stall: Duration) {
    let times = for_a_minute().as_secs() / 2;
    compare(row, for_a_minute(), async |stage, _| {
        for _ in 0..times {
            stage.set(Mode::Stall);
            sleep(stall).await;
            stage.set(Mode::Pass);
            sleep(SECOND * 2 - stall).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_stalls_for_100_ms_again_and_again_is_not_dead() {
    stalls("stalls of 100 ms", ms(100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_stalls_for_200_ms_again_and_again_is_not_dead() {
    stalls("stalls of 200 ms", ms(200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_stalls_for_400_ms_again_and_again_is_not_dead() {
    stalls("stalls of 400 ms", ms(400)).await;
}

/// A proxy whose server is slow may take no new connections meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_stalls_for_300_ms_and_resets_new_connections_is_not_dead() {
    compare("stall 300 ms new ones reset", SECOND, async |stage, _| {
        for door in &stage.doors {
            door.set(Mode::Stall);
            door.set_for_new(Mode::Reset);
        }
        sleep(ms(300)).await;
        stage.set(Mode::Pass);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_has_become_200_ms_long_is_not_dead() {
    compare("latency 0 to 200 ms", SECOND * 4, async |stage, _| {
        // Each way: a round trip takes 400 ms of the 500 that a call has.
        stage.set(Mode::Delay(ms(200)));
        sleep(SECOND * 4).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_of_64_mib_at_100_mbit_s_is_not_death() {
    // 67 MB at 12.5 MB/s take 5.4 s.
    let (row, long) = ("64 MiB SET at 100 Mbit/s", SECOND * 6);
    let Some((uploads, [link, redis])) = scores(PATIENCE, row, long, upload_with_each).await else {
        return;
    };
    link.judge(row, 0);
    // The request is unpacked and packed once more for `redis`: its upload ends later, and so do the calls that wait behind it. Of 5.5 s it was
    // 0.08 s in quiet, 0.4 s where memory was not at hand at once. A second upload would double the failures.
    redis.judge(&format!("{row}{}", by::<RedisConnector>()), redis.bare / 5);
    println!(
        "FIGURE slow_is_not_dead {row}: took {uploads:.2?} over our link, over redis' own connection in our hands, and bare"
    );
}

/// How long the upload took over each of the three.
async fn upload_with_each(stage: &Stage, trio: &Trio) -> [Duration; 3] {
    stage.set(Mode::Bandwidth(12_500_000));
    // The upload itself is given the time it needs; the calls around it are not.
    let enough = SECOND * 15;
    let link = trio.link.client.with_call_timeout(enough);
    let redis = trio.redis.client.with_call_timeout(enough);
    let mut bare = trio.bare.clone();
    bare.set_response_timeout(enough);
    let value = vec![b'x'; 64 << 20];
    let all = tokio::join!(
        upload(link, "link", &value),
        upload(redis, "redis", &value),
        upload(bare, "bare", &value),
    );
    all.into()
}

/// How long it took.
async fn upload<C: ConnectionLike>(mut by: C, key: &str, value: &[u8]) -> Duration {
    let (mut set, started) = (redis::cmd("SET"), Instant::now());
    let answer: String = set.arg(key).arg(value).query_async(&mut by).await.unwrap();
    assert_eq!(answer, "OK", "{key}");
    started.elapsed()
}

/// The last megabytes of an upload lie in the buffers of the way, and for seconds nothing comes back: far longer than `detect_within`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_takes_many_times_detect_within_goes_through() {
    for (name, rate) in [("20_Mbit_s", 2_500_000), ("10_Mbit_s", 1_250_000)] {
        let Some(stage) = Stage::set_up().await else {
            return;
        };
        let [link, redis, _] = &stage.doors;
        tokio::join!(
            goes_through(LinkConnector::new(), name, link, rate),
            goes_through(RedisConnector::new(), name, redis, rate),
        );
    }
}

async fn goes_through<C: Connect>(over: C, row: &str, door: &Proxy, rate: u64) {
    let ours = Client::builder(&door.url()).unwrap();
    let ours = Ours::connect(over, row, ours.call_timeout(SECOND * 30)).await;
    door.set(Mode::Bandwidth(rate));
    let key = format!("upload{}", by::<C>());
    let took = upload(ours.client.clone(), &key, &vec![b'x'; 12 << 20]).await;
    ends(&ours.client, &ours.name).await;
    let swaps = gauges::counter(&ours.name, names::SWAPS, "");
    println!(
        "FIGURE slow_is_not_dead 12 MiB SET at {row}{}: OK after {took:?}, {swaps} swaps",
        by::<C>()
    );
    assert_eq!(swaps, 0);
}

// ── this process is slow ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

const ADDRESSES: &str = "HOLDFAST_SLOW_CLIENT";

/// The three in a process of its own, so that it can be stopped while network and server go on.
struct Elsewhere {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
    _stage: Stage,
}

impl Elsewhere {
    /// Runs `test` of this binary once more; nothing in that other process, once it has done its part, and where there is no server.
    async fn run(test: &str, row: &str, hungry: bool) -> Option<Self> {
        if let Ok(addresses) = std::env::var(ADDRESSES) {
            let addresses: Vec<&str> = addresses.split(' ').collect();
            let addresses = addresses.try_into().unwrap();
            let trio = Trio::connect(row, PATIENCE, addresses).await;
            if hungry {
                // Takes all that it is given, to the end of this process: a quota that is not used up throttles nobody.
                std::thread::spawn(|| {
                    loop {
                        std::hint::spin_loop()
                    }
                });
            }
            println!("\nREADY");
            let loads = trio.start(CALM + for_a_minute() + CALM);
            let [link, redis] = trio.finish(loads).await;
            println!("\nSCORE {} {}", link.to_line(), redis.to_line());
            return None;
        }
        let stage = Stage::set_up().await?;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(ADDRESSES, stage.doors.each_ref().map(Proxy::url).join(" "))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut elsewhere = Self {
            child,
            said,
            _stage: stage,
        };
        elsewhere.hear("READY", SECOND * 10).await;
        sleep(CALM).await;
        Some(elsewhere)
    }

    fn pid(&self) -> u32 {
        self.child.id().expect("not waited for yet")
    }

    /// What follows `word` at the beginning of a line; other lines are shown.
    async fn hear(&mut self, word: &str, within: Duration) -> String {
        let heard = timeout(within, async {
            while let Some(line) = self.said.next_line().await.unwrap() {
                match line.strip_prefix(word) {
                    Some(rest) => return rest.trim().to_owned(),
                    // Its own summary must not be counted as one of ours.
                    None if line.starts_with("test result") => {}
                    None => println!("{line}"),
                }
            }
            panic!("the other process ended without {word}");
        });
        heard.await.expect("the other process speaks")
    }

    async fn score(mut self) -> [Score; 2] {
        let line = self.hear("SCORE", CALM * 2 + for_a_minute() + SECOND * 10);
        let line = line.await;
        let numbers: Vec<usize> = line.split(' ').map(|n| n.parse().unwrap()).collect();
        let (link, redis) = numbers.split_at(numbers.len() / 2);
        [link, redis].map(Score::from_numbers)
    }
}

impl Score {
    fn to_line(&self) -> String {
        let Self {
            ours,
            bare,
            only_ours,
            wrong,
            swaps,
            opened,
            downs,
            refused,
        } = self;
        format!("{ours} {bare} {only_ours} {wrong} {swaps} {opened} {downs} {refused}")
    }

    fn from_numbers(numbers: &[usize]) -> Self {
        let [ours, bare, only_ours, wrong, swaps, opened, downs, refused] = *numbers else {
            panic!("not a score: {numbers:?}");
        };
        Self {
            ours,
            bare,
            only_ours,
            wrong,
            swaps: swaps as u64,
            opened: opened as u64,
            downs,
            refused,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_not_dead_because_we_were_stopped_for_200_ms() {
    let row = "client stopped for 200 ms";
    let test = "a_server_is_not_dead_because_we_were_stopped_for_200_ms";
    let Some(elsewhere) = Elsewhere::run(test, row, false).await else {
        return;
    };
    for _ in 0..for_a_minute().as_secs() / 2 {
        stop(elsewhere.pid()).unwrap();
        sleep(ms(200)).await;
        go_on(elsewhere.pid()).unwrap();
        sleep(SECOND * 2 - ms(200)).await;
    }
    judge(&elsewhere.score().await, row, " every 2 s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_not_dead_because_we_have_half_a_processor() {
    let row = "client throttled";
    let test = "a_server_is_not_dead_because_we_have_half_a_processor";
    let Some(elsewhere) = Elsewhere::run(test, row, true).await else {
        return;
    };
    let half = Half::of(elsewhere.pid()).unwrap();
    sleep(for_a_minute()).await;
    let how = format!(" to 50 of 100 ms ({})", half.how());
    drop(half);
    judge(&elsewhere.score().await, row, &how);
}
