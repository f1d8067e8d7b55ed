//! An API over a Redis that is away at first, comes, falls silent, comes back and is stopped: what each of its pages says of that.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use holdfast_lab::load::LagMeter;
use holdfast_lab::{Mode, Proxy, Server};
use tokio::time::{Instant, sleep};

use super::example;

/// A kubelet waits this long for a probe if nobody told it otherwise: whatever is later is dead to it.
const KUBELET: Duration = Duration::from_secs(1);
/// Recovery is promised in half a second for 95 of 100: twice that.
const BACK_WITHIN: Duration = Duration::from_secs(1);
/// Promise 3, for a server that is silent; one that refuses is known at once.
const DOWN_WITHIN: Duration = Duration::from_millis(600);
/// Promise 1.
const GRACE: Duration = Duration::from_millis(10);

/// The example at work, ended with this handle.
struct Api {
    child: Child,
    said: BufReader<ChildStdout>,
    address: String,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
    took: Duration,
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Api {
    fn start(url: &str) -> Self {
        let mut child = Command::new(example("axum_api"))
            .args([url, "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on ").unwrap();
        Self {
            address: address.to_owned(),
            child,
            said,
        }
    }

    fn begin(&self, method: &str, path: &str, budget: Option<u64>) -> (TcpStream, Instant) {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        socket.set_read_timeout(Some(KUBELET * 10)).unwrap();
        let header = budget.map_or(String::new(), |ms| format!("x-budget-ms: {ms}\r\n"));
        let host = &self.address;
        let began = Instant::now();
        write!(socket, "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{header}content-length: 0\r\n\r\n").unwrap();
        (socket, began)
    }

    fn ask(&self, method: &str, path: &str, budget: Option<u64>) -> Answer {
        end(self.begin(method, path, budget))
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None)
    }

    /// Alive whatever becomes of Redis, and soon enough for whoever restarts what is not.
    fn is_alive(&self) {
        let alive = self.get("/livez");
        assert_eq!((alive.status, &*alive.body), (200, "alive\n"));
        assert!(alive.took < KUBELET, "alive only after {:?}", alive.took);
    }

    /// Not ready, with the reason and a time to come back.
    fn is_unready(&self, reason: &str) {
        let unready = self.get("/readyz");
        assert_eq!(unready.status, 503, "{}", unready.body);
        let body = &unready.body;
        assert!(
            body.starts_with("down for ") && body.contains(reason),
            "{body}"
        );
        assert!(
            unready.head.contains("retry-after: 1\r\n"),
            "{}",
            unready.head
        );
    }

    /// Asks until it is ready, or not ready.
    async fn becomes(&self, status: u16, within: Duration) -> Duration {
        let (began, meter) = (Instant::now(), LagMeter::thread());
        while self.get("/readyz").status != status {
            assert!(began.elapsed() < KUBELET * 10, "never {status}");
            sleep(Duration::from_millis(5)).await;
        }
        let (took, lag) = (began.elapsed(), meter.finish());
        assert!(
            took <= within + lag.max(),
            "{status} after {took:?}, lag {:?}",
            lag.max()
        );
        took
    }

    /// A page from where it has to come from.
    fn page(&self, from: &str) {
        let page = self.get("/pages/7");
        let body = format!("page 7 ({from})\n");
        assert_eq!((page.status, page.body), (200, body));
    }
}

fn end((mut socket, began): (TcpStream, Instant)) -> Answer {
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    assert!(!text.contains("canary"), "a secret was shown");
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole answer");
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: format!("{head}\r\n"),
        body: body.to_owned(),
        took: began.elapsed(),
    }
}

