//! Streams.

use redis_holdfast::redis::AsyncCommands;
use redis_holdfast::redis::streams::{
    StreamAutoClaimOptions, StreamAutoClaimReply, StreamClaimOptions, StreamClaimReply,
    StreamInfoGroupsReply, StreamInfoStreamReply, StreamMaxlen, StreamPendingReply,
    StreamRangeReply, StreamReadOptions, StreamReadReply, StreamTrimOptions, StreamTrimmingMode,
};

use crate::World;
use crate::log::{Con, Log};

async fn filled<C: Con>(con: &mut C, log: &mut Log) {
    for id in ["1-1", "2-1", "3-1"] {
        say!(log, con.xadd("x", id, &[("field", id)]) -> Option<String>);
    }
}

pub async fn entries<C: Con>(mut con: C, log: &mut Log, _: &World) {
    filled(&mut con, log).await;
    say!(log, con.xadd("x", "1-0", &[("late", 1)]) -> Option<String>);
    let map = std::collections::BTreeMap::from([("field", 4)]);
    say!(log, con.xadd_map("x", "4-1", map) -> Option<String>);
    say!(log, con.xlen("x") -> usize);
    say!(log, con.xrange("x", "2-0", "3-9") -> StreamRangeReply);
    say!(log, con.xrange_all("x") -> StreamRangeReply);
    say!(log, con.xrange_count("x", "-", "+", 1) -> StreamRangeReply);
    say!(log, con.xrevrange("x", "+", "3-0") -> StreamRangeReply);
    say!(log, con.xrevrange_all("x") -> StreamRangeReply);
    say!(log, con.xrevrange_count("x", "+", "-", 1) -> StreamRangeReply);
    say!(log, con.xread(&["x"], &["2-1"]) -> Option<StreamReadReply>);
    say!(log, con.xread(&["x"], &["$"]) -> Option<StreamReadReply>);
    let one = StreamReadOptions::default().count(1);
    say!(log, con.xread_options(&["x", "absent"], &["0", "0"], &one) -> Option<StreamReadReply>);
    say!(log, con.xinfo_stream("x") -> StreamInfoStreamReply);
    say!(log, con.xinfo_stream("absent") -> StreamInfoStreamReply);
    say!(log, con.xdel("x", &["2-1", "9-9"]) -> usize);
}

pub async fn groups<C: Con>(mut con: C, log: &mut Log, _: &World) {
    filled(&mut con, log).await;
    say!(log, con.xgroup_create("x", "group", "0") -> String);
    say!(log, con.xgroup_create("x", "group", "0") -> String);
    say!(log, con.xgroup_create("absent", "group", "0") -> String);
    say!(log, con.xgroup_create_mkstream("new", "group", "$") -> String);
    say!(log, con.xgroup_createconsumer("x", "group", "me") -> bool);
    let mine = StreamReadOptions::default().group("group", "me").count(2);
    say!(log, con.xread_options(&["x"], &[">"], &mine) -> Option<StreamReadReply>);
    say!(log, con.xpending("x", "group") -> StreamPendingReply);
    say!(log, con.xack("x", "group", &["1-1"]) -> usize);
    say!(log, con.xpending("new", "group") -> StreamPendingReply);
    say!(log, con.xpending_count("new", "group", "-", "+", 9) -> Vec<String>);
    say!(log, con.xpending_consumer_count("new", "group", "-", "+", 9, "me") -> Vec<String>);
    say!(log, con.xinfo_groups("x") -> StreamInfoGroupsReply);
    say!(log, con.xinfo_consumers("new", "group") -> Vec<String>);
    say!(log, con.xgroup_setid("x", "group", "0") -> String);
    say!(log, con.xgroup_delconsumer("x", "group", "me") -> usize);
    say!(log, con.xgroup_destroy("x", "group") -> bool);
    say!(log, con.xread_options(&["x"], &[">"], &mine) -> Option<StreamReadReply>);
}

pub async fn claims<C: Con>(mut con: C, log: &mut Log, _: &World) {
    filled(&mut con, log).await;
    say!(log, con.xgroup_create("x", "group", "0") -> String);
    let mine = StreamReadOptions::default().group("group", "me");
    say!(log, con.xread_options(&["x"], &[">"], &mine) -> Option<StreamReadReply>);
    say!(log, con.xclaim("x", "group", "you", 0, &["1-1"]) -> StreamClaimReply);
    let ids = StreamClaimOptions::default().with_justid();
    say!(log, con.xclaim_options("x", "group", "you", 0, &["2-1"], ids) -> Vec<String>);
    let few = StreamAutoClaimOptions::default().count(2);
    say!(log, con.xautoclaim_options("x", "group", "they", 0, "0", few) -> StreamAutoClaimReply);
    say!(log, con.xpending("x", "group") -> StreamPendingReply);
}

pub async fn trimmed<C: Con>(mut con: C, log: &mut Log, _: &World) {
    filled(&mut con, log).await;
    say!(log, con.xadd_maxlen("x", StreamMaxlen::Equals(3), "4-1", &[("field", 4)]) -> Option<String>);
    let map = std::collections::BTreeMap::from([("field", 5)]);
    say!(log, con.xadd_maxlen_map("x", StreamMaxlen::Equals(3), "5-1", map) -> Option<String>);
    say!(log, con.xtrim("x", StreamMaxlen::Equals(2)) -> usize);
    let rest = StreamTrimOptions::minid(StreamTrimmingMode::Exact, "5-1");
    say!(log, con.xtrim_options("x", &rest) -> usize);
    say!(log, con.xrange_all("x") -> StreamRangeReply);
}
