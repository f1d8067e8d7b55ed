//! What a broken network does, as data.
//!
//! Owns [`Mode`] and its translation into rules for the listener and for each direction of a connection. Promises
//! nothing about time. Leaves doing to [`super::gate`] (new connections) and [`super::pump`] (bytes). Pure; cannot
//! fail. Next: [`super::pump`].

use std::time::Duration;

/// What the proxy does to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Hands every byte on.
    Pass,
    /// Hands every byte on this much later, each direction, at full throughput.
    Delay(Duration),
    /// Holds what the client sends; it is delivered when the mode lets it.
    StallUp,
    /// Holds what the server sends; it is delivered when the mode lets it.
    StallDown,
    /// Holds both directions: a dead path under connections that stay open. Nothing is lost, all is late.
    Stall,
    /// Reads everything and answers nothing, the window stays open. A connection that lost bytes to this is reset when
    /// the mode ends: TCP never loses bytes out of the middle of a stream, so neither does this proxy.
    FreezeOpen,
    /// Never reads: the window closes and writes block. Nothing is lost.
    FreezeClosed,
    /// RST to every connection, and to each new one right after it was accepted.
    Reset,
    /// New connections are refused (RST to the SYN), those open are left alone.
    Refuse,
    /// New connections are refused, those open are reset: a killed process or a rejecting firewall.
    Down,
    /// A SYN is never answered; open connections are held as in [`Mode::Stall`].
    Blackhole,
    /// This many bytes per write.
    Slice(usize),
    /// Hands on exactly this many more bytes from the client, then resets.
    CutUp(u64),
    /// Hands on exactly this many more bytes from the server, then resets.
    CutDown(u64),
    /// This many bytes per second, each direction and connection.
    Bandwidth(u64),
    /// Holds what the client sends, and hands it to the server only this long after the client closed: the late
    /// delivery of a network that woke up.
    DeliverAfterClose(Duration),
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Client to server.
    Up,
    /// Server to client.
    Down,
}

/// What the listener does with a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Open,
    Refusing,
    Deaf,
}

/// What one direction of one connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) read: bool,
    pub(super) write: bool,
    /// Read bytes are thrown away.
    pub(super) swallow: bool,
    /// Read bytes are written no sooner than this.
    pub(super) delay: Duration,
    /// At most this many bytes per write.
    pub(super) slice: usize,
    /// Bytes per second.
    pub(super) rate: Option<u64>,
    /// Bytes until the reset.
    pub(super) cut: Option<u64>,
    /// Written only this long after the reading side ended.
    pub(super) after_close: Option<Duration>,
}

impl Mode {
    pub(super) fn door(self) -> Door {
        match self {
            Mode::Refuse | Mode::Down => Door::Refusing,
            Mode::Blackhole => Door::Deaf,
            _ => Door::Open,
        }
    }

    /// What this means for connections that are open; `None` leaves them as they are.
    pub(super) fn for_open(self) -> Option<Mode> {
        match self {
            Mode::Refuse => None,
            Mode::Down => Some(Mode::Reset),
            Mode::Blackhole => Some(Mode::Stall),
            other => Some(other),
        }
    }

    pub(super) fn is_reset(self) -> bool {
        matches!(self, Mode::Reset | Mode::Down)
    }

    pub(super) fn rule(self, way: Way) -> Rule {
        let mut rule = Rule::PASS;
        match self {
            Mode::Pass | Mode::Reset | Mode::Refuse | Mode::Down => {}
            Mode::Delay(delay) => rule.delay = delay,
            Mode::StallUp => rule.hold_if(way == Way::Up),
            Mode::StallDown => rule.hold_if(way == Way::Down),
            Mode::Stall | Mode::FreezeClosed | Mode::Blackhole => rule.hold_if(true),
            Mode::FreezeOpen => {
                rule.write = false;
                rule.swallow = true;
            }
            Mode::Slice(bytes) => rule.slice = bytes.max(1),
            Mode::CutUp(bytes) => rule.cut = (way == Way::Up).then_some(bytes),
            Mode::CutDown(bytes) => rule.cut = (way == Way::Down).then_some(bytes),
            Mode::Bandwidth(rate) => rule.rate = Some(rate.max(1)),
            Mode::DeliverAfterClose(delay) => rule.after_close = (way == Way::Up).then_some(delay),
        }
        rule
    }
}

impl Rule {
    const PASS: Rule = Rule {
        read: true,
        write: true,
        swallow: false,
        delay: Duration::ZERO,
        slice: usize::MAX,
        rate: None,
        cut: None,
        after_close: None,
    };

    fn hold_if(&mut self, hold: bool) {
        self.read = !hold;
        self.write = !hold;
    }
}
