//! Counts what a process holds: descriptors, sockets, threads, memory, tasks, and what waits in an accept queue.
//!
//! Owns the reading of `/proc`. Promises plain numbers of this instant. Leaves the comparison with a baseline to the
//! tests, which should take figures of memory from a child process. Fails by saying 0 where there is no `/proc`; a test
//! that needs a count should first assert that it is not 0. Next: [`crate::server::Server::accept_queue`].

use std::fs;
use std::net::{IpAddr, SocketAddr};

use tokio::runtime::Handle;

/// Open descriptors of this process.
pub fn fds() -> usize {
    fds_of("self")
}

/// Open sockets of this process.
pub fn sockets() -> usize {
    sockets_of("self")
}

/// Threads of this process.
pub fn threads() -> usize {
    field("self", "Threads:").unwrap_or(0)
}

/// Resident memory of this process.
pub fn rss_bytes() -> usize {
    field("self", "VmRSS:").unwrap_or(0) * 1024
}

/// Highest resident memory this process ever had.
pub fn peak_rss_bytes() -> usize {
    field("self", "VmHWM:").unwrap_or(0) * 1024
}

/// Tasks alive on a runtime.
pub fn tokio_tasks(runtime: &Handle) -> usize {
    runtime.metrics().num_alive_tasks()
}

/// Open descriptors of another process, by id.
pub fn fds_of(pid: impl ToString) -> usize {
    fs::read_dir(format!("/proc/{}/fd", pid.to_string())).map_or(0, Iterator::count)
}

/// Open sockets of another process, by id.
pub fn sockets_of(pid: impl ToString) -> usize {
    let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", pid.to_string())) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

/// Resident memory of another process, by id.
pub fn rss_bytes_of(pid: impl ToString) -> usize {
    field(&pid.to_string(), "VmRSS:").unwrap_or(0) * 1024
}

/// Connections which the kernel has completed for the listener at `addr` and no one has accepted yet.
///
/// The receive queue of a listening socket's row in `/proc/net/tcp` is the length of its accept queue.
pub fn accept_queue(addr: SocketAddr) -> usize {
    const LISTEN: &str = "0A";
    let (table, local) = match addr.ip() {
        IpAddr::V4(ip) => ("/proc/net/tcp", hex(&ip.octets())),
        IpAddr::V6(ip) => ("/proc/net/tcp6", hex(&ip.octets())),
    };
    let local = format!("{local}:{:04X}", addr.port());
    let rows = fs::read_to_string(table).unwrap_or_default();
    rows.lines()
        .filter_map(|row| {
            let mut columns = row.split_whitespace().skip(1);
            let (here, _there) = (columns.next()?, columns.next()?);
            let (state, queues) = (columns.next()?, columns.next()?);
            let (_send, receive) = queues.split_once(':')?;
            (here == local && state == LISTEN).then(|| usize::from_str_radix(receive, 16).ok())?
        })
        .sum()
}

/// The kernel prints an address as 32-bit words in the machine's byte order.
fn hex(octets: &[u8]) -> String {
    let mut text = String::new();
    for word in octets.chunks_exact(4) {
        let bytes: [u8; 4] = word.try_into().unwrap_or_default();
        text.push_str(&format!("{:08X}", u32::from_ne_bytes(bytes)));
    }
    text
}

fn field(pid: &str, name: &str) -> Option<usize> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
