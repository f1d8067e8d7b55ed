//! The codec against peers that mean harm: what is malformed, what is too large, what it may cost.

use bytes::BytesMut;
use redis::{Value, parse_redis_value};

use super::*;

fn decode(limits: Limits, bytes: &[u8]) -> (Vec<Frame>, Option<Malformed>) {
    let (whole, broken, _) = decode_cut(limits, bytes, || bytes.len());
    for piece in [1, 3] {
        let (pieces, broken_too, _) = decode_cut(limits, bytes, || piece);
        assert_eq!((&pieces, broken_too), (&whole, broken), "pieces of {piece}");
    }
    (whole, broken)
}

#[test]
fn what_is_not_resp_is_malformed() {
    for bytes in [
        &b"x"[..],
        b"\r\n",
        b"GET / HTTP/1.1\r\n",
        b"$-2\r\n",
        b"*-2\r\n",
        b"~-2\r\n",
        b">-2\r\n",
        b"%-1\r\n",
        b"|-1\r\n",
        b"!-1\r\n",
        b"=-1\r\n",
        b"$?\r\n;0\r\n",
        b"*?\r\n.\r\n",
        b"$99999999999999999999\r\n",
        b"$\r\n",
        b"$3\r\nabcd\r\n",
        b"$3\r\nabc\nx",
        b":\r\n",
        b":1.5\r\n",
        b":9223372036854775808\r\n",
        b":\xff\r\n",
        b"#x\r\n",
        b",abc\r\n",
        b"=3\r\nabc\r\n",
        b">1\r\n:1\r\n",
        b">1\r\n+OK\r\n",
        b">1\r\n$1\r\n\xff\r\n",
    ] {
        let (frames, broken) = decode(Limits::default(), bytes);
        assert!(
            frames.is_empty() && broken.is_some(),
            "{}: {frames:?}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn a_malformed_reply_is_told_without_its_bytes() {
    let (_, broken) = decode(Limits::default(), b":secret\r\n");
    let broken = broken.expect("not an integer");
    assert_eq!(broken.to_string(), "malformed reply: not an integer");
}

/// A script may answer with any bytes; that must not close everybody's link.
#[test]
fn a_line_that_is_not_utf8_is_repaired() {
    let (frames, broken) = decode(Limits::default(), b"+a\xff\r\n-ERR \xff b\r\n");
    assert_eq!(broken, None);
    let error = parse_redis_value("-ERR \u{fffd} b\r\n".as_bytes()).expect("valid");
    assert_eq!(
        frames,
        [
            Frame::Reply(Value::SimpleString("a\u{fffd}".to_owned())),
            Frame::Reply(error)
        ]
    );
}

#[test]
fn nesting_ends_where_redis_ends_it() {
    for head in ["*1\r\n", "~1\r\n", "%1\r\n+a\r\n"] {
        let fits = [head.repeat(99).as_bytes(), b"*0\r\n"].concat();
        let (frames, broken) = decode(Limits::default(), &fits);
        assert_eq!((frames.into_iter().next(), broken), (by_redis(&fits), None));
        let deeper = [head.repeat(100).as_bytes(), b"*0\r\n"].concat();
        assert_eq!(by_redis(&deeper), None);
        assert_eq!(
            decode(Limits::default(), &deeper).1,
            Some(Malformed("nested too deep"))
        );
    }
    let million = b"*1\r\n".repeat(1_000_000);
    let (_, broken, _) = decode_cut(Limits::default(), &million, || 4096);
    assert_eq!(broken, Some(Malformed("nested too deep")));
}

const SMALL: Limits = Limits {
    depth: 100,
    total: 1000,
    line: 64,
};

#[test]
fn a_reply_over_the_limit_is_skipped_and_the_next_one_decodes() {
    let long = |tag: &str, length: usize| [tag.as_bytes(), &vec![b'x'; length], b"\r\n"].concat();
    let bulk = |length: usize| long(&format!("${length}\r\n"), length);
    for (bytes, what) in [
        (bulk(1001), "a string"),
        ([b"*2\r\n", &bulk(600)[..], &bulk(600)].concat(), "strings"),
        (
            b"*30\r\n"
                .iter()
                .copied()
                .chain(b"$-1\r\n".repeat(30))
                .collect(),
            "nils",
        ),
        (
            [b"*1\r\n*1\r\n%1\r\n+k\r\n", &bulk(2000)[..]].concat(),
            "a nested string",
        ),
        (
            [b"*2\r\n", &bulk(2000)[..], b"*2\r\n-ERR x\r\n>1\r\n:1\r\n"].concat(),
            "what follows",
        ),
        (
            [b"|1\r\n+k\r\n", &bulk(2000)[..], b":1\r\n"].concat(),
            "attributes",
        ),
        (long("+", 65), "a status"),
        (long("-ERR ", 65), "an error"),
        (long("(", 65), "a number"),
        (
            [b"*2\r\n:1\r\n", &long("+", 300)[..]].concat(),
            "a nested status",
        ),
    ] {
        let (frames, broken) = decode(SMALL, &[&bytes, &b"+OK\r\n"[..], b":7\r\n"].concat());
        assert_eq!(broken, None, "{what}");
        let bytes = wire::wide(bytes.len());
        assert_eq!(frames.first(), Some(&Frame::TooLarge { bytes }), "{what}");
        assert_eq!(
            frames.get(1..),
            Some(&[Frame::Reply(Value::Okay), Frame::Reply(Value::Int(7))][..]),
            "{what}"
        );
    }
    for (bytes, what) in [(bulk(1000), "a string"), (long("+", 64), "a status")] {
        let (frames, _) = decode(SMALL, &bytes);
        assert!(matches!(frames[..], [Frame::Reply(_)]), "{what} that fits");
    }
}

#[test]
fn a_push_over_the_limit_still_answers_nobody() {
    let bulk = [&b"$2000\r\n"[..], &[b'x'; 2000], b"\r\n"].concat();
    for head in [
        &b">2\r\n+message\r\n"[..],
        b"|1\r\n+a\r\n+b\r\n>2\r\n+message\r\n",
    ] {
        let (frames, broken) = decode(SMALL, &[head, &bulk, b"+OK\r\n"].concat());
        assert_eq!(broken, None);
        assert_eq!(
            frames,
            [Frame::Push(empty_push()), Frame::Reply(Value::Okay)]
        );
    }
    let reply = [b"*2\r\n>1\r\n+message\r\n", &bulk[..]].concat();
    let bytes = wire::wide(reply.len());
    assert_eq!(decode(SMALL, &reply).0, [Frame::TooLarge { bytes }]);
}

#[test]
fn skipping_still_sees_what_is_malformed() {
    for tail in [&b"x"[..], b"$-2\r\n", b":x\r\n", b"$1\r\nab\r\n"] {
        let bytes = [b"*1000\r\n", tail].concat();
        let (frames, broken) = decode(SMALL, &bytes);
        assert!(frames.is_empty() && broken.is_some(), "{tail:?}");
    }
    let deep = [b"*1000\r\n", &b"*1\r\n".repeat(200)[..]].concat();
    assert_eq!(decode(SMALL, &deep).1, Some(Malformed("nested too deep")));
    let endless = [b"+", &[b'x'; 2000][..]].concat();
    assert_eq!(decode(SMALL, &endless).1, Some(Malformed("endless line")));
    let number = [b":", &[b'1'; 100][..]].concat();
    assert_eq!(decode(SMALL, &number).1, Some(Malformed("endless line")));
}

#[test]
fn what_is_only_announced_takes_no_memory() {
    for head in [
        &b"$4294967296\r\n"[..],
        b"$9223372036854775807\r\n",
        b"*9223372036854775807\r\n",
        b"%9223372036854775807\r\n",
        b"|9223372036854775807\r\n",
        b">9223372036854775807\r\n",
        b"!134217728\r\n",
        b"$134217728\r\n",
        b"*2000000\r\n",
        b"*1\r\n*1000000\r\n*1000000\r\n*1000000\r\n",
    ] {
        let mut decoder = Decoder::new(Limits::default());
        let mut buffer = BytesMut::from(head);
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
        assert!(buffer.is_empty());
        assert!(
            decoder.machine.room_held() <= 256 << 10,
            "{}: {}",
            head.escape_ascii(),
            decoder.machine.room_held()
        );
    }
}

/// Steps and bytes looked at, against bytes fed: any rescan of what was seen before would multiply it.
#[test]
fn work_is_linear_in_the_bytes_whatever_the_pieces() {
    let many = |head: &str, element: &str, count: usize| {
        [head.as_bytes(), element.repeat(count).as_bytes()].concat()
    };
    let mebibyte = [&b"$1048576\r\n"[..], &[b'x'; 1 << 20], b"\r\n"].concat();
    let line = [&b"+"[..], &[b'x'; 60_000], b"\r\n"].concat();
    for (bytes, piece) in [
        (many("*100000\r\n", "$5\r\nhello\r\n", 100_000), 64),
        (many("*100000\r\n", ":1\r\n", 100_000), 1),
        (many("%50000\r\n", "*2\r\n+a\r\n", 100_000), 7),
        (mebibyte, 64),
        (line, 1),
    ] {
        let (frames, _, decoder) = decode_cut(Limits::default(), &bytes, || piece);
        let calls = wire::wide(bytes.len().div_ceil(piece));
        let bound = 2 * wire::wide(bytes.len()) + 4 * calls;
        assert!(frames.len() <= 1 && decoder.machine.work <= bound);
        assert!(decoder.machine.work > 0);
    }
}
