//! What differs, and is meant to: commands that would change a shared connection for everybody on it, or hold everybody up.

use redis_holdfast::redis::{AsyncCommands, RedisError, Value};
use redis_holdfast::{Error, ErrorKind, Phase};

use crate::lines::command;
use crate::log::Con;

/// Bare they block the connection for everybody, or change it; ours are told why not, and what instead.
const REFUSED: &[&str] = &[
    "BLPOP absent 0",
    "BRPOP absent 0",
    "BLMOVE absent other LEFT LEFT 0",
    "BRPOPLPUSH absent other 0",
    "BLMPOP 0 1 absent LEFT",
    "BZPOPMIN absent 0",
    "BZPOPMAX absent 0",
    "BZMPOP 0 1 absent MIN",
    "XREAD BLOCK 0 STREAMS absent $",
    "XREADGROUP GROUP g c BLOCK 0 STREAMS absent >",
    "WAIT 1 0",
    "WAITAOF 1 0 0",
    "SELECT 1",
    "AUTH secret",
    "HELLO 3",
    "RESET",
    "QUIT",
    "CLIENT REPLY OFF",
    "CLIENT TRACKING ON",
    "CLIENT SETNAME mine",
    "WATCH k",
    "MULTI",
    "EXEC",
    "DISCARD",
    "SUBSCRIBE c",
    "PSUBSCRIBE c",
    "SSUBSCRIBE c",
    "MONITOR",
];

/// Each is refused by name before a byte is sent, and the connection stays in step. Says how many.
pub async fn refused<C: Con>(mut con: C) -> usize {
    let before: i64 = con.client_id().await.unwrap();
    for line in REFUSED {
        let error: RedisError = con.req_packed_command(&command(line)).await.unwrap_err();
        let ours = Error::find_in(&error).unwrap_or_else(|| panic!("{line}: {error}"));
        let told = (ours.kind(), ours.phase(), ours.may_have_executed());
        assert_eq!(told, (ErrorKind::Refused, Phase::Queue, false), "{line}");
        let name = line.split_whitespace().next().unwrap();
        assert!(ours.to_string().contains(name), "{line}: {ours}");
        let echoed = con.req_packed_command(&command("ECHO in-step")).await;
        assert_eq!(
            echoed.unwrap(),
            Value::BulkString(b"in-step".to_vec()),
            "{line}"
        );
    }
    let after: i64 = con.client_id().await.unwrap();
    assert_eq!(after, before, "no connection was lost over it");
    REFUSED.len()
}
