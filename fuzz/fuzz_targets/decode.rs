//! Any bytes as a server's: pieces do not matter, memory and work are bounded.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    redis_holdfast::fuzzing::decode(data);
});