/// What is written and not answered: as many bytes as the command has.
async fn is_sent(proxy: &Proxy, before: u64) {
    let command = "*2\r\n$4\r\nINCR\r\n$6\r\nvisits\r\n".len() as u64;
    while proxy.bytes_up() < before + command {
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_serves_what_it_can_and_says_what_it_cannot_while_its_redis_is_away() {
    let Some(server) = super::of_canary().await else {
        return;
    };
    let proxy = Proxy::start(server.addr()).await.unwrap();
    proxy.set(Mode::Refuse);

    // It starts without a Redis.
    let api = Api::start(&format!("redis://:canary-password@{}/", proxy.addr()));
    api.is_alive();
    api.is_unready("connect");
    api.page("source");
    api.page("source");
    let refused = api.ask("POST", "/visits", None);
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.head.contains("retry-after: 1\r\n"));
    proxy.set(Mode::Pass);
    let came = api.becomes(200, BACK_WITHIN).await;
    api.page("source");
    api.page("cache");
    assert_eq!(api.ask("POST", "/visits", None).body, "1\n");

    let silent = black_hole(&api, &proxy).await;

    // It dies, and another takes its place.
    server.kill();
    api.becomes(503, DOWN_WITHIN).await;
    api.is_alive();
    api.is_unready("");
    api.page("source");
    assert_eq!(api.ask("POST", "/visits", None).status, 503);
    server.restart().await.unwrap();
    let back = api.becomes(200, BACK_WITHIN).await;
    api.page("source");
    api.page("cache");
    println!(
        "FIGURE axum_api: ready {came:?} after its first Redis came, {silent:?} after a black hole, {back:?} after a new one"
    );

    stopped(api, &server, &proxy).await;
}

/// What a request costs while its Redis is silent: its budget, or less.
async fn black_hole(api: &Api, proxy: &Proxy) -> Duration {
    proxy.set(Mode::Blackhole);
    let meter = LagMeter::thread();
    let visits = [(Some(80), 80), (None, 400), (Some(60_000), 400)];
    let calls = visits.map(|(budget, _)| api.begin("POST", "/visits", budget));
    for (call, (budget, limit)) in calls.into_iter().zip(visits) {
        let answer = end(call);
        assert_eq!(answer.status, 504, "{}", answer.body);
        assert!(answer.head.contains("retry-after: 1\r\n"));
        let limit = Duration::from_millis(limit);
        // Promise 1, and the way to the API and back: both ends are woken once for each.
        let late = limit + GRACE + meter.log().max() * 4;
        let took = answer.took;
        assert!(
            limit <= took && took <= late,
            "{budget:?}: {took:?}, at most {late:?}"
        );
    }
    api.becomes(503, DOWN_WITHIN).await;
    api.is_unready("circuit is open");
    api.is_alive();
    for _ in 0..5 {
        api.page("source");
    }
    proxy.set(Mode::Pass);
    let back = api.becomes(200, BACK_WITHIN).await;
    // Remembered from before, and nothing waits for what was lost.
    api.page("cache");
    // Any of the three may have been counted when the hole let go of them: the answers said so.
    let visits = api.ask("POST", "/visits", None);
    assert!(
        ["2\n", "3\n", "4\n", "5\n"].contains(&&*visits.body),
        "{}",
        visits.body
    );
    back
}

/// Told to end while a request is under way: no new ones, an answer for this one, Redis let go of, and out.
async fn stopped(mut api: Api, server: &Server, proxy: &Proxy) {
    let sent = proxy.bytes_up();
    server.freeze();
    let call = api.begin("POST", "/visits", None);
    is_sent(proxy, sent).await;
    let pid = api.child.id().to_string();
    let told = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(told.success());
    while TcpStream::connect(&api.address).is_ok() {
        sleep(Duration::from_millis(1)).await;
    }
    server.thaw();
    let answer = end(call);
    // In its budget it is served; a machine that needed longer than that to come here sees it told so.
    let is_late = answer.took >= Duration::from_millis(400);
    assert_eq!(
        answer.status,
        if is_late { 504 } else { 200 },
        "{}",
        answer.body
    );
    let mut said = String::new();
    api.said.read_to_string(&mut said).unwrap();
    assert!(api.child.wait().unwrap().success());
    assert!(
        said.ends_with("redis: drained\n") && !said.contains("canary"),
        "{said}"
    );
    assert!(said.contains("page 7 is not remembered: "), "{said}");
}
