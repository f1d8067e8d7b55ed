//! One direction of one connection: reads, holds, and writes as the rule of the moment says.
//!
//! Owns the bytes in between. Promises order and completeness: a byte read is written once, in order, unless the mode
//! swallows it or the connection is reset, and a change of mode takes effect inside a blocked read or write. Leaves
//! resetting to [`super::connection`]. Fails by ending with [`Ended::Reset`]. Next: [`super::mode`] for the rules.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::mode::{Mode, Rule, Way};

/// How a direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Everything was handed on, the end of the stream too.
    Whole,
    /// Its receiver is gone; the other direction will hear of it by itself.
    Unread,
    /// Reset both sides now.
    Reset,
}

/// One direction at work.
pub(super) struct Pump<'a> {
    pub(super) way: Way,
    pub(super) from: ReadHalf<'a>,
    pub(super) into: WriteHalf<'a>,
    pub(super) mode: watch::Receiver<Mode>,
    pub(super) moved: &'a AtomicU64,
}

/// What a pump holds between two steps.
#[derive(Default)]
struct Held {
    chunks: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// The reader's end of stream, and when it was seen.
    end: Option<(Instant, Ended)>,
    swallowed: bool,
    cut: Option<u64>,
    /// Earliest next write under a bandwidth.
    paced: Option<Instant>,
}

enum Step {
    Mode,
    Read(std::io::Result<usize>),
    Wrote(std::io::Result<usize>),
    Flushed,
}

