//! The table: its order, its conditions, its refusals.

use redis::{Cmd, Pipeline, cmd, pipe};

use super::*;

fn command(line: &str) -> Cmd {
    let mut words = line.split(' ');
    let mut command = cmd(words.next().unwrap_or_default());
    for word in words {
        command.arg(word);
    }
    command
}

fn pipeline(lines: &[&str]) -> Pipeline {
    let mut pipeline = pipe();
    for line in lines {
        pipeline.add_command(command(line));
    }
    pipeline
}

#[test]
fn rows_are_upper_case_sorted_unique_and_found() {
    for (index, rows, words) in [
        (&COMMANDS, rows::ROWS, 1),
        (&SUBCOMMANDS, subcommands::ROWS, 2),
    ] {
        assert!(rows.is_sorted_by(|left, right| left.name < right.name));
        for row in rows {
            assert_eq!(row.name, row.name.to_uppercase());
            assert_eq!(row.name.split(' ').count(), words, "{}", row.name);
            let lower = row.name.to_lowercase();
            let found = match lower.split_once(' ') {
                None => index.word(lower.as_bytes()),
                Some((first, second)) => index.words(first.as_bytes(), second.as_bytes()),
            };
            assert_eq!(found.map(|found| found.name), Some(row.name));
        }
    }
}

#[test]
fn every_subcommand_has_a_parent_and_every_parent_a_subcommand() {
    let parent = |row: &&Command| matches!(row.form, Form::Parent);
    let firsts = |row: &Command| row.name.split(' ').next().unwrap_or_default();
    let mut parents: Vec<_> = rows::ROWS.iter().filter(parent).map(firsts).collect();
    let mut found: Vec<_> = subcommands::ROWS.iter().map(firsts).collect();
    found.dedup();
    parents.sort_unstable();
    assert_eq!(parents, found);
}

#[test]
fn what_bars_a_command_names_it() {
    for row in rows::ROWS.iter().chain(subcommands::ROWS) {
        match row.bar {
            Bar::None => {}
            Bar::Blocks(why)
            | Bar::BlocksWith(why)
            | Bar::Session(why)
            | Bar::Begins(why)
            | Bar::Ends(why) => {
                assert!(why.starts_with(row.name) && why.contains(';'), "{why}");
            }
        }
    }
}

