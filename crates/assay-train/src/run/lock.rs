//! The lock of a run directory: an advisory lock that the operating system releases when its
//! process ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::Path;

use crate::TrainError;

/// The locked file. It names the holder. The file remains after the holder has ended and then has
/// no effect.
const LOCK: &str = "run.lock";
/// Maximum number of bytes of the holder's name that are read.
const LONGEST_NAME: u64 = 256;

/// Locks a run directory until it is dropped or the process ends.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
    held: bool,
}

impl RunLock {
    /// Locks a directory that exists.
    ///
    /// # Errors
    /// [`TrainError::RunLocked`] names the process that holds it; the lock file cannot be opened or
    /// written.
    pub fn acquire(dir: &Path) -> Result<Self, TrainError> {
        let path = dir.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| TrainError::io("opening", &path, source))?;
        let held = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::Error(source)) if source.kind() == ErrorKind::Unsupported => false,
            Err(TryLockError::Error(source)) => {
                return Err(TrainError::io("locking", &path, source));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(TrainError::RunLocked {
                    path: dir.to_owned(),
                    holder: holder(&mut file),
                });
            }
        };
        let name = format!("{} on {}", std::process::id(), host());
        let named = file.set_len(0).and_then(|()| file.rewind());
        named
            .and_then(|()| file.write_all(name.as_bytes()))
            .map_err(|source| TrainError::io("writing", &path, source))?;
        Ok(Self { _file: file, held })
    }

    /// Whether the file system supports locks. If it does not, a second process is not kept out.
    pub fn is_held(&self) -> bool {
        self.held
    }
}

fn host() -> String {
    gethostname::gethostname().to_string_lossy().into_owned()
}

fn holder(file: &mut File) -> String {
    let mut name = Vec::new();
    let read = file.take(LONGEST_NAME).read_to_end(&mut name);
    let name = String::from_utf8_lossy(&name);
    if read.is_err() || name.trim().is_empty() {
        "another".to_owned()
    } else {
        name.chars().filter(|c| !c.is_control()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_learns_the_firsts_name() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunLock::acquire(dir.path()).unwrap();
        assert!(first.is_held());
        let refused = RunLock::acquire(dir.path()).unwrap_err().to_string();
        let expected = format!("process {} on {}", std::process::id(), host());
        assert!(refused.contains(&expected), "{refused}");
        drop(first);
        RunLock::acquire(dir.path()).unwrap();
    }
}
