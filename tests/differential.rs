//! What is typed against a `MultiplexedConnection` gives the same against our `Client`: values, error kinds, codes and words, over
//! both protocols. Everything here is written once, for any connection.
#![allow(clippy::unwrap_used, reason = "a test may end here")]

mod common;

use std::fmt::Debug;

use common::*;
use holdfast_lab::{Server, server_or_skip};
use redis_holdfast::Client;
use redis_holdfast::redis::aio::ConnectionLike;
use redis_holdfast::redis::{
    self, AsyncCommands, AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline,
    RedisError, Script, Value, pipe,
};

// ── what is typed ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// One command a line, words parted by blanks. Replies that differ from run to run (times, random members) have no place here.
const COMMANDS: &str = "
    PING
    PING hello
    ECHO words
    SET s value
    GET s
    SET s other NX
    SET s third XX GET
    SET absent v XX
    GET absent
    GETSET s fourth
    GETDEL s
    SETNX n 1
    INCR n
    INCRBY n 41
    DECR n
    INCRBYFLOAT n 0.5
    GET n
    APPEND text abc
    APPEND text def
    STRLEN text
    GETRANGE text 1 3
    SETRANGE text 2 XY
    MSET a 1 b 2 c 3
    MGET a absent c
    MSETNX a 9 z 9
    EXISTS a b absent
    TYPE a
    TYPE absent
    EXPIRE a 1000
    PERSIST a
    TTL a
    TTL absent
    PTTL b
    RENAME b b2
    COPY b2 b3
    DEL b2 b3 absent
    UNLINK c
    SETBIT bits 7 1
    GETBIT bits 7
    BITCOUNT bits
    BITFIELD bits SET u8 0 200 GET u4 0 OVERFLOW FAIL INCRBY u2 0 9
    PFADD hll a b c
    PFCOUNT hll
    HSET h f1 v1 f2 v2 f3 3
    HGET h f1
    HGET h absent
    HMGET h f1 absent f3
    HGETALL h
    HGETALL absent
    HKEYS h
    HVALS h
    HLEN h
    HEXISTS h f2
    HINCRBY h f3 4
    HINCRBYFLOAT h f3 0.25
    HSTRLEN h f1
    HDEL h f1 absent
    HRANDFIELD single
    HSCAN h 0
    RPUSH l a b c b
    LPUSH l z
    LRANGE l 0 -1
    LINDEX l 1
    LINDEX l 99
    LINSERT l BEFORE b x
    LPOS l b
    LPOS l b COUNT 0
    LPOS l absent
    LREM l 1 b
    LSET l 0 first
    LTRIM l 0 3
    LLEN l
    LPOP l
    RPOP l 2
    LPOP absent
    LPOP absent 2
    LMOVE l l2 LEFT RIGHT
    RPOPLPUSH l2 l3
    LMPOP 2 absent l3 LEFT
    LMPOP 1 absent LEFT
    SADD set 1 2 3
    SADD set2 3 4
    SMEMBERS set
    SMEMBERS absent
    SISMEMBER set 2
    SMISMEMBER set 2 9
    SINTER set set2
    SUNION set set2
    SDIFF set set2
    SINTERCARD 2 set set2
    SMOVE set set2 1
    SREM set 2
    SCARD set
    ZADD z 1 one 2.5 two 3 three
    ZADD z GT CH 2 one
    ZADD z INCR 5 one
    ZADD z NX INCR 5 one
    ZSCORE z two
    ZSCORE z absent
    ZMSCORE z one absent
    ZRANGE z 0 -1
    ZRANGE z 0 -1 WITHSCORES
    ZRANGE z (1 +inf BYSCORE LIMIT 0 1
    ZREVRANGE z 0 0 WITHSCORES
    ZRANK z two
    ZRANK z two WITHSCORE
    ZRANK z absent
    ZINCRBY z 1e2 two
    ZCOUNT z -inf +inf
    ZPOPMIN z
    ZPOPMAX z 2
    ZPOPMIN absent
    ZADD z inf most -inf least
    ZRANGE z 0 -1 WITHSCORES
    GEOADD geo 13.361389 38.115556 Palermo 15.087269 37.502669 Catania
    GEODIST geo Palermo Catania km
    GEODIST geo Palermo absent
    GEOPOS geo Palermo absent
    GEOSEARCH geo FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHCOORD WITHDIST
    XADD x 1-1 f v g w
    XADD x 2-1 f v2
    XADD x 1-0 late v
    XLEN x
    XRANGE x - +
    XREVRANGE x + - COUNT 1
    XREAD COUNT 5 STREAMS x absent 0 0
    XREAD STREAMS x $
    XGROUP CREATE x group 0
    XGROUP CREATE x group 0
    XREADGROUP GROUP group me COUNT 1 STREAMS x >
    XPENDING x group
    XACK x group 1-1
    XPENDING x group - + 9
    XINFO GROUPS x
    XTRIM x MAXLEN 1
    XDEL x 2-1
    OBJECT ENCODING text
    OBJECT HELP
    DBSIZE
    KEYS te*
    SCAN 0 MATCH tex* COUNT 1000
    SORT l BY nosort GET # GET absent:*
    CONFIG GET maxmemory-policy
    COMMAND INFO get absent
    COMMAND COUNT
    MEMORY USAGE absent
    EVAL return(1) 0
    EVAL return{1,{2,{'deep',false}},'x',3.9} 0
    EVAL return{ok='fine'} 0
    EVAL return{err='MINE_own_words'} 0
    EVAL return(redis.error_reply('NOAUTH_no')) 0
    EVAL return(redis.call('INCR','text')) 0
    EVAL return(redis.setresp(3)) 0
    EVAL redis.setresp(3);return(redis.call('HGETALL','h')) 0
    EVAL redis.setresp(3);return{double=3.5} 0
    EVAL redis.setresp(3);return{map={a=1}} 0
    EVAL redis.setresp(3);return{set={a=true}} 0
    EVAL redis.setresp(3);return(true) 0
    EVAL redis.setresp(3);return{big_number='123456789012345678901234567890'} 0
    EVAL redis.setresp(3);return{verbatim_string={format='txt',string='words'}} 0
    EVALSHA ffffffffffffffffffffffffffffffffffffffff 0
    SCRIPT EXISTS ffffffffffffffffffffffffffffffffffffffff
    INCR text
    LPUSH text 1
    HGET l2
    NOSUCHCOMMAND a b
    GET
    SET s
    SET s v EX 0
    EXPIRE s notanumber
    ZADD z notanumber m
    CONFIG SET maxmemory nonsense
    OBJECT NOSUCH s
    DEBUG JMAP
    XADD text * f v
    BITFIELD text GET u99 0
    FLUSHDB
";

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Value(Value),
    Error {
        kind: ErrorKind,
        code: Option<String>,
        detail: String,
        words: String,
    },
    /// A value of the user's own type.
    Typed(String),
}

