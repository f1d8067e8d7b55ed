//! Any bytes as a recipe for values: written out and read again they are the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    redis_holdfast::fuzzing::round_trip(data);
});
