//! A file that is read again when it has changed.
//!
//! Owns [`Watched`]. Promises: a change shows at the next read; an unchanged file costs one `stat`. Leaves the meaning of the text
//! to the parser it is given. Fails as the file system does, and forgets what it knew then: a file taken away is not obeyed.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

pub(super) struct Watched<T> {
    path: PathBuf,
    parse: fn(&str) -> T,
    kept: Mutex<Option<(Stamp, Arc<T>)>>,
}

/// What tells one state of a file from the next: a file put in the place of another may have the same length and time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    place: (u64, u64),
}

impl<T> Watched<T> {
    pub(super) fn new(path: PathBuf, parse: fn(&str) -> T) -> Self {
        Self {
            path,
            parse,
            kept: Mutex::new(None),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn read(&self) -> io::Result<Arc<T>> {
        let mut file = File::open(&self.path)?;
        // Before the text is read: a change in between shows as a change next time.
        let stamp = Stamp::of(&file.metadata()?);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = kept.as_ref().filter(|(known, _)| *known == stamp);
        if let Some((_, value)) = fresh {
            return Ok(value.clone());
        }
        drop(kept);

        let mut bytes = Vec::new();
        file.by_ref().take(LARGEST).read_to_end(&mut bytes)?;
        let value = Arc::new((self.parse)(&String::from_utf8_lossy(&bytes)));
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some((stamp, value.clone()));
        Ok(value)
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            length: metadata.len(),
            modified: metadata.modified().ok(),
            place: place(metadata),
        }
    }
}

#[cfg(unix)]
fn place(metadata: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn place(_: &Metadata) -> (u64, u64) {
    (0, 0)
}

/// Hosts files that block advertisements are the largest seen; this is several of them.
const LARGEST: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_shows_at_the_next_read_and_an_absence_too() {
        let path = std::env::temp_dir().join(format!("holdfast-watched-{:x}", fastrand::u64(..)));
        let watched = Watched::new(path.clone(), str::len);
        assert!(watched.read().is_err());
        std::fs::write(&path, "one").unwrap();
        let first = watched.read().unwrap();
        assert!(Arc::ptr_eq(&first, &watched.read().unwrap()), "kept");
        std::fs::write(&path, "three").unwrap();
        assert_eq!(*watched.read().unwrap(), 5);
        std::fs::remove_file(&path).unwrap();
        assert!(watched.read().is_err());
    }
}