type Log = Vec<(String, Said)>;

fn said(result: Result<Value, RedisError>) -> Said {
    match result {
        Ok(value) => Said::Value(value),
        Err(error) => erred(&error),
    }
}

fn erred(error: &RedisError) -> Said {
    // redis lists the commands for which a transaction was aborted, and lets nobody else make that error: only its words differ.
    let is_abort = error.code() == Some("EXECABORT");
    let own = |words: String| if is_abort { String::new() } else { words };
    Said::Error {
        kind: error.kind(),
        code: error.code().map(str::to_owned),
        detail: own(error.detail().unwrap_or_default().to_owned()),
        words: own(error.to_string()),
    }
}

fn typed<T: Debug>(result: Result<T, RedisError>) -> Said {
    match result {
        Ok(value) => Said::Typed(format!("{value:?}")),
        Err(error) => erred(&error),
    }
}

fn command(line: &str) -> Cmd {
    let mut words = line.split_whitespace();
    let mut command = redis::cmd(words.next().expect("a name"));
    command.arg(words.collect::<Vec<_>>());
    command
}

/// As redis' trait hands replies to libraries, and as a user gets them.
#[derive(Clone, Copy)]
enum Border {
    Packed,
    Query,
}

async fn type_commands<C: ConnectionLike + Clone + Send>(mut con: C, border: Border) -> Log {
    let mut log = Log::new();
    for line in COMMANDS
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let command = command(line);
        let result = match border {
            Border::Packed => con.req_packed_command(&command).await,
            Border::Query => command.query_async::<Value>(&mut con).await,
        };
        log.push((line.to_owned(), said(result)));
    }
    log
}

