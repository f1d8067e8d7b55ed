//! What writers were told, held against what the server ran: the checker behind *at most once*.
//!
//! Owns [`History`] (every write with what its caller was told of it), [`Tape`] (every command a server ran, in order, as its
//! `MONITOR` says) and [`Findings`], the difference. Promises: a write is known by its key (`INCR`, a key of its own each) or by
//! key and value (`SET`, rising values of one writer), so that each run finds its write. Leaves the verdict to the tests. Fails
//! with a [`LabError`] when the server does not let itself be watched.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::task::{Owned, own};
use crate::{LabError, Server};

/// What a caller was told of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Told {
    /// The server answered.
    Acked,
    /// It may have run.
    Maybe,
    /// It never ran.
    Never,
}

/// A write: `INCR key` without a value, `SET key value` with one.
type Write = (String, Option<u64>);

/// Every write that ended, with what its caller was told.
#[derive(Debug, Default)]
pub struct History(Mutex<Vec<(Write, Told)>>);

/// What a server ran, for as long as this lives.
#[derive(Debug)]
pub struct Tape {
    ran: Arc<Mutex<Vec<Write>>>,
    _task: Owned,
}

/// How what was told and what was run differ.
#[derive(Debug, Default)]
pub struct Findings {
    /// Writes that were answered.
    pub acked: u64,
    /// Writes that were said to have perhaps run.
    pub maybe: u64,
    /// Those of them that did run.
    pub maybe_ran: u64,
    /// Writes that were said never to have run.
    pub never: u64,
    /// Times that a `SET` was run again.
    pub again: u64,
    /// Answered, and not run.
    pub lost: Vec<String>,
    /// Said never to have run, and run.
    pub belied: Vec<String>,
    /// `INCR`s that were run more than once.
    pub twice: Vec<String>,
    /// Values that were run after a later one of their key.
    pub back: Vec<String>,
    /// Run, and told to nobody.
    pub unasked: Vec<String>,
}

impl History {
    /// The caller of `INCR key` was told so.
    pub fn incremented(&self, key: impl Into<String>, told: Told) {
        lock(&self.0).push(((key.into(), None), told));
    }

    /// The caller of `SET key value` was told so.
    pub fn set(&self, key: impl Into<String>, value: u64, told: Told) {
        lock(&self.0).push(((key.into(), Some(value)), told));
    }

    /// Holds all that was told against all that each server ran.
    pub fn judge(&self, tapes: &[Vec<(String, Option<u64>)>]) -> Findings {
        let mut findings = Findings::default();
        let mut runs: HashMap<&Write, u64> = HashMap::new();
        for tape in tapes {
            let mut highest: HashMap<&str, u64> = HashMap::new();
            for write in tape {
                *runs.entry(write).or_default() += 1;
                let (key, Some(value)) = write else { continue };
                let high = highest.entry(key).or_default();
                if value < high {
                    findings.back.push(format!("{key} from {high} to {value}"));
                }
                *high = (*high).max(*value);
            }
        }
        for (write, told) in lock(&self.0).iter() {
            let ran = runs.remove(write).unwrap_or(0);
            findings.hold(write, *told, ran);
        }
        findings.unasked = runs.into_keys().map(name).collect();
        findings
    }
}

impl Findings {
    fn hold(&mut self, write: &Write, told: Told, ran: u64) {
        match told {
            Told::Acked => self.acked += 1,
            Told::Maybe => self.maybe += 1,
            Told::Never => self.never += 1,
        }
        match (told, ran) {
            (Told::Acked, 0) => self.lost.push(name(write)),
            (Told::Never, 1..) => self.belied.push(name(write)),
            (Told::Maybe, 1..) => self.maybe_ran += 1,
            _ => {}
        }
        match write.1 {
            None if ran > 1 => self.twice.push(name(write)),
            None => {}
            Some(_) => self.again += ran.saturating_sub(1),
        }
    }

    /// Whether every write was run as its caller was told: the answered ones, none twice, and nothing that was said never to run.
    pub fn is_exact(&self) -> bool {
        [&self.lost, &self.belied, &self.twice, &self.unasked]
            .iter()
            .all(|found| found.is_empty())
    }
}

