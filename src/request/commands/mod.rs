//! The command table: what a command does to the data, and whether it may ride a shared connection.
//!
//! Owns [`Command`], a row, and the reading of a request against the rows. Promises: a command is found in some ten nanoseconds, in
//! any case, without allocating; what is not known, or not certain, is [`Effect::Once`]; an option is looked for where options
//! stand, and a value that looks like one can only make the verdict more careful.
//! Leaves replaying to the retry layer and refusing to the layers that hold a shared connection. Cannot fail.
//! The rows are in [`rows`] and [`subcommands`]; a new column is a field of [`Command`] and a builder method.

mod index;
mod rows;
#[cfg(test)]
mod server;
mod subcommands;
#[cfg(test)]
mod tests;

use redis::{Arg, Cmd, Pipeline};

use index::Index;

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Command {
    /// In upper case; of two words for a subcommand.
    pub(crate) name: &'static str,
    effect: Effect,
    form: Form,
    bar: Bar,
    /// A replica may answer it, if it has no effect and nothing bars it.
    is_for_replicas: bool,
}

/// What running a command does, and what running it twice would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Effect {
    /// It changes nothing: it may be sent again.
    None,
    /// Run twice it leaves the same data and gives the same reply as run once (plain `SET`): it may be sent again behind a fence.
    Overwrite,
    /// Run twice it does something else than run once, or nobody knows.
    Once,
}

/// What else has to be read to know the effect.
#[derive(Clone, Copy, Debug)]
enum Form {
    Plain,
    /// The second word decides.
    Parent,
    /// One of `words`, at argument `from` or later, makes the effect `then`. The command itself is argument 0.
    With {
        from: usize,
        words: &'static [&'static str],
        then: Effect,
    },
    /// Anything from argument `from` on but pairs of one of `words` and its value makes the effect [`Effect::Once`].
    Only {
        from: usize,
        words: &'static [&'static str],
    },
}

