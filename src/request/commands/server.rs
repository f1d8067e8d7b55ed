//! The table against what servers say of their commands, with every difference named.

use std::collections::BTreeMap;

use holdfast_lab::{Find, Server, Servers};
use redis::{FromRedisValue, Value, from_redis_value};

use super::*;

/// Flagged as a write, for it may be one: our table reads its options, and has no effect for the forms that only read.
const READS_BY_OPTION: &[&str] = &[
    "BITFIELD",
    "GEORADIUS",
    "GEORADIUSBYMEMBER",
    "GETEX",
    "SORT",
];

/// Flagged `readonly`, and not without effect here: a trap for HTTP, at which the server closes the connection.
const READONLY_BY_MISTAKE: &[&str] = &["HOST:", "POST"];

/// Neither flagged as a read nor as a write, and without effect on any data: questions to the server, and a transaction's frame,
/// which is barred by hand and whose effect is that of what is in it.
const QUESTIONS: &[&str] = &[
    "COMMAND",
    "DISCARD",
    "ECHO",
    "EXEC",
    "INFO",
    "LASTSAVE",
    "MULTI",
    "PING",
    "PUBSUB",
    "ROLE",
    "TIME",
    // The subcommands of these that have no effect only ask.
    "ACL *",
    "CLIENT *",
    "CLUSTER *",
    "COMMAND *",
    "COMMANDLOG *",
    "CONFIG *",
    "FUNCTION *",
    "LATENCY *",
    "MEMORY *",
    "MODULE *",
    "OBJECT *",
    "PUBSUB *",
    "SCRIPT *",
    "SLOWLOG *",
    "XGROUP *",
    "XINFO *",
];

/// Of them, the ones whose flags must not change silently: a new subcommand without effect has to be one of these words.
const ASKS: &[&str] = &[
    "CAT",
    "CHANNELS",
    "COUNT",
    "COUNT-FAILURE-REPORTS",
    "COUNTKEYSINSLOT",
    "DOCS",
    "DOCTOR",
    "DRYRUN",
    "DUMP",
    "EXISTS",
    "GENPASS",
    "GET",
    "GETKEYS",
    "GETKEYSANDFLAGS",
    "GETKEYSINSLOT",
    "GETNAME",
    "GETREDIR",
    "GETSLOTMIGRATIONS",
    "GETUSER",
    "GRAPH",
    "HELP",
    "HISTOGRAM",
    "HISTORY",
    "ID",
    "INFO",
    "KEYSLOT",
    "LATEST",
    "LEN",
    "LINKS",
    "LIST",
    "LOG",
    "MALLOC-STATS",
    "MYID",
    "MYSHARDID",
    "NODES",
    "NUMPAT",
    "NUMSUB",
    "REPLICAS",
    "SETINFO",
    "SHARDCHANNELS",
    "SHARDNUMSUB",
    "SHARDS",
    "SHOW",
    "SLAVES",
    "SLOT-STATS",
    "SLOTS",
    "STATS",
    "TRACKINGINFO",
    "USERS",
    "WHOAMI",
];

/// Name, flags, subcommands.
struct Told {
    name: String,
    flags: Vec<String>,
    subcommands: Vec<Told>,
}

fn told(value: &Value) -> Told {
    let Value::Array(fields) = value else {
        panic!("a command is an array");
    };
    fn of<T: FromRedisValue>(value: &Value) -> T {
        from_redis_value(value.clone()).expect("as documented")
    }
    let subcommands = match fields.get(9) {
        Some(Value::Array(subcommands)) => subcommands.iter().map(told).collect(),
        _ => Vec::new(),
    };
    Told {
        name: of::<String>(&fields[0]).to_uppercase().replace('|', " "),
        flags: of(&fields[2]),
        subcommands,
    }
}

fn row(name: &str) -> Option<&'static Command> {
    match name.split_once(' ') {
        None => COMMANDS.word(name.as_bytes()),
        Some((first, second)) => SUBCOMMANDS.words(first.as_bytes(), second.as_bytes()),
    }
}

fn is_question(name: &str) -> bool {
    match name.split_once(' ') {
        None => QUESTIONS.contains(&name),
        Some((first, second)) => {
            QUESTIONS.contains(&&*format!("{first} *")) && ASKS.contains(&second)
        }
    }
}

/// What is wrong with our row for it, or its absence.
fn differences(told: &Told, found: &mut BTreeMap<String, &'static str>) {
    let name = &*told.name;
    let has = |flag: &str| told.flags.iter().any(|told| told == flag);
    let mut note = |what| {
        found.insert(name.to_owned(), what);
    };
    match row(name) {
        // Of a server's own: what is known of no row is `Once`, and so safe; but it should be known.
        None if told.subcommands.is_empty() => note("has no row"),
        None => {}
        Some(row) => {
            let is_parent = matches!(row.form, Form::Parent);
            let is_barred = !matches!(row.bar, Bar::None);
            match row.effect {
                Effect::None if has("write") && !READS_BY_OPTION.contains(&name) => {
                    note("writes, and has no effect here");
                }
                Effect::None
                    if !has("readonly") && !has("write") && !is_parent && !is_question(name) =>
                {
                    note("is not called a read, and has no effect here");
                }
                Effect::Once | Effect::Overwrite
                    if has("readonly") && !is_parent && !READONLY_BY_MISTAKE.contains(&name) =>
                {
                    note("reads, and has an effect here");
                }
                Effect::Overwrite if !has("write") && name != "SCRIPT LOAD" => {
                    note("does not write, and overwrites here");
                }
                _ => {}
            }
            if has("blocking") && !is_barred {
                found.insert(name.to_owned(), "blocks, and is not barred here");
            }
        }
    }
    for subcommand in &told.subcommands {
        differences(subcommand, found);
    }
}

#[tokio::test]
async fn the_table_says_what_every_server_at_hand_says() {
    let found = Servers::find_all();
    if found.is_empty() {
        // The scenarios say so loudly, or fail.
        return;
    }
    for binary in found {
        let server = Server::builder()
            .kind(Find::Path(binary.path))
            .start()
            .await
            .expect("a server");
        let mut connection = server.control().await.expect("a connection");
        let answer: Value = redis::cmd("COMMAND")
            .query_async(&mut connection)
            .await
            .expect("its commands");
        let Value::Array(commands) = answer else {
            panic!("an array");
        };
        assert!(commands.len() > 200, "{}", commands.len());
        let mut different = BTreeMap::new();
        for command in &commands {
            differences(&told(command), &mut different);
        }
        let version = server.version();
        assert!(different.is_empty(), "{version}: {different:#?}");
    }
}
