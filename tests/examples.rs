//! The examples do what they say: each is built and run as its reader would, and what it prints and writes is read.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

#[path = "examples/axum_api.rs"]
mod axum_api;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use holdfast_lab::{Cluster, Embedded, Server, server_or_skip};
use redis_holdfast::telemetry::names;
use serde_json::Value;
use tokio::time::Instant;

/// Where cargo put the examples, built once.
fn example(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        // The whole workspace: the same features, so nothing is compiled twice.
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "build",
            "--workspace",
            "--all-features",
            "--examples",
            "--locked",
            "--quiet",
        ]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(built.unwrap().success(), "the examples do not build");
    });
    // This test is in `deps`, the examples are beside it.
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).unwrap().join("examples").join(name)
}

fn run(name: &str, args: &[&str]) -> Output {
    let output = Command::new(example(name)).args(args).output().unwrap();
    for said in [&output.stdout, &output.stderr] {
        assert!(!text(said).contains("canary"), "{name} shows a secret");
    }
    output
}

/// A server with a password that no example may show.
async fn of_canary() -> Option<Server> {
    let server = Server::builder().password("canary-password");
    server.start_or_skip().await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Replays the incident, in a hurry unless the full figures are asked for.
fn incident(servers: &str, story: &[&str]) -> (Output, Value, String) {
    let folder = format!("incident-{servers}{}", story.concat());
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let _ = std::fs::remove_dir_all(&out);
    let folder = out.to_string_lossy().into_owned();
    let mut args = vec!["--servers", servers, "--out", &folder];
    args.extend(story);
    if std::env::var_os("HOLDFAST_FULL").is_none() {
        args.push("--quick");
    }
    // Built before the clock starts.
    example("incident");
    let started = Instant::now();
    let output = run("incident", &args);
    // What a stranger is promised: the whole story in a minute.
    let took = started.elapsed();
    assert!(took <= Duration::from_secs(60), "{took:?}");
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    let read = |file: &str| {
        std::fs::read_to_string(out.join(file))
            .unwrap_or_else(|error| panic!("{file}: {error}\n{said}"))
    };
    let result = serde_json::from_str(&read("result.json")).unwrap();
    let page = read("report.html");
    (output, result, page)
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

/// The schema of the result, the exit status, and the first sentence of the page; `first` is the contender of the first row.
fn judge((output, result, page): &(Output, Value, String), first: &str) {
    let said = text(&output.stdout);
    assert_eq!(
        keys(result),
        ["budget_ms", "contenders", "promises", "scenario", "servers"]
    );
    assert_eq!(result["budget_ms"], 250.0);

    let contenders = result["contenders"].as_array().unwrap();
    let names: Vec<&str> = contenders
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            first,
            "deadpool-redis, defaults",
            "deadpool-redis, careful",
            "redis-holdfast"
        ]
    );
    for one in contenders {
        let fields = [
            "failed",
            "failed_seconds",
            "max_ms",
            "name",
            "ok",
            "over_budget",
            "p50_ms",
            "p99_ms",
            "peak_outstanding",
            "recovery_ms",
            "refused_ms",
            "requests",
            "told_ms",
            "wrong",
        ];
        assert_eq!(keys(one), fields);
        let count = |field: &str| one[field].as_u64().unwrap();
        assert_eq!(
            count("requests"),
            count("ok") + count("failed") + count("wrong")
        );
        assert!(count("ok") > 0, "nobody was served: {one}");
        assert!(count("failed") > 0, "the fault reached nobody: {one}");
    }

    let promises = result["promises"].as_array().unwrap();
    assert!(promises.len() >= 7, "{result:#}");
    for promise in promises {
        assert_eq!(keys(promise), ["held", "id", "limit", "measured"]);
        assert_eq!(promise["held"], true, "{promise}\n{said}");
        let figure = ["id", "measured", "limit"].map(|field| promise[field].to_string());
        println!(
            "FIGURE incident {}: {} (limit {})",
            figure[0], figure[1], figure[2]
        );
    }
    assert_eq!(
        output.status.code(),
        Some(0),
        "{said}{}",
        text(&output.stderr)
    );

    let body = page.split_once("<body>").unwrap().1.trim_start();
    let (sentence, _) = body
        .strip_prefix("<h1>")
        .unwrap()
        .split_once("</h1>")
        .unwrap();
    // Of the others one that never recovered, if there is one.
    let never = contenders[..3]
        .iter()
        .any(|one| one["recovery_ms"].is_null());
    let others = contenders[..3]
        .iter()
        .filter(|one| one["recovery_ms"].is_null() == never);
    let begins = |one: &Value| format!("{} failed for ", one["name"].as_str().unwrap());
    assert!(
        others
            .into_iter()
            .any(|one| sentence.starts_with(&begins(one))),
        "{sentence}"
    );
    assert!(
        sentence.contains("redis-holdfast failed for "),
        "{sentence}"
    );
    assert!(
        said.contains(sentence),
        "the terminal says the same: {said}"
    );
    for elsewhere in ["src=", "href=", "@import", "url("] {
        assert!(
            !page.contains(elsewhere),
            "the page needs something from elsewhere"
        );
    }
}

