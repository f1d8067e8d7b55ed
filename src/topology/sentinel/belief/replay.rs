//! Recorded failovers, played to [`Belief`] as they came.
//!
//! Each file of `tests/fixtures/sentinel` is what three real Sentinels said and answered, and what the servers said of their roles.

use std::collections::BTreeMap;

use super::*;
use crate::topology::sentinel::{failover::Data, wire};

/// A silent link is given up after so many seconds.
const LINK_DOWN: f64 = 0.45;
const LINEAGE: &str = "of the first primary";

/// A failover as it was recorded.
struct Recording {
    primary: Spot,
    epoch: u64,
    /// The first primary is killed or cut off at 0 s.
    falls: bool,
    replicas: Vec<Spot>,
    lines: Vec<(f64, Vec<String>)>,
}

/// What became of it.
#[derive(Debug)]
struct Story {
    /// When another primary was followed, which, and why.
    turns: Vec<(f64, Spot, Why)>,
    /// When a server other than the first said for the first time that it is a primary.
    promoted: Option<(f64, Spot)>,
}

fn spot(text: &str) -> Option<Spot> {
    let (host, port) = text.rsplit_once(':')?;
    Some(Spot::new(host, port.parse().ok()?))
}

impl Recording {
    fn read(text: &str) -> Self {
        let mut lines = text.lines();
        let head: Vec<&str> = lines.next().expect("a head").split(' ').collect();
        let after = |word: &str| {
            let at = head.iter().position(|known| *known == word).expect(word);
            head[at + 1]
        };
        let lines = lines.filter(|line| !line.starts_with('#') && !line.is_empty());
        let primary = spot(after("primary")).expect("an address");
        // Answers were recorded without the list of replicas: the servers that were asked for their role.
        let servers = lines.clone().filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            words.next().filter(|word| *word == "role")?;
            spot(words.next()?)
        });
        let mut replicas: Vec<Spot> = servers.filter(|server| *server != primary).collect();
        replicas.sort();
        replicas.dedup();
        let split = |line: &str| {
            let (at, rest) = line.split_once(' ').expect("a time");
            (
                at.parse().expect("a time"),
                rest.split(' ').map(str::to_owned).collect(),
            )
        };
        Self {
            primary,
            replicas,
            epoch: after("epoch").parse().expect("an epoch"),
            falls: !text.contains("SENTINEL FAILOVER"),
            lines: lines.map(split).collect(),
        }
    }

    /// Plays it to a belief that hears `wanted` lines only. Where the first primary falls, our own link to it is down soon after.
    fn play(&self, early: bool, wanted: impl Fn(&[String]) -> bool) -> Story {
        let start = Instant::now() + Duration::from_secs(10);
        let at = |seconds: f64| {
            if seconds < 0.0 {
                start - Duration::from_secs_f64(-seconds)
            } else {
                start + Duration::from_secs_f64(seconds)
            }
        };
        let mut belief = Belief::new(3, early);
        (0..3).for_each(|peer| belief.meet(peer, true));
        let mut roles: BTreeMap<Spot, String> = BTreeMap::new();
        let mut story = Story {
            turns: Vec::new(),
            promoted: None,
        };
        for (seconds, words) in &self.lines {
            let now = at(*seconds);
            match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["role", server, role] => {
                    let server = spot(server).expect("an address");
                    if role == "master" && server != self.primary && story.promoted.is_none() {
                        story.promoted = Some((*seconds, server.clone()));
                    }
                    roles.insert(server, role.to_owned());
                }
                _ if !wanted(words) => {}
                ["sentinel", peer, "answer", ref rest @ ..] => {
                    belief.on_word(peer.parse().expect("a number"), self.word(peer, rest), now);
                }
                ["sentinel", peer, "event", channel, ref payload @ ..] => {
                    let told = wire::told(channel, &payload.join(" "), "orders");
                    if let Some(told) = told {
                        belief.on_told(peer.parse().expect("a number"), &told, now);
                    }
                }
                _ => panic!("{words:?}"),
            }
            let role_of = |spot: &Spot| roles.get(spot).map_or("silent", String::as_str);
            if let Some(followed) = belief.followed() {
                let cut = self.falls && followed.spot == self.primary && *seconds >= LINK_DOWN;
                let lives = !cut && role_of(&followed.spot) == "master";
                let testimony = Testimony {
                    works: lives,
                    down: !lives,
                    lineage: lives.then(|| LINEAGE.to_owned()),
                    ..Testimony::default()
                };
                belief.on_testimony(&testimony, now);
            }
            for candidate in belief.candidates(now) {
                let claim = Claim {
                    is_primary: role_of(&candidate) == "master",
                    parent: Some(LINEAGE.to_owned()),
                    data: Data::default(),
                };
                belief.on_claim(&candidate, claim, now);
            }
            if let Some(turn) = belief.decide(now) {
                story.turns.push((*seconds, turn.spot, turn.why));
            }
        }
        story
    }

    fn word(&self, peer: &str, rest: &[&str]) -> Word {
        let [address, fields @ ..] = rest else {
            panic!("{rest:?}")
        };
        let field = |name: &str| {
            let found = fields
                .iter()
                .find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_default()
        };
        let flag = |name: &str| field("flags").split(',').any(|flag| flag == name);
        match *address {
            "silent" => Word::Silent,
            "nil" => Word::Unknown,
            address => Word::Says(View {
                primary: spot(address),
                epoch: field("epoch").parse().expect("an epoch"),
                s_down: flag("s_down"),
                o_down: flag("o_down"),
                ordered: flag("force_failover"),
                quorum: field("quorum").parse().expect("a quorum"),
                others: field("others").parse().expect("a number"),
                id: Some(peer.into()),
                replicas: {
                    let listed = |spot: &Spot| wire::Listed {
                        spot: spot.clone(),
                        well: true,
                    };
                    Some(self.replicas.iter().map(listed).collect())
                },
                ..View::default()
            }),
        }
    }
}

