//! The words of Sentinels as they were recorded, and what is read from them.

use super::*;

fn bulk(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

fn flat(pairs: &[(&str, &str)]) -> Value {
    Value::Array(pairs.iter().flat_map(|(a, b)| [bulk(a), bulk(b)]).collect())
}

fn map(pairs: &[(&str, &str)]) -> Value {
    Value::Map(pairs.iter().map(|(a, b)| (bulk(a), bulk(b))).collect())
}

fn error(text: &str) -> Value {
    redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).expect("an error reply")
}

const MASTER: [(&str, &str); 6] = [
    ("name", "orders"),
    ("ip", "10.0.0.9"),
    ("flags", "master,s_down,o_down,failover_in_progress"),
    ("config-epoch", "7"),
    ("quorum", "2"),
    ("num-other-sentinels", "2"),
];

#[test]
fn an_answer_reads_the_same_in_both_protocols_and_the_address_is_that_of_get_master_addr() {
    let address = Value::Array(vec![bulk("redis-1.svc"), bulk("6379")]);
    for master in [flat(&MASTER), map(&MASTER)] {
        let Some(Answer::Says(view)) = answer(&[address.clone(), master], Depth::default()) else {
            panic!("an answer")
        };
        assert_eq!(view.primary, Some(Spot::new("redis-1.svc", 6379)));
        assert_eq!((view.epoch, view.quorum, view.others), (7, 2, 2));
        assert!(view.s_down && view.o_down);
    }
}

#[test]
fn a_census_names_the_others_and_a_look_at_the_replicas_the_one_that_is_promoted() {
    let depth = Depth {
        census: true,
        replicas: true,
    };
    let address = Value::Array(vec![bulk("10.0.0.1"), bulk("6379")]);
    let other = |ip, flags| {
        map(&[
            ("ip", ip),
            ("port", "26379"),
            ("runid", ip),
            ("flags", flags),
        ])
    };
    let replica = |ip, flags| flat(&[("ip", ip), ("port", "6379"), ("flags", flags)]);
    let values = [
        address,
        map(&MASTER),
        bulk("me"),
        Value::Array(vec![
            other("10.0.1.1", "sentinel"),
            other("10.0.1.2", "s_down,sentinel"),
            // Ids are remembered: none is this long.
            other(&"f".repeat(LONGEST_ID + 1), "sentinel"),
            Value::Nil,
        ]),
        Value::Array(vec![
            replica("10.0.0.2", "slave"),
            replica("10.0.0.3", "slave,promoted"),
        ]),
    ];
    let Some(Answer::Says(view)) = answer(&values, depth) else {
        panic!("an answer")
    };
    assert_eq!(view.id.as_deref(), Some("me"));
    let others = view.sentinels.expect("asked for");
    let downs: Vec<_> = others.iter().map(|other| other.down).collect();
    assert_eq!(downs, [false, true]);
    assert_eq!(view.promoting, Some(Spot::new("10.0.0.3", 6379)));
    let replicas = [("10.0.0.2", true), ("10.0.0.3", false)].map(|(host, well)| Listed {
        spot: Spot::new(host, 6379),
        well,
    });
    assert_eq!(view.replicas, Some(replicas.to_vec()));
}

#[test]
fn a_replica_is_well_as_long_as_its_sentinel_sees_nothing_against_it() {
    let row = |name, value| {
        let fields = [("ip", "10.0.0.2"), ("port", "6379"), (name, value)];
        let rows = replicas(&Value::Array(vec![flat(&fields)])).expect("rows");
        rows[0].well
    };
    assert!(row("flags", "slave") && row("role-reported", "slave"));
    assert!(row("master-link-status", "ok"));
    for (name, value) in [
        ("flags", "s_down,slave"),
        ("flags", "slave,o_down"),
        ("flags", "slave,disconnected"),
        ("role-reported", "master"),
        ("master-link-status", "err"),
    ] {
        assert!(!row(name, value), "{name} {value}");
    }
}

