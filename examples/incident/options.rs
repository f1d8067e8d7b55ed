//! What the command line may say.
//!
//! Owns the flags and their text. Promises one clear sentence for every mistake. Pure. Next: [`super::stage`].

use std::path::{Path, PathBuf};

use crate::story::{Ending, Fault, Scenario, Story};

/// What to run, and where to put the result.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    pub story: Story,
    pub servers: Choice,
    pub quick: bool,
    pub out: PathBuf,
}

/// Which servers stand behind the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A real one where one is at hand, else the embedded one; fetches nothing.
    Any,
    /// A real one, fetched if need be.
    Real,
    /// The one inside this process.
    Embedded,
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    Run(Options),
    Help,
}

impl Wish {
    /// Reads the arguments after the program's name.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut options = Options {
            story: Story {
                scenario: Scenario::Sentinel,
                fault: Fault::Incident,
                ending: Ending::Healed,
            },
            servers: Choice::Any,
            quick: false,
            out: Path::new(env!("CARGO_MANIFEST_DIR")).join("target/incident"),
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let (flag, given) = match arg.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (arg.as_str(), None),
            };
            match flag {
                "-h" | "--help" => return Ok(Self::Help),
                "--scenario" => {
                    options.story.scenario = scenario(&value(flag, given, &mut args)?)?;
                }
                "--rollback" if given.is_none() => options.story.ending = Ending::RolledBack,
                "--quick" if given.is_none() => options.quick = true,
                "--servers" => {
                    options.servers = Choice::parse(&value(flag, given, &mut args)?)?;
                }
                "--out" => options.out = value(flag, given, &mut args)?.into(),
                _ => return Err(format!("unknown argument `{arg}`")),
            }
        }
        Ok(Self::Run(options))
    }
}

/// What follows a flag, after `=` or as the next word.
fn value(
    flag: &str,
    given: Option<String>,
    rest: &mut impl Iterator<Item = String>,
) -> Result<String, String> {
    given
        .or_else(|| rest.next())
        .filter(|value| !value.is_empty() && !value.starts_with("--"))
        .ok_or_else(|| format!("{flag} needs a value"))
}

fn scenario(text: &str) -> Result<Scenario, String> {
    match text {
        "sentinel" => Ok(Scenario::Sentinel),
        "move" => Ok(Scenario::Move),
        _ => Err(format!("--scenario takes sentinel or move, not `{text}`")),
    }
}

impl Choice {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "any" => Ok(Self::Any),
            "real" => Ok(Self::Real),
            "embedded" => Ok(Self::Embedded),
            _ => Err(format!(
                "--servers takes any, real or embedded, not `{text}`"
            )),
        }
    }
}

pub const HELP: &str = "\
Replays one real incident on four Redis clients side by side, and reports what their users saw.

usage: cargo run --release --example incident -- [options]

  --scenario sentinel|move      three Redis and three Sentinels, each with a probe that kills and restarts it, all of
                                them moved (the default); or one Redis behind a name
  --rollback                    ends with the old address range back, not with a DNS that knows the new one
  --servers any|real|embedded   real Redis or Valkey processes if one is at hand, else the embedded servers (any, the
                                default); real ones, fetched if need be; or the embedded ones
  --quick                       8 seconds instead of 34: shows less, proves little
  --out DIR                     where report.html and result.json go (default target/incident)
  -h, --help                    this text

exit status: 0 every promise of redis-holdfast held, 1 one broke, 2 wrong arguments, 3 the run could not be staged";
