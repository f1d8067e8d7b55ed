//! What is asked of the server and of the connection itself.

use redis_holdfast::redis::{AsyncCommands, FlushAllOptions, Value};

use crate::World;
use crate::log::{Con, Log};

pub async fn questions<C: Con>(mut con: C, log: &mut Log, _: &World) {
    say!(log, con.ping() -> String);
    say!(log, con.ping_message("hello") -> String);
    say!(log, con.publish("channel", "nobody hears") -> usize);
    say!(log, con.spublish("channel", "nobody hears") -> usize);
    say!(log, con.client_getname() -> Option<String>);
    say!(log, con.flushall_options(&FlushAllOptions::default().blocking(true)) -> Value);
    log.typed("get_db", &Ok(con.get_db()));
}

/// In the database that the URL names, and in no other.
pub async fn places<C: Con>(mut con: C, log: &mut Log, world: &World) {
    say!(log, con.set("here", 1) -> String);
    let mut control = world.server.control().await.unwrap();
    say!(log, control.exists("here") -> bool);
    let _: () = redis_holdfast::redis::cmd("SELECT")
        .arg(crate::DB)
        .query_async(&mut control)
        .await
        .unwrap();
    say!(log, control.exists("here") -> bool);
    let id: i64 = con.client_id().await.unwrap();
    let again: i64 = con.client_id().await.unwrap();
    log.typed("the same connection", &Ok(id == again));
}
