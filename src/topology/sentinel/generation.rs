//! The Sentinels whose epochs can be compared: those that were heard, or spoken of, in the life that is followed.
//!
//! Owns [`Generation`]. Epochs order what the Sentinels of one life say; one that has lost its state begins at 0 under another id.
//! Promises: who was met once is never new again, for as long as the client lives; memory is bounded, and once it is full nobody is new
//! any more. Leaves to [`belief`](super::belief) who is met, to [`vote`](super::vote) what follows. Pure. Cannot fail.

use std::{collections::BTreeSet, sync::Arc};

/// Ids that are remembered: a year of three Sentinels re-created every other day.
const MOST: usize = 512;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generation(BTreeSet<Arc<str>>);

impl Generation {
    /// This Sentinel is one of them.
    pub(crate) fn meet(&mut self, id: &Arc<str>) {
        if self.0.len() < MOST {
            self.0.insert(id.clone());
        }
    }

    /// Whether this Sentinel has begun anew.
    pub(crate) fn is_new(&self, id: &Arc<str>) -> bool {
        self.0.len() < MOST && !self.0.contains(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_met_is_not_new_and_nobody_is_once_too_many_were() {
        let mut generation = Generation::default();
        let id = |number: usize| Arc::from(format!("{number:040x}"));
        assert!(generation.is_new(&id(0)));
        for number in 1..MOST {
            generation.meet(&id(number));
            generation.meet(&id(1));
        }
        assert!(generation.is_new(&id(0)) && !generation.is_new(&id(1)));
        generation.meet(&id(MOST));
        generation.meet(&id(MOST + 1));
        assert!(!generation.is_new(&id(0)) && !generation.is_new(&id(1)));
        assert_eq!(generation.0.len(), MOST);
    }
}
