//! What Sentinels tell and answer during a failover, written down as text that a pure machine can be fed with.
//!
//! Owns a subscription to all events of each Sentinel, and questions to Sentinels and nodes every 10 ms, of which only
//! changed answers are kept. Promises one line per fact in order of time, seconds since [`Recorder::mark`], with
//! addresses replaced by fixed ones, so that two recordings differ only in what happened. Leaves reading the lines to
//! whoever is tested with them. Fails with a [`LabError`] when a Sentinel cannot be asked at the start.
//!
//! ```text
//! # known 3 primary 10.0.0.1:6379 epoch 0
//! # what was done, and with which servers
//! -0.020 sentinel 0 answer 10.0.0.1:6379 epoch=0 flags=master quorum=2 others=2
//! 1.029 sentinel 0 event +sdown master orders 10.0.0.1 6379
//! 1.380 role 10.0.0.2:6379 master
//! ```
//!
//! `answer` is `GET-MASTER-ADDR-BY-NAME` (`nil` for none) and `SENTINEL MASTER` of one pipeline, or `silent`; `role` is
//! `master`, `slave` or `silent`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::said::{Known, ask_role, ask_view, connect};
use super::{ASK, SentinelSet};
use crate::LabError;
use crate::task::{Owned, own};

/// A recording under way; ends with this handle.
#[derive(Debug)]
pub struct Recorder {
    log: Log,
    streams: Vec<TcpStream>,
    names: Vec<(String, String)>,
    known: String,
    zero: Instant,
    _tasks: Vec<Owned>,
}

/// The text of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording(String);

type Log = Arc<Mutex<Vec<(Instant, String)>>>;

impl Recorder {
    /// Listens to every Sentinel of the set from now on.
    ///
    /// # Errors
    /// When one cannot be reached.
    pub fn start(set: &SentinelSet) -> Result<Self, LabError> {
        let log = Log::default();
        let (mut streams, mut tasks) = (Vec::new(), Vec::new());
        for (nth, one) in set.sentinels().iter().enumerate() {
            let at = one.server().addr();
            let stream = subscribe(at, nth, Arc::clone(&log))
                .map_err(|error| LabError::new(format!("no events from {at}")).because(error))?;
            streams.push(stream);
            tasks.push(own(ask_sentinel(
                at,
                nth,
                set.name().to_owned(),
                Arc::clone(&log),
            )));
        }
        for node in set.nodes() {
            tasks.push(own(ask_node(
                node.server().addr(),
                node.addr(),
                Arc::clone(&log),
            )));
        }
        Ok(Self {
            log,
            streams,
            names: names(set),
            known: format!(
                "# known {} primary 10.0.0.1:6379 epoch 0\n",
                set.sentinels().len()
            ),
            zero: Instant::now(),
            _tasks: tasks,
        })
    }

    /// Time counts from now: the fault.
    pub fn mark(&mut self) {
        self.zero = Instant::now();
    }

    /// Whether an event or answer with these words was noted since the mark.
    pub fn has(&self, words: &str) -> bool {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter()
            .any(|(at, line)| *at >= self.zero && line.contains(words))
    }

    /// Ends, and gives the text under these comments.
    pub fn finish(self, head: &str) -> Recording {
        let mut log = self
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        log.sort_by_key(|(at, _)| *at);
        let mut text = self.known.clone();
        for line in head.lines() {
            text += &format!("# {line}\n");
        }
        for (at, line) in log {
            let seconds = if at < self.zero {
                -(self.zero - at).as_secs_f64()
            } else {
                (at - self.zero).as_secs_f64()
            };
            let line = self
                .names
                .iter()
                .fold(line, |line, (from, to)| line.replace(from, to));
            text += &format!("{seconds:.3} {line}\n");
        }
        Recording(text)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        for stream in &self.streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Recording {
    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// Both ways in which an address is written, and run ids, each with what stands for it.
fn names(set: &SentinelSet) -> Vec<(String, String)> {
    let mut names = Vec::new();
    let groups = [
        (set.nodes(), "10.0.0", 6379),
        (set.sentinels(), "10.0.1", 26379),
    ];
    for (members, range, port) in groups {
        for (nth, member) in members.iter().enumerate() {
            let (addr, host) = (member.addr(), format!("{range}.{}", nth + 1));
            names.push((addr.to_string(), format!("{host}:{port}")));
            names.push((
                format!("{} {}", addr.ip(), addr.port()),
                format!("{host} {port}"),
            ));
        }
    }
    names
}

fn subscribe(at: SocketAddr, nth: usize, log: Log) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&at, ASK)?;
    stream.set_nodelay(true)?;
    stream.write_all(b"PSUBSCRIBE *\r\n")?;
    let mut reader = BufReader::new(stream.try_clone()?);
    thread::spawn(move || {
        while let Ok(words) = message(&mut reader) {
            if let [kind, _, channel, payload] = words.as_slice()
                && kind == "pmessage"
            {
                note(&log, format!("sentinel {nth} event {channel} {payload}"));
            }
        }
    });
    Ok(stream)
}

/// One array of strings and numbers.
fn message(reader: &mut BufReader<TcpStream>) -> io::Result<Vec<String>> {
    let nonsense = || io::Error::from(io::ErrorKind::InvalidData);
    let head = line(reader)?;
    let count: usize = head
        .strip_prefix('*')
        .and_then(|n| n.parse().ok())
        .ok_or_else(nonsense)?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let head = line(reader)?;
        words.push(match head.strip_prefix('$') {
            Some(size) => {
                let size: usize = size.parse().map_err(|_| nonsense())?;
                let mut body = vec![0; size + 2];
                reader.read_exact(&mut body)?;
                body.truncate(size);
                String::from_utf8_lossy(&body).into_owned()
            }
            None => head,
        });
    }
    Ok(words)
}

fn line(reader: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    match reader.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

async fn ask_sentinel(at: SocketAddr, nth: usize, name: String, log: Log) {
    let (mut last, mut connection) = (String::new(), None);
    loop {
        let mut view = None;
        if connection.is_none() {
            connection = connect(at, ASK).await;
        }
        if let Some(open) = connection.as_mut() {
            view = ask_view(open, &name).await;
        }
        if view.is_none() {
            connection = None;
        }
        let answer = view.map_or_else(|| "silent".to_owned(), |view| told(&view));
        if answer != last {
            note(&log, format!("sentinel {nth} answer {answer}"));
            last = answer;
        }
        sleep(STEP).await;
    }
}

fn told(view: &Known) -> String {
    let addr = if view.addr.is_empty() {
        "nil"
    } else {
        &view.addr
    };
    let of = |name| view.master.get(name);
    format!(
        "{addr} epoch={} flags={} quorum={} others={}",
        of("config-epoch"),
        of("flags"),
        of("quorum"),
        of("num-other-sentinels")
    )
}

async fn ask_node(at: SocketAddr, announced: SocketAddr, log: Log) {
    let mut last = String::new();
    loop {
        let role = ask_role(at, ASK)
            .await
            .unwrap_or_else(|| "silent".to_owned());
        if role != last {
            note(&log, format!("role {announced} {role}"));
            last = role;
        }
        sleep(STEP).await;
    }
}

fn note(log: &Log, line: String) {
    log.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push((Instant::now(), line));
}

const STEP: Duration = Duration::from_millis(10);
