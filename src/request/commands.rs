//! The command table: what a command does to the data, and whether it may ride a shared connection.

use redis::{Arg, Cmd, Pipeline};

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: &'static str,
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

/// What the table says of one request.
pub(crate) struct Verdict {
    pub(crate) command: &'static Command,
    pub(crate) effect: Effect,
    pub(crate) refusal: Option<&'static str>,
}

pub(crate) fn classify(cmd: &Cmd) -> Verdict {
    static OTHER: Command = Command { name: "OTHER" };
    static GET: Command = Command { name: "GET" };
    let name = match cmd.args_iter().next() {
        Some(Arg::Simple(name)) => name,
        _ => b"",
    };
    let known = name.eq_ignore_ascii_case(b"GET");
    Verdict {
        command: if known { &GET } else { &OTHER },
        effect: if known { Effect::None } else { Effect::Once },
        refusal: None,
    }
}

pub(crate) fn classify_pipeline(pipeline: &Pipeline) -> Verdict {
    static PIPELINE: Command = Command { name: "PIPELINE" };
    let effect = pipeline
        .cmd_iter()
        .map(|cmd| classify(cmd).effect)
        .max()
        .unwrap_or(Effect::None);
    Verdict {
        command: &PIPELINE,
        effect,
        refusal: None,
    }
}
