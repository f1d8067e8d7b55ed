//! Whatever can be typed in a line, as libraries get it from `redis`' trait and as a user does.

use redis_holdfast::redis::{self, Cmd, Value};

use crate::World;
use crate::log::{Con, Log};

/// One command a line, words parted by blanks. Replies that differ from run to run (times, random members) have no place here.
const COMMANDS: &str = "
    PING
    PING hello
    ECHO words
    SET s value
    GET s
    SET s other NX
    SET s third XX GET
    SET absent v XX
    GET absent
    GETSET s fourth
    GETDEL s
    SETNX n 1
    INCR n
    INCRBY n 41
    DECR n
    INCRBYFLOAT n 0.5
    GET n
    APPEND text abc
    APPEND text def
    STRLEN text
    GETRANGE text 1 3
    SETRANGE text 2 XY
    MSET a 1 b 2 c 3
    MGET a absent c
    MSETNX a 9 z 9
    EXISTS a b absent
    TYPE a
    TYPE absent
    EXPIRE a 1000
    PERSIST a
    TTL a
    TTL absent
    PTTL b
    RENAME b b2
    COPY b2 b3
    DEL b2 b3 absent
    UNLINK c
    SETBIT bits 7 1
    GETBIT bits 7
    BITCOUNT bits
    BITFIELD bits SET u8 0 200 GET u4 0 OVERFLOW FAIL INCRBY u2 0 9
    PFADD hll a b c
    PFCOUNT hll
    HSET h f1 v1 f2 v2 f3 3
    HGET h f1
    HGET h absent
    HMGET h f1 absent f3
    HGETALL h
    HGETALL absent
    HKEYS h
    HVALS h
    HLEN h
    HEXISTS h f2
    HINCRBY h f3 4
    HINCRBYFLOAT h f3 0.25
    HSTRLEN h f1
    HDEL h f1 absent
    HRANDFIELD single
    HSCAN h 0
    RPUSH l a b c b
    LPUSH l z
    LRANGE l 0 -1
    LINDEX l 1
    LINDEX l 99
    LINSERT l BEFORE b x
    LPOS l b
    LPOS l b COUNT 0
    LPOS l absent
    LREM l 1 b
    LSET l 0 first
    LTRIM l 0 3
    LLEN l
    LPOP l
    RPOP l 2
    LPOP absent
    LPOP absent 2
    LMOVE l l2 LEFT RIGHT
    RPOPLPUSH l2 l3
    LMPOP 2 absent l3 LEFT
    LMPOP 1 absent LEFT
    SADD set 1 2 3
    SADD set2 3 4
    SMEMBERS set
    SMEMBERS absent
    SISMEMBER set 2
    SMISMEMBER set 2 9
    SINTER set set2
    SUNION set set2
    SDIFF set set2
    SINTERCARD 2 set set2
    SMOVE set set2 1
    SREM set 2
    SCARD set
    ZADD z 1 one 2.5 two 3 three
    ZADD z GT CH 2 one
    ZADD z INCR 5 one
    ZADD z NX INCR 5 one
    ZSCORE z two
    ZSCORE z absent
    ZMSCORE z one absent
    ZRANGE z 0 -1
    ZRANGE z 0 -1 WITHSCORES
    ZRANGE z (1 +inf BYSCORE LIMIT 0 1
    ZREVRANGE z 0 0 WITHSCORES
    ZRANK z two
    ZRANK z two WITHSCORE
    ZRANK z absent
    ZINCRBY z 1e2 two
    ZCOUNT z -inf +inf
    ZPOPMIN z
    ZPOPMAX z 2
    ZPOPMIN absent
    ZADD z inf most -inf least
    ZRANGE z 0 -1 WITHSCORES
    GEOADD geo 13.361389 38.115556 Palermo 15.087269 37.502669 Catania
    GEODIST geo Palermo Catania km
    GEODIST geo Palermo absent
    GEOPOS geo Palermo absent
    GEOSEARCH geo FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHCOORD WITHDIST
    XADD x 1-1 f v g w
    XADD x 2-1 f v2
    XADD x 1-0 late v
    XLEN x
    XRANGE x - +
    XREVRANGE x + - COUNT 1
    XREAD COUNT 5 STREAMS x absent 0 0
    XREAD STREAMS x $
    XGROUP CREATE x group 0
    XGROUP CREATE x group 0
    XREADGROUP GROUP group me COUNT 1 STREAMS x >
    XPENDING x group
    XACK x group 1-1
    XPENDING x group - + 9
    XINFO GROUPS x
    XTRIM x MAXLEN 1
    XDEL x 2-1
    OBJECT ENCODING text
    OBJECT HELP
    DBSIZE
    KEYS te*
    SCAN 0 MATCH tex* COUNT 1000
    SORT l BY nosort GET # GET absent:*
    CONFIG GET maxmemory-policy
    COMMAND INFO get absent
    COMMAND COUNT
    MEMORY USAGE absent
    EVAL return(1) 0
    EVAL return{1,{2,{'deep',false}},'x',3.9} 0
    EVAL return{ok='fine'} 0
    EVAL return{err='MINE_own_words'} 0
    EVAL return(redis.error_reply('NOAUTH_no')) 0
    EVAL return(redis.call('INCR','text')) 0
    EVAL return(redis.setresp(3)) 0
    EVAL redis.setresp(3);return(redis.call('HGETALL','h')) 0
    EVAL redis.setresp(3);return{double=3.5} 0
    EVAL redis.setresp(3);return{map={a=1}} 0
    EVAL redis.setresp(3);return{set={a=true}} 0
    EVAL redis.setresp(3);return(true) 0
    EVAL redis.setresp(3);return{big_number='123456789012345678901234567890'} 0
    EVAL redis.setresp(3);return{verbatim_string={format='txt',string='words'}} 0
    EVALSHA ffffffffffffffffffffffffffffffffffffffff 0
    SCRIPT EXISTS ffffffffffffffffffffffffffffffffffffffff
    INCR text
    LPUSH text 1
    HGET l2
    NOSUCHCOMMAND a b
    GET
    SET s
    SET s v EX 0
    EXPIRE s notanumber
    ZADD z notanumber m
    CONFIG SET maxmemory nonsense
    OBJECT NOSUCH s
    DEBUG JMAP
    XADD text * f v
    BITFIELD text GET u99 0
    FLUSHDB
";

pub fn command(line: &str) -> Cmd {
    let mut words = line.split_whitespace();
    let mut command = redis::cmd(words.next().unwrap());
    command.arg(words.collect::<Vec<_>>());
    command
}

fn lines() -> impl Iterator<Item = &'static str> {
    COMMANDS
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
}

pub async fn packed<C: Con>(mut con: C, log: &mut Log, _: &World) {
    for line in lines() {
        log.value(line, con.req_packed_command(&command(line)).await);
    }
}

pub async fn queried<C: Con>(mut con: C, log: &mut Log, _: &World) {
    for line in lines() {
        log.value(line, command(line).query_async::<Value>(&mut con).await);
    }
}