impl Tape {
    /// Watches `server` from now on.
    ///
    /// # Errors
    /// When it cannot be reached, or does not permit `MONITOR`.
    pub async fn of(server: &Server) -> Result<Self, LabError> {
        let cannot =
            |error: std::io::Error| LabError::new("the server cannot be watched").because(error);
        let mut stream = server.dial().await?;
        stream.write_all(b"MONITOR\r\n").await.map_err(cannot)?;
        let mut lines = BufReader::new(stream);
        let mut first = String::new();
        lines.read_line(&mut first).await.map_err(cannot)?;
        if first.trim_end() != "+OK" {
            return Err(LabError::new(format!("MONITOR: {}", first.trim_end())));
        }
        let ran = Arc::<Mutex<Vec<Write>>>::default();
        let task = own(record(lines, Arc::clone(&ran)));
        Ok(Self { ran, _task: task })
    }

    /// All that `server` has run until now, in order; what comes from other keys than those of a history is left out by its prefix.
    ///
    /// # Errors
    /// When the server does not answer within five seconds.
    pub async fn so_far(
        &self,
        server: &Server,
        prefix: &str,
    ) -> Result<Vec<(String, Option<u64>)>, LabError> {
        let mark = format!("tape:{:p}:{}", self, lock(&self.ran).len());
        server.tell(&["INCR", &mark]).await?;
        let seen = async {
            while !lock(&self.ran).iter().rev().any(|(key, _)| *key == mark) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let late = |_| LabError::new("MONITOR has stopped");
        timeout(Duration::from_secs(5), seen).await.map_err(late)?;
        let ran = lock(&self.ran);
        Ok(ran
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .cloned()
            .collect())
    }
}

async fn record(mut lines: BufReader<TcpStream>, ran: Arc<Mutex<Vec<Write>>>) {
    let mut line = String::new();
    while let Ok(1..) = lines.read_line(&mut line).await {
        if let Some(write) = write(&line) {
            lock(&ran).push(write);
        }
        line.clear();
    }
}

/// `+1700000000.5 [0 127.0.0.1:5000] "SET" "key" "7"`; the words of a history need no quoting.
fn write(line: &str) -> Option<Write> {
    let (_, words) = line.split_once("] ")?;
    let mut words = words.split_whitespace().map(|word| word.trim_matches('"'));
    match (words.next()?, words.next()?, words.next()) {
        ("INCR", key, None) => Some((key.to_owned(), None)),
        ("SET", key, Some(value)) => Some((key.to_owned(), Some(value.parse().ok()?))),
        _ => None,
    }
}

fn name((key, value): &Write) -> String {
    value.map_or_else(|| key.clone(), |value| format!("{key}={value}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incr(key: &str) -> Write {
        (key.to_owned(), None)
    }

    fn set(value: u64) -> Write {
        ("k".to_owned(), Some(value))
    }

    #[test]
    fn a_run_that_contradicts_what_was_told_is_found() {
        let history = History::default();
        history.incremented("a", Told::Acked);
        history.incremented("b", Told::Never);
        history.incremented("c", Told::Maybe);
        history.incremented("d", Told::Maybe);
        let fine = history.judge(&[vec![incr("a"), incr("c")]]);
        assert!(fine.is_exact(), "{fine:?}");
        assert_eq!(
            (fine.acked, fine.maybe, fine.maybe_ran, fine.never),
            (1, 2, 1, 1)
        );
        assert_eq!(history.judge(&[vec![]]).lost, ["a"]);
        assert_eq!(history.judge(&[vec![incr("a"), incr("b")]]).belied, ["b"]);
        // Also where it was run once by each of two servers.
        let twice = history.judge(&[vec![incr("a")], vec![incr("a")]]);
        assert_eq!(twice.twice, ["a"]);
        assert_eq!(history.judge(&[vec![incr("a"), incr("e")]]).unasked, ["e"]);
    }

    #[test]
    fn an_overwrite_may_be_run_again_but_not_after_a_later_one() {
        let history = History::default();
        for value in 1..=3 {
            history.set("k", value, Told::Acked);
        }
        let again = history.judge(&[vec![set(1), set(1), set(2), set(3)]]);
        assert!(again.is_exact() && again.back.is_empty(), "{again:?}");
        assert_eq!(again.again, 1);
        let back = history.judge(&[vec![set(1), set(2), set(1), set(3)]]);
        assert_eq!(back.back, ["k from 2 to 1"]);
    }

    #[test]
    fn a_line_of_monitor_is_read() {
        let line = "+1700000000.5 [0 127.0.0.1:5000] \"SET\" \"rise:1\" \"7\"\r\n";
        assert_eq!(write(line), Some(("rise:1".to_owned(), Some(7))));
        let line = "+1700000000.5 [0 unix:/tmp/x] \"INCR\" \"m:1\"\r\n";
        assert_eq!(write(line), Some(incr("m:1")));
        assert_eq!(write("+1.5 [0 1.1.1.1:1] \"PING\"\r\n"), None);
    }
}
