//! Sets.

use std::collections::BTreeSet;

use redis_holdfast::redis::{AsyncCommands, Value};

use crate::World;
use crate::log::{Con, Log};

pub async fn members<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.sadd("s", &[1, 2, 3]) -> usize);
    say!(log, con.sadd("s", 3) -> usize);
    say!(log, con.scard("s") -> usize);
    say!(log, con.smembers("s") -> BTreeSet<i64>);
    say!(log, con.smembers("s") -> Value);
    say!(log, con.smembers("absent") -> Vec<i64>);
    say!(log, con.sismember("s", 2) -> bool);
    say!(log, con.smismember("s", &[2, 9]) -> Vec<bool>);
    say!(log, con.smove("s", "t", 1) -> bool);
    say!(log, con.smove("s", "t", 99) -> bool);
    say!(log, con.srem("s", &[2, 99]) -> usize);
    say!(log, con.set("text", "abc") -> String);
    say!(log, con.sadd("text", 1) -> usize);
}

pub async fn algebra<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.sadd("s", &[1, 2, 3]) -> usize);
    say!(log, con.sadd("t", &[3, 4]) -> usize);
    say!(log, con.sdiff(&["s", "t"]) -> BTreeSet<i64>);
    say!(log, con.sinter(&["s", "t"]) -> BTreeSet<i64>);
    say!(log, con.sunion(&["s", "t"]) -> BTreeSet<i64>);
    say!(log, con.sdiffstore("d", &["s", "t"]) -> usize);
    say!(log, con.sinterstore("i", &["s", "absent"]) -> usize);
    say!(log, con.sunionstore("u", &["s", "t"]) -> usize);
    say!(log, con.smembers("u") -> Value);
}

pub async fn random<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.sadd("s", "only") -> usize);
    say!(log, con.srandmember("s") -> Option<String>);
    say!(log, con.srandmember("absent") -> Option<String>);
    say!(log, con.srandmember_multiple("s", 3) -> Vec<String>);
    say!(log, con.srandmember_multiple("s", -3) -> Vec<String>);
    say!(log, con.spop("s") -> Option<String>);
    say!(log, con.spop("s") -> Option<String>);
}
