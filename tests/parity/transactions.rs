//! Atomic pipelines: done, failed inside, and refused as a whole.

use redis_holdfast::redis::{RedisResult, Value, pipe};

use crate::World;
use crate::log::{Con, Log};
use crate::pipelines::query;

pub async fn whole<C: Con>(mut con: C, log: &mut Log, _: &World) {
    let mut two = pipe();
    two.atomic().incr("n", 1).incr("n", 1);
    query::<(i64, i64)>(&mut con, log, "atomic", &two).await;
    log.typed("exec", &two.exec_async(&mut con).await);
    let mut ignoring = pipe();
    ignoring.atomic().set("k", 1).ignore().incr("n", 1);
    query::<(i64,)>(&mut con, log, "ignoring", &ignoring).await;
    query::<Vec<Value>>(&mut con, log, "empty", pipe().atomic()).await;
    let mut late = pipe();
    late.atomic().set("text", "x").cmd("INCR").arg("text");
    late.get("text");
    query::<Vec<Value>>(&mut con, log, "an error inside EXEC", &late).await;
    query::<Vec<RedisResult<String>>>(&mut con, log, "kept", late.ignore_errors()).await;
    let mut ignored = pipe();
    ignored
        .atomic()
        .cmd("INCR")
        .arg("text")
        .ignore()
        .get("text");
    query::<(String,)>(&mut con, log, "an ignored error", &ignored).await;
}

/// `EXECABORT`, with the list of what was refused.
pub async fn aborted<C: Con>(mut con: C, log: &mut Log, _: &World) {
    let mut one = pipe();
    one.atomic().set("k", 1).cmd("NOSUCH").arg("a").get("k");
    query::<Vec<Value>>(&mut con, log, "one refused", &one).await;
    let error = one.exec_async(&mut con).await.unwrap_err();
    log.typed("its list", &Ok(error.into_server_errors()));
    let mut two = pipe();
    two.atomic().cmd("GET").cmd("PING").cmd("SET").arg("k");
    query::<Vec<Value>>(&mut con, log, "two refused", &two).await;
    query::<Vec<RedisResult<Value>>>(&mut con, log, "errors kept", two.ignore_errors()).await;
    let values = con.req_packed_commands(&two, 4, 1).await;
    log.typed("as a slice", &values);
    query::<(String,)>(&mut con, log, "in step", pipe().cmd("ECHO").arg("after")).await;
    query::<(Option<i64>,)>(&mut con, log, "nothing ran", pipe().get("k")).await;
}