#[test]
fn effects_by_name_case_and_options() {
    use Effect::{None, Once, Overwrite};
    for (line, name, effect) in [
        ("GET k", "GET", None),
        ("get k", "GET", None),
        ("gEt k", "GET", None),
        ("SET k v", "SET", Overwrite),
        ("set k v ex 10", "SET", Overwrite),
        ("SET k v PX 10", "SET", Overwrite),
        ("SET k v EXAT 10", "SET", Overwrite),
        ("SET k v PXAT 10", "SET", Overwrite),
        ("SET k nx", "SET", Overwrite),
        ("SET nx get", "SET", Overwrite),
        ("SET k v NX", "SET", Once),
        ("SET k v xx", "SET", Once),
        ("SET k v GET", "SET", Once),
        ("SET k v EX 10 NX", "SET", Once),
        ("SET k v EX", "SET", Once),
        ("SET k v KEEPTTL", "SET", Once),
        ("SET k v IFEQ w", "SET", Once),
        ("SET k v IFNE w", "SET", Once),
        ("SET k v IFDEQ w", "SET", Once),
        ("SET k v IFDNE w", "SET", Once),
        ("SET k v NEWOPTION 1", "SET", Once),
        ("SETEX k 1 v", "SETEX", Overwrite),
        ("PSETEX k 1 v", "PSETEX", Overwrite),
        ("MSET a 1 b 2", "MSET", Overwrite),
        ("MSETNX a 1", "MSETNX", Once),
        ("SETNX k v", "SETNX", Once),
        ("HSET h f v", "HSET", Once),
        ("HMSET h f v", "HMSET", Once),
        ("DEL k", "DEL", Once),
        ("EXPIRE k 1", "EXPIRE", Once),
        ("INCR k", "INCR", Once),
        ("LSET l 0 v", "LSET", Once),
        ("GETEX k", "GETEX", None),
        ("GETEX k EX 1", "GETEX", Once),
        ("GETEX k PERSIST", "GETEX", Once),
        ("SORT k BY w", "SORT", None),
        ("SORT k STORE d", "SORT", Once),
        ("GEORADIUS k 1 2 3 km", "GEORADIUS", None),
        ("GEORADIUS k 1 2 3 km STOREDIST d", "GEORADIUS", Once),
        ("GEORADIUSBYMEMBER k store 3 km", "GEORADIUSBYMEMBER", None),
        (
            "GEORADIUSBYMEMBER k m 3 km store d",
            "GEORADIUSBYMEMBER",
            Once,
        ),
        ("BITFIELD k GET u8 0", "BITFIELD", None),
        ("BITFIELD k SET u8 0 1", "BITFIELD", Once),
        ("RESTORE k 0 x", "RESTORE", Once),
        ("RESTORE k 0 x REPLACE", "RESTORE", Overwrite),
        ("SCAN 0", "SCAN", None),
        ("EVAL x 0", "EVAL", Once),
        ("EVALSHA x 0", "EVALSHA", Once),
        ("FCALL f 0", "FCALL", Once),
        ("EVAL_RO x 0", "EVAL_RO", None),
        ("FCALL_RO f 0", "FCALL_RO", None),
        ("SCRIPT LOAD x", "SCRIPT LOAD", Overwrite),
        ("script exists x", "SCRIPT EXISTS", None),
        ("SCRIPT BOGUS", "SCRIPT", Once),
        ("SCRIPT", "SCRIPT", Once),
        ("COMMAND", "COMMAND", None),
        ("object Encoding k", "OBJECT ENCODING", None),
        ("CONFIG GET x", "CONFIG GET", None),
        ("CONFIG SET x y", "CONFIG SET", Once),
        ("ACL LOG", "ACL LOG", None),
        ("ACL LOG RESET", "ACL LOG", Once),
        ("CLIENT KILL ID 1", "CLIENT KILL", Once),
        ("XREAD COUNT 1 STREAMS s 0", "XREAD", None),
        ("XREAD STREAMS block 0", "XREAD", None),
        ("XREADGROUP GROUP block c STREAMS s >", "XREADGROUP", Once),
        ("PUBLISH c m", "PUBLISH", Once),
        ("FLUSHALL", "FLUSHALL", Once),
        ("SHUTDOWN", "SHUTDOWN", Once),
        ("PING", "PING", None),
        ("TIME", "TIME", None),
        ("JSON.SET k $ 1", "OTHER", Once),
        ("G@T k", "OTHER", Once),
        ("GETX k", "OTHER", Once),
        ("get\0 k", "OTHER", Once),
    ] {
        let verdict = classify(&command(line));
        assert_eq!(
            (verdict.command.name, verdict.effect, verdict.refusal),
            (name, effect, Option::None),
            "{line}"
        );
    }
}

#[test]
fn what_may_not_ride_a_shared_connection_is_refused_by_name() {
    for line in [
        "BLPOP l 0",
        "brpop l 0",
        "BLMOVE a b LEFT LEFT 0",
        "BRPOPLPUSH a b 0",
        "BLMPOP 0 1 l LEFT",
        "BZPOPMIN z 0",
        "BZPOPMAX z 0",
        "BZMPOP 0 1 z MIN",
        "WAIT 1 0",
        "WAITAOF 1 0 0",
        "XREAD BLOCK 0 STREAMS s 0",
        "XREAD COUNT 1 block 0 STREAMS s 0",
        "XREADGROUP GROUP g c BLOCK 0 STREAMS s >",
        "XREADGROUP BLOCK 0 GROUP g c STREAMS s >",
        "XREADGROUP COUNT 1 BLOCK 0 GROUP g c STREAMS s >",
        "XREADGROUP COUNT 1 GROUP g streams BLOCK 0 STREAMS s >",
        "XREADGROUP GROUP g c NOACK block 0 STREAMS s >",
        "XREADGROUP GROUP g c CLAIM 10 BLOCK 0 STREAMS s >",
        "XREAD LATER 1 STREAMS s 0",
        "SUBSCRIBE c",
        "PSUBSCRIBE c",
        "SSUBSCRIBE c",
        "UNSUBSCRIBE",
        "PUNSUBSCRIBE",
        "SUNSUBSCRIBE",
        "MONITOR",
        "SYNC",
        "PSYNC ? -1",
        "REPLCONF ACK 0",
        "SELECT 1",
        "AUTH p",
        "HELLO 3",
        "RESET",
        "QUIT",
        "CLIENT REPLY OFF",
        "CLIENT SETNAME n",
        "client tracking on",
        "CLIENT CACHING YES",
        "CLIENT NO-EVICT ON",
        "CLIENT NO-TOUCH ON",
        "SCRIPT DEBUG YES",
        "ASKING",
        "READONLY",
        "READWRITE",
        "MULTI",
        "EXEC",
        "DISCARD",
        "WATCH k",
        "UNWATCH",
        "POST /",
    ] {
        let verdict = classify(&command(line));
        let why = verdict.refusal.unwrap_or_else(|| panic!("{line} passes"));
        assert!(why.starts_with(verdict.command.name), "{line}: {why}");
        let behind_another = classify_pipeline(&pipeline(&["GET k", line]));
        assert!(behind_another.refusal.is_some(), "{line} in a pipeline");
    }
    for nameless in [Cmd::new(), Cmd::new().cursor_arg(0).clone()] {
        assert_eq!(classify(&nameless).refusal, Some(NAMELESS));
        let mut pipeline = pipe();
        pipeline.add_command(nameless);
        assert_eq!(classify_pipeline(&pipeline).refusal, Some(NAMELESS));
    }
}

