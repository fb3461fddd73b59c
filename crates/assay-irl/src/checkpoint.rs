//! Checkpoints of a run: written beside, synced, renamed; the newest whole one is found again.
//!
//! A checkpoint is a directory `checkpoints/iter-N`. It is filled as `checkpoints/.iter-N.partial` and renamed when
//! everything in it is on disk, so a directory of the final name is always whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::IrlError;

const PREFIX: &str = "iter-";

/// Writes a checkpoint atomically: `fill` gets an empty directory.
///
/// # Errors
/// Whatever `fill` returns, or the path that could not be written. The previous checkpoints are untouched then.
pub fn write(
    run: &Path,
    iteration: usize,
    fill: impl FnOnce(&Path) -> Result<(), IrlError>,
) -> Result<PathBuf, IrlError> {
    let parent = run.join("checkpoints");
    let partial = parent.join(format!(".{PREFIX}{iteration}.partial"));
    let target = parent.join(format!("{PREFIX}{iteration}"));
    if partial.exists() {
        fs::remove_dir_all(&partial)
            .map_err(|source| IrlError::io("removing", &partial, source))?;
    }
    fs::create_dir_all(&partial).map_err(|source| IrlError::io("creating", &partial, source))?;
    fill(&partial)?;
    sync_tree(&partial)?;
    if target.exists() {
        fs::remove_dir_all(&target).map_err(|source| IrlError::io("removing", &target, source))?;
    }
    fs::rename(&partial, &target).map_err(|source| IrlError::io("renaming", &partial, source))?;
    sync(&parent)?;
    Ok(target)
}

/// Checkpoints of a run, oldest first.
///
/// # Errors
/// The directory exists but cannot be read.
pub fn list(run: &Path) -> Result<Vec<(usize, PathBuf)>, IrlError> {
    let parent = run.join("checkpoints");
    let entries = match fs::read_dir(&parent) {
        Ok(entries) => entries,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(IrlError::io("reading", &parent, source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| IrlError::io("reading", &parent, source))?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|n| n.strip_prefix(PREFIX))
            .and_then(|n| n.parse().ok());
        if let Some(number) = number {
            found.push((number, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes all but the newest `keep` checkpoints.
///
/// # Errors
/// Names the directory that could not be removed.
pub fn prune(run: &Path, keep: usize) -> Result<(), IrlError> {
    let all = list(run)?;
    for (_, path) in &all[..all.len().saturating_sub(keep.max(1))] {
        fs::remove_dir_all(path).map_err(|source| IrlError::io("removing", path, source))?;
    }
    Ok(())
}

/// Writes a file so that after a crash it is either the old or the new one, whole.
///
/// # Errors
/// Names the path.
pub fn write_file(path: &Path, contents: &[u8]) -> Result<(), IrlError> {
    let partial = path.with_extension("partial");
    fs::write(&partial, contents).map_err(|source| IrlError::io("writing", &partial, source))?;
    sync(&partial)?;
    fs::rename(&partial, path).map_err(|source| IrlError::io("renaming", &partial, source))
}

fn sync_tree(dir: &Path) -> Result<(), IrlError> {
    let entries = fs::read_dir(dir).map_err(|source| IrlError::io("reading", dir, source))?;
    for entry in entries {
        let path = entry
            .map_err(|source| IrlError::io("reading", dir, source))?
            .path();
        if path.is_dir() {
            sync_tree(&path)?
        } else {
            sync(&path)?
        }
    }
    sync(dir)
}

fn sync(path: &Path) -> Result<(), IrlError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| IrlError::io("syncing", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_checkpoint_leaves_the_previous_one_and_no_name_of_its_own() {
        let run = tempfile::tempdir().unwrap();
        let fill = |text: &'static str| {
            move |dir: &Path| {
                fs::write(dir.join("a"), text).map_err(|e| IrlError::io("writing", dir, e))
            }
        };
        write(run.path(), 3, fill("three")).unwrap();
        write(run.path(), 10, fill("ten")).unwrap();
        let failed = write(run.path(), 11, |dir| {
            fs::write(dir.join("a"), "half").unwrap();
            Err(IrlError::NotFinite {
                what: "a test".to_owned(),
            })
        });
        assert!(failed.is_err());
        let names: Vec<usize> = list(run.path())
            .unwrap()
            .into_iter()
            .map(|(n, _)| n)
            .collect();
        assert_eq!(names, [3, 10]);
        write(run.path(), 11, fill("eleven")).unwrap();
        prune(run.path(), 2).unwrap();
        let names: Vec<usize> = list(run.path())
            .unwrap()
            .into_iter()
            .map(|(n, _)| n)
            .collect();
        assert_eq!(names, [10, 11]);
    }
}