/// Why a command may not ride a shared connection.
#[derive(Clone, Copy, Debug)]
enum Bar {
    None,
    /// It makes the server hold back later replies, except inside a transaction.
    Blocks(&'static str),
    /// The same when `BLOCK` is among the options that stand before `STREAMS`.
    BlocksWith(&'static str),
    /// It changes what the connection is, or how many replies it gives.
    Session(&'static str),
    /// It begins a transaction: only in a pipeline that also ends it.
    Begins(&'static str),
    Ends(&'static str),
}

/// What the table says of one request.
pub(crate) struct Verdict {
    pub(crate) command: &'static Command,
    pub(crate) effect: Effect,
    /// A replica may answer it: it looks at the data and does nothing else.
    pub(crate) reads: bool,
    pub(crate) refusal: Option<&'static str>,
}

/// Reads one command.
pub(crate) fn classify(cmd: &Cmd) -> Verdict {
    let read = Read::of(cmd);
    Verdict {
        command: read.command,
        effect: read.effect,
        reads: read.is_answered_by_replicas(),
        refusal: match read.bar {
            Bar::None => None,
            Bar::BlocksWith(why)
            | Bar::Blocks(why)
            | Bar::Session(why)
            | Bar::Begins(why)
            | Bar::Ends(why) => Some(why),
        },
    }
}

/// Reads a pipeline: its effect is the greatest of its commands', and what bars one of them bars it.
pub(crate) fn classify_pipeline(pipeline: &Pipeline) -> Verdict {
    static PIPELINE: Command = once("PIPELINE");
    static ATOMIC: Command = once("MULTI");
    let atomic = pipeline.is_transaction();
    let mut walk = Walk {
        atomic,
        inside: atomic,
        looked: false,
        effect: Effect::None,
        reads: !atomic,
        refusal: None,
    };
    for cmd in pipeline.cmd_iter() {
        walk.step(&Read::of(cmd));
    }
    Verdict {
        command: if atomic { &ATOMIC } else { &PIPELINE },
        effect: walk.effect,
        reads: walk.reads,
        refusal: walk.finish(),
    }
}

/// A command, its options read.
struct Read {
    command: &'static Command,
    effect: Effect,
    bar: Bar,
}

impl Read {
    fn of(cmd: &Cmd) -> Self {
        static OTHER: Command = once("OTHER");
        let mut words = cmd.args_iter().map(|arg| match arg {
            Arg::Simple(word) => Some(word),
            _ => None,
        });
        let Some(Some(name)) = words.next() else {
            return Self {
                command: &OTHER,
                effect: Effect::Once,
                bar: Bar::Session(NAMELESS),
            };
        };
        let Some(mut command) = COMMANDS.word(name) else {
            return Self {
                command: &OTHER,
                effect: Effect::Once,
                bar: Bar::None,
            };
        };
        if let (Form::Parent, Some(Some(second))) = (command.form, words.next()) {
            command = SUBCOMMANDS.words(name, second).unwrap_or(command);
        }
        Self {
            command,
            effect: match command.form {
                Form::With { from, words, then } if has_word(cmd, from, words) => then,
                Form::Only { from, words } if !has_only(cmd, from, words) => Effect::Once,
                _ => command.effect,
            },
            bar: match command.bar {
                Bar::BlocksWith(_) if !awaits_streams(cmd) => Bar::None,
                bar => bar,
            },
        }
    }
}

impl Read {
    /// Whether a replica may answer it. What is a write to the server whatever its options (`SORT`), what asks the server about itself, and
    /// what needs something that only its primary has been given stays with the primary.
    fn is_answered_by_replicas(&self) -> bool {
        self.command.is_for_replicas && self.effect == Effect::None && matches!(self.bar, Bar::None)
    }
}

/// Where in a pipeline we are, and what it has come to.
struct Walk {
    atomic: bool,
    /// Between a MULTI and its EXEC.
    inside: bool,
    /// A command before this one has looked at the data.
    looked: bool,
    effect: Effect,
    reads: bool,
    refusal: Option<&'static str>,
}

impl Walk {
    fn step(&mut self, read: &Read) {
        self.reads &= read.is_answered_by_replicas();
        match read.bar {
            Bar::Begins(_) if !self.inside => self.inside = true,
            Bar::Ends(_) if self.inside && !self.atomic => self.inside = false,
            Bar::Begins(_) => self.refuse(NESTED),
            Bar::Ends(why) | Bar::Session(why) => self.refuse(why),
            Bar::Blocks(why) | Bar::BlocksWith(why) if !self.inside => self.refuse(why),
            Bar::Blocks(_) | Bar::BlocksWith(_) => self.count(read.effect),
            Bar::None => self.count(read.effect),
        }
    }

    fn count(&mut self, effect: Effect) {
        self.effect = self.effect.max(match effect {
            // Run twice, what looked before the write would see the write: another reply.
            Effect::Overwrite if self.looked => Effect::Once,
            effect => effect,
        });
        self.looked |= effect == Effect::None;
    }

    /// The first reason stands.
    fn refuse(&mut self, why: &'static str) {
        self.refusal = self.refusal.or(Some(why));
    }

    fn finish(mut self) -> Option<&'static str> {
        if self.inside && !self.atomic {
            self.refuse(UNBALANCED);
        }
        self.refusal
    }
}

impl Command {
    const fn new(name: &'static str, effect: Effect) -> Self {
        Self {
            name,
            effect,
            form: Form::Plain,
            bar: Bar::None,
            is_for_replicas: is_one_word(name),
        }
    }

    const fn parent(self) -> Self {
        self.of_form(Form::Parent)
    }

    const fn with(self, from: usize, words: &'static [&'static str], then: Effect) -> Self {
        self.of_form(Form::With { from, words, then })
    }

    const fn only(self, from: usize, words: &'static [&'static str]) -> Self {
        self.of_form(Form::Only { from, words })
    }

    /// What its options or its second word may turn into something else is nothing for replicas.
    const fn of_form(mut self, form: Form) -> Self {
        self.form = form;
        self.at_the_primary()
    }

    /// Without effect, and still nothing to ask a replica for.
    const fn at_the_primary(mut self) -> Self {
        self.is_for_replicas = false;
        self
    }

    const fn barred(mut self, bar: Bar) -> Self {
        self.bar = bar;
        self
    }

    const fn blocks_with(self, why: &'static str) -> Self {
        self.barred(Bar::BlocksWith(why))
    }
}

const fn read(name: &'static str) -> Command {
    Command::new(name, Effect::None)
}

const fn overwrite(name: &'static str) -> Command {
    Command::new(name, Effect::Overwrite)
}

const fn once(name: &'static str) -> Command {
    Command::new(name, Effect::Once)
}

/// Whether `name` is no subcommand.
const fn is_one_word(name: &str) -> bool {
    let mut rest = name.as_bytes();
    while let [byte, after @ ..] = rest {
        if *byte == b' ' {
            return false;
        }
        rest = after;
    }
    true
}

fn has_word(cmd: &Cmd, from: usize, words: &[&str]) -> bool {
    cmd.args_iter().skip(from).any(|arg| {
        words
            .iter()
            .any(|word| matches!(arg, Arg::Simple(arg) if is_word(arg, word)))
    })
}

fn has_only(cmd: &Cmd, from: usize, words: &[&str]) -> bool {
    let mut options = cmd.args_iter().skip(from);
    while let Some(option) = options.next() {
        let known = words
            .iter()
            .any(|word| matches!(option, Arg::Simple(option) if is_word(option, word)));
        if !known || options.next().is_none() {
            return false;
        }
    }
    true
}

/// Whether a reader of streams waits for one to grow. The options before `STREAMS` are read as a server reads them, in any order (`xreadCommand` in
/// `t_stream.c`); behind one that we do not know anything may be meant.
fn awaits_streams(cmd: &Cmd) -> bool {
    let mut words = cmd.args_iter().skip(1);
    while let Some(word) = words.next() {
        let is = |option| matches!(word, Arg::Simple(word) if is_word(word, option));
        let values = match () {
            () if is("STREAMS") => return false,
            () if is("NOACK") => 0,
            () if is("COUNT") || is("CLAIM") => 1,
            () if is("GROUP") => 2,
            () => return true,
        };
        for _ in 0..values {
            words.next();
        }
    }
    false
}

fn is_word(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

// Macros, because only they can join text at compile time.
macro_rules! blocks {
    ($name:literal) => {
        concat!(
            $name,
            " would hold up everyone on the shared connection; use an exclusive connection"
        )
    };
}
macro_rules! session {
    ($name:literal, $instead:literal) => {
        concat!(
            $name,
            " would change the shared connection for everyone on it; ",
            $instead
        )
    };
}
macro_rules! by_hand {
    ($name:literal) => {
        concat!(
            $name,
            " by hand would mix in other callers' commands; use an atomic pipeline"
        )
    };
}
use {blocks, by_hand, session};

static COMMANDS: Index = Index::new(rows::ROWS);
static SUBCOMMANDS: Index = Index::new(subcommands::ROWS);

/// The server does not answer an empty command at all, so that every later reply would go to the wrong caller.
const NAMELESS: &str = "a command without a name is never answered; name the command";
const NESTED: &str = "MULTI inside a transaction fails; leave it out";
const UNBALANCED: &str = "MULTI without EXEC or DISCARD in the same pipeline would mix in other callers' commands; use an atomic pipeline";
