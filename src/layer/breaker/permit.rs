//! A call's leave to pass, and what the circuit hears of it.
//!
//! Owns [`Permit`]. Promises: the circuit hears of each attempt once, whatever ends it; one that is dropped late was somebody's timeout and
//! counts as a failure, one that is dropped early, or was never begun, counts for nothing. Cannot fail.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    circuit::{Attempt, Core},
    judge::Judgement,
    pace::SILENCE,
};
use crate::deadline::Deadline;

/// Held by an attempt for as long as it lives.
pub(crate) struct Permit {
    core: Arc<Core>,
    word: u64,
    in_ramp: bool,
    /// Other circuits have admitted the same attempt: it may fail by their endpoints.
    is_shared: bool,
    /// Since it was first polled, until it is judged.
    begun: Option<Instant>,
    /// Who has waited so long has waited in vain.
    patience: Duration,
}

impl Permit {
    pub(super) fn new(core: Arc<Core>, word: u64, in_ramp: bool) -> Self {
        Self {
            core,
            word,
            in_ramp,
            is_shared: false,
            begun: None,
            patience: SILENCE,
        }
    }

    /// Dropped later than four fifths of its time, or than a healthy server ever takes, it was given up.
    pub(super) fn with_deadline(mut self, deadline: Option<Deadline>) -> Self {
        if let Some(deadline) = deadline {
            self.patience = self.patience.min(deadline.timeout() * 4 / 5);
        }
        self
    }

    /// One of several.
    #[cfg(feature = "cluster")]
    pub(super) fn shared(mut self) -> Self {
        self.is_shared = true;
        self
    }

    pub(super) fn begin(&mut self) {
        if self.begun.is_none() {
            self.begun = Some(Instant::now());
        }
    }

    pub(super) fn judge(&mut self, judgement: Judgement) {
        if let Some(begun) = self.begun.take() {
            let attempt = Attempt {
                word: self.word,
                begun,
                patience: self.patience,
            };
            let now = Instant::now();
            let is_bad = judgement == Judgement::Failed || judgement.is_of_the_way();
            if self.is_shared && is_bad {
                self.core.suspect(attempt, judgement, now);
            } else {
                self.core.record(attempt, judgement, now);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.in_ramp {
            self.core.leave_ramp();
        }
        if self
            .begun
            .is_some_and(|begun| begun.elapsed() > self.patience)
        {
            self.judge(Judgement::Failed);
        }
    }
}
