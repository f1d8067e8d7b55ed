//! One server process: started, signalled, and always reaped.
//!
//! Owns the child and its folder. Promises that the process dies with its handle, also when it is stopped, and with
//! this process where `setpriv` is at hand. Leaves the protocol to [`super`]. Fails with a [`LabError`] that carries
//! the server's own last words. Next: [`super::find`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::process::{Pid, Signal, kill_process};

use crate::LabError;

/// A child in a folder of its own.
#[derive(Debug)]
pub(super) struct Process {
    child: Mutex<Option<Child>>,
    folder: PathBuf,
}

impl Process {
    /// A folder, and no child in it yet.
    pub(super) fn in_new_folder(name: &str) -> Result<Self, LabError> {
        let folder =
            std::env::temp_dir().join(format!("holdfast-lab-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder)
            .map_err(|error| LabError::new("cannot make a folder for the server").because(error))?;
        Ok(Self {
            child: Mutex::new(None),
            folder,
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a file in the folder, and gives its path.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<String, LabError> {
        let file = self.folder.join(name);
        fs::write(&file, text).map_err(|error| {
            LabError::new("cannot write the server's configuration").because(error)
        })?;
        Ok(file.to_string_lossy().into_owned())
    }

    /// Reads a file in the folder.
    pub(super) fn read(&self, name: &str) -> Result<String, LabError> {
        fs::read_to_string(self.folder.join(name))
            .map_err(|error| LabError::new("this server has no such file").because(error))
    }

    /// Starts `program` in the folder; its output goes to the file `log` there.
    pub(super) fn start(&self, program: &Path, args: &[String]) -> Result<(), LabError> {
        let cannot = |error: io::Error| LabError::new("cannot start the server").because(error);
        let log = fs::File::create(self.folder.join("log")).map_err(cannot)?;
        let mut command = match setpriv() {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command
            .args(args)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(cannot)?)
            .stderr(log);
        *self.lock() = Some(spawn_apart(command).map_err(cannot)?);
        Ok(())
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(Child::id)
    }

    /// Whether the child is there and has not ended by itself.
    pub(super) fn is_running(&self) -> bool {
        match self.lock().as_mut() {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => false,
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        // Under the lock: the child cannot be reaped in between, so the id is still ours.
        let child = self.lock();
        let pid = child
            .as_ref()
            .and_then(|child| i32::try_from(child.id()).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGKILL, which a stopped process obeys too, and wait.
    pub(super) fn kill(&self) {
        if let Some(mut child) = self.lock().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The end of what the server printed.
    pub(super) fn last_words(&self) -> String {
        let text = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let mut lines: Vec<&str> = text.lines().rev().take(8).collect();
        lines.reverse();
        lines.join("\n")
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

type Order = (Command, SyncSender<io::Result<Child>>);

/// Spawns from one thread that lives as long as the process: the parent-death signal means the death of the *thread*
/// that forked, and a test's thread ends long before a server shared between tests should.
fn spawn_apart(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<SyncSender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = sync_channel::<Order>(1);
        std::thread::spawn(move || {
            while let Ok((mut command, reply)) = inbox.recv() {
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let gone = || io::Error::other("the spawning thread is gone");
    let (reply, answer) = sync_channel(1);
    spawner.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

fn setpriv() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path)
                .map(|dir| dir.join("setpriv"))
                .find(|file| file.is_file())
        })
        .as_deref()
}