/// What takes more than a line.
async fn type_the_rest<C: ConnectionLike + Clone + Send + Sync>(mut con: C) -> Log {
    let mut log = Log::new();
    values(&mut con, &mut log).await;
    pipelines(&mut con, &mut log).await;
    scripts(&mut con, &mut log).await;
    iterators(&mut con, &mut log).await;
    log.push(("get_db".into(), Said::Typed(con.get_db().to_string())));
    log
}

async fn values<C: ConnectionLike + Clone + Send + Sync>(con: &mut C, log: &mut Log) {
    let binary: Vec<u8> = (0..=255).chain(*b"\r\n$-1\r\n*0\r\n").collect();
    let large: Vec<u8> = (0..4 << 20).map(|n: u32| (n % 251) as u8).collect();
    for (what, key, value) in [
        ("empty value", &b"empty"[..], &b""[..]),
        ("empty key", b"", b"of an empty key"),
        ("binary", &binary, &binary),
        ("4 MiB", b"large", &large),
    ] {
        log.push((
            format!("set {what}"),
            typed(con.set::<_, _, String>(key, value).await),
        ));
        let found = con.get::<_, Vec<u8>>(key).await;
        assert_eq!(found.as_deref().ok(), Some(value), "{what}");
        log.push((
            format!("strlen {what}"),
            typed(con.strlen::<_, usize>(key).await),
        ));
    }
    let echoed: Result<Vec<u8>, _> = redis::cmd("ECHO").arg(&large).query_async(con).await;
    assert!(echoed.is_ok_and(|echoed| echoed == large));

    // Nobody waits for the reply, and the replies stay in step.
    let mut silent = redis::cmd("SET");
    silent.arg("silent").arg(1).set_no_response(true);
    let sent = silent.query_async::<Value>(con).await;
    log.push(("no response".into(), said(sent)));
    log.push((
        "after no response".into(),
        typed(con.get::<_, i64>("silent").await),
    ));
    let mut silent = redis::cmd("INCR");
    silent.arg("empty").set_no_response(true);
    let sent = silent.exec_async(con).await;
    log.push(("no response, an error".into(), typed(sent)));
    log.push((
        "after it".into(),
        typed(con.incr::<_, _, i64>("silent", 1).await),
    ));

    // Replies that do not convert.
    log.push((
        "text as a number".into(),
        typed(con.get::<_, i64>("").await),
    ));
    log.push((
        "nil as a number".into(),
        typed(con.get::<_, i64>("absent").await),
    ));
    log.push((
        "nil as an option".into(),
        typed(con.get::<_, Option<i64>>("absent").await),
    ));
    let () = con.hset_multiple("h", &[("a", 1), ("b", 2)]).await.unwrap();
    log.push((
        "hash as pairs".into(),
        typed(con.hgetall::<_, Vec<(String, i64)>>("h").await),
    ));
    log.push((
        "hash as a list".into(),
        typed(con.hgetall::<_, Vec<String>>("h").await),
    ));
    let () = con.zadd("z", "m", 1.5).await.unwrap();
    log.push((
        "scores as a list".into(),
        typed(con.zrange_withscores::<_, Vec<String>>("z", 0, -1).await),
    ));
    log.push((
        "scores as pairs".into(),
        typed(
            con.zrange_withscores::<_, Vec<(String, f64)>>("z", 0, -1)
                .await,
        ),
    ));
}

