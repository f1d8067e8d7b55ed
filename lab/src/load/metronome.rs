//! Tells a run when the next operation is due.
//!
//! Owns a thread of its own: the runtime's timers tick in milliseconds, which is more than a refused call takes. Promises to be late by
//! what the system's sleep is late (some 60 µs), and to end with its value. Leaves the lateness of the runtime to be measured. Fails
//! where no thread can be started. Next: [`super::drive`].

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Beats closer than this are told together.
const SHORTEST: Duration = Duration::from_micros(200);

pub(super) struct Metronome {
    beat: Arc<Notify>,
    over: Arc<AtomicBool>,
}

impl Metronome {
    /// Beats `rate` times a second from `start` on, each beat due at its own instant: a late one delays no other.
    pub(super) fn start(start: Instant, rate: u32) -> Self {
        let metronome = Self {
            beat: Arc::default(),
            over: Arc::default(),
        };
        let (beat, over) = (metronome.beat.clone(), metronome.over.clone());
        let period = (Duration::from_secs(1) / rate.max(1)).max(SHORTEST);
        thread::spawn(move || {
            let mut due = start;
            while !over.load(Ordering::Relaxed) {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                beat.notify_one();
                let behind = Instant::now().saturating_duration_since(due);
                let beats = behind.as_nanos() / period.as_nanos() + 1;
                due += period * u32::try_from(beats).unwrap_or(u32::MAX);
            }
        });
        metronome
    }

    /// The next beat; one that nobody waited for counts.
    pub(super) async fn beat(&self) {
        self.beat.notified().await;
    }
}

impl Drop for Metronome {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
