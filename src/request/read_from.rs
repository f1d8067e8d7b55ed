//! Where a request that only reads may be answered.
//!
//! Owns [`ReadFrom`], and which requests only read. Promises: what writes, blocks, is a transaction, a script or unknown goes to the
//! primary, whatever was asked for. Leaves the way to `channel/route`. Cannot fail.

use super::Request;

/// Which server of a primary that Sentinels watch answers what only reads. Everything else goes to the primary, always.
///
/// A replica is behind: what was written a moment ago may be missing from it, also what this very client wrote. It is read from while
/// it has what its primary had 5 s ago, heard it within 5 s, and is neither down by the word of most Sentinels that know it nor taking
/// over a whole set of data; and only if it said itself, on the connection that is read over, that it is one. Connections to replicas are
/// made with the first such read. Replicas are chosen by lot, one that is silent or away is passed over. A read whose replica
/// is lost on the way goes on to the next one, within its deadline; one that waits for a replica which has just fallen silent may end as
/// `Timeout`. Replicas have circuits of their own: none of theirs opens the primary's.
///
/// Reads are the commands that a server flags `readonly` (`GET`, `MGET`, `HGETALL`, `SORT_RO`, `EVAL_RO`, …), and pipelines of such.
/// Transactions, commands that may write with other options (`SORT`, `GETEX`), blocking ones, those with subcommands, questions
/// about the server (`INFO`, `PING`) and commands that the crate does not know are none. Nor are `SCAN`, `HSCAN`, `SSCAN` and `ZSCAN`: their cursor
/// means something to the server that gave it and to no other.
///
/// ```
/// use redis_holdfast::{Client, Error, ErrorKind, ReadFrom, redis::{AsyncCommands, RedisResult}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redis = Client::builder("redis+sentinel://s-0,s-1,s-2/orders")?.build()?;
/// let cached = redis.with_read_from(ReadFrom::PreferReplica); // Reads of this handle go to a replica.
///
/// // A URL that names a server itself knows of no replica.
/// let mut alone = Client::builder("redis://cache.internal")?.build()?.with_read_from(ReadFrom::Replica);
/// let refused: RedisResult<Option<u64>> = alone.get("price").await;
/// assert_eq!(Error::find_in(&refused.unwrap_err()).map(Error::kind), Some(ErrorKind::NoReplica));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReadFrom {
    /// The primary.
    #[default]
    Primary,
    /// A replica, or the primary where none can be read from now.
    PreferReplica,
    /// A replica and nothing else: `NoReplica` where none can be read from.
    Replica,
}

impl Request {
    /// Says who may answer this request if it only reads, instead of what the client says.
    ///
    /// # Errors
    /// `NoReplica` for [`ReadFrom::Replica`] where no replica can be read from, and always where the client's URL names a server itself.
    #[must_use]
    pub fn with_read_from(mut self, read_from: ReadFrom) -> Self {
        self.extensions_mut().insert(read_from);
        self
    }

    /// What [`with_read_from`](Self::with_read_from) said.
    #[must_use]
    pub fn read_from(&self) -> Option<ReadFrom> {
        self.extensions().get().copied()
    }

    /// Whether a replica may answer it.
    pub(crate) fn only_reads(&self) -> bool {
        self.reads && self.refusal().is_none()
    }
}

#[cfg(test)]
mod tests {
    use redis::{Cmd, cmd, pipe};

    use super::*;

    #[test]
    fn what_only_reads_is_what_changes_nothing_and_may_ride_a_shared_connection() {
        let reads = |cmd: &mut Cmd| Request::from(cmd).only_reads();
        assert!(reads(cmd("GET").arg("k")));
        assert!(reads(cmd("SORT_RO").arg("k")));
        assert!(reads(cmd("XREAD").arg("STREAMS").arg("s").arg("0")));
        for words in [
            "SET k v",
            "INCR k",
            "BLPOP k 0",
            "XREAD BLOCK 5 STREAMS s 0",
            "SORT k STORE l",
            "GETDEL k",
            "GETEX k PERSIST",
            "GETEX k",
            "SORT k",
            "PING",
            "INFO",
            "CONFIG GET save",
            "TOUCH k",
            "MULTI",
            "EVAL s 0",
            "FCALL f 0",
            "WAIT 1 0",
            "WATCH k",
            "SCAN 0",
            "HSCAN k 0",
            "SSCAN k 0",
            "ZSCAN k 0",
            "CLUSTERSCAN 0",
            "SUBSCRIBE c",
            "PUBLISH c m",
            "UNHEARD.OF k",
        ] {
            let mut words = words.split(' ');
            let mut command = cmd(words.next().unwrap());
            for word in words {
                command.arg(word);
            }
            assert!(!reads(&mut command), "{command:?}");
        }
        let both = |atomic: bool, write: bool| {
            let mut pipe = pipe();
            pipe.get("a").get("b");
            if write {
                pipe.set("c", 1);
            }
            if atomic {
                pipe.atomic();
            }
            Request::from(pipe).only_reads()
        };
        assert!(both(false, false));
        assert!(!both(false, true) && !both(true, false) && !both(true, true));
    }

    #[test]
    fn a_transaction_by_hand_in_a_pipeline_is_none() {
        let mut pipe = pipe();
        pipe.cmd("MULTI").get("a").cmd("EXEC");
        assert!(!Request::from(pipe).only_reads());
    }
}
