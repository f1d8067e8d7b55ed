//! Records what Sentinels tell and answer during real failovers: `tests/fixtures/sentinel/*.txt`.
//!
//! ```sh
//! cargo run -p holdfast-lab --example record_failovers -- tests/fixtures/sentinel
//! ```
#![allow(clippy::unwrap_used, reason = "whoever records looks on")]

use std::path::PathBuf;
use std::time::Duration;

use holdfast_lab::sentinel::{Builder, Recorder};
use holdfast_lab::{Mode, SentinelSet};
use tokio::time::{Instant, sleep};

#[tokio::main]
async fn main() {
    let folder: PathBuf = std::env::args().nth(1).expect("a folder").into();
    std::fs::create_dir_all(&folder).unwrap();
    let only = std::env::args().nth(2);
    for (name, record) in SCENES {
        if only.as_ref().is_none_or(|only| only == name) {
            let text = record.play().await;
            std::fs::write(folder.join(format!("{name}.txt")), text).unwrap();
            println!("{name}");
        }
    }
}

/// What happens in a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    Killed,
    BlackHoled,
    Planned,
    LeaderDiesElected,
    LeaderDiesPromoted,
    NoReplica,
    SlowReconf,
    Minority,
}

const SCENES: [(&str, Scene); 8] = [
    ("killed", Scene::Killed),
    ("black_holed", Scene::BlackHoled),
    ("planned", Scene::Planned),
    ("leader_dies_after_election", Scene::LeaderDiesElected),
    ("leader_dies_after_promotion", Scene::LeaderDiesPromoted),
    ("aborted_no_replica", Scene::NoReplica),
    ("slow_reconf", Scene::SlowReconf),
    ("minority", Scene::Minority),
];

impl Scene {
    async fn play(self) -> String {
        let set = self.builder().start().await.unwrap();
        let version = format!(
            "{} {}",
            set.node(0).server().kind(),
            set.node(0).server().version()
        );
        let mut recorder = Recorder::start(&set).unwrap();
        sleep(Duration::from_millis(300)).await;
        let done = self.begin(&set, &mut recorder).await;
        let end = Instant::now() + self.lasts();
        let mut last = None;
        while Instant::now() < end {
            // A second more: what comes late is part of it.
            if self.is_over(&recorder) && last.is_none() {
                last = Some(Instant::now() + Duration::from_secs(2));
            }
            if last.is_some_and(|last| Instant::now() > last) {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        let replicas = set.nodes().len() - 1;
        recorder
            .finish(&format!(
                "{done}; 3 Sentinels, {replicas} replicas, quorum 2, down after 1 s; {version}"
            ))
            .text()
            .to_owned()
    }

    fn builder(self) -> Builder {
        let builder = SentinelSet::builder()
            .replicas(2)
            .failover_timeout(Duration::from_secs(10));
        match self {
            Self::BlackHoled => builder,
            _ => builder.bare_nodes(),
        }
    }

    fn lasts(self) -> Duration {
        match self {
            Self::Minority => Duration::from_secs(5),
            Self::NoReplica => Duration::from_secs(10),
            _ => Duration::from_secs(20),
        }
    }

    fn is_over(self, recorder: &Recorder) -> bool {
        let all = (0..3)
            .filter(|nth| recorder.has(&format!("sentinel {nth} event +switch-master")))
            .count();
        let wanted = match self {
            Self::LeaderDiesElected | Self::LeaderDiesPromoted => 2,
            Self::NoReplica | Self::Minority => 9,
            _ => 3,
        };
        all >= wanted
    }

    /// Does it, and says what was done.
    async fn begin(self, set: &SentinelSet, recorder: &mut Recorder) -> &'static str {
        let each = async |words: &[&str]| {
            for one in set.sentinels() {
                SentinelSet::tell(one, words).await.unwrap();
            }
        };
        match self {
            Self::Killed => {
                recorder.mark();
                set.node(0).kill();
                "the primary was killed"
            }
            Self::BlackHoled => {
                recorder.mark();
                set.node(0).proxy().set(Mode::Blackhole);
                "the primary was cut off, it lives and believes that it is one"
            }
            Self::Planned => {
                recorder.mark();
                SentinelSet::tell(set.sentinel(0), &["SENTINEL", "FAILOVER", "orders"])
                    .await
                    .unwrap();
                "SENTINEL FAILOVER on sentinel 0"
            }
            Self::LeaderDiesElected => {
                each(&["SENTINEL", "SIMULATE-FAILURE", "crash-after-election"]).await;
                recorder.mark();
                set.node(0).kill();
                sleep(Duration::from_millis(1500)).await;
                each_living(set).await;
                "the primary was killed, and the leader right after its election"
            }
            Self::LeaderDiesPromoted => {
                each(&["SENTINEL", "SIMULATE-FAILURE", "crash-after-promotion"]).await;
                recorder.mark();
                set.node(0).kill();
                while !recorder.has("event +promoted-slave") && !recorder.has("answer silent") {
                    sleep(Duration::from_millis(5)).await;
                }
                each_living(set).await;
                "the primary was killed, and the leader right after the promotion"
            }
            Self::NoReplica => {
                for nth in [1, 2] {
                    SentinelSet::tell(set.node(nth), &["CONFIG", "SET", "replica-priority", "0"])
                        .await
                        .unwrap();
                }
                // Sentinels learn of it by INFO.
                each(&["SENTINEL", "DEBUG", "info-period", "100"]).await;
                sleep(Duration::from_millis(500)).await;
                recorder.mark();
                set.node(0).kill();
                "the primary was killed, no replica may be promoted: the failover is aborted"
            }
            Self::SlowReconf => {
                let every = async |value: &str| {
                    for nth in [1, 2] {
                        let words = ["CONFIG", "SET", "masteruser", value];
                        SentinelSet::tell(set.node(nth), &words).await.unwrap();
                        let words = ["CONFIG", "SET", "masterauth", value];
                        SentinelSet::tell(set.node(nth), &words).await.unwrap();
                    }
                };
                // The link they have goes on; a new one is refused.
                every("nobody").await;
                recorder.mark();
                set.node(0).kill();
                while !recorder.has("event +promoted-slave") {
                    sleep(Duration::from_millis(5)).await;
                }
                sleep(Duration::from_secs(5)).await;
                every("").await;
                "the primary was killed, the other replica is refused by the new one for 5 s"
            }
            Self::Minority => {
                set.sentinel(1).kill();
                set.sentinel(2).kill();
                recorder.mark();
                set.node(0).kill();
                "the primary was killed while one Sentinel was left: no failover"
            }
        }
    }
}

/// Any word but the two that crash it takes the order back.
async fn each_living(set: &SentinelSet) {
    for one in set.sentinels() {
        if one.server().is_running() {
            let _ = SentinelSet::tell(one, &["SENTINEL", "SIMULATE-FAILURE", "help"]).await;
        }
    }
}
