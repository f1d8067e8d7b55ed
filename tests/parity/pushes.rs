//! RESP3 pushes between the replies: invalidations that another connection sends our way.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis_holdfast::redis::aio::MultiplexedConnection;
use redis_holdfast::redis::{self, AsyncCommands, AsyncConnectionConfig, PushInfo, pipe};
use tokio::time::{Instant, sleep};

use crate::World;
use crate::common::{SECOND, ms};
use crate::log::{Con, Log};

/// Every write to `push:*` makes the server push to `target`, whoever wrote.
async fn push_to(target: i64, world: &World) -> MultiplexedConnection {
    let mut tracker = world.bare(AsyncConnectionConfig::new()).await;
    let tracking = redis::cmd("CLIENT")
        .arg(&["TRACKING", "ON", "REDIRECT"])
        .arg(target)
        .arg(&["BCAST", "PREFIX", "push:"])
        .take();
    let () = tracking.query_async(&mut tracker).await.unwrap();
    tracker
}

pub async fn between_replies<C: Con>(mut con: C, log: &mut Log, world: &World) {
    if !world.resp3 {
        return;
    }
    // A witness that is pushed to in the same way: that pushes are sent at all.
    let seen = Arc::<AtomicUsize>::default();
    let counted = seen.clone();
    let count = move |_: PushInfo| -> Result<(), Infallible> {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    let mut witness = world
        .bare(AsyncConnectionConfig::new().set_push_sender(count))
        .await;
    let witnessed = push_to(witness.client_id().await.unwrap(), world).await;
    let tracker = push_to(con.client_id().await.unwrap(), world).await;
    for n in 0..50 {
        log.typed(
            "set",
            &con.set::<_, _, String>(format!("push:{n}"), n).await,
        );
        log.typed("get", &con.get::<_, i64>(format!("push:{n}")).await);
        let mut pipeline = pipe();
        for m in 0..10 {
            pipeline
                .incr(format!("push:{m}"), 1)
                .get(format!("push:{m}"));
        }
        if n % 2 == 0 {
            pipeline.atomic();
        }
        log.typed(
            "pipeline",
            &pipeline.query_async::<Vec<i64>>(&mut con).await,
        );
    }
    log.typed("in step", &con.get::<_, i64>("push:49").await);
    drop(tracker);
    // One for each turn of the server in which something was written.
    let end = Instant::now() + SECOND * 5;
    while seen.load(Ordering::Relaxed) < 50 {
        assert!(Instant::now() < end, "hardly anything was pushed");
        sleep(ms(1)).await;
    }
    drop(witnessed);
}