const SENTINEL: &str = "redis-rs, SentinelClient";
const MOVE: &str = "ConnectionManager";

/// What is said of Sentinels: that their probes killed each of them.
fn sentinels_were_killed((output, _, page): &(Output, Value, String)) {
    let said = text(&output.stdout);
    let (_, after) = said.split_once("Sentinels were killed ").expect(&said);
    let (kills, _) = after.split_once(' ').unwrap();
    assert!(kills.parse::<u32>().unwrap() >= 3, "{said}");
    assert!(page.contains(&format!("Sentinels were killed {kills} times")));
}

#[test]
fn the_incident_is_replayed_on_the_embedded_servers() {
    let run = incident("embedded", &[]);
    judge(&run, SENTINEL);
    sentinels_were_killed(&run);
    assert_eq!(run.1["servers"], "embedded");
    assert!(run.1["scenario"].as_str().unwrap().ends_with("then heals"));
    // In a pipe: plain lines, one per second.
    let said = text(&run.0.stdout);
    assert!(
        said.contains("\n   1 s  ") && !said.contains('\x1b'),
        "{said}"
    );
}

#[tokio::test]
async fn the_incident_is_replayed_on_real_servers_and_sentinels() {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let run = incident("real", &[]);
    judge(&run, SENTINEL);
    sentinels_were_killed(&run);
    assert_eq!(
        run.1["servers"],
        format!("{} {}", server.kind(), server.version())
    );
    assert!(run.2.contains("six real server processes"));
}

#[tokio::test]
async fn the_incident_ends_with_a_rollback_too() {
    let Some(_server) = server_or_skip().await else {
        return;
    };
    let run = incident("any", &["--rollback"]);
    judge(&run, SENTINEL);
    sentinels_were_killed(&run);
    assert!(
        run.1["scenario"]
            .as_str()
            .unwrap()
            .ends_with("is rolled back")
    );
}

#[test]
fn one_redis_behind_a_name_moves_and_is_rolled_back() {
    for (story, ends) in [(&[][..], "then heals"), (&["--rollback"], "is rolled back")] {
        let story = [&["--scenario", "move"], story].concat();
        let run = incident("embedded", &story);
        judge(&run, MOVE);
        assert!(run.1["scenario"].as_str().unwrap().ends_with(ends));
    }
}

#[tokio::test]
async fn a_real_redis_behind_a_name_moves() {
    let Some(_server) = server_or_skip().await else {
        return;
    };
    let run = incident("real", &["--scenario=move"]);
    judge(&run, MOVE);
    assert!(run.2.contains("(a real server process)"));
}

