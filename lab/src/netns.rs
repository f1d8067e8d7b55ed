//! Runs a test again inside a network and mount namespace of its own, and drops packets there.
//!
//! Owns the re-execution and the rules. Promises that nothing outside the namespace is touched: every helper here
//! refuses to work outside. Leaves tests without the right to do so a loud skip; as root where `CI` is set it is a
//! failure. Fails by panicking inside, with the tool's own words. Next: [`crate::proxy`], which needs no namespace.

use std::env;
use std::fs;
use std::net::IpAddr;
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::server::is_set;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What this machine allows.
#[derive(Debug)]
pub struct Netns;

/// Where the calling code finds itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// In the namespace: go on with the test.
    Inside,
    /// Outside: the test ran in a child and passed, or was skipped. Return.
    Done,
}

impl Netns {
    /// Whether namespaces can be made here, and packets dropped in them.
    ///
    /// # Errors
    /// With the reason.
    pub fn available() -> Result<(), String> {
        static KNOWN: OnceLock<Result<(), String>> = OnceLock::new();
        KNOWN
            .get_or_init(|| {
                let output = enter("nft", &["list", "tables"]).output();
                let output = output.map_err(|error| format!("unshare does not run: {error}"))?;
                let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                output.status.success().then_some(()).ok_or(words)
            })
            .clone()
    }
}

/// Runs the test `name` of this binary again inside a namespace, and says on which side the caller is.
///
/// The first line of such a test, before any runtime is made:
///
/// ```no_run
/// # use holdfast_lab::netns::{self, Place};
/// if netns::reexec("a_black_hole_is_found") == Place::Done {
///     return;
/// }
/// ```
///
/// # Panics
/// When the test fails inside, or namespaces are required (`CI` is set, and this is root) and cannot be had.
pub fn reexec(name: &str) -> Place {
    if is_inside() {
        return Place::Inside;
    }
    if let Err(why) = Netns::available() {
        if is_set("CI") && is_root() {
            panic!("a network namespace is required here: {why}");
        }
        eprintln!("SKIPPED: {name}: no network namespace: {why}");
        return Place::Done;
    }
    let Ok(program) = env::current_exe() else {
        panic!("this test binary has no path");
    };
    let program = program.to_string_lossy().into_owned();
    let args = ["--exact", name, "--nocapture", "--test-threads=1"];
    let output = match enter(&program, &args).env(MARK, "1").output() {
        Ok(output) => output,
        Err(error) => panic!("cannot run {name} in a namespace: {error}"),
    };
    let (said, cried) = (text(&output.stdout), text(&output.stderr));
    // Only what the test printed: the child's own summary must not be counted twice.
    let head = format!("test {name} ... ");
    let lines = said
        .lines()
        .map(|line| line.strip_prefix(&head).unwrap_or(line));
    let own = |line: &&str| {
        !["", "ok", "running 1 test"].contains(line) && !line.starts_with("test result")
    };
    for line in lines.filter(own) {
        println!("{line}");
    }
    eprint!("{cried}");
    assert!(
        said.contains("test result: ok. 1 passed"),
        "{name} failed inside its namespace"
    );
    Place::Done
}

/// Whether this process runs in a namespace made by [`reexec`].
pub fn is_inside() -> bool {
    env::var_os(MARK).is_some()
}

/// Drops every packet from and to `ip`, silently: no RST, no ICMP.
pub fn drop_addr(ip: impl Into<IpAddr>) {
    let ip = ip.into();
    rules(&format!(
        "add element inet lab {} {{ {ip} }}",
        set("dead", ip)
    ));
}

/// Drops only the SYNs to `ip`: what is connected goes on.
pub fn drop_syn(ip: impl Into<IpAddr>) {
    let ip = ip.into();
    rules(&format!(
        "add element inet lab {} {{ {ip} }}",
        set("deaf", ip)
    ));
}

