//! `SCAN` and its kind, over more than fits one reply.

use redis_holdfast::redis::{AsyncCommands, ScanOptions, pipe};

use crate::World;
use crate::log::{Con, Log};

macro_rules! walk {
    ($log:expr, $con:ident.$helper:ident($($argument:expr),*) -> $type:ty) => {{
        let mut found: Vec<$type> = Vec::new();
        let mut items = $con.$helper::<$($crate::iterators::walk!(@any $argument),)* $type>($($argument),*).await.unwrap();
        while let Some(item) = items.next_item().await {
            found.push(item.unwrap());
        }
        drop(items);
        found.sort();
        // Some may come twice.
        found.dedup();
        $log.helper(stringify!($helper), stringify!($($argument),*), &Ok(found));
    }};
    (@any $argument:expr) => { _ };
}
use walk;

pub async fn all<C: Con>(mut con: C, log: &mut Log, _: &World) {
    let mut fill = pipe();
    for n in 0..500 {
        // Too long for the forms in which a server gives everything at once.
        let long = format!("too-long-for-a-listpack:{n:050}");
        fill.set(format!("scan:{n}"), n).ignore();
        fill.hset("hash", &long, n).ignore();
        fill.zadd("zset", &long, n).ignore();
        fill.sadd("set", &long).ignore();
    }
    let () = fill.query_async(&mut con).await.unwrap();
    let mut keys = con.scan::<String>().await.unwrap();
    let mut count = 0;
    while let Some(key) = keys.next_item().await {
        count += usize::from(key.unwrap().starts_with("scan:"));
    }
    drop(keys);
    assert!(count >= 500, "all of them, some perhaps twice");
    log.helper("scan", "", &Ok(()));
    walk!(log, con.scan_match("scan:*9") -> String);
    walk!(log, con.hscan("hash") -> (String, i64));
    walk!(log, con.hscan_match("hash", "*9") -> (String, i64));
    walk!(log, con.sscan("set") -> String);
    walk!(log, con.sscan_match("set", "*9") -> String);
    walk!(log, con.zscan("zset") -> (String, String));
    let options = ScanOptions::default().with_pattern("*et").with_type("set");
    let mut typed = con.scan_options::<String>(options).await.unwrap();
    let mut found = Vec::new();
    while let Some(key) = typed.next_item().await {
        found.push(key.unwrap());
    }
    drop(typed);
    log.helper("scan_options", "", &Ok(found));
    let wrong = con.hscan::<_, (String, i64)>("set").await.map(|_| ());
    log.typed("hscan of a set", &wrong);
}
