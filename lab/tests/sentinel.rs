//! A Sentinel set fails over when it should, tells the truth about it, and its faults are what they are called.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

use std::time::Duration;

use holdfast_lab::sentinel::{
    FakeSentinel, Liveness, Monitor, Mood, Probe, Promotion, Recorder, View, sentinel_view,
};
use holdfast_lab::{Mode, SentinelSet};
use tokio::time::{Instant, sleep};

const LONG: Duration = Duration::from_secs(10);
const ASK: Duration = Duration::from_secs(1);

async fn until(what: &str, mut fits: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !fits().await {
        assert!(Instant::now() < end, "never: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_is_replaced_and_its_promotion_is_timed() {
    let Some(set) = SentinelSet::builder().bare_nodes().start_or_skip().await else {
        return;
    };
    assert_eq!(set.primary().await, Some(0));
    let mut recorder = Recorder::start(&set).unwrap();
    let mut promotion = Promotion::watch([set.node(1).server().addr()]);
    recorder.mark();
    let killed = Instant::now();
    set.node(0).kill();
    let (who, at) = promotion.within(LONG).await.unwrap();
    assert_eq!(who, set.node(1).server().addr());
    // Down after a second, not before.
    assert!(
        at - killed > Duration::from_millis(900),
        "{:?}",
        at - killed
    );
    until("all Sentinels name the new primary", async || {
        let mut agree = 0;
        for one in set.sentinels() {
            let view = sentinel_view(one.server().addr(), set.name(), ASK).await;
            agree += usize::from(view.is_some_and(|view| view.addr == set.node(1).endpoint()));
        }
        agree == 3
    })
    .await;
    let text = recorder.finish("a test").text().to_owned();
    for words in [
        "# a test",
        "event +selected-slave slave 10.0.0.2:6379 10.0.0.2 6379 @ orders 10.0.0.1 6379",
        "role 10.0.0.2:6379 master",
        "answer 10.0.0.2:6379 epoch=1",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_holed_primary_is_replaced_and_knows_nothing_of_it() {
    let Some(set) = SentinelSet::builder().start_or_skip().await else {
        return;
    };
    let monitor = Monitor::attach(set.node(0).server().addr()).unwrap();
    set.node(0).proxy().set(Mode::Blackhole);
    let mut promotion = Promotion::watch([set.node(1).server().addr()]);
    assert!(promotion.within(LONG).await.is_some());
    let still = SentinelSet::tell(set.node(0), &["ROLE"]).await.unwrap();
    assert_eq!(still, "*3", "it answers past the proxy");
    let from = Instant::now();
    SentinelSet::tell(set.node(0), &["SET", "k", "v"])
        .await
        .unwrap();
    until("the monitor saw the write", async || {
        !monitor.writes_since(from).is_empty()
    })
    .await;
    let writes = monitor.writes_since(from);
    assert_eq!(
        (writes[0].name.as_str(), writes[0].first.as_str()),
        ("SET", "k")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_comes_back_with_its_state_without_it_or_elsewhere() {
    let Some(set) = SentinelSet::builder().start_or_skip().await else {
        return;
    };
    let one = set.sentinel(0);
    let run_id = async || SentinelSet::tell(one, &["SENTINEL", "MYID"]).await.unwrap();
    let before = run_id().await;
    one.kill();
    one.restart().await.unwrap();
    assert_eq!(run_id().await, before);
    let old = one.addr();
    one.readdress(holdfast_lab::ip()).await.unwrap();
    assert_eq!(run_id().await, before);
    assert!(old != one.addr() && old.port() == one.addr().port());
    // The others hear of its new address by its own greeting.
    until("the others know its new address", async || {
        let view = sentinel_view(set.sentinel(1).server().addr(), set.name(), ASK)
            .await
            .unwrap();
        view.others
            .iter()
            .any(|other| other.get("ip") == one.addr().ip().to_string())
    })
    .await;
    one.wipe(set.node(0)).await.unwrap();
    assert_ne!(run_id().await, before);
    let view = sentinel_view(one.server().addr(), set.name(), ASK)
        .await
        .unwrap();
    assert_eq!(view.master.get("config-epoch"), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_sentinel_is_killed_by_its_probe_and_started_again() {
    let Some(set) = SentinelSet::builder()
        .bare_sentinels()
        .start_or_skip()
        .await
    else {
        return;
    };
    let probe = Probe {
        period: Duration::from_millis(100),
        timeout: Duration::from_millis(100),
        failures: 3,
        pause: Duration::from_millis(100),
    };
    let liveness = Liveness::of(set.sentinel(0), probe);
    sleep(Duration::from_millis(500)).await;
    assert!(liveness.kills().is_empty());
    let pid = set.sentinel(0).server().pid();
    set.sentinel(0).freeze();
    until("it is another process", async || {
        let now = set.sentinel(0).server().pid();
        now != 0 && now != pid && set.sentinel(0).server().ping().await.is_ok()
    })
    .await;
    assert_eq!(liveness.kills().len(), 1);
}

#[tokio::test]
async fn a_fake_sentinel_says_what_it_is_told() {
    let view = View::of("orders", "127.0.0.1", 6379);
    let fake = FakeSentinel::start(view).await.unwrap();
    let client = redis::Client::open(format!("redis://{}/", fake.addr())).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut address = async || {
        redis::cmd("SENTINEL")
            .arg("get-master-addr-by-name")
            .arg("orders")
            .query_async::<Option<(String, u16)>>(&mut connection)
            .await
    };
    assert_eq!(
        address().await.unwrap(),
        Some(("127.0.0.1".to_owned(), 6379))
    );
    fake.believe(|view| view.primary = Some(("127.0.0.2".to_owned(), 1)));
    assert_eq!(address().await.unwrap().unwrap().1, 1);
    fake.mood(Mood::Null);
    assert_eq!(address().await.unwrap(), None);
    fake.mood(Mood::Refuses("NOAUTH Authentication required.".to_owned()));
    assert!(address().await.unwrap_err().to_string().contains("NOAUTH"));
    fake.mood(Mood::Silent);
    let silent = tokio::time::timeout(Duration::from_millis(100), address()).await;
    assert!(silent.is_err());
    fake.mood(Mood::Well);
    assert!(address().await.unwrap().is_some());
    assert!(fake.count("SENTINEL GET-MASTER-ADDR-BY-NAME") >= 5);
    assert_eq!((fake.accepts(), fake.clients()), (1, 1));

    let view = sentinel_view(fake.addr(), "orders", ASK).await.unwrap();
    assert_eq!(view.master.get("config-epoch"), "0");
    assert!(sentinel_view(fake.addr(), "other", ASK).await.is_none());
}

#[tokio::test]
async fn a_fake_sentinel_tells_events_in_both_dialects() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let fake = FakeSentinel::start(View::of("orders", "h", 1))
        .await
        .unwrap();
    for (dialect, mark) in [("2", '*'), ("3", '>')] {
        let mut stream = holdfast_lab::net::dial(fake.addr(), ASK).await.unwrap();
        stream
            .write_all(format!("HELLO {dialect}\r\nPSUBSCRIBE *\r\n").as_bytes())
            .await
            .unwrap();
        let mut said = String::new();
        let mut read = async |words: &str| {
            while !said.contains(words) {
                let mut buffer = vec![0; 4096];
                let size = stream.read(&mut buffer).await.unwrap();
                said.push_str(&String::from_utf8_lossy(&buffer[..size]));
            }
        };
        read("psubscribe").await;
        fake.tell("+switch-master", "orders a 1 b 2");
        read(&format!("{mark}4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$14\r\n+switch-master\r\n$14\r\norders a 1 b 2\r\n")).await;
    }
}