#[test]
fn what_is_no_answer_says_why() {
    let plain = |values: &[Value]| answer(values, Depth::default());
    let unknown = error("ERR No such master with that name");
    assert_eq!(plain(&[Value::Nil, unknown.clone()]), Some(Answer::Unknown));
    for refusal in [
        "NOAUTH Authentication required.",
        "NOPERM no",
        "WRONGPASS x",
    ] {
        let refusal = error(refusal);
        assert_eq!(plain(&[refusal.clone(), refusal]), Some(Answer::Refused));
    }
    let stranger = error("ERR unknown command 'SENTINEL', with args beginning with: ");
    assert_eq!(plain(&[stranger.clone(), stranger]), Some(Answer::Stranger));
    // Half an answer, a port that is none, a host beyond all names: no answer.
    assert_eq!(plain(&[Value::Nil]), None);
    for (host, port) in [
        ("h", "0"),
        ("h", "70000"),
        ("", "1"),
        (&*"x".repeat(256), "1"),
    ] {
        let address = Value::Array(vec![bulk(host), bulk(port)]);
        assert_eq!(plain(&[address, map(&MASTER)]), None, "{host} {port}");
    }
    assert_eq!(plain(&[Value::Int(1), Value::Int(2)]), None);
}

#[test]
fn events_are_read_and_those_of_others_left() {
    let spot = Spot::new("10.0.0.2", 6379);
    let slave = "slave 10.0.0.2:6379 10.0.0.2 6379 @ orders 10.0.0.1 6379";
    for (channel, payload, expected) in [
        ("+sdown", "master orders 10.0.0.1 6379", Event::Down(true)),
        ("-sdown", "master orders 10.0.0.1 6379", Event::Down(false)),
        (
            "+odown",
            "master orders 10.0.0.1 6379 #quorum 3/2",
            Event::AgreedDown {
                down: true,
                votes: 3,
            },
        ),
        (
            "+elected-leader",
            "master orders 10.0.0.1 6379",
            Event::Elected,
        ),
        ("+selected-slave", slave, Event::Named(spot.clone())),
        (
            "+failover-state-send-slaveof-noone",
            slave,
            Event::Named(spot.clone()),
        ),
        ("+promoted-slave", slave, Event::Promoted(spot.clone())),
        (
            "-failover-abort-slave-timeout",
            "master orders 10.0.0.1 6379",
            Event::Aborted,
        ),
        (
            "+switch-master",
            "orders 10.0.0.1 6379 10.0.0.2 6379",
            Event::Switched,
        ),
        ("+slave", slave, Event::Census),
        ("+reboot", slave, Event::Census),
        ("+reboot", "master orders 10.0.0.1 6379", Event::Census),
        ("-sdown", slave, Event::Census),
        (
            "+sentinel",
            "sentinel abc 10.0.1.1 26379 @ orders 10.0.0.1 6379",
            Event::Census,
        ),
        (
            "+config-update-from",
            "sentinel abc 10.0.1.1 26379 @ orders 10.0.0.1 6379",
            Event::Stir,
        ),
        (
            "+failover-state-select-slave",
            "master orders 10.0.0.1 6379",
            Event::Stir,
        ),
    ] {
        let read = told(channel, payload, "orders").expect(channel);
        assert_eq!(read.event, expected, "{channel}");
        assert_eq!(read.of, Some(Spot::new("10.0.0.1", 6379)), "{channel}");
        assert_eq!(told(channel, payload, "others"), None, "{channel}");
    }
    for (channel, payload) in [
        ("+new-epoch", "7"),
        ("+switch-master", "orders 10.0.0.1"),
        ("+selected-slave", "slave x"),
        ("", ""),
    ] {
        assert_eq!(told(channel, payload, "orders"), None, "{channel}");
    }
}
