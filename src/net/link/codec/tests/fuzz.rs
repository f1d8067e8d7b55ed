//! The fuzz bodies without a fuzzer: a seeded generator and mutator, and the corpus that libFuzzer left in `fuzz/corpus`.
//!
//! The corpus brings the odd paths that coverage found, the generator whole frames, the mutator their damage.

use std::{fs, path::Path};

use fastrand::Rng;

use super::{
    super::fuzz::{decode, differential, round_trip},
    differential::{VALID, element},
};

/// Executions in all: the figure as promised, or enough for every path of the mutator.
fn executions() -> usize {
    if std::env::var_os("HOLDFAST_FULL").is_some() {
        10_000_000
    } else {
        100_000
    }
}

/// The stored inputs, in the order of their names.
fn corpus(which: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(which);
    let mut paths: Vec<_> = fs::read_dir(folder)
        .expect("the corpus is in the repository")
        .map(|entry| entry.expect("a file").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 50, "{} inputs in {which}", paths.len());
    paths
        .iter()
        .map(|path| fs::read(path).expect("a file"))
        .collect()
}

/// A short input that was never seen before.
fn input(random: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let pick = |random: &mut Rng| corpus[random.usize(0..corpus.len())].clone();
    let mut bytes = match random.u8(0..8) {
        0..3 => pick(random),
        3 => [pick(random), pick(random)].concat(),
        4 => VALID[random.usize(0..VALID.len())].to_vec(),
        5 => (0..random.usize(0..64)).map(|_| random.u8(..)).collect(),
        _ => {
            let mut bytes = Vec::new();
            element(random, 3, &mut bytes);
            bytes
        }
    };
    for _ in 0..random.usize(0..4) {
        damage(random, &mut bytes, corpus);
    }
    bytes.truncate(4096);
    bytes
}

fn damage(random: &mut Rng, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    const LENGTHS: [&str; 10] = [
        "-1",
        "-2",
        "0",
        "1",
        "00",
        "100",
        "1000000",
        "4294967296",
        "9223372036854775807",
        "99999999999999999999",
    ];
    const TOKENS: &[u8] = b"0123456789-+$*:%~>|!=_#,(\r\n ";
    let at = random.usize(0..=bytes.len());
    let to = random.usize(at..=bytes.len());
    match random.u8(0..9) {
        0 if at < bytes.len() => bytes[at] = random.u8(..),
        1 if at < bytes.len() => bytes[at] = TOKENS[random.usize(0..TOKENS.len())],
        2 => bytes.truncate(at),
        3 => bytes.insert(at, TOKENS[random.usize(0..TOKENS.len())]),
        4 => drop(bytes.drain(at..to)),
        5 => {
            let piece = bytes[at..to].to_vec();
            bytes.splice(at..at, piece);
        }
        6 => {
            let other = &corpus[random.usize(0..corpus.len())];
            let end = random.usize(0..=other.len());
            bytes.splice(at..to, other[..end].iter().copied());
        }
        7 => {
            let length = LENGTHS[random.usize(0..LENGTHS.len())].bytes();
            bytes.splice(at..(at + 1).min(bytes.len()), length);
        }
        _ => {
            let tag = TOKENS[random.usize(11..24)];
            let head = [&[tag], LENGTHS[random.usize(2..6)].as_bytes(), b"\r\n"].concat();
            bytes.splice(at..at, head);
        }
    }
}

/// Two tests, so that both cores of a small machine are used.
fn run(name: &str, seed: u64, executions: usize) {
    let (resp, recipes) = (corpus("resp"), corpus("recipes"));
    for bytes in VALID.iter().copied().chain(resp.iter().map(Vec::as_slice)) {
        decode(bytes);
        differential(bytes);
    }
    recipes.iter().for_each(|bytes| round_trip(bytes));
    let mut random = Rng::with_seed(seed);
    let (mut accepted, mut refused) = (0, 0);
    let begin = tokio::time::Instant::now();
    for round in 0..executions {
        match round % 8 {
            0..3 => decode(&input(&mut random, &resp)),
            3..6 => {
                let seen = differential(&input(&mut random, &resp));
                accepted += usize::from(seen.accepted > 0);
                refused += usize::from(seen.refused);
            }
            _ => round_trip(&input(&mut random, &recipes)),
        }
    }
    println!(
        "FIGURE codec, fuzz bodies ({name}): {executions} executions clean over {} stored inputs, {accepted} accepted and {refused} refused as redis does, {:?}",
        resp.len() + recipes.len(),
        begin.elapsed()
    );
    // Neither side may starve the other: a mutator that only makes garbage tests one line of the decoder.
    assert!(
        accepted.min(refused) > executions / 16,
        "{accepted}, {refused}"
    );
}

#[test]
fn no_bytes_break_the_codec() {
    run("first half", 1, executions() / 2);
}

#[test]
fn no_other_bytes_break_it_either() {
    run("second half", 2, executions() / 2);
}
