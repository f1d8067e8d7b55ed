//! Takes the processor away from a child process: stops it, lets it go on, holds it to a share.
//!
//! Owns the signals and, where the machine lets it, a control group. Promises that a share ends with its handle; a child
//! that is stopped then goes on. Leaves starting and reaping to the one who owns the child: its number must not have been
//! given to another process meanwhile. Fails with a [`LabError`] where there is no such process. Next: the tests above.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use crate::LabError;
use crate::task::{Owned, own};

/// A child held to half of one processor, for as long as this lives.
#[derive(Debug)]
pub struct Half {
    group: Option<Group>,
    _cycle: Option<Owned>,
}

/// SIGSTOP.
///
/// # Errors
/// When there is no such process.
pub fn stop(pid: u32) -> Result<(), LabError> {
    signal(pid, Signal::STOP)
}

/// SIGCONT.
///
/// # Errors
/// When there is no such process.
pub fn go_on(pid: u32) -> Result<(), LabError> {
    signal(pid, Signal::CONT)
}

impl Half {
    /// 50 ms of every 100 ms: the kernel's quota where a control group (v2) can be made, else a stop and a start in turn.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> Result<Self, LabError> {
        go_on(pid)?;
        let group = Group::around(pid).ok();
        let cycle = group.is_none().then(|| {
            own(async move {
                // However the task ends, and even if that is in the middle of a stop.
                let _at_last = GoOn(pid);
                while stop(pid).is_ok() {
                    sleep(SHARE).await;
                    let _ = go_on(pid);
                    sleep(PERIOD - SHARE).await;
                }
            })
        });
        Ok(Self {
            group,
            _cycle: cycle,
        })
    }

    /// How it is done, for a figure.
    pub fn how(&self) -> &'static str {
        if self.group.is_some() {
            "cpu.max of a control group"
        } else {
            "stopped and continued in turn"
        }
    }
}

struct GoOn(u32);

impl Drop for GoOn {
    fn drop(&mut self) {
        let _ = go_on(self.0);
    }
}

/// A control group with a quota of its own.
#[derive(Debug)]
struct Group {
    path: PathBuf,
    /// Where the child was before.
    home: PathBuf,
}

impl Group {
    fn around(pid: u32) -> io::Result<Self> {
        let unsupported = || io::Error::from(io::ErrorKind::Unsupported);
        let root = Path::new("/sys/fs/cgroup");
        if !fs::read_to_string(root.join("cgroup.controllers"))?.contains("cpu") {
            return Err(unsupported());
        }
        let place = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let home = place.lines().find_map(|line| line.strip_prefix("0::/"));
        let home = root.join(home.ok_or_else(unsupported)?);
        let path = root.join(format!("holdfast-lab-{pid}"));
        fs::create_dir(&path)?;
        let group = Self { path, home };
        let quota = format!("{} {}", SHARE.as_micros(), PERIOD.as_micros());
        fs::write(group.path.join("cpu.max"), quota)?;
        fs::write(group.path.join("cgroup.procs"), pid.to_string())?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A group with a process in it cannot be removed.
        let inside = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        for pid in inside.lines() {
            let _ = fs::write(self.home.join("cgroup.procs"), pid);
        }
        let _ = fs::remove_dir(&self.path);
    }
}

fn signal(pid: u32, signal: Signal) -> Result<(), LabError> {
    let gone = || LabError::new(format!("no process {pid}"));
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(raw.ok_or_else(gone)?, signal).map_err(|error| gone().because(error))
}

const SHARE: Duration = Duration::from_millis(50);
const PERIOD: Duration = Duration::from_millis(100);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may end here")]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Self {
            Self(Command::new("sleep").arg("60").spawn().unwrap())
        }

        /// `T` is stopped.
        fn state(&self) -> String {
            let path = format!("/proc/{}/stat", self.0.id());
            let stat = fs::read_to_string(path).unwrap();
            let (_, fields) = stat.rsplit_once(") ").unwrap();
            fields.split(' ').next().unwrap().to_owned()
        }

        async fn until(&self, stopped: bool) {
            while (self.state() == "T") != stopped {
                sleep(Duration::from_millis(1)).await;
            }
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[tokio::test]
    async fn a_child_stops_and_goes_on() {
        let child = Sleeper::start();
        stop(child.0.id()).unwrap();
        child.until(true).await;
        go_on(child.0.id()).unwrap();
        child.until(false).await;
    }

    #[tokio::test]
    async fn a_child_goes_on_when_its_share_ends() {
        let child = Sleeper::start();
        let half = Half::of(child.0.id()).unwrap();
        if half.group.is_none() {
            child.until(true).await;
            child.until(false).await;
            child.until(true).await;
        }
        drop(half);
        child.until(false).await;
        sleep(PERIOD).await;
        assert_ne!(child.state(), "T", "nobody stops it any more");
    }
}
