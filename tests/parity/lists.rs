//! Lists.

use std::num::NonZeroUsize;

use redis_holdfast::redis::{AsyncCommands, Direction, LposOptions};

use crate::World;
use crate::log::{Con, Log};

pub async fn ends<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.rpush("l", &["a", "b", "c"]) -> usize);
    say!(log, con.lpush("l", "z") -> usize);
    say!(log, con.lpush_exists("absent", "z") -> usize);
    say!(log, con.rpush_exists("l", "d") -> usize);
    say!(log, con.lrange("l", 0, -1) -> Vec<String>);
    say!(log, con.llen("l") -> usize);
    say!(log, con.lpop("l", None) -> Option<String>);
    say!(log, con.rpop("l", NonZeroUsize::new(2)) -> Vec<String>);
    say!(log, con.lpop("absent", None) -> Option<String>);
    say!(log, con.lpop("absent", NonZeroUsize::new(2)) -> Option<Vec<String>>);
    say!(log, con.rpop("l", NonZeroUsize::new(99)) -> Vec<String>);
    say!(log, con.set("text", "abc") -> String);
    say!(log, con.rpush("text", "a") -> usize);
}

pub async fn inside<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.rpush("l", &["a", "b", "c", "b"]) -> usize);
    say!(log, con.lindex("l", 1) -> Option<String>);
    say!(log, con.lindex("l", 99) -> Option<String>);
    say!(log, con.linsert_before("l", "b", "x") -> i64);
    say!(log, con.linsert_after("l", "absent", "x") -> i64);
    say!(log, con.lpos("l", "b", LposOptions::default()) -> Option<usize>);
    say!(log, con.lpos("l", "b", LposOptions::default().count(0)) -> Vec<usize>);
    say!(log, con.lpos("l", "absent", LposOptions::default()) -> Option<usize>);
    say!(log, con.lset("l", 0, "first") -> String);
    say!(log, con.lset("l", 99, "late") -> String);
    say!(log, con.lrem("l", -1, "b") -> usize);
    say!(log, con.ltrim("l", 0, 1) -> String);
    say!(log, con.lrange("l", 0, -1) -> Vec<String>);
}

pub async fn moved<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.rpush("l", &["a", "b", "c"]) -> usize);
    say!(log, con.lmove("l", "m", Direction::Left, Direction::Right) -> String);
    say!(log, con.lmove("absent", "m", Direction::Left, Direction::Right) -> Option<String>);
    say!(log, con.rpoplpush("l", "m") -> Option<String>);
    say!(log, con.lmpop(2, &["absent", "m"], Direction::Left, 9) -> Option<(String, Vec<String>)>);
    say!(log, con.lmpop(1, "absent", Direction::Left, 9) -> Option<(String, Vec<String>)>);
}
