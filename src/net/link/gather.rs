//! Whether a driver writes now, or lets those who are about to call come first.
//!
//! Owns one bit. Promises: a lone caller never waits, and no write waits longer than one turn of the runtime; a turn is spent only where
//! others are about to come: those whose replies have just been handed out together, or those who called while replies were owed.
//! One write and one wake-up then carry what would have been a write for the first of them, and one for the rest.
//! Leaves taking the turn to [`driver`](super::driver). Pure. Cannot fail.

/// What the driver has seen before it writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene {
    /// Replies handed out in this turn.
    pub(super) served: u32,
    /// Replies are still owed.
    pub(super) owes: bool,
    /// Others are still to be woken: those of this turn come while that is done.
    pub(super) wakes_more: bool,
    /// Bytes wait for the kernel: they are written at once.
    pub(super) is_blocked: bool,
}

#[derive(Debug, Default)]
pub(super) struct Gather {
    waited: bool,
}

impl Gather {
    /// Whether to spend a turn of the runtime before the next write.
    pub(super) fn waits(&mut self, scene: Scene) -> bool {
        let others_come = scene.owes || scene.served > 1;
        self.waited = !self.waited && others_come && !scene.wakes_more && !scene.is_blocked;
        self.waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(served: u32, owes: bool) -> Scene {
        Scene {
            served,
            owes,
            wakes_more: false,
            is_blocked: false,
        }
    }

    #[test]
    fn a_lone_caller_never_waits() {
        let mut gather = Gather::default();
        // It calls, it is answered, it calls again.
        for served in [0, 1, 0, 1, 1, 0] {
            assert!(!gather.waits(scene(served, false)));
        }
    }

    #[test]
    fn those_who_were_answered_together_are_waited_for() {
        assert!(Gather::default().waits(scene(2, false)));
        assert!(Gather::default().waits(scene(64, false)));
    }

    #[test]
    fn those_who_call_while_replies_are_owed_are_waited_for() {
        assert!(Gather::default().waits(scene(0, true)));
        assert!(Gather::default().waits(scene(1, true)));
    }

    #[test]
    fn no_two_turns_are_spent_in_a_row() {
        let mut gather = Gather::default();
        for _ in 0..3 {
            assert!(gather.waits(scene(9, true)));
            assert!(!gather.waits(scene(9, true)));
        }
    }

    #[test]
    fn while_one_flock_is_woken_what_the_last_one_asked_is_written() {
        let waking = Scene {
            wakes_more: true,
            ..scene(16, true)
        };
        assert!(!Gather::default().waits(waking));
    }

    #[test]
    fn what_the_kernel_would_not_take_waits_for_nobody() {
        let blocked = Scene {
            is_blocked: true,
            ..scene(9, true)
        };
        assert!(!Gather::default().waits(blocked));
    }
}
