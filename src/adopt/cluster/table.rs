//! Where the keys of a command are, by its name, as `redis` 1.8 has it for a cluster.
//!
//! Owns the table. Promises: as `redis`, not as the server's own list of commands: what counts is where a command is sent. `tests/cluster.rs`
//! holds it against the node that ran the command. Pure. Cannot fail.

/// How a command says which keys it has.
pub(super) enum Rule {
    /// The word at this position.
    At(usize),
    /// The word behind the number at this position, if that is not zero.
    Behind(usize),
    /// The word behind `STREAMS`.
    Streams,
    /// A slot itself.
    Number(usize),
    /// Every so many words from the first on, each where its slot is.
    Each(usize),
    /// As [`Each`](Self::Each) one word, but for the last, which is for all.
    EachButLast,
    Everywhere,
    Anywhere,
}

/// The name of a command, of two words where the first is a container, in upper case.
pub(super) struct Name {
    letters: [u8; LONGEST],
    len: usize,
}

impl Name {
    pub(super) fn of<'a>(mut words: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut name = Self {
            letters: [0; LONGEST],
            len: 0,
        };
        name.push(words.next().unwrap_or_default());
        if CONTAINERS.contains(&name.as_bytes())
            && let Some(second) = words.next()
        {
            name.push(b" ");
            name.push(second);
        }
        name
    }

    /// What is longer than any name we know is cut, and remains unknown.
    fn push(&mut self, part: &[u8]) {
        for (letter, byte) in self.letters.iter_mut().skip(self.len).zip(part) {
            *letter = byte.to_ascii_uppercase();
            self.len += 1;
        }
    }

    fn as_bytes(&self) -> &[u8] {
        self.letters.get(..self.len).unwrap_or_default()
    }
}

const LONGEST: usize = 40;

/// Commands whose second word is a part of their name, to `redis`.
const CONTAINERS: [&[u8]; 15] = [
    b"XGROUP",
    b"OBJECT",
    b"SLOWLOG",
    b"FUNCTION",
    b"MODULE",
    b"COMMAND",
    b"PUBSUB",
    b"CONFIG",
    b"MEMORY",
    b"XINFO",
    b"CLIENT",
    b"ACL",
    b"SCRIPT",
    b"CLUSTER",
    b"LATENCY",
];

