//! What the tests of the codec share, and what a reply costs.

mod differential;
mod limits;

use bytes::BytesMut;
use redis::{Value, parse_redis_value};

use super::*;

/// What comes of `bytes` fed in pieces of the lengths that `piece` gives.
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

/// `cargo test --release -- --ignored --nocapture what_a_reply_costs`
#[test]
#[ignore = "a measurement"]
fn what_a_reply_costs() {
    for (what, one) in [
        (
            "bulk of 32 bytes",
            &b"$32\r\nabcdefghijklmnopqrstuvwxyz012345\r\n"[..],
        ),
        ("status OK", b"+OK\r\n"),
        ("integer", b":123456\r\n"),
        ("nil", b"$-1\r\n"),
        (
            "array of 3 bulks",
            b"*3\r\n$5\r\nhello\r\n$5\r\nhello\r\n$5\r\nhello\r\n",
        ),
        ("error", b"-ERR unknown command\r\n"),
    ] {
        let whole = BytesMut::from(&one.repeat(1000)[..]);
        let mut best = u128::MAX;
        for _ in 0..200 {
            let (mut decoder, mut buffer) = (Decoder::new(Limits::default()), whole.clone());
            let begin = tokio::time::Instant::now();
            while let Ok(Some(frame)) = decoder.decode(&mut buffer) {
                std::hint::black_box(frame);
            }
            best = best.min(begin.elapsed().as_nanos());
        }
        println!("{what}: {} ns", best / 1000);
    }
}
