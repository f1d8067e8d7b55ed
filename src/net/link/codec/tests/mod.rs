//! What the tests of the codec share, and what a reply costs.

mod differential;
mod fuzz;
mod limits;

use bytes::BytesMut;

use super::{
    fuzz::{by_redis, decode_cut, same},
    *,
};

/// `./ci.sh full` runs it, or `cargo test --profile bench --lib -- --ignored --show-output what_a_reply_costs`.
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
        println!("FIGURE codec, {what}: {} ns", best / 1000);
    }
}