/// Lets everything from and to `ip` pass again.
pub fn restore_addr(ip: impl Into<IpAddr>) {
    let ip = ip.into();
    for kind in ["dead", "deaf"] {
        let set = set(kind, ip);
        // Adding first makes the deletion of an absent element no error.
        rules(&format!(
            "add element inet lab {set} {{ {ip} }}\ndelete element inet lab {set} {{ {ip} }}"
        ));
    }
}

/// Puts an address on the loopback device, for ranges other than 127.0.0.0/8.
pub fn add_addr(ip: impl Into<IpAddr>) {
    must_be_inside();
    run("ip", &["addr", "add", &ip.into().to_string(), "dev", "lo"]);
}

/// Takes an address away: its connections hang, new ones are unreachable.
pub fn remove_addr(ip: impl Into<IpAddr>) {
    must_be_inside();
    let ip = ip.into();
    let whole = if ip.is_ipv4() { 32 } else { 128 };
    run(
        "ip",
        &["addr", "del", &format!("{ip}/{whole}"), "dev", "lo"],
    );
}

/// Replaces `/etc/resolv.conf`, in this namespace only; again and again if need be.
///
/// # Panics
/// Outside, or when the mount fails.
pub fn resolv_conf(text: &str) {
    must_be_inside();
    static OURS: OnceLock<()> = OnceLock::new();
    OURS.get_or_init(|| {
        let file = env::temp_dir().join(format!("holdfast-lab-resolv-{}", std::process::id()));
        let path = file.to_string_lossy().into_owned();
        written(&path, "");
        run("mount", &["--bind", &path, RESOLV_CONF]);
        // The mount keeps what it holds, and the next process of this number finds no file.
        if let Err(error) = fs::remove_file(&file) {
            panic!("cannot remove {path}: {error}");
        }
    });
    written(RESOLV_CONF, text);
}

fn written(path: &str, text: &str) {
    if let Err(error) = fs::write(path, text) {
        panic!("cannot write {path}: {error}");
    }
}

/// `unshare` around a program: loopback up, mounts private, dies with us.
fn enter(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    if !is_root() {
        command.arg("--map-root-user");
    }
    command
        .args([
            "--net",
            "--mount",
            "--kill-child",
            "sh",
            "-c",
            SETUP,
            "sh",
            program,
        ])
        .args(args);
    command
}

/// One nft script; the table is made on first use. Prerouting and raw: in the output hook the sender would see EPERM.
fn rules(script: &str) {
    static TABLE: OnceLock<()> = OnceLock::new();
    must_be_inside();
    TABLE.get_or_init(|| run("nft", &[TABLE_TEXT]));
    for line in script.lines() {
        run("nft", &[line]);
    }
}

fn set(kind: &str, ip: IpAddr) -> String {
    format!("{kind}{}", if ip.is_ipv4() { 4 } else { 6 })
}

fn run(program: &str, args: &[&str]) {
    let fine = |output: &Output| output.status.success();
    match Command::new(program).args(args).output() {
        Ok(output) if fine(&output) => {}
        Ok(output) => panic!("{program} {args:?}: {}", text(&output.stderr)),
        Err(error) => panic!("{program} does not run ({error}); install the package that has it"),
    }
}

fn must_be_inside() {
    assert!(is_inside(), "only inside a namespace made by netns::reexec");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const MARK: &str = "HOLDFAST_LAB_NETNS";
/// Debian keeps these tools where an ordinary user does not look.
const SETUP: &str =
    "PATH=$PATH:/usr/sbin:/sbin; mount --make-rprivate / && ip link set lo up && exec \"$@\"";
const TABLE_TEXT: &str = "\
table inet lab {
  set dead4 { type ipv4_addr; }
  set dead6 { type ipv6_addr; }
  set deaf4 { type ipv4_addr; }
  set deaf6 { type ipv6_addr; }
  chain raw {
    type filter hook prerouting priority raw; policy accept;
    ip saddr @dead4 drop
    ip daddr @dead4 drop
    ip6 saddr @dead6 drop
    ip6 daddr @dead6 drop
    ip daddr @deaf4 tcp flags & (syn | ack) == syn drop
    ip6 daddr @deaf6 tcp flags & (syn | ack) == syn drop
  }
}";