fn everything(_: &[String]) -> bool {
    true
}

macro_rules! recording {
    ($name:literal) => {
        Recording::read(include_str!(concat!(
            "../../../../tests/fixtures/sentinel/",
            $name,
            ".txt"
        )))
    };
}

/// Follows the first primary, then the promoted one and no other, within `seconds` of the promotion.
fn follows(name: &str, recording: &Recording, story: &Story, why: Why, seconds: f64) {
    let (promoted, successor) = story.promoted.clone().expect("one was promoted");
    let [(_, first, Why::Found), (turned, second, how)] = &story.turns[..] else {
        panic!("{name}: {story:?}")
    };
    assert_eq!(
        (first, second, *how),
        (&recording.primary, &successor, why),
        "{name}"
    );
    let late = turned - promoted;
    println!("{name}: {late:.3} s after the promotion");
    assert!((0.0..=seconds).contains(&late), "{name}: {late}");
}

#[tokio::test(start_paused = true)]
async fn a_promoted_replica_is_followed_when_it_says_so_and_no_sooner() {
    for (name, recording) in [
        ("killed", recording!("killed")),
        ("black_holed", recording!("black_holed")),
        ("slow_reconf", recording!("slow_reconf")),
        (
            "leader_dies_after_promotion",
            recording!("leader_dies_after_promotion"),
        ),
    ] {
        let story = recording.play(true, everything);
        follows(name, &recording, &story, Why::Promotion, 0.0);
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_faster_way_the_two_who_do_not_lead_decide() {
    for (name, recording) in [
        ("killed", recording!("killed")),
        ("black_holed", recording!("black_holed")),
        // The leader itself says so six seconds later.
        ("slow_reconf", recording!("slow_reconf")),
    ] {
        let story = recording.play(false, everything);
        follows(name, &recording, &story, Why::Vote, 1.2);
    }
}

#[tokio::test(start_paused = true)]
async fn any_one_sentinel_may_be_deaf_or_silent() {
    for (name, recording) in [
        ("killed", recording!("killed")),
        ("black_holed", recording!("black_holed")),
        ("slow_reconf", recording!("slow_reconf")),
    ] {
        for missing in ["0", "1", "2"] {
            let others = |words: &[String]| words[1] != missing;
            let mut play = recording.play(true, others);
            play.turns.dedup_by(|a, b| a.1 == b.1);
            let (promoted, successor) = play.promoted.clone().expect("one was promoted");
            let (turned, last, why) = play.turns.last().expect("one was found");
            assert_eq!(*last, successor, "{name} without {missing}");
            // Without the leader nobody names it: it was a replica a moment ago, and is the only primary.
            assert_eq!(*why, Why::Promotion, "{name} without {missing}");
            let late = turned - promoted;
            assert!(
                (0.0..=0.0).contains(&late),
                "{name} without {missing}: {late}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn polling_alone_is_enough() {
    for (name, recording) in [
        ("killed", recording!("killed")),
        ("black_holed", recording!("black_holed")),
    ] {
        let answers = |words: &[String]| words[2] == "answer";
        let story = recording.play(true, answers);
        follows(name, &recording, &story, Why::Promotion, 0.0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_leaders_window_of_a_planned_failover_leads_nobody_astray() {
    let recording = recording!("planned");
    let story = recording.play(true, everything);
    follows("planned", &recording, &story, Why::Promotion, 0.0);
    let story = recording.play(false, everything);
    follows("planned", &recording, &story, Why::Vote, 1.0);
}

#[tokio::test(start_paused = true)]
async fn without_a_promotion_nothing_is_followed_but_what_was() {
    for (name, recording) in [
        ("minority", recording!("minority")),
        ("aborted_no_replica", recording!("aborted_no_replica")),
    ] {
        let story = recording.play(true, everything);
        assert_eq!(story.turns.len(), 1, "{name}: {story:?}");
        assert_eq!(story.turns[0].1, recording.primary);
        assert_eq!(recording.epoch, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_before_the_promotion_is_succeeded() {
    let recording = recording!("leader_dies_after_election");
    let story = recording.play(true, everything);
    if story.promoted.is_some() {
        follows(
            "leader_dies_after_election",
            &recording,
            &story,
            Why::Promotion,
            0.0,
        );
    } else {
        assert_eq!(story.turns.len(), 1, "{story:?}");
    }
}