#[test]
fn transactions_in_a_pipeline_must_be_whole() {
    for (lines, passes) in [
        (&["MULTI", "SET k v", "EXEC"][..], true),
        (
            &["GET k", "MULTI", "DISCARD", "MULTI", "BLPOP l 0", "EXEC"],
            true,
        ),
        (&["MULTI", "SET k v"], false),
        (&["SET k v", "EXEC"], false),
        (&["MULTI", "MULTI", "EXEC"], false),
        (&["MULTI", "EXEC", "DISCARD"], false),
        (&["MULTI", "EXEC", "BLPOP l 0"], false),
        (&["MULTI", "WATCH k", "EXEC"], false),
        (&["MULTI", "SELECT 1", "EXEC"], false),
        (&[], true),
    ] {
        let verdict = classify_pipeline(&pipeline(lines));
        assert_eq!(verdict.refusal.is_none(), passes, "{lines:?}");
        assert_eq!(verdict.command.name, "PIPELINE");
    }
    for (line, passes) in [
        ("GET k", true),
        ("BLPOP l 0", true),
        ("XREAD BLOCK 0 STREAMS s 0", true),
        ("MULTI", false),
        ("EXEC", false),
        ("DISCARD", false),
        ("SUBSCRIBE c", false),
    ] {
        let verdict = classify_pipeline(pipeline(&[line]).atomic());
        assert_eq!(verdict.refusal.is_none(), passes, "{line}");
        assert_eq!(verdict.command.name, "MULTI");
    }
}

#[test]
fn a_pipeline_has_the_greatest_effect_of_its_commands() {
    use Effect::{None, Once, Overwrite};
    for (lines, effect) in [
        (&[][..], None),
        (&["GET a", "PING"], None),
        (&["SET a 1", "SET b 2"], Overwrite),
        (&["SET a 1", "GET a"], Overwrite),
        (&["MULTI", "SET a 1", "EXEC"], Overwrite),
        // A second run would read what the first one wrote.
        (&["GET a", "SET a 1"], Once),
        (&["SET a 1", "GET a", "SET a 2"], Once),
        (&["GET a", "INCR a"], Once),
        (&["SET a 1", "JSON.SET a"], Once),
    ] {
        assert_eq!(
            classify_pipeline(&pipeline(lines)).effect,
            effect,
            "{lines:?}"
        );
    }
}

#[test]
fn any_bytes_are_some_verdict() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20_000 {
        let mut command = Cmd::new();
        for _ in 0..random.usize(0..4) {
            let word: Vec<u8> = (0..random.usize(0..40)).map(|_| random.u8(..)).collect();
            command.arg(word);
        }
        let verdict = classify(&command);
        assert!(verdict.command.name == "OTHER" && verdict.effect == Effect::Once);
    }
}

/// A name is found within a few slots, however the table grows.
#[test]
fn rows_stand_close_to_home() {
    for index in [&COMMANDS, &SUBCOMMANDS] {
        let (mut run, mut longest) = (0, 0);
        for slot in index.slots() {
            run = if slot { run + 1 } else { 0 };
            longest = longest.max(run);
        }
        assert!(longest <= 12, "a run of {longest} slots");
    }
}

/// `./ci.sh full` runs it, or `cargo test --profile bench --lib -- --ignored --show-output what_a_lookup_costs`.
#[test]
#[ignore = "a measurement"]
fn what_a_lookup_costs() {
    for line in [
        "GET key",
        "get key",
        "SET key value",
        "SET key value EX 10",
        "ZREVRANGEBYSCORE z 1 2",
        "CLIENT KILL",
        "NOPE x",
    ] {
        let command = command(line);
        let mut best = u128::MAX;
        for _ in 0..200 {
            let begin = tokio::time::Instant::now();
            for _ in 0..1000 {
                std::hint::black_box(classify(std::hint::black_box(&command)).effect);
            }
            best = best.min(begin.elapsed().as_nanos());
        }
        println!("FIGURE command table, {line}: {} ns", best / 1000);
    }
}
