//! Keys: their names, their ends, and what the server says of them.

use redis_holdfast::redis::{AsyncCommands, CopyOptions, FlushDbOptions, Value};

use crate::World;
use crate::log::{Con, Log};

pub async fn names<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.mset(&[("a", 1), ("b", 2), ("c", 3)]) -> String);
    say!(log, con.exists("a") -> bool);
    say!(log, con.exists(&["a", "b", "absent"]) -> usize);
    say!(log, con.key_type("a") -> String);
    say!(log, con.key_type("absent") -> String);
    say!(log, con.rename("a", "a2") -> String);
    say!(log, con.rename("absent", "x") -> String);
    say!(log, con.rename_nx("a2", "b") -> bool);
    say!(log, con.copy("b", "b2", CopyOptions::default()) -> bool);
    say!(log, con.copy("c", "b2", CopyOptions::default().replace(true)) -> bool);
    say!(log, con.keys("b*") -> std::collections::BTreeSet<String>);
    say!(log, con.del(&["b", "absent"]) -> usize);
    say!(log, con.unlink(&["b2", "c"]) -> usize);
    say!(log, con.flushdb_options(&FlushDbOptions::default().blocking(true)) -> String);
    say!(log, con.flushdb() -> String);
    say!(log, con.flushall() -> String);
}

pub async fn times<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.set("k", 1) -> String);
    say!(log, con.expire("k", 1000) -> bool);
    say_near!(log, con.ttl("k") -> i64, |left| (900..=1000).contains(&left));
    say!(log, con.persist("k") -> bool);
    say!(log, con.persist("k") -> bool);
    say!(log, con.pttl("k") -> i64);
    say!(log, con.pttl("absent") -> i64);
    say!(log, con.pexpire("k", 1_000_000) -> bool);
    say!(log, con.expire_at("k", 4_102_444_800) -> bool);
    say!(log, con.expire_time("k") -> i64);
    say!(log, con.pexpire_at("k", 4_102_444_800_123) -> bool);
    say!(log, con.pexpire_time("k") -> i64);
    say!(log, con.expire("absent", 1) -> bool);
    say!(log, con.expire("k", -1) -> bool);
    say!(log, con.get("k") -> Option<i64>);
}

pub async fn server_side<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.set("k", 1) -> String);
    say!(log, con.object_encoding("k") -> Option<String>);
    say!(log, con.object_encoding("absent") -> Option<String>);
    say_near!(log, con.object_idletime("k") -> Option<usize>, |idle| idle.is_some());
    say!(log, con.object_refcount("k") -> Option<usize>);
    say!(log, con.object_freq("k") -> Option<usize>);
    say!(log, con.object_freq("k") -> Value);
}
