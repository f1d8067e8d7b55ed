//! The clocks of one connection: when its silence means something, and when an idle one is asked for a sign of life.
//!
//! Owns what is done with a [`Silence`](crate::net::link::silence::Silence): a look after a read that found nothing, the state told to
//! the supervisor, the timer of the next look. Leaves the end to [`end`](super::end). Fails with [`Exit::Silent`].

use std::{future::Future, task::Context, time::Duration};

use redis::cmd;
use tokio::time::Instant;

use super::{Driver, Unpacked};
use crate::net::link::{
    LinkState,
    driver::{Exit, RETIRING_LOOK},
    silence::Level,
};

impl Driver {
    /// Looks at the clocks, and sees to it that the timer fires when the next look is due.
    pub(super) fn judge(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), Exit> {
        if self.seen.drained {
            let limits = self.post.pace.limits();
            while let Some(level) = self.silence.look(now, &limits) {
                self.say(level)?;
            }
            if self.owed.is_empty()
                && !self.retiring
                && now >= self.post.pace.ping_at(self.last_heard)
            {
                self.hand_over(cx, None, Unpacked::One(cmd("PING")), PING, now)?;
                self.run(cx, now)?;
            }
        }
        let due = self.due(now);
        if due < self.timer_at || now >= self.timer_at {
            self.timer_at = due;
            self.timer.as_mut().reset(due);
            if self.timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Ok(())
    }

    fn due(&self, now: Instant) -> Instant {
        let due = self
            .silence
            .due(&self.post.pace.limits())
            .unwrap_or_else(|| self.post.pace.ping_at(self.last_heard))
            .max(now + Duration::from_millis(1));
        if self.retiring {
            due.min(now + RETIRING_LOOK)
        } else {
            due
        }
    }

    fn say(&self, level: Level) -> Result<(), Exit> {
        match level {
            Level::Fine => {}
            Level::Suspect => {
                self.post.state.send_replace(LinkState::Suspect);
            }
            Level::Unresponsive => {
                self.post.state.send_replace(LinkState::Unresponsive);
            }
            Level::Dead => return Err(Exit::Silent),
        }
        Ok(())
    }
}

/// Bytes of a `PING`.
const PING: usize = 14;