impl Pump<'_> {
    pub(super) async fn run(mut self) -> Ended {
        let mut held = Held::default();
        let mut buffer = BytesMut::new();
        let mut rule = match self.adopt(&mut held) {
            Ok(rule) => rule,
            Err(ended) => return ended,
        };
        loop {
            if held.cut == Some(0) {
                return Ended::Reset;
            }
            let step = self.step(&rule, &held, &mut buffer).await;
            let ended = match step {
                Step::Mode => match self.adopt(&mut held) {
                    Ok(fresh) => {
                        rule = fresh;
                        None
                    }
                    Err(ended) => Some(ended),
                },
                Step::Read(result) => {
                    held.took(result, &rule, &mut buffer);
                    None
                }
                Step::Wrote(result) => self.wrote(result, &rule, &mut held),
                Step::Flushed => Some(self.finish(&rule, &held).await),
            };
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    /// Takes the rule of the current mode; an error ends the pump.
    fn adopt(&mut self, held: &mut Held) -> Result<Rule, Ended> {
        let mode = *self.mode.borrow_and_update();
        if mode.is_reset() || (held.swallowed && mode != Mode::FreezeOpen) {
            return Err(Ended::Reset);
        }
        let rule = mode.rule(self.way);
        held.cut = rule.cut;
        held.paced = None;
        if rule.delay.is_zero() {
            let now = Instant::now();
            held.chunks.iter_mut().for_each(|(due, _)| *due = now);
        }
        Ok(rule)
    }

    async fn step(&mut self, rule: &Rule, held: &Held, buffer: &mut BytesMut) -> Step {
        let room = if rule.after_close.is_some() || !rule.delay.is_zero() {
            HELD_MOST
        } else {
            HELD_USUAL
        };
        let reads = rule.read && held.end.is_none() && (rule.swallow || held.bytes < room);
        let (from, into) = (&mut self.from, &mut self.into);
        buffer.reserve(READ);
        tokio::select! {
            biased;
            // The owner of the other end goes away only with the whole connection.
            changed = self.mode.changed() => match changed {
                Ok(()) => Step::Mode,
                Err(_) => pending().await,
            },
            step = write_next(into, rule, held) => step,
            read = from.read_buf(buffer), if reads => Step::Read(read),
        }
    }

    fn wrote(&self, result: std::io::Result<usize>, rule: &Rule, held: &mut Held) -> Option<Ended> {
        let Ok(count) = result else {
            return Some(match self.way {
                Way::Up => Ended::Reset,
                // The client is gone; what it sent may still be on its way up.
                Way::Down => Ended::Unread,
            });
        };
        let count64 = u64::try_from(count).unwrap_or(u64::MAX);
        self.moved.fetch_add(count64, Ordering::Relaxed);
        held.bytes = held.bytes.saturating_sub(count);
        if let Some((_, chunk)) = held.chunks.front_mut() {
            chunk.advance(count);
            if chunk.is_empty() {
                held.chunks.pop_front();
            }
        }
        held.cut = held.cut.map(|left| left.saturating_sub(count64));
        if let Some(rate) = rule.rate {
            let now = Instant::now();
            let cost = Duration::from_nanos(count64.saturating_mul(1_000_000_000) / rate);
            held.paced = Some(held.paced.unwrap_or(now).max(now - PACE) + cost);
        }
        None
    }

    /// The stream ended and all of it is written.
    async fn finish(&mut self, rule: &Rule, held: &Held) -> Ended {
        match held.end {
            // A late delivery is to be read, so it ends in peace, however the client went.
            Some((_, ended)) if ended == Ended::Whole || rule.after_close.is_some() => {
                let _ = self.into.shutdown().await;
                Ended::Whole
            }
            _ => Ended::Reset,
        }
    }
}

impl Held {
    fn took(&mut self, result: std::io::Result<usize>, rule: &Rule, buffer: &mut BytesMut) {
        let now = Instant::now();
        match result {
            Ok(0) => self.end = Some((now, Ended::Whole)),
            Err(_) => self.end = Some((now, Ended::Reset)),
            Ok(_) if rule.swallow => {
                buffer.clear();
                self.swallowed = true;
            }
            Ok(count) => {
                self.bytes += count;
                self.chunks
                    .push_back((now + rule.delay, buffer.split().freeze()));
            }
        }
    }

    /// When the next bytes, or the end of the stream, may go out; `None` for not yet.
    fn due(&self, rule: &Rule) -> Option<Instant> {
        let ended = self.end.map(|(at, _)| at);
        if let Some(delay) = rule.after_close {
            return ended.map(|at| at + delay);
        }
        let first = self.chunks.front().map(|(due, _)| *due);
        let due = first.or(ended.map(|at| at + rule.delay))?;
        Some(self.paced.map_or(due, |paced| due.max(paced)))
    }
}

/// Waits until something may be written, and writes once. Nothing is lost when dropped at any point.
async fn write_next(into: &mut WriteHalf<'_>, rule: &Rule, held: &Held) -> Step {
    if !rule.write {
        return pending().await;
    }
    let Some(due) = held.due(rule) else {
        return pending().await;
    };
    if due > Instant::now() {
        sleep_until(due).await;
    }
    let Some((_, chunk)) = held.chunks.front() else {
        return Step::Flushed;
    };
    let most = held.cut.and_then(|left| usize::try_from(left).ok());
    let mut size = chunk.len().min(rule.slice).min(most.unwrap_or(usize::MAX));
    if let Some(rate) = rule.rate {
        let burst = usize::try_from(rate / 200).unwrap_or(usize::MAX);
        size = size.min(burst.max(1));
    }
    if rule.slice != usize::MAX {
        // Lets the receiver read between two slices where it can.
        tokio::task::yield_now().await;
    }
    Step::Wrote(into.write(chunk.get(..size).unwrap_or_default()).await)
}

const READ: usize = 64 * 1024;
/// What a plain pump holds before it stops reading: little, so that a blocked receiver is felt by the sender.
const HELD_USUAL: usize = 256 * 1024;
/// What a pump holds that is meant to hold.
const HELD_MOST: usize = 64 * 1024 * 1024;
/// How far a paced writer may lag behind its schedule and still catch up.
const PACE: Duration = Duration::from_millis(20);
