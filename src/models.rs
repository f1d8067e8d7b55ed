//! Pure machines against random histories: how many, and which.
//!
//! Owns [`try_all`]. Promises: a quick run tries the same histories each time, so that it is green or red for the code's sake alone; a full run
//! tries ten times as many, new ones each time. What fails is shrunk, and shown as the smallest history that still fails.
//! Leaves the machines and their references to the `model` beside each machine. Fails by panicking, as tests do.

use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngSeed, TestRunner},
};

/// Holds `claim` against `cases` histories of `histories`. It claims by panicking where it does not hold.
pub(crate) fn try_all<S: Strategy>(cases: u32, histories: S, claim: impl Fn(S::Value)) {
    let is_full = std::env::var_os("HOLDFAST_FULL").is_some();
    let (cases, rng_seed) = if is_full {
        (cases * 10, RngSeed::Random)
    } else {
        (cases, RngSeed::Fixed(0x401D_FA57))
    };
    let config = Config {
        cases,
        rng_seed,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&histories, |history| {
        claim(history);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