/// The table of `redis`, as it stands in 1.8: what it does not list has its key first, also where that is none.
#[rustfmt::skip]
pub(super) fn rule(name: &Name) -> Rule {
    match name.as_bytes() {
        // To all nodes, or to all primaries.
        b"ACL SETUSER" | b"ACL DELUSER" | b"ACL SAVE" | b"CLIENT SETNAME" | b"CLIENT SETINFO" | b"SLOWLOG GET" | b"SLOWLOG LEN"
        | b"SLOWLOG RESET" | b"CONFIG SET" | b"CONFIG RESETSTAT" | b"CONFIG REWRITE" | b"SCRIPT FLUSH" | b"SCRIPT LOAD"
        | b"LATENCY RESET" | b"LATENCY GRAPH" | b"LATENCY HISTOGRAM" | b"LATENCY HISTORY" | b"LATENCY DOCTOR"
        | b"LATENCY LATEST" | b"PUBSUB NUMPAT" | b"PUBSUB CHANNELS" | b"PUBSUB NUMSUB" | b"PUBSUB SHARDCHANNELS"
        | b"PUBSUB SHARDNUMSUB" | b"FUNCTION STATS" | b"DBSIZE" | b"DEBUG" | b"FLUSHALL"
        | b"FLUSHDB" | b"FT._ALIASLIST" | b"FT._LIST" | b"FUNCTION DELETE" | b"FUNCTION FLUSH" | b"FUNCTION LOAD"
        | b"FUNCTION RESTORE" | b"INFO" | b"KEYS" | b"MEMORY DOCTOR" | b"MEMORY MALLOC-STATS" | b"MEMORY PURGE"
        | b"MEMORY STATS" | b"PING" | b"SCRIPT EXISTS" | b"UNWATCH" | b"WAIT" | b"WAITAOF" => Rule::Everywhere,

        b"MGET" | b"DEL" | b"EXISTS" | b"UNLINK" | b"TOUCH" | b"WATCH" => Rule::Each(1),
        b"MSET" => Rule::Each(2),
        b"JSON.MSET" => Rule::Each(3),
        b"JSON.MGET" => Rule::EachButLast,

        b"BLMPOP" | b"BZMPOP" | b"EVAL" | b"EVALSHA" | b"EVALSHA_RO" | b"EVAL_RO" | b"FCALL" | b"FCALL_RO" => Rule::Behind(2),
        b"LMPOP" | b"SINTERCARD" | b"ZDIFF" | b"ZINTER" | b"ZINTERCARD" | b"ZMPOP" | b"ZUNION" => Rule::Behind(1),
        b"XREAD" | b"XREADGROUP" => Rule::Streams,

        b"BITOP" | b"MEMORY USAGE" | b"PFDEBUG" | b"XGROUP CREATE" | b"XGROUP CREATECONSUMER" | b"XGROUP DELCONSUMER"
        | b"XGROUP DESTROY" | b"XGROUP SETID" | b"XINFO CONSUMERS" | b"XINFO GROUPS" | b"XINFO STREAM" | b"OBJECT ENCODING"
        | b"OBJECT FREQ" | b"OBJECT IDLETIME" | b"OBJECT REFCOUNT" | b"JSON.DEBUG" => Rule::At(2),

        b"CLUSTER ADDSLOTS" | b"CLUSTER COUNTKEYSINSLOT" | b"CLUSTER DELSLOTS" | b"CLUSTER DELSLOTSRANGE"
        | b"CLUSTER GETKEYSINSLOT" | b"CLUSTER SETSLOT" => Rule::Number(2),

        // To all primaries, of which one is enough: who is away does not stop the others.
        b"SCRIPT KILL" | b"FUNCTION KILL" | b"RANDOMKEY" => Rule::Anywhere,

        // To a node that is drawn.
        b"SCAN" | b"SHUTDOWN" | b"SLAVEOF" | b"REPLICAOF" | b"ACL DRYRUN" | b"ACL GENPASS" | b"ACL GETUSER" | b"ACL HELP"
        | b"ACL LIST" | b"ACL LOG" | b"ACL USERS" | b"ACL WHOAMI" | b"AUTH" | b"BGSAVE" | b"CLIENT GETNAME"
        | b"CLIENT GETREDIR" | b"CLIENT ID" | b"CLIENT INFO" | b"CLIENT KILL" | b"CLIENT PAUSE" | b"CLIENT REPLY"
        | b"CLIENT TRACKINGINFO" | b"CLIENT UNBLOCK" | b"CLIENT UNPAUSE" | b"CLUSTER COUNT-FAILURE-REPORTS"
        | b"CLUSTER INFO" | b"CLUSTER KEYSLOT" | b"CLUSTER MEET" | b"CLUSTER MYSHARDID" | b"CLUSTER NODES"
        | b"CLUSTER REPLICAS" | b"CLUSTER RESET" | b"CLUSTER SET-CONFIG-EPOCH" | b"CLUSTER SHARDS" | b"CLUSTER SLOTS"
        | b"COMMAND COUNT" | b"COMMAND GETKEYS" | b"COMMAND LIST" | b"COMMAND" | b"CONFIG GET" | b"ECHO" | b"FT.CREATE"
        | b"FUNCTION LIST" | b"LASTSAVE" | b"LOLWUT" | b"MODULE LIST" | b"MODULE LOAD" | b"MODULE LOADEX"
        | b"MODULE UNLOAD" | b"READONLY" | b"READWRITE" | b"SAVE" | b"SCRIPT SHOW" | b"TFCALL" | b"TFCALLASYNC"
        | b"TFUNCTION DELETE" | b"TFUNCTION LIST" | b"TFUNCTION LOAD" | b"TIME" => Rule::Anywhere,

        _ => Rule::At(1),
    }
}
