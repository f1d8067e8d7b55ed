//! Strings, numbers in them, bits in them, and what is counted without them.

use redis_holdfast::redis::{
    AsyncCommands, ExistenceCheck, Expiry, SetExpiry, SetOptions, ValueComparison,
};

use crate::World;
use crate::log::{Con, Log};

pub async fn plain<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.set("canary", "value") -> String);
    say!(log, con.get("canary") -> Option<String>);
    say!(log, con.get("absent") -> Option<String>);
    say!(log, con.getset("canary", "other canary") -> Option<String>);
    say!(log, con.append("canary", " and more") -> usize);
    say!(log, con.strlen("canary") -> usize);
    say!(log, con.getrange("canary", 1, -2) -> String);
    say!(log, con.setrange("canary", 2, "XY") -> usize);
    say!(log, con.mset(&[("a", 1), ("b", 2)]) -> String);
    say!(log, con.mget(&["a", "absent", "b"]) -> Vec<Option<i64>>);
    say!(log, con.mset_nx(&[("a", 9), ("z", 9)]) -> bool);
    say!(log, con.get_del("canary") -> Option<String>);
    say!(log, con.get_del("canary") -> Option<String>);
    say!(log, con.digest("a") -> Option<String>);
}

pub async fn conditional<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.set_nx("n", 1) -> bool);
    say!(log, con.set_nx("n", 2) -> bool);
    let only_new = SetOptions::default().conditional_set(ExistenceCheck::NX);
    say!(log, con.set_options("n", 3, only_new.clone()) -> Option<String>);
    say!(log, con.set_options("m", 3, only_new.get(true)) -> Option<String>);
    let only_old = SetOptions::default()
        .conditional_set(ExistenceCheck::XX)
        .get(true);
    say!(log, con.set_options("n", 4, only_old.clone()) -> Option<String>);
    say!(log, con.set_options("absent", 4, only_old) -> Option<String>);
    say!(log, con.del_ex("n", ValueComparison::ifeq("4")) -> usize);
}

pub async fn expiring<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.set_ex("e", "v", 1000) -> String);
    say_near!(log, con.ttl("e") -> i64, |left| (900..=1000).contains(&left));
    say!(log, con.pset_ex("p", "v", 1_000_000) -> String);
    say!(log, con.get_ex("e", Expiry::PERSIST) -> Option<String>);
    say!(log, con.ttl("e") -> i64);
    let at = SetOptions::default().with_expiration(SetExpiry::EXAT(4_102_444_800));
    say!(log, con.set_options("at", "v", at) -> String);
    say!(log, con.expire_time("at") -> i64);
    say!(log, con.pexpire_time("at") -> i64);
    say!(log, con.set_ex("e", "v", 0) -> String);
}

pub async fn numbers<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.incr("n", 1) -> i64);
    say!(log, con.incr("n", 41) -> i64);
    say!(log, con.decr("n", 2) -> i64);
    say!(log, con.incr("n", 0.5) -> f64);
    say!(log, con.incr("n", 1) -> i64);
    say!(log, con.set("n", i64::MAX) -> String);
    say!(log, con.incr("n", 1) -> i64);
    say!(log, con.get("n") -> i8);
    say!(log, con.set("text", "abc") -> String);
    say!(log, con.incr("text", 1) -> i64);
}

pub async fn bits<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.setbit("one", 7, true) -> bool);
    say!(log, con.setbit("one", 9, true) -> bool);
    say!(log, con.setbit("two", 7, true) -> bool);
    say!(log, con.getbit("one", 9) -> bool);
    say!(log, con.bitcount("one") -> usize);
    say!(log, con.bitcount_range("one", 1, 1) -> usize);
    say!(log, con.bit_and("and", &["one", "two"]) -> usize);
    say!(log, con.bit_or("or", &["one", "two"]) -> usize);
    say!(log, con.bit_xor("xor", &["one", "two"]) -> usize);
    say!(log, con.bit_not("not", "one") -> usize);
    say!(log, con.get("not") -> Vec<u8>);
    say!(log, con.setbit("one", 1 << 40, true) -> bool);
}

pub async fn counted<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.pfadd("h", &["a", "b", "c"]) -> bool);
    say!(log, con.pfadd("h", "a") -> bool);
    say!(log, con.pfadd("g", "d") -> bool);
    say!(log, con.pfcount("h") -> usize);
    say!(log, con.pfcount(&["h", "g"]) -> usize);
    say!(log, con.pfmerge("m", &["h", "g"]) -> String);
    say!(log, con.set("text", "abc") -> String);
    say!(log, con.pfadd("text", "a") -> bool);
}
