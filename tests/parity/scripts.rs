//! Scripts: loaded when the server does not have them, failing, and answering with every shape there is.

use redis_holdfast::redis::{self, AsyncCommands, RedisResult, Script, Value};

use crate::World;
use crate::log::{Con, Log};

pub async fn loaded<C: Con>(mut con: C, log: &mut Log, _: &World) {
    let script = Script::new("return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}");
    // NOSCRIPT, then loaded, then run; and the same after the server has forgotten it.
    for round in ["first", "again", "flushed"] {
        if round == "flushed" {
            let flush = redis::cmd("SCRIPT").arg("FLUSH").take();
            let () = flush.query_async(&mut con).await.unwrap();
        }
        let mut invocation = script.key("counter");
        let ran: RedisResult<(String, String, i64)> =
            invocation.arg("argument").invoke_async(&mut con).await;
        log.typed(round, &ran);
    }
    log.typed("load", &script.load_async(&mut con).await);
    say!(log, con.load_script(&script) -> String);
    let mut invocation = script.key("counter");
    invocation.arg("argument");
    say!(log, con.invoke_script(&invocation) -> (String, String, i64));
    let sha = redis::cmd("EVALSHA").arg("f".repeat(40)).arg(0).take();
    log.value("NOSCRIPT", sha.query_async(&mut con).await);
}

pub async fn failing<C: Con>(mut con: C, log: &mut Log, _: &World) {
    let failing = Script::new("return redis.call('INCR', KEYS[1], 'too', 'many')");
    let ran: RedisResult<i64> = failing.key("counter").invoke_async(&mut con).await;
    log.typed("an error inside", &ran);
    let own = Script::new("return redis.error_reply('MINE own words')");
    let ran: RedisResult<()> = own.invoke_async(&mut con).await;
    log.typed("an error of its own", &ran);
    let syntax = Script::new("this is no lua");
    let ran: RedisResult<()> = syntax.invoke_async(&mut con).await;
    log.typed("no script at all", &ran);
}

/// Nested and null replies, of both protocols.
pub async fn nested<C: Con>(mut con: C, log: &mut Log, _: &World) {
    for script in [
        "return {1, {2, {'deep', {{}, {false}}}}, false, 3.9, true}",
        "return {}",
        "return false",
        "return {{{{{{{{{{'ten'}}}}}}}}}}",
        "return {redis.error_reply('MINE inside'), 1}",
        "return {redis.status_reply('FINE'), redis.call('PING')}",
        "redis.setresp(3); return {map={a=1, }, }",
        "redis.setresp(3); return {double=3.5}",
        "redis.setresp(3); return {set={a=true}}",
        "redis.setresp(3); return true",
        "redis.setresp(3); return {big_number='123456789012345678901234567890'}",
        "redis.setresp(3); return {verbatim_string={format='txt', string='words'}}",
        "redis.call('HSET', KEYS[1], 'f', 'v'); redis.setresp(3); return {redis.call('HGETALL', KEYS[1]), {double=0.5}}",
    ] {
        let eval = redis::cmd("EVAL").arg(script).arg(1).arg("h").take();
        log.value(script, con.req_packed_command(&eval).await);
        log.value(script, eval.query_async::<Value>(&mut con).await);
    }
}
