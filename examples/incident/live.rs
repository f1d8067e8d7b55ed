//! Progress while it happens: a line per second, on a terminal, in a file or in a pipe.
//!
//! Owns the terminal. Promises plain text where there is no terminal, and
//! colour only where there is one; a closed pipe ends the lines, not the run. Leaves the final table to [`super::table`].

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use holdfast_lab::load::{Counts, Running};
use tokio::time::{Instant, sleep_until};

use crate::contenders::Contender;

/// The printer.
pub struct Live {
    start: Instant,
    next: Instant,
    before: Vec<Counts>,
    color: bool,
}

impl Live {
    /// Prints the heading.
    pub fn start(start: Instant, contenders: &[Contender]) -> Self {
        let live = Self {
            start,
            next: start + SECOND,
            before: vec![Counts::default(); contenders.len()],
            color: stdout().is_terminal(),
        };
        let (mut first, mut second) = (format!("{:>6}", ""), format!("{:>6}", "time"));
        for one in contenders {
            let (name, setting) = one.name.split_once(", ").unwrap_or((one.name, ""));
            first.push_str(&format!("  {name:<WIDTH$}"));
            second.push_str(&format!("  {setting:<WIDTH$}"));
        }
        say(first.trim_end());
        say(second.trim_end());
        live
    }

    /// Prints a line each second, and returns at `end`.
    pub async fn until(&mut self, end: Instant, running: &[Running]) {
        while self.next <= end {
            sleep_until(self.next).await;
            self.second(running);
            self.next += SECOND;
        }
        sleep_until(end).await;
    }

    /// Prints what just happened.
    pub fn event(&self, what: &str) {
        let at = self.start.elapsed().as_secs_f64();
        say(&self.paint(BOLD, &format!("{at:>4.1} s  {what}")));
    }

    fn second(&mut self, running: &[Running]) {
        let at = self.next.duration_since(self.start).as_secs();
        let mut line = format!("{at:>4} s");
        for (before, one) in self.before.iter_mut().zip(running) {
            let now = one.counts();
            let ok = now.ok - before.ok;
            let not_ok = now.failed - before.failed + now.wrong - before.wrong;
            let percent = ok * 100 / (ok + not_ok).max(1);
            *before = now;
            let color = if percent >= 99 { GREEN } else { RED };
            let cell = format!("{percent:>3}% ok {:>5} wait", now.outstanding());
            let cell = format!("{cell:<WIDTH$}");
            line.push_str("  ");
            line.push_str(&paint(self.color, color, &cell));
        }
        say(line.trim_end());
    }

    fn paint(&self, code: &str, text: &str) -> String {
        paint(self.color, code, text)
    }
}

/// Prints a line. Whoever closed the pipe wants no more of them, and still the report.
pub fn say(text: &str) {
    let _ = writeln!(stdout(), "{text}");
}

fn paint(color: bool, code: &str, text: &str) -> String {
    if color {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

const SECOND: Duration = Duration::from_secs(1);
const WIDTH: usize = 18;
const BOLD: &str = "1";
const GREEN: &str = "32";
const RED: &str = "31";
