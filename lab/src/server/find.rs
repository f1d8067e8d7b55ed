//! Finds server binaries: named by the environment, in `PATH`, under `target/servers`, or fetched by the script.
//!
//! Owns the order of that search. Promises binaries that ran once (`--version` answered). Leaves fetching to
//! `scripts/servers.sh`, which is safe under parallel tests. Fails with a [`LabError`] that says what to do.
//! Next: [`super::process`] starts what is found here.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::LabError;

/// Which server a test wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Find {
    /// The first one found, fetched if there is none.
    #[default]
    Any,
    /// `"redis"` or `"valkey"`.
    Kind(String),
    /// A version that starts with this, such as `"7.0"`.
    Version(String),
    /// This very binary.
    Path(PathBuf),
}

/// A server binary and what it says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// Where it lies.
    pub path: PathBuf,
    /// `"redis"` or `"valkey"`.
    pub kind: String,
    /// Such as `"9.1.2"`.
    pub version: String,
}

/// What is available on this machine.
#[derive(Debug)]
pub struct Servers;

impl Servers {
    /// Every server that can be started now, in order of preference; fetches nothing.
    pub fn find_all() -> Vec<Binary> {
        let mut found: Vec<Binary> = Vec::new();
        for path in candidates() {
            if found.iter().any(|seen| seen.path == path) {
                continue;
            }
            found.extend(identify(&path));
        }
        found
    }
}

impl Binary {
    /// First number of the version.
    pub fn major(&self) -> u32 {
        let number = self.version.split('.').next().unwrap_or_default();
        number.parse().unwrap_or(0)
    }
}

/// The binary asked for; [`Find::Any`] fetches one where none is at hand.
pub(super) fn find(wanted: &Find) -> Result<Binary, LabError> {
    if let Find::Path(path) = wanted {
        return identify(path)
            .ok_or_else(|| LabError::new(format!("{} does not run as a server", path.display())));
    }
    if let Some(named) = env::var_os("HOLDFAST_SERVER")
        && identify(Path::new(&named)).is_none()
    {
        let text = format!("HOLDFAST_SERVER names {named:?}, which does not run as a server");
        return Err(LabError::new(text));
    }
    let first = || {
        candidates()
            .iter()
            .filter_map(|path| identify(path))
            .find(|b| wanted.fits(b))
    };
    if let Some(binary) = first() {
        return Ok(binary);
    }
    fetch(wanted)?;
    first().ok_or_else(|| LabError::new(format!("no server fits {wanted:?}; {HOW}")))
}

impl Find {
    fn fits(&self, binary: &Binary) -> bool {
        match self {
            Find::Any => true,
            Find::Kind(kind) => binary.kind == *kind,
            Find::Version(start) => binary.version.starts_with(start.as_str()),
            Find::Path(path) => binary.path == *path,
        }
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = env::var_os("HOLDFAST_SERVER")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    let path = env::var_os("PATH").unwrap_or_default();
    all.extend(env::split_paths(&path).flat_map(|dir| NAMES.map(|name| dir.join(name))));
    let mut fetched: Vec<PathBuf> = fs::read_dir(folder())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|dir| !dir.to_string_lossy().contains(".fetch"))
        .collect();
    // By name, last first: Valkey before Redis, newer before older.
    fetched.sort_unstable_by(|a, b| b.cmp(a));
    all.extend(
        fetched
            .iter()
            .flat_map(|dir| NAMES.map(|name| dir.join(name))),
    );
    all.retain(|path| path.is_file());
    all
}

/// `Valkey server v=9.1.2 …` or `Redis server v=7.0.15 …`.
fn identify(path: &Path) -> Option<Binary> {
    let output = Command::new(path).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let kind = text.split_whitespace().next()?.to_lowercase();
    let version = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("v="))?;
    Some(Binary {
        path: path.to_owned(),
        kind,
        version: version.to_owned(),
    })
}

/// Runs the script once per process; a second failure is told from memory.
fn fetch(wanted: &Find) -> Result<(), LabError> {
    static ONCE: OnceLock<Result<(), String>> = OnceLock::new();
    static ALL: OnceLock<Result<(), String>> = OnceLock::new();
    let result = match wanted {
        Find::Any => ONCE.get_or_init(|| run_script(&[])),
        _ => ALL.get_or_init(|| run_script(&["all"])),
    };
    // A partial `all` may still have brought the one we want: the caller looks again.
    match (wanted, result) {
        (Find::Any, Err(why)) => Err(LabError::new(format!("no Redis server: {why}; {HOW}"))),
        _ => Ok(()),
    }
}

fn run_script(args: &[&str]) -> Result<(), String> {
    let script = root().join("scripts/servers.sh");
    eprintln!("lab: no server at hand, fetching with scripts/servers.sh");
    let output = Command::new("bash")
        .arg(script)
        .args(args)
        .env("HOLDFAST_SERVERS_DIR", folder())
        .output()
        .map_err(|error| format!("cannot run scripts/servers.sh: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

fn folder() -> PathBuf {
    env::var_os("HOLDFAST_SERVERS_DIR").map_or_else(|| root().join("target/servers"), PathBuf::from)
}

fn root() -> PathBuf {
    let member = Path::new(env!("CARGO_MANIFEST_DIR"));
    member.parent().unwrap_or(member).to_owned()
}

const NAMES: [&str; 2] = ["valkey-server", "redis-server"];
const HOW: &str = "put redis-server or valkey-server in PATH, name one in HOLDFAST_SERVER, \
                   or run scripts/servers.sh (needs python3 with pip)";
