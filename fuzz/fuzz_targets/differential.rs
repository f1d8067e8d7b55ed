//! Any bytes as a server's: redis' own parser gives the same values.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    redis_holdfast::fuzzing::differential(data);
});
