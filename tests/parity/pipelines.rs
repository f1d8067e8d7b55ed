//! Pipelines: whole, ignoring, broken in the middle, in slices, spelt out by hand.

use std::fmt::Debug;

use redis_holdfast::redis::{self, FromRedisValue, Pipeline, RedisResult, Value, pipe};

use crate::World;
use crate::log::{Con, Log};

pub async fn query<T: FromRedisValue + Debug>(
    con: &mut impl Con,
    log: &mut Log,
    what: &str,
    pipeline: &Pipeline,
) {
    log.typed(what, &pipeline.query_async::<T>(con).await);
}

pub async fn plain<C: Con>(mut con: C, log: &mut Log, _: &World) {
    let mut three = pipe();
    three.incr("n", 1).get("absent").cmd("ECHO").arg("x");
    query::<(i64, Option<String>, String)>(&mut con, log, "plain", &three).await;
    let mut ignoring = pipe();
    ignoring.set("k", 1).ignore().incr("n", 1).del("k").ignore();
    query::<(i64,)>(&mut con, log, "ignoring", &ignoring).await;
    let mut none = pipe();
    none.set("k", 1).ignore().incr("n", 1).ignore();
    query::<()>(&mut con, log, "all ignored", &none).await;
    query::<Vec<Value>>(&mut con, log, "empty", &pipe()).await;
    query::<(String,)>(&mut con, log, "one", pipe().cmd("ECHO").arg("one")).await;
    query::<i64>(&mut con, log, "one as it is", pipe().incr("n", 1)).await;
    query::<(i64, i64)>(&mut con, log, "too few", pipe().incr("n", 1)).await;
    log.typed("exec", &three.exec_async(&mut con).await);
    let mut thousand = pipe();
    for n in 0..1000 {
        thousand.cmd("ECHO").arg(n);
    }
    let numbers: RedisResult<Vec<usize>> = thousand.query_async(&mut con).await;
    assert_eq!(numbers.unwrap(), (0..1000).collect::<Vec<_>>());
}

pub async fn broken<C: Con>(mut con: C, log: &mut Log, _: &World) {
    let mut broken = pipe();
    broken.set("text", "x").cmd("INCR").arg("text").get("text");
    broken.cmd("NOSUCH").cmd("ECHO").arg("after");
    query::<Vec<Value>>(&mut con, log, "an error in the middle", &broken).await;
    query::<(String, Value)>(&mut con, log, "too few wanted", &broken).await;
    log.typed("exec", &broken.exec_async(&mut con).await);
    broken.ignore_errors();
    query::<Vec<RedisResult<String>>>(&mut con, log, "errors kept", &broken).await;
    let mut ignored = pipe();
    ignored.cmd("INCR").arg("text").ignore().get("text");
    query::<(String,)>(&mut con, log, "an ignored error", &ignored).await;
    query::<(String,)>(&mut con, log, "in step", pipe().cmd("ECHO").arg("after")).await;
}

/// As libraries ask: part of the replies.
pub async fn slices<C: Con>(mut con: C, log: &mut Log, _: &World) {
    let mut five = pipe();
    for n in 0..5 {
        five.cmd("ECHO").arg(n);
    }
    for (offset, count) in [(0, 5), (2, 3), (4, 1)] {
        let values = con.req_packed_commands(&five, offset, count).await;
        log.typed(&format!("slice {offset}+{count}"), &values);
    }
    let mut atomic = pipe();
    atomic.atomic().cmd("ECHO").arg(1).cmd("PING");
    let values = con.req_packed_commands(&atomic, 3, 1).await;
    log.typed("slice of a transaction", &values);
    let mut wrong = pipe();
    wrong.cmd("ECHO").arg(1).cmd("NOSUCH");
    let values = con.req_packed_commands(&wrong, 0, 2).await;
    log.typed("slice with an error", &values);
}

/// Transactions spelt out, as some libraries do.
pub async fn by_hand<C: Con>(mut con: C, log: &mut Log, _: &World) {
    let mut by_hand = pipe();
    by_hand.cmd("MULTI").cmd("SET").arg("k").arg(1);
    by_hand.cmd("INCR").arg("k").cmd("EXEC");
    by_hand.cmd("MULTI").cmd("GET").arg("k").cmd("DISCARD");
    query::<Vec<Value>>(&mut con, log, "MULTI", &by_hand).await;
    let mut aborted = pipe();
    aborted.cmd("MULTI").cmd("SET").arg("k").cmd("EXEC");
    aborted.cmd("PING");
    query::<Vec<Value>>(&mut con, log, "EXECABORT", &aborted).await;
    aborted.ignore_errors();
    query::<Vec<RedisResult<Value>>>(&mut con, log, "EXECABORT kept", &aborted).await;
    let set: RedisResult<String> = redis::cmd("PING").query_async(&mut con).await;
    log.typed("in step", &set);
}
