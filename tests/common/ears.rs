//! Everything that any crate of this process says through `tracing`, at every level; and an end to whatever shows a secret.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "whoever listens uses one half, whoever watches the other"
)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::{Arguments, Debug, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

/// Part of every secret that is handed to a client here: password, key or value.
pub const CANARY: &str = "canary";

/// What is done with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ears {
    /// It is kept, whoever said it.
    Note,
    /// If it is the client's it must show no secret.
    Watch,
}

#[derive(Default)]
struct Heard {
    text: String,
    /// Records by target.
    targets: BTreeMap<String, u64>,
}

static EARS: OnceLock<Ears> = OnceLock::new();
static HEARD: Mutex<Heard> = Mutex::new(Heard {
    text: String::new(),
    targets: BTreeMap::new(),
});

thread_local! {
    /// What is being looked at: allocated once, for a call may be told a hundred thousand times a second.
    static LINE: Cell<String> = const { Cell::new(String::new()) };
}

/// Keeps what is said from now on.
pub fn listen() {
    assert_eq!(*open(Ears::Note), Ears::Note, "this process is watched");
}

/// Ends this process, and so its test, once the client says a secret. Keeps nothing; of no effect where somebody listens. Every change of
/// state is looked at, and as many calls as [`is_looked_at`] says.
pub fn watch() {
    open(Ears::Watch);
}

/// Ends this process, and so its test, if what is printed shows a secret.
pub fn discreet(printed: Arguments<'_>) {
    let mut line = LINE.take();
    line.clear();
    let _ = line.write_fmt(printed);
    if line.contains(CANARY) {
        caught(&line);
    }
    LINE.set(line);
}

/// Whether the next of what happens with each call is: the first thousand, then one in sixteen, for in a flood it would cost more than the call.
pub fn is_looked_at(seen: &AtomicU64) -> bool {
    let nth = seen.fetch_add(1, Ordering::Relaxed);
    nth < 1000 || nth.is_multiple_of(16)
}

/// A panic would end the task that happened to speak, and no more: to others that is a lost connection.
fn caught(line: &str) -> ! {
    // Past the harness, which keeps what a test prints until it ends.
    let said = format!("a secret was shown: {line}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes());
    std::process::abort()
}

fn open(ears: Ears) -> &'static Ears {
    EARS.get_or_init(|| {
        tracing::subscriber::set_global_default(ears).expect("no other subscriber in this process");
        ears
    })
}

/// All that was said, with its fields.
pub fn text() -> String {
    with(|heard| heard.text.clone())
}

/// Records whose target begins so.
pub fn count(target: &str) -> u64 {
    with(|heard| {
        let of = heard
            .targets
            .iter()
            .filter(|(name, _)| name.starts_with(target));
        of.map(|(_, count)| count).sum()
    })
}

fn with<T>(then: impl FnOnce(&mut Heard) -> T) -> T {
    then(&mut HEARD.lock().unwrap_or_else(PoisonError::into_inner))
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let parts = [" ", field.name(), "=", value];
        self.0.extend(parts);
    }
}

impl Ears {
    fn hear(self, metadata: &Metadata<'_>, record: impl FnOnce(&mut Fields<'_>)) {
        let mut line = LINE.take();
        line.clear();
        line.extend([metadata.target(), " ", metadata.name()]);
        record(&mut Fields(&mut line));
        match self {
            Self::Watch if line.contains(CANARY) => caught(&line),
            Self::Watch => {}
            Self::Note => with(|heard| {
                let targets = &mut heard.targets;
                *targets.entry(metadata.target().to_owned()).or_default() += 1;
                heard.text += metadata.level().as_str();
                heard.text.extend([" ", &line, "\n"]);
            }),
        }
        LINE.set(line);
    }
}

impl Subscriber for Ears {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        let is_ours = metadata.target().starts_with("redis_holdfast");
        match self {
            Self::Watch if !is_ours => Interest::never(),
            // A call.
            Self::Watch if *metadata.level() == Level::TRACE => Interest::sometimes(),
            _ => Interest::always(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        static SEEN: AtomicU64 = AtomicU64::new(0);
        *self == Self::Note || *metadata.level() != Level::TRACE || is_looked_at(&SEEN)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.hear(span.metadata(), |fields| span.record(fields));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut line = String::new();
        values.record(&mut Fields(&mut line));
        match self {
            Self::Watch => discreet(format_args!("{line}")),
            Self::Note => with(|heard| heard.text.push_str(&line)),
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        self.hear(event.metadata(), |fields| event.record(fields));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
