//! Takes from a process what it needs: stops a child, lets it go on, holds it to a share of the processor; leaves this one without
//! descriptors.
//!
//! Owns the signals, the limit and, where the machine lets it, a control group. Promises that a share ends with its handle; a child
//! that is stopped then goes on. Leaves starting and reaping to the one who owns the child: its number must not have been
//! given to another process meanwhile. Fails with a [`LabError`] where there is no such process. Next: the tests above.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
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
    /// 50 ms of every 100 ms: the kernel's quota where a control group can be made, else a stop and a start in turn.
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
        match &self.group {
            Some(group) => group.how,
            None => "stopped and continued in turn",
        }
    }
}

/// This process gets no further descriptor (`EMFILE`), for as long as this lives; those that are open stay.
#[derive(Debug)]
pub struct NoDescriptors(Rlimit);

impl NoDescriptors {
    /// From now on.
    ///
    /// # Errors
    /// When the system does not let itself be limited.
    pub fn begin() -> Result<Self, LabError> {
        let before = getrlimit(Resource::Nofile);
        let none = Rlimit {
            current: Some(0),
            maximum: before.maximum,
        };
        let cannot = |error| LabError::new("descriptors cannot be limited").because(error);
        setrlimit(Resource::Nofile, none).map_err(cannot)?;
        Ok(Self(before))
    }
}

impl Drop for NoDescriptors {
    fn drop(&mut self) {
        let Rlimit { current, maximum } = self.0;
        let _ = setrlimit(Resource::Nofile, Rlimit { current, maximum });
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
    how: &'static str,
}

impl Group {
    fn around(pid: u32) -> io::Result<Self> {
        let place = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        Self::of_one_tree(pid, &place).or_else(|_| Self::of_its_own_tree(pid, &place))
    }

    /// Control groups of version 2.
    fn of_one_tree(pid: u32, place: &str) -> io::Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        if !fs::read_to_string(root.join("cgroup.controllers"))?.contains("cpu") {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let quota = format!("{} {}", SHARE.as_micros(), PERIOD.as_micros());
        let quotas = [("cpu.max", quota)];
        Self::make(
            pid,
            root,
            home(place, ""),
            &quotas,
            "cpu.max of a control group",
        )
    }

    /// Version 1.
    fn of_its_own_tree(pid: u32, place: &str) -> io::Result<Self> {
        let root = Path::new("/sys/fs/cgroup/cpu");
        let quotas = [
            ("cpu.cfs_period_us", PERIOD.as_micros().to_string()),
            ("cpu.cfs_quota_us", SHARE.as_micros().to_string()),
        ];
        Self::make(
            pid,
            root,
            home(place, "cpu"),
            &quotas,
            "cpu.cfs_quota_us of a control group",
        )
    }

    fn make(
        pid: u32,
        root: &Path,
        home: Option<&str>,
        quotas: &[(&str, String)],
        how: &'static str,
    ) -> io::Result<Self> {
        let home = root.join(home.ok_or(io::ErrorKind::Unsupported)?);
        let path = root.join(format!("holdfast-lab-{pid}"));
        fs::create_dir(&path)?;
        let group = Self { path, home, how };
        for (file, quota) in quotas {
            fs::write(group.path.join(file), quota)?;
        }
        fs::write(group.path.join("cgroup.procs"), pid.to_string())?;
        Ok(group)
    }
}

/// Where a process is in the tree of a controller, from `/proc/…/cgroup`: lines of `number:controllers:/path`.
fn home<'a>(place: &'a str, controller: &str) -> Option<&'a str> {
    place.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(":/")?;
        controllers
            .split(',')
            .any(|one| one == controller)
            .then_some(path)
    })
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