async fn pipelines<C: ConnectionLike + Clone + Send>(con: &mut C, log: &mut Log) {
    let mut add = |what: &str, said: Said| log.push((format!("pipeline: {what}"), said));
    add(
        "plain",
        query::<(i64, Option<String>, String)>(
            con,
            pipe().incr("pn", 1).get("absent").cmd("ECHO").arg("x"),
        )
        .await,
    );
    add(
        "atomic",
        query::<(i64, i64)>(con, pipe().atomic().incr("pn", 1).incr("pn", 1)).await,
    );
    add(
        "ignoring",
        query::<(i64,)>(
            con,
            pipe()
                .set("pk", 1)
                .ignore()
                .incr("pn", 1)
                .del("pk")
                .ignore(),
        )
        .await,
    );
    add(
        "atomic, ignoring",
        query::<(i64,)>(con, pipe().atomic().set("pk", 1).ignore().incr("pn", 1)).await,
    );
    add(
        "all ignored",
        query::<()>(con, pipe().set("pk", 1).ignore().incr("pn", 1).ignore()).await,
    );
    add("empty", query::<Vec<Value>>(con, &mut pipe()).await);
    add(
        "empty, atomic",
        query::<Vec<Value>>(con, pipe().atomic()).await,
    );
    add(
        "one",
        query::<(String,)>(con, pipe().cmd("ECHO").arg("one")).await,
    );

    // An error in the middle: plain, ignored, kept.
    let broken = |pipeline: &mut Pipeline| {
        pipeline
            .set("text", "x")
            .cmd("INCR")
            .arg("text")
            .get("text")
            .cmd("NOSUCH")
            .cmd("ECHO")
            .arg("after");
        pipeline.clone()
    };
    add(
        "an error in the middle",
        query::<Vec<Value>>(con, &mut broken(&mut pipe())).await,
    );
    add(
        "an error in the middle, atomic",
        query::<Vec<Value>>(con, &mut broken(pipe().atomic())).await,
    );
    let mut late = pipe();
    late.atomic()
        .set("text", "x")
        .cmd("INCR")
        .arg("text")
        .get("text");
    add(
        "an error inside EXEC",
        query::<Vec<Value>>(con, &mut late).await,
    );
    add(
        "an ignored error inside EXEC",
        query::<(String,)>(
            con,
            pipe().atomic().cmd("INCR").arg("text").ignore().get("text"),
        )
        .await,
    );
    add(
        "errors kept",
        query::<Vec<redis::RedisResult<String>>>(con, broken(&mut pipe()).ignore_errors()).await,
    );
    add(
        "after errors",
        query::<(String,)>(con, pipe().cmd("ECHO").arg("in step")).await,
    );

    // Spelt out by hand, as some libraries do.
    let mut by_hand = pipe();
    by_hand
        .cmd("MULTI")
        .cmd("SET")
        .arg("k")
        .arg(1)
        .cmd("INCR")
        .arg("k")
        .cmd("EXEC")
        .cmd("MULTI")
        .cmd("GET")
        .arg("k")
        .cmd("DISCARD");
    add(
        "MULTI by hand",
        query::<Vec<Value>>(con, &mut by_hand).await,
    );
    let mut aborted = pipe();
    aborted
        .cmd("MULTI")
        .cmd("SET")
        .arg("k")
        .cmd("EXEC")
        .cmd("PING");
    add(
        "EXECABORT by hand",
        query::<Vec<Value>>(con, &mut aborted).await,
    );

    // As libraries ask: a slice of the replies.
    let mut five = pipe();
    for n in 0..5 {
        five.cmd("ECHO").arg(n);
    }
    for (offset, count) in [(0, 5), (2, 3), (4, 1)] {
        let values = con.req_packed_commands(&five, offset, count).await;
        add(&format!("slice {offset}+{count}"), typed(values));
    }
    let mut atomic = pipe();
    atomic.atomic().cmd("ECHO").arg(1).cmd("INCR").arg("text");
    add(
        "slice of a transaction",
        typed(con.req_packed_commands(&atomic, 3, 1).await),
    );
    let mut aborts = pipe();
    aborts.atomic().cmd("ECHO").cmd("PING");
    add(
        "slice of an aborted transaction",
        typed(con.req_packed_commands(&aborts, 3, 1).await),
    );
    let mut thousand = pipe();
    for n in 0..1000 {
        thousand.cmd("ECHO").arg(n);
    }
    let numbers = query::<Vec<usize>>(con, &mut thousand).await;
    assert_eq!(
        numbers,
        Said::Typed(format!("{:?}", (0..1000).collect::<Vec<_>>()))
    );
}

async fn query<T: FromRedisValue + Debug>(
    con: &mut (impl ConnectionLike + Send),
    pipeline: &mut Pipeline,
) -> Said {
    typed(pipeline.query_async::<T>(con).await)
}

