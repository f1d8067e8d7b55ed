//! Sorted sets, and the places in them.

use redis_holdfast::redis::geo::{Coord, RadiusOptions, Unit};
use redis_holdfast::redis::{AsyncCommands, SortedSetAddOptions, UpdateCheck, Value};

use crate::World;
use crate::log::{Con, Log};

type Scored = Vec<(String, f64)>;

async fn filled<C: Con>(con: &mut C, log: &mut Log) {
    say!(log, con.zadd_multiple("z", &[(1.0, "one"), (2.5, "two"), (3.0, "three")]) -> usize);
    say!(log, con.zadd_multiple("y", &[(10, "two"), (20, "four")]) -> usize);
}

pub async fn scores<C: Con>(mut con: C, log: &mut Log, _: &World) {
    filled(&mut con, log).await;
    say!(log, con.zadd("z", "one", 1.5) -> usize);
    let greater = SortedSetAddOptions::add_or_update(Some(UpdateCheck::GT)).include_changed_count();
    say!(log, con.zadd_options("z", "one", 2, &greater) -> usize);
    say!(log, con.zadd_multiple_options("z", &[(9, "one"), (0, "two")], &greater) -> usize);
    let grown = SortedSetAddOptions::add_only().increment_score();
    say!(log, con.zadd_options("z", "one", 2, &grown) -> Option<f64>);
    say!(log, con.zcard("z") -> usize);
    say!(log, con.zcount("z", "-inf", "+inf") -> usize);
    say!(log, con.zincr("z", "two", 1e2) -> f64);
    say!(log, con.zscore("z", "two") -> Option<f64>);
    say!(log, con.zscore("z", "absent") -> Option<f64>);
    say!(log, con.zscore_multiple("z", &["one", "absent"]) -> Vec<Option<f64>>);
    say!(log, con.zrank("z", "two") -> Option<usize>);
    say!(log, con.zrevrank("z", "two") -> Option<usize>);
    say!(log, con.zrank("z", "absent") -> Option<usize>);
    say!(log, con.zrem("z", &["one", "absent"]) -> usize);
    say!(log, con.zadd("z", "most", f64::INFINITY) -> usize);
    say!(log, con.zadd("z", "none", "nonsense") -> usize);
}

pub async fn ranges<C: Con>(mut con: C, log: &mut Log, _: &World) {
    filled(&mut con, log).await;
    say!(log, con.zrange("z", 0, -1) -> Vec<String>);
    say!(log, con.zrange_withscores("z", 0, -1) -> Scored);
    say!(log, con.zrange_withscores("z", 0, -1) -> Vec<String>);
    say!(log, con.zrange_withscores("z", 0, -1) -> Value);
    say!(log, con.zrevrange("z", 0, 1) -> Vec<String>);
    say!(log, con.zrevrange_withscores("z", 0, 1) -> Scored);
    say!(log, con.zrangebyscore("z", "(1", "+inf") -> Vec<String>);
    say!(log, con.zrangebyscore_withscores("z", 1, 3) -> Scored);
    say!(log, con.zrangebyscore_limit("z", 1, 3, 1, 1) -> Vec<String>);
    say!(log, con.zrangebyscore_limit_withscores("z", 1, 3, 1, 1) -> Scored);
    say!(log, con.zrevrangebyscore("z", 3, 1) -> Vec<String>);
    say!(log, con.zrevrangebyscore_withscores("z", 3, 1) -> Scored);
    say!(log, con.zrevrangebyscore_limit("z", 3, 1, 0, 2) -> Vec<String>);
    say!(log, con.zrevrangebyscore_limit_withscores("z", 3, 1, 0, 2) -> Scored);
    say!(log, con.zrembyscore("z", 1, 2) -> usize);
    say!(log, con.zremrangebyrank("z", 0, 0) -> usize);
    say!(log, con.zrange("absent", 0, -1) -> Vec<String>);
}

