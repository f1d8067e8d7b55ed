//! The codec against redis' own parser, against pieces, and against peers that mean harm.

use bytes::BytesMut;
use redis::{Value, parse_redis_value};

use super::*;

/// What comes of `bytes` fed in pieces that end at `cuts`.
fn decode_cut(
    limits: Limits,
    bytes: &[u8],
    mut piece: impl FnMut() -> usize,
) -> (Vec<Frame>, Option<Malformed>, Decoder) {
    let mut decoder = Decoder::new(limits);
    let (mut buffer, mut frames, mut at) = (BytesMut::new(), Vec::new(), 0);
    while at < bytes.len() {
        let end = (at + piece().max(1)).min(bytes.len());
        buffer.extend_from_slice(&bytes[at..end]);
        at = end;
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(malformed) => {
                    assert_eq!(decoder.decode(&mut buffer), Err(malformed), "stays broken");
                    return (frames, Some(malformed), decoder);
                }
            }
        }
    }
    (frames, None, decoder)
}

/// Redis' verdict on the first value of `bytes`.
fn by_redis(bytes: &[u8]) -> Option<Frame> {
    parse_redis_value(bytes).ok().map(|value| {
        let plain = without_attributes(value.clone());
        if matches!(plain, Value::Push { .. }) {
            Frame::Push(plain)
        } else {
            Frame::Reply(value)
        }
    })
}

/// Equal, and a NaN equals a NaN.
fn same(left: &[Frame], right: &[Frame]) -> bool {
    left == right || format!("{left:?}") == format!("{right:?}")
}

const VALID: &[&[u8]] = &[
    b"+OK\r\n",
    b"+PONG\r\n",
    b"+\r\n",
    b"+with \r and \n inside\r\n",
    "+h\u{e4}\r\n".as_bytes(),
    b"-ERR wrong\r\n",
    b"-LOADING Redis is loading\r\n",
    b"-MOVED 3999 127.0.0.1:6381\r\n",
    b"-CUSTOM\r\n",
    b"-CUSTOM two words\r\n",
    b"-\r\n",
    b"-READONLY\r\n",
    b":0\r\n",
    b":1000\r\n",
    b":-1\r\n",
    b":+7\r\n",
    b": 42 \r\n",
    b":007\r\n",
    b":9223372036854775807\r\n",
    b":-9223372036854775808\r\n",
    b":1234567890123\r\n",
    b"$0\r\n\r\n",
    b"$5\r\nhello\r\n",
    b"$2\r\n\r\n\r\n",
    b"$3\r\n\xff\x00\xfe\r\n",
    b"$-1\r\n",
    b"$ 1\r\nx\r\n",
    b"$+1\r\nx\r\n",
    b"$0000000000001\r\nx\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*3\r\n+OK\r\n-ERR in the middle\r\n:1\r\n",
    b"*2\r\n*2\r\n$1\r\na\r\n$-1\r\n*1\r\n*0\r\n",
    b"_\r\n",
    b"_anything\r\n",
    b"#t\r\n",
    b"#f\r\n",
    b",1.5\r\n",
    b",-inf\r\n",
    b",nan\r\n",
    b",-nan\r\n",
    b",10\r\n",
    b", 1e3 \r\n",
    b"(3492890328409238509324850943850943825024385\r\n",
    b"(-1\r\n",
    b"!21\r\nSYNTAX invalid syntax\r\n",
    b"!3\r\nERR\r\n",
    b"!9\r\nERR a\r\nb\xff\r\n",
    b"=8\r\ntxt:text\r\n",
    b"=5\r\nmkd:#\r\n",
    b"=7\r\nabc:d:e\r\n",
    b"=1\r\n:\r\n",
    b"=5\r\ntxt:\xff\r\n",
    b"%0\r\n",
    b"%2\r\n+a\r\n:1\r\n$1\r\nb\r\n*1\r\n#t\r\n",
    b"~0\r\n",
    b"~-1\r\n",
    b"~3\r\n:1\r\n:2\r\n:1\r\n",
    b"|1\r\n+ttl\r\n:3600\r\n$1\r\nv\r\n",
    b"|0\r\n:1\r\n",
    b"*2\r\n|1\r\n+a\r\n+b\r\n:1\r\n:2\r\n",
    b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n",
    b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
    b">1\r\n+something-new\r\n",
    b">0\r\n",
    b">-1\r\n",
    b">2\r\n+pmessage\r\n+x\r\n",
    b">2\r\n+smessage\r\n+x\r\n",
    b">2\r\n+subscribe\r\n+x\r\n",
    b">2\r\n+psubscribe\r\n+x\r\n",
    b">2\r\n+ssubscribe\r\n+x\r\n",
    b">2\r\n+unsubscribe\r\n+x\r\n",
    b">2\r\n+punsubscribe\r\n+x\r\n",
    b">2\r\n+sunsubscribe\r\n+x\r\n",
    b"*1\r\n>2\r\n+message\r\n+inside\r\n",
    b"|1\r\n+a\r\n+b\r\n>1\r\n+message\r\n",
];

#[test]
fn every_type_gives_what_redis_gives_in_whatever_pieces() {
    for bytes in VALID {
        let expected = by_redis(bytes).map(|frame| vec![frame]);
        let expected = expected.unwrap_or_else(|| panic!("redis refuses {bytes:?}"));
        for piece in [1, 2, 3, 7, usize::MAX >> 1] {
            let (frames, broken, _) = decode_cut(Limits::default(), bytes, || piece);
            assert_eq!(broken, None, "{:?}", bytes.escape_ascii().to_string());
            assert!(
                same(&frames, &expected),
                "{}: {frames:?}, redis {expected:?}",
                bytes.escape_ascii()
            );
        }
    }
}
