//! The clocks of one connection: when its silence means something, and when an idle one is asked for a sign of life.
//!
//! Owns the [`Silence`] of a driver and the timer that wakes it for the next look. Promises: the state that is told is that of the last
//! look; an idle connection is asked on the beat of its [`Pace`], and not woken in between. Leaves how it is asked, and what is owed, to
//! the driver. Fails with [`Exit::Silent`].

use std::{future::Future, pin::Pin, task::Context, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    LinkState, Pace,
    driver::Exit,
    job::Job,
    silence::{Level, Limits, Silence},
};

/// What an upload may take before its silence means something: 8 Mbit/s. The last megabytes of one may lie in the buffers of the way, and
/// nothing moves that we could see.
const BYTES_PER_SECOND: u64 = 1024 * 1024;
/// A request of so many bytes may be on its way for longer than a silence is suffered: 105 ms at 10 Mbit/s.
const UPLOAD: u64 = 128 * 1024;
/// No more than these of it are on the way: a receive buffer of 6 MiB, which is as large as they grow by themselves on Linux, and what is before it.
const MOST_ON_THE_WAY: u64 = 8 * 1024 * 1024;
/// Whether it is still awaited is looked at this often.
const EXCUSED_LOOK: Duration = Duration::from_millis(100);
/// A retiring connection looks this often whether anybody still waits.
const RETIRING_LOOK: Duration = Duration::from_millis(25);
/// No timer is set for sooner.
const GRAIN: Duration = Duration::from_millis(1);

pub(crate) struct Clock {
    silence: Silence,
    timer: Pin<Box<Sleep>>,
    timer_at: Instant,
    /// When to ask for a sign of life, if nothing is owed or heard until then.
    ping_at: Instant,
    /// The `PING` of an idle connection is on its way, or what came after it.
    pinged: bool,
    /// For how long an upload explains a silence, by the last look.
    excuse: Duration,
}

impl Clock {
    pub(crate) fn new(pace: &Pace, now: Instant) -> Self {
        Self {
            silence: Silence::new(),
            // Due at once: the first turn sets the timer, and only a timer that was polled wakes anybody.
            timer: Box::pin(sleep_until(now)),
            timer_at: now,
            ping_at: pace.ping_at(now),
            pinged: false,
            excuse: Duration::ZERO,
        }
    }

    /// A reply is owed.
    pub(crate) fn owe(&mut self, now: Instant) {
        self.silence.owe(now);
    }

    /// Bytes came in.
    pub(crate) fn heard(&mut self, pace: &Pace, now: Instant) {
        self.ping_at = pace.ping_at(now);
    }

    /// Replies came in, or a blocked write moved on; `owes` says whether more are owed.
    pub(crate) fn progress(&mut self, state: &watch::Sender<LinkState>, owes: bool, now: Instant) {
        if self.silence.progress(now, owes) {
            state.send_replace(LinkState::Healthy);
        }
    }

    /// Looks at the silence, after a read that found nothing, and tells what it means. `oldest`: who is owed the next reply, and the bytes of what he
    /// sent, which may be on their way yet. His patience says whether that is meant to last: it is longer than any silence is suffered, twice.
    pub(crate) fn look<'a>(
        &mut self,
        pace: &Pace,
        state: &watch::Sender<LinkState>,
        now: Instant,
        oldest: impl FnOnce() -> Option<(&'a Job, u64)>,
    ) -> Result<(), Exit> {
        let limits = pace.limits();
        let is_due = || self.silence.due(&limits).is_some_and(|due| due <= now);
        if self.is_fine() && !is_due() {
            // With nearly every call.
            self.excuse = Duration::ZERO;
            return Ok(());
        }
        let patience = limits.detect_within * 2;
        let is_upload = |(job, bytes): &(&Job, u64)| {
            *bytes >= UPLOAD && job.patience() > patience && job.is_awaited()
        };
        let bytes = oldest().filter(is_upload).map_or(0, |(_, bytes)| bytes);
        let bytes = bytes.min(MOST_ON_THE_WAY);
        let excuse = Duration::from_millis(bytes * 1000 / BYTES_PER_SECOND);
        let mut tells = std::mem::replace(&mut self.excuse, excuse) != excuse;
        let limits = self.limits(pace);
        let since = self.silence.since().filter(|_| !excuse.is_zero());
        let excused = since.map(|since| since + excuse);
        while self.silence.look(now, &limits).is_some() {
            tells = true;
        }
        let told = match self.silence.level() {
            Level::Fine => return Ok(()),
            Level::Suspect => LinkState::Suspect { excused },
            Level::Unresponsive => LinkState::Unresponsive { excused },
            Level::Dead => return Err(Exit::Silent),
        };
        if tells {
            state.send_replace(told);
        }
        Ok(())
    }

    fn limits(&self, pace: &Pace) -> Limits {
        let limits = pace.limits();
        Limits {
            detect_within: limits.detect_within.max(self.excuse),
            ..limits
        }
    }

    /// Whether the last look found no silence.
    pub(crate) fn is_fine(&self) -> bool {
        self.silence.is_fine()
    }

    /// Whether a connection that owes nothing is to be asked for a sign of life. The `PING` counts as sent.
    pub(crate) fn take_ping(&mut self, now: Instant) -> bool {
        let is_due = now >= self.ping_at;
        if is_due {
            self.silence.owe(now);
            self.pinged = true;
        }
        is_due
    }

    /// Sees to it that the driver is woken when the next look is due.
    pub(crate) fn set(
        &mut self,
        cx: &mut Context<'_>,
        pace: &Pace,
        now: Instant,
        is_idle: bool,
        retiring: bool,
    ) {
        let due = self.due(pace, now, retiring);
        if self.pinged && is_idle {
            // An idle connection's `PING` is answered, and the look that watched over that need not come. It does after a call: to set the
            // timer with each would cost more. Another timer, for one that is put off keeps its old place in tokio's wheel, and wakes us there.
            self.pinged = false;
            self.timer_at = now;
            self.timer.set(sleep_until(due));
        }
        if due < self.timer_at || now >= self.timer_at {
            self.timer_at = due;
            self.timer.as_mut().reset(due);
            if self.timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
    }

    fn due(&self, pace: &Pace, now: Instant, retiring: bool) -> Instant {
        let due = self
            .silence
            .due(&self.limits(pace))
            .unwrap_or(self.ping_at)
            .max(now + GRAIN);
        let due = if self.excuse.is_zero() {
            due
        } else {
            due.min(now + EXCUSED_LOOK)
        };
        if retiring {
            due.min(now + RETIRING_LOOK)
        } else {
            due
        }
    }
}