async fn scripts<C: ConnectionLike + Clone + Send>(con: &mut C, log: &mut Log) {
    let mut add = |what: &str, said: Said| log.push((format!("script: {what}"), said));
    let script = Script::new("return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}");
    // NOSCRIPT, then loaded, then run; and the same after the server has forgotten it.
    for round in ["first", "again", "flushed"] {
        if round == "flushed" {
            let () = redis::cmd("SCRIPT")
                .arg("FLUSH")
                .query_async(con)
                .await
                .unwrap();
        }
        let ran = script
            .key("counter")
            .arg("argument")
            .invoke_async::<(String, String, i64)>(con)
            .await;
        add(round, typed(ran));
    }
    add("load", typed(script.load_async(con).await));
    let failing = Script::new("return redis.call('INCR', KEYS[1], 'too', 'many')");
    add(
        "an error inside",
        typed(failing.key("counter").invoke_async::<i64>(con).await),
    );
    let own = Script::new("return redis.error_reply('MINE own words')");
    add(
        "an error of its own",
        typed(own.invoke_async::<_, ()>(con).await),
    );
    let syntax = Script::new("this is no lua");
    add(
        "no script at all",
        typed(syntax.invoke_async::<_, ()>(con).await),
    );
}

async fn iterators<C: ConnectionLike + Clone + Send + Sync>(con: &mut C, log: &mut Log) {
    let mut fill = pipe();
    for n in 0..500 {
        fill.set(format!("scan:{n}"), n).ignore();
        fill.hset(
            "scan-hash",
            format!("field-that-is-too-long-for-a-listpack:{n:040}"),
            n,
        )
        .ignore();
        fill.zadd("scan-zset", n, n).ignore();
        fill.sadd("scan-set", format!("m{n}")).ignore();
    }
    let () = fill.query_async(con).await.unwrap();
    let mut found: Vec<String> = Vec::new();
    let mut keys = con.scan_match::<_, String>("scan:*").await.unwrap();
    while let Some(key) = keys.next_item().await {
        found.push(key.unwrap());
    }
    drop(keys);
    assert!(found.len() >= 500, "all of them, some perhaps twice");
    log.push(("scan".into(), Said::Typed(format!("{found:?}"))));
    let mut fields = con.hscan::<_, (String, i64)>("scan-hash").await.unwrap();
    let mut sum = 0;
    while let Some(field) = fields.next_item().await {
        sum += field.unwrap().1;
    }
    drop(fields);
    log.push(("hscan".into(), Said::Typed(sum.to_string())));
    let mut members = con.sscan::<_, String>("scan-set").await.unwrap();
    let mut count = 0;
    while let Some(member) = members.next_item().await {
        count += member.unwrap().len();
    }
    drop(members);
    log.push(("sscan".into(), Said::Typed(count.to_string())));
    let wrong = con.hscan::<_, (String, i64)>("scan-set").await;
    log.push(("hscan of a set".into(), typed(wrong.map(|_| ()))));
}

// ── and compared ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

async fn clean(server: &Server) {
    for words in [&["FLUSHALL"][..], &["SCRIPT", "FLUSH"]] {
        assert_eq!(server.tell(words).await.unwrap(), "+OK");
    }
}

fn compare(bare: &Log, ours: &Log) -> usize {
    let mut differences = Vec::new();
    assert_eq!(bare.len(), ours.len());
    for ((what, bare), (_, ours)) in bare.iter().zip(ours) {
        if bare != ours {
            differences.push(format!("{what}\n  bare {bare:?}\n  ours {ours:?}"));
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.join("\n")
    );
    bare.len()
}

async fn the_same_over(protocol: &str) {
    let Some(server) = server_or_skip().await else {
        return;
    };
    let url = format!("{}?protocol={protocol}", server.url());
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(SECOND * 5));
    let bare = redis::Client::open(url.as_str()).unwrap();
    let bare = bare
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .unwrap();
    let ours = Client::builder(&url)
        .unwrap()
        .call_timeout(SECOND * 5)
        .build()
        .unwrap();
    ours.wait_ready(SECOND * 5).await.unwrap();

    let mut compared = 0;
    for border in [Border::Packed, Border::Query] {
        clean(&server).await;
        let theirs = type_commands(bare.clone(), border).await;
        clean(&server).await;
        compared += compare(&theirs, &type_commands(ours.clone(), border).await);
    }
    clean(&server).await;
    let theirs = type_the_rest(bare).await;
    clean(&server).await;
    compared += compare(&theirs, &type_the_rest(ours).await);
    println!(
        "FIGURE differential {protocol}: {compared} answers, all the same as a MultiplexedConnection's ({} {})",
        server.kind(),
        server.version()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_answers_as_a_multiplexed_connection_does_over_resp2() {
    the_same_over("resp2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_answers_as_a_multiplexed_connection_does_over_resp3() {
    the_same_over("resp3").await;
}
