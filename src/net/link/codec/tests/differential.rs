//! The codec against redis' own parser: every type, random frames, random pieces. For random damage see [`fuzz`](super::fuzz).

use super::*;

/// One of each.
pub(super) const VALID: &[&[u8]] = &[
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

/// Writes a random valid element at `depth`.
pub(super) fn element(random: &mut fastrand::Rng, depth: usize, out: &mut Vec<u8>) {
    let word = |random: &mut fastrand::Rng| -> String {
        (0..random.usize(0..12))
            .map(|_| random.alphanumeric())
            .collect()
    };
    let blob = |tag: char, bytes: &[u8], out: &mut Vec<u8>| {
        out.extend(format!("{tag}{}\r\n", bytes.len()).bytes());
        out.extend(bytes);
        out.extend(b"\r\n");
    };
    let kinds = if depth < 5 { 17 } else { 11 };
    match random.usize(0..kinds) {
        0 => out.extend(b"+OK\r\n"),
        1 => out.extend(format!("+{}\r\n", word(random)).bytes()),
        2 => out.extend(format!("-{} {}\r\n", word(random), word(random)).bytes()),
        3 => out.extend(format!(":{}\r\n", random.i64(..)).bytes()),
        4 => out.extend([&b"$-1\r\n"[..], b"*-1\r\n", b"_\r\n"][random.usize(0..3)]),
        5 | 6 => {
            let length = [3, 40, 3000][random.usize(0..3)];
            let bytes: Vec<u8> = (0..random.usize(0..length))
                .map(|_| random.u8(..))
                .collect();
            blob('$', &bytes, out);
        }
        7 => out.extend([&b"#t\r\n"[..], b"#f\r\n"][random.usize(0..2)]),
        8 => out.extend(format!(",{}\r\n", random.f64() * 1e9).bytes()),
        9 => blob('=', format!("txt:{}", word(random)).as_bytes(), out),
        10 => match random.bool() {
            true => blob('!', format!("ERR {}", word(random)).as_bytes(), out),
            false => out.extend(format!("({}\r\n", random.u128(..)).bytes()),
        },
        kind => {
            let count = random.usize(0..6);
            let (tag, elements) = match kind {
                11 | 12 => ('*', count),
                13 => ('~', count),
                14 => ('%', 2 * count),
                15 => ('|', 2 * count + 1),
                _ => ('>', count),
            };
            out.extend(format!("{tag}{count}\r\n").bytes());
            for at in 0..elements {
                match (tag, at) {
                    ('>', 0) => out.extend(b"+message\r\n"),
                    _ => element(random, depth + 1, out),
                }
            }
        }
    }
}

#[test]
fn random_frames_in_random_pieces_give_what_redis_gives() {
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..400 {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..random.usize(1..4) {
            let begin = bytes.len();
            element(&mut random, 0, &mut bytes);
            expected.push(by_redis(&bytes[begin..]).expect("redis reads what we wrote"));
        }
        for longest in [1, 2, 5, 50, 5000] {
            let mut cuts = fastrand::Rng::with_seed(random.u64(..));
            let (frames, broken, decoder) =
                decode_cut(Limits::default(), &bytes, || cuts.usize(1..=longest));
            assert!(
                broken.is_none() && same(&frames, &expected),
                "{}: {broken:?} {frames:?}",
                bytes.escape_ascii()
            );
            assert!(decoder.fresh);
        }
    }
}