#[test]
fn wrong_arguments_are_named_and_end_with_status_2() {
    for (args, names) in [
        (&["--server"][..], "`--server`"),
        (&["--servers", "mine"], "`mine`"),
        (&["--servers"], "--servers needs a value"),
        (&["--out", "--quick"], "--out needs a value"),
        (&["--scenario", "flood"], "`flood`"),
    ] {
        let output = run("incident", args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let said = text(&output.stderr);
        assert!(said.contains(names), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let help = run("incident", &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("--servers any|real|embedded"));
}

#[test]
fn prometheus_hears_of_every_metric() {
    let output = run("prometheus", &[]);
    let scrape = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    // The example dials an address: there is no name that could have addresses, no answer that could age, no Sentinel.
    let of_others = [
        names::DNS_ADDRESSES,
        names::DNS_ANSWER_AGE,
        names::SENTINEL_ANSWERS,
        names::SENTINEL_REACHABLE,
        names::PRIMARY_CHANGES,
    ];
    for (name, kind, _, _) in names::ALL.iter().filter(|all| !of_others.contains(&all.0)) {
        let line = format!("# TYPE {} {kind}\n", name.replace('.', "_"));
        assert!(scrape.contains(&line), "{line}{scrape}");
    }
    // 202 calls, and the last tick that told of them is up to a second ago.
    let calls = scrape
        .lines()
        .find(|line| line.starts_with("redis_holdfast_calls{") && line.contains("\"ok\""));
    let count: u64 = calls
        .and_then(|line| line.rsplit(' ').next())
        .unwrap()
        .parse()
        .unwrap();
    assert!((90..=202).contains(&count), "{scrape}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quick_start_visits_and_names_the_phase_when_nobody_is_there() {
    let server = Embedded::start().await.unwrap();
    let url = server.url();
    for visit in ["visit number 1\n", "visit number 2\n"] {
        let said = text(&run("quickstart", &[&url]).stdout);
        assert!(
            said.contains(visit) && said.contains("health: ready"),
            "{said}"
        );
    }
    server.stop().await;
    let said = text(&run("quickstart", &[&url]).stdout);
    assert!(
        said.contains("phase connect") && said.contains("health: down"),
        "{said}"
    );
}

/// Where nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("redis://:canary@{}/", listener.local_addr().unwrap())
}

/// Each against a server, and where nobody listens.
async fn said(name: &str) -> (String, String) {
    let server = Embedded::start().await.unwrap();
    let here = run(name, &[&server.url()]);
    let nowhere = run(name, &[&nobody()]);
    assert!(here.status.success(), "{}", text(&here.stderr));
    let all = |output: &Output| text(&output.stdout) + &text(&output.stderr);
    (all(&here), all(&nowhere))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drop_in_visits() {
    let Some(server) = of_canary().await else {
        return;
    };
    let output = run("drop_in", &[&server.url()]);
    let said = text(&output.stdout);
    assert_eq!(
        said,
        "1 visits\n1 of them today\n",
        "{}",
        text(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_by_hand_is_audited_and_answers() {
    let Some(server) = of_canary().await else {
        return;
    };
    let output = run("tower_stack", &[&server.url()]);
    let said = text(&output.stdout);
    let expected = "audit: SET\naudit: GET\nfound: Some(\"on top\")\n";
    assert_eq!(said, expected, "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_pool_serves_and_is_a_cache_miss_when_nobody_is_there() {
    let Some(server) = of_canary().await else {
        return;
    };
    let here = text(&run("adopt_deadpool", &[&server.url()]).stdout);
    assert!(here.contains("visit number 1, 1 in the pool"), "{here}");
    let (_, nowhere) = said("adopt_deadpool").await;
    assert!(
        nowhere.contains("cached: None; circuit: Closed"),
        "{nowhere}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_cluster_serves_and_has_a_circuit_for_each_node() {
    let Some(cluster) = Cluster::start_or_skip().await else {
        return;
    };
    let urls = cluster.urls();
    let first = [urls[0].as_str()];
    for visit in ["visit number 1\n", "visit number 2\n"] {
        let output = run("adopt_cluster", &first);
        let said = text(&output.stdout);
        assert_eq!(
            said.matches(visit).count(),
            6,
            "{said}{}",
            text(&output.stderr)
        );
        for node in cluster.nodes() {
            let closed = format!("\n{}: Closed\n", node.proxy().addr());
            assert!(said.contains(&closed), "{said}");
        }
    }
    let nowhere = text(&run("adopt_cluster", &[&nobody()]).stdout);
    assert!(nowhere.starts_with("no cluster: "), "{nowhere}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_its_deadline_whatever_the_clients_own_is() {
    let (here, nowhere) = said("per_request_deadline").await;
    assert!(
        here.contains("page with 1 visits") && here.contains("worker: "),
        "{here}"
    );
    assert!(nowhere.contains("page without Redis"), "{nowhere}");
}

/// What the page says of a server that keeps silent; and that it took its 200 ms, and not the 2 s that the client has by itself.
fn page_of(url: &str) -> String {
    let output = run("per_request_deadline", &[url]);
    let said = text(&output.stdout) + &text(&output.stderr);
    let after = said.lines().find_map(|line| {
        let took = line.strip_prefix("after ")?.strip_suffix(" ms")?;
        took.parse::<u64>().ok()
    });
    // Nobody measures the lag of another process, so that there is room for a second's half: a page that waited for the client would be later.
    assert!(
        after.is_some_and(|after| (200..1000).contains(&after)),
        "{said}"
    );
    // The same instant ends the worker, which began after it.
    assert!(said.contains("worker: too late"), "{said}");
    println!(
        "FIGURE per_request_deadline: {}",
        said.trim().replace('\n', "; ")
    );
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_its_deadline_where_nobody_answers() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://:canary@{}/", silent.local_addr().unwrap());
    page_of(&url);
    // One that answers whatever it is asked, and keeps silent of what the page writes.
    let Some(server) = of_canary().await else {
        return;
    };
    let paused = server.tell(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    assert_eq!(paused.unwrap(), "+OK");
    let said = page_of(&server.url());
    assert!(said.contains("phase reply"), "{said}");
}
