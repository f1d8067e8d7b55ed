//! The one desk at which the commands of all connections stand in line, where a server is to be slow.
//!
//! Owns the time until which the desk is taken. Promises that commands are done one after the other in the order in which they came, each
//! after its time, whoever has given up waiting meanwhile; a desk that is late makes up for it, so that its capacity is what it was
//! told whatever the machine does. Pure: time is an argument. Cannot fail.

use std::time::Duration;

use tokio::time::Instant;

/// When what comes is done.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// How long each command takes.
    pub(super) takes: Duration,
    taken_until: Option<Instant>,
}

impl Desk {
    /// When a command that comes `now` is done.
    pub(super) fn done(&mut self, now: Instant) -> Instant {
        let begins = now + self.line(now);
        self.taken_until = Some(begins + self.takes);
        begins + self.takes
    }

    /// How long a command that comes `now` would wait before it is its turn.
    pub(super) fn line(&self, now: Instant) -> Duration {
        let until = self.taken_until.unwrap_or(now);
        until.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_after_the_other_and_an_idle_desk_saves_nothing() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let mut desk = Desk::default();
        assert_eq!(
            (desk.done(at(3)), desk.line(at(3))),
            (at(3), Duration::ZERO)
        );
        desk.takes = Duration::from_millis(10);
        let done = [3, 3, 4, 90, 95].map(|came| desk.done(at(came)));
        assert_eq!(done, [13, 23, 33, 100, 110].map(at));
        assert_eq!(desk.line(at(96)), Duration::from_millis(14));
    }
}
