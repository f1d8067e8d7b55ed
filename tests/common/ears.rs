//! Everything that any crate of this process says through `tracing`, at every level.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

#[derive(Default)]
struct Heard {
    text: String,
    /// Records by target.
    targets: BTreeMap<String, u64>,
}

struct Ears;

static HEARD: OnceLock<Mutex<Heard>> = OnceLock::new();

/// Listens from now on.
pub fn listen() {
    HEARD.get_or_init(|| {
        tracing::subscriber::set_global_default(Ears).expect("no other subscriber in this process");
        Mutex::default()
    });
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
    let heard = HEARD.get_or_init(Mutex::default);
    then(&mut heard.lock().unwrap_or_else(PoisonError::into_inner))
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

fn note(metadata: &Metadata<'_>, record: impl FnOnce(&mut Fields<'_>)) {
    let mut line = format!(
        "{} {} {}",
        metadata.level(),
        metadata.target(),
        metadata.name()
    );
    record(&mut Fields(&mut line));
    with(|heard| {
        *heard
            .targets
            .entry(metadata.target().to_owned())
            .or_default() += 1;
        heard.text.push_str(&line);
        heard.text.push('\n');
    });
}

impl Subscriber for Ears {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        note(span.metadata(), |fields| span.record(fields));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut line = String::new();
        values.record(&mut Fields(&mut line));
        with(|heard| heard.text.push_str(&line));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        note(event.metadata(), |fields| event.record(fields));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
