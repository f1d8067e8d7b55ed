//! Values of every size and form, and what becomes of them where another form was wanted.

use redis_holdfast::redis::{self, AsyncCommands, RedisResult, Value};

use crate::World;
use crate::log::{Con, Log};

pub async fn shapes<C: Con>(mut con: C, log: &mut Log, _: &World) {
    let binary: Vec<u8> = (0..=255).chain(*b"\r\n$-1\r\n*0\r\n").collect();
    let large: Vec<u8> = (0..4 << 20).map(|n: u32| (n % 251) as u8).collect();
    for (what, key, value) in [
        ("empty value", &b"empty"[..], &b""[..]),
        ("empty key", b"", b"of an empty key"),
        ("binary", &binary, &binary),
        ("4 MiB", b"large", &large),
    ] {
        log.typed(what, &con.set::<_, _, String>(key, value).await);
        let found: RedisResult<Vec<u8>> = con.get(key).await;
        assert_eq!(found.as_deref().ok(), Some(value), "{what}");
        log.typed(what, &con.strlen::<_, usize>(key).await);
        log.typed(what, &con.exists::<_, bool>(key).await);
    }
    let echoed: RedisResult<Vec<u8>> = redis::cmd("ECHO").arg(&large).query_async(&mut con).await;
    assert!(echoed.is_ok_and(|echoed| echoed == large));
    let fields = [(&binary[..], &b""[..]), (b"", &binary)];
    log.typed(
        "binary fields",
        &con.hset_multiple::<_, _, _, String>("h", &fields).await,
    );
    log.typed(
        "binary fields",
        &con.hgetall::<_, Vec<(Vec<u8>, Vec<u8>)>>("h").await,
    );
}

/// 64 MiB, there and back.
pub async fn huge<C: Con>(mut con: C, log: &mut Log, _: &World) {
    const SIZE: usize = 64 << 20;
    let mut huge = vec![b'x'; SIZE];
    huge[SIZE / 2] = b'\r';
    huge[SIZE / 2 + 1] = b'\n';
    log.typed("set", &con.set::<_, _, String>("huge", &huge).await);
    log.typed("strlen", &con.strlen::<_, usize>("huge").await);
    let found: RedisResult<Value> = con.get("huge").await;
    let whole = matches!(found, Ok(Value::BulkString(found)) if found == huge);
    log.typed("get", &Ok(whole));
    log.typed("part", &con.getrange::<_, String>("huge", -2, -1).await);
    assert!(whole, "64 MiB came back as something else");
}

pub async fn conversions<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.set("text", "abc") -> String);
    say!(log, con.get("text") -> i64);
    say!(log, con.get("text") -> (i64, i64));
    say!(log, con.get("absent") -> i64);
    say!(log, con.get("absent") -> Option<i64>);
    say!(log, con.get("absent") -> String);
    say!(log, con.mget(&["text", "absent"]) -> Vec<String>);
    say!(log, con.mget(&["text", "absent"]) -> (String, Option<String>));
    say!(log, con.mget(&["text", "absent"]) -> (String, String, String));
    say!(log, con.exists("text") -> String);
    say!(log, con.set("text", "abc") -> bool);
    say!(log, con.zadd("z", "m", 1.5) -> bool);
    say!(log, con.zrange_withscores("z", 0, -1) -> (String, f64));
    say!(log, con.zrange_withscores("z", 0, -1) -> Vec<f64>);
}

/// Nobody waits for the reply, and the replies stay in step.
pub async fn silent<C: Con>(mut con: C, log: &mut Log, _: &World) {
    let mut silent = redis::cmd("SET");
    silent.arg("silent").arg(1).set_no_response(true);
    log.value("no response", silent.query_async(&mut con).await);
    log.typed("after it", &con.get::<_, i64>("silent").await);
    let mut wrong = redis::cmd("LPUSH");
    wrong.arg("silent").arg(1).set_no_response(true);
    log.typed("no response to an error", &wrong.exec_async(&mut con).await);
    log.typed("after it", &con.incr::<_, _, i64>("silent", 1).await);
    for n in 0..100 {
        let mut silent = redis::cmd("INCRBY");
        silent.arg("silent").arg(n).set_no_response(true);
        silent.exec_async(&mut con).await.unwrap();
    }
    log.typed("after a hundred", &con.get::<_, i64>("silent").await);
}
