//! Those whose replies have come, and when each of them is woken.
//!
//! Owns their wakers. Promises: the reply is there before its caller is woken, and whoever is polled for another reason finds it; they are
//! woken in the order of their replies, some in each turn of the driver, and the rest at once where a turn takes long, or the link ends.
//! The server is at work for the first while the next are being woken: all at once, it and the callers would wait for each other in turn
//! (64 callers on two cores had 1.3 times what a bare connection carries, and have 2).
//! Leaves taking turns to [`driver`](super::driver). Cannot fail.

use std::{collections::VecDeque, task::Waker, time::Duration};

use tokio::time::Instant;

/// So few are woken in one turn.
const LEAST: usize = 16;
/// More of them where more were answered: so many writes, or their cost would grow with the callers.
const FLOCKS: usize = 8;
/// From one turn to the next. Beyond it the runtime has other things to do, and who comes last would wait for many of those.
const LONG: Duration = Duration::from_millis(1);

#[derive(Default)]
pub(super) struct Flock {
    waiting: VecDeque<Waker>,
    size: usize,
    /// How many were left, and when.
    left: usize,
    last: Option<Instant>,
}

impl Flock {
    pub(super) fn join(&mut self, waker: Waker) {
        self.waiting.push_back(waker);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Wakes some of them, in a turn that began at `now`.
    pub(super) fn wake(&mut self, now: Instant) {
        let all = self.waiting.len();
        if self.left == 0 && all <= LEAST {
            return self.let_go(all);
        }
        if all > self.left {
            self.size = all.div_ceil(FLOCKS).max(LEAST);
        }
        let was_long = self.last.is_some_and(|last| now - last > LONG);
        let some = match self.left > 0 && was_long {
            true => all,
            false => all.min(self.size),
        };
        self.left = all - some;
        self.last = Some(now);
        self.let_go(some);
    }

    fn let_go(&mut self, some: usize) {
        for waker in (0..some).map_while(|_| self.waiting.pop_front()) {
            waker.wake();
        }
    }
}

impl Drop for Flock {
    fn drop(&mut self) {
        self.let_go(self.waiting.len());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// So many that wait, and how many of them have been woken.
    fn flock(many: usize) -> (Flock, impl Fn() -> usize) {
        let (count, mut flock) = (Arc::<Count>::default(), Flock::default());
        for _ in 0..many {
            flock.join(count.clone().into());
        }
        (flock, move || count.0.load(Ordering::Relaxed))
    }

    const SOON: Duration = Duration::from_micros(50);

    #[test]
    fn few_are_woken_at_once_and_many_in_no_more_than_eight_turns() {
        for (many, first, turns) in [
            (1, 1, 1),
            (16, 16, 1),
            (17, 16, 2),
            (64, 16, 4),
            (4096, 512, 8),
        ] {
            let (mut flock, woken) = flock(many);
            let (mut now, mut taken) = (Instant::now(), 1);
            flock.wake(now);
            assert_eq!(woken(), first, "of {many}");
            while !flock.is_empty() {
                now += SOON;
                taken += 1;
                flock.wake(now);
            }
            assert_eq!((woken(), taken), (many, turns), "of {many}");
        }
    }

    #[test]
    fn nobody_waits_for_a_runtime_that_has_other_things_to_do() {
        let (mut flock, woken) = flock(4096);
        let now = Instant::now();
        flock.wake(now);
        assert_eq!(woken(), 512);
        flock.wake(now + LONG * 2);
        assert_eq!(woken(), 4096);
    }

    #[test]
    fn the_first_of_a_flock_are_not_taken_for_late_after_a_pause() {
        let (mut flock, woken) = flock(1);
        let now = Instant::now();
        flock.wake(now);
        for _ in 0..63 {
            flock.join(Waker::noop().clone());
        }
        flock.wake(now + LONG * 100);
        assert!(!flock.is_empty(), "they have just been answered");
        assert_eq!(woken(), 1);
    }

    #[test]
    fn at_the_end_of_a_link_all_are_woken() {
        let (flock, woken) = flock(100);
        drop(flock);
        assert_eq!(woken(), 100);
    }
}
