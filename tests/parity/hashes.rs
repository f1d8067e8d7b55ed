//! Hashes, and the times of their fields where the server has such.

use std::collections::BTreeMap;

use redis_holdfast::redis::{
    AsyncCommands, ExpireOption, Expiry, HashFieldExpirationOptions, SetExpiry, Value,
};

use crate::World;
use crate::log::{Con, Log};

pub async fn fields<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.hset("h", "f", "v") -> usize);
    say!(log, con.hset("h", "f", "w") -> usize);
    say!(log, con.hset_nx("h", "f", "x") -> bool);
    say!(log, con.hget("h", "f") -> Option<String>);
    say!(log, con.hget("h", "absent") -> Option<String>);
    say!(log, con.hget("absent", "f") -> i64);
    say!(log, con.hexists("h", "f") -> bool);
    say!(log, con.hincr("h", "n", 5) -> i64);
    say!(log, con.hincr("h", "n", 0.25) -> f64);
    say!(log, con.hincr("h", "f", 1) -> i64);
    say!(log, con.hlen("h") -> usize);
    say!(log, con.hdel("h", &["f", "absent"]) -> usize);
    say!(log, con.set("text", "abc") -> String);
    say!(log, con.hget("text", "f") -> Option<String>);
}

pub async fn many<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.hset_multiple("h", &[("a", 1), ("b", 2), ("c", 3)]) -> String);
    say!(log, con.hmget("h", &["a", "absent", "c"]) -> Vec<Option<i64>>);
    say!(log, con.hmget("h", &["absent"]) -> Vec<i64>);
    say!(log, con.hgetall("h") -> BTreeMap<String, i64>);
    say!(log, con.hgetall("h") -> Vec<(String, i64)>);
    say!(log, con.hgetall("h") -> Vec<String>);
    say!(log, con.hgetall("h") -> Value);
    say!(log, con.hgetall("absent") -> BTreeMap<String, i64>);
    say!(log, con.hkeys("h") -> Vec<String>);
    say!(log, con.hvals("h") -> Vec<i64>);
    say!(log, con.hget_del("h", &["a"]) -> Vec<Option<i64>>);
    say!(log, con.hget_ex("h", &["b"], Expiry::PERSIST) -> Vec<Option<i64>>);
}

pub async fn field_times<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.hset_multiple("h", &[("a", 1), ("b", 2)]) -> String);
    say!(log, con.hexpire("h", 1000, ExpireOption::NONE, "a") -> Vec<i64>);
    say!(log, con.httl("h", &["b", "absent"]) -> Vec<i64>);
    say_near!(log, con.httl("h", "a") -> Vec<i64>, |left| left.iter().all(|left| (900..=1000).contains(left)));
    say!(log, con.hpersist("h", "a") -> Vec<i64>);
    say!(log, con.hpttl("h", "a") -> Vec<i64>);
    say!(log, con.hpexpire("h", 1_000_000, ExpireOption::NX, "a") -> Vec<i64>);
    say!(log, con.hexpire_at("h", 4_102_444_800, ExpireOption::NONE, "a") -> Vec<i64>);
    say!(log, con.hexpire_time("h", "a") -> Vec<i64>);
    say!(log, con.hpexpire_at("h", 4_102_444_800_123, ExpireOption::NONE, "a") -> Vec<i64>);
    say!(log, con.hpexpire_time("h", "a") -> Vec<i64>);
    let options = HashFieldExpirationOptions::default().set_expiration(SetExpiry::EX(1000));
    say!(log, con.hset_ex("h", &options, &[("c", 3)]) -> bool);
}