pub async fn lexical<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.zadd_multiple("z", &[(0, "a"), (0, "b"), (0, "c"), (0, "d")]) -> usize);
    say!(log, con.zlexcount("z", "[b", "+") -> usize);
    say!(log, con.zrangebylex("z", "-", "(c") -> Vec<String>);
    say!(log, con.zrangebylex_limit("z", "-", "+", 1, 2) -> Vec<String>);
    say!(log, con.zrevrangebylex("z", "(c", "-") -> Vec<String>);
    say!(log, con.zrevrangebylex_limit("z", "+", "-", 1, 2) -> Vec<String>);
    say!(log, con.zrangebylex("z", "b", "+") -> Vec<String>);
    say!(log, con.zrembylex("z", "[a", "[b") -> usize);
    say!(log, con.zrandmember("absent", None) -> Option<String>);
    say!(log, con.zrembylex("z", "[d", "[d") -> usize);
    say!(log, con.zrandmember("z", None) -> Option<String>);
    say!(log, con.zrandmember("z", Some(-2)) -> Vec<String>);
    say!(log, con.zrandmember_withscores("z", 1) -> Scored);
}

pub async fn stores<C: Con>(mut con: C, log: &mut Log, _: &World) {
    filled(&mut con, log).await;
    say!(log, con.zinterstore("to", &["z", "y"]) -> usize);
    say!(log, con.zinterstore_min("to", &["z", "y"]) -> usize);
    say!(log, con.zinterstore_max("to", &["z", "y"]) -> usize);
    say!(log, con.zinterstore_weights("to", &[("z", 2), ("y", 3)]) -> usize);
    say!(log, con.zinterstore_min_weights("to", &[("z", 2), ("y", 3)]) -> usize);
    say!(log, con.zinterstore_max_weights("to", &[("z", 2), ("y", 3)]) -> usize);
    say!(log, con.zrange_withscores("to", 0, -1) -> Scored);
    say!(log, con.zunionstore("to", &["z", "y"]) -> usize);
    say!(log, con.zunionstore_min("to", &["z", "y"]) -> usize);
    say!(log, con.zunionstore_max("to", &["z", "y"]) -> usize);
    say!(log, con.zunionstore_weights("to", &[("z", 2), ("y", 3)]) -> usize);
    say!(log, con.zunionstore_min_weights("to", &[("z", 2), ("y", 3)]) -> usize);
    say!(log, con.zunionstore_max_weights("to", &[("z", 2), ("y", 3)]) -> usize);
    say!(log, con.zrange_withscores("to", 0, -1) -> Scored);
}

pub async fn popped<C: Con>(mut con: C, log: &mut Log, _: &World) {
    filled(&mut con, log).await;
    say!(log, con.zpopmin("z", 1) -> Scored);
    say!(log, con.zpopmax("z", 2) -> Vec<String>);
    say!(log, con.zpopmin("z", 1) -> Scored);
    say!(log, con.zmpop_min(&["z", "y"], 1) -> Option<(String, Scored)>);
    say!(log, con.zmpop_max(&["z", "y"], 1) -> Option<(String, Scored)>);
    say!(log, con.zmpop_max("z", 1) -> Option<(String, Scored)>);
    places(&mut con, log).await;
}

async fn places<C: Con>(con: &mut C, log: &mut Log) {
    let sicily = [
        (Coord::lon_lat("13.361389", "38.115556"), "Palermo"),
        (Coord::lon_lat("15.087269", "37.502669"), "Catania"),
    ];
    say!(log, con.geo_add("g", &sicily[..]) -> usize);
    say!(log, con.geo_dist("g", "Palermo", "Catania", Unit::Kilometers) -> Option<f64>);
    say!(log, con.geo_dist("g", "Palermo", "absent", Unit::Meters) -> Option<f64>);
    say!(log, con.geo_hash("g", &["Palermo", "absent"]) -> Vec<Option<String>>);
    say!(log, con.geo_pos("g", &["Palermo", "absent"]) -> Vec<Option<Coord<f64>>>);
    let all = || RadiusOptions::default().with_dist().with_coord();
    say!(log, con.geo_radius("g", 15.0, 37.0, 200.0, Unit::Kilometers, all()) -> Value);
    say!(log, con.geo_radius_by_member("g", "Catania", 200.0, Unit::Kilometers, all()) -> Value);
}
