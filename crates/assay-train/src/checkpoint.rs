//! Checkpoints of a run: written atomically, and verified when they are read.
//!
//! A checkpoint is a directory `checkpoints/iter-N`. It is written as `checkpoints/.iter-N.partial`
//! with a manifest of the digest of every file, then synced and renamed. Before removal it is
//! renamed too. So a directory with the final name was complete when it was renamed, and
//! [`newest_whole`] checks whether it still is.

mod manifest;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::TrainError;

pub use manifest::{MANIFEST, hex_digest};

const DIRECTORY: &str = "checkpoints";
const PREFIX: &str = "iter-";
const DAMAGED: &str = "damaged-";

/// A checkpoint whose files differ from what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Its directory.
    pub path: PathBuf,
    /// Which file, and what is wrong with it.
    pub reason: String,
}

/// The result of [`newest_whole`].
#[derive(Debug)]
pub struct Newest {
    /// Iterations done by the newest intact checkpoint, and its directory; `None` without
    /// checkpoints.
    pub whole: Option<(usize, PathBuf)>,
    /// The damaged checkpoints that are newer.
    pub damaged: Vec<Damage>,
}

/// Writes a checkpoint atomically. `fill` writes its files into an empty directory.
///
/// # Errors
/// An error of `fill`, or a path that could not be written. Previous checkpoints are then
/// unchanged, and the incomplete one is removed.
pub fn write(
    run: &Path,
    iteration: usize,
    fill: impl FnOnce(&Path) -> Result<(), TrainError>,
) -> Result<PathBuf, TrainError> {
    let partial = run
        .join(DIRECTORY)
        .join(format!(".{PREFIX}{iteration}.partial"));
    let filled = fill_and_rename(&path(run, iteration), &partial, fill);
    if filled.is_err() {
        // The first error is reported. Remaining files are removed when the run resumes.
        let _ = fs::remove_dir_all(&partial);
    }
    filled
}

fn fill_and_rename(
    target: &Path,
    partial: &Path,
    fill: impl FnOnce(&Path) -> Result<(), TrainError>,
) -> Result<PathBuf, TrainError> {
    if partial.exists() {
        fs::remove_dir_all(partial)
            .map_err(|source| TrainError::io("removing", partial, source))?;
    }
    fs::create_dir_all(partial).map_err(|source| TrainError::io("creating", partial, source))?;
    fill(partial)?;
    manifest::write(partial)?;
    sync_tree(partial)?;
    if target.exists() {
        remove(target)?;
    }
    fs::rename(partial, target).map_err(|source| TrainError::io("renaming", partial, source))?;
    if let Some(parent) = target.parent() {
        sync(parent)?;
    }
    Ok(target.to_owned())
}

/// The directory of the checkpoint after `iteration` iterations, which need not exist.
pub fn path(run: &Path, iteration: usize) -> PathBuf {
    run.join(DIRECTORY).join(format!("{PREFIX}{iteration}"))
}

/// Checkpoints of a run by their names, oldest first.
///
/// # Errors
/// The directory exists but cannot be read.
pub fn list(run: &Path) -> Result<Vec<(usize, PathBuf)>, TrainError> {
    let mut found: Vec<(usize, PathBuf)> = entries(run)?
        .into_iter()
        .filter_map(|(name, path)| Some((name.strip_prefix(PREFIX)?.parse().ok()?, path)))
        .collect();
    found.sort();
    Ok(found)
}

/// The newest intact checkpoint, and the damaged ones that are newer.
///
/// # Errors
/// [`TrainError::NoWholeCheckpoint`] if there are checkpoints but none is intact. A file exists but
/// cannot be read.
pub fn newest_whole(run: &Path) -> Result<Newest, TrainError> {
    let mut damaged: Vec<Damage> = Vec::new();
    for (number, path) in list(run)?.into_iter().rev() {
        match manifest::damage(&path)? {
            None => {
                return Ok(Newest {
                    whole: Some((number, path)),
                    damaged,
                });
            }
            Some(reason) => damaged.push(Damage { path, reason }),
        }
    }
    match damaged.first() {
        None => Ok(Newest {
            whole: None,
            damaged,
        }),
        Some(Damage { path, reason }) => Err(TrainError::NoWholeCheckpoint {
            path: path.clone(),
            reason: reason.clone(),
            count: damaged.len(),
        }),
    }
}

/// Renames a damaged checkpoint to `damaged-iter-N` and returns its new path.
///
/// # Errors
/// Names the directory that could not be renamed.
pub fn set_aside(path: &Path) -> Result<PathBuf, TrainError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!("{DAMAGED}{name}"));
    if aside.exists() {
        fs::remove_dir_all(&aside).map_err(|source| TrainError::io("removing", &aside, source))?;
    }
    fs::rename(path, &aside).map_err(|source| TrainError::io("renaming", path, source))?;
    Ok(aside)
}

/// Removes all but the newest `keep` checkpoints and the one called `best`.
///
/// # Errors
/// Names the directory that could not be removed.
pub fn prune(run: &Path, keep: usize, best: Option<usize>) -> Result<(), TrainError> {
    let all = list(run)?;
    let old = &all[..all.len().saturating_sub(keep.max(1))];
    for (_, path) in old.iter().filter(|(number, _)| Some(*number) != best) {
        remove(path)?;
    }
    Ok(())
}

/// Removes partly written and partly removed checkpoints of killed processes.
///
/// # Errors
/// Names the directory that could not be removed.
pub fn remove_leftovers(run: &Path) -> Result<(), TrainError> {
    let hidden = format!(".{PREFIX}");
    for (_, path) in entries(run)?
        .iter()
        .filter(|(name, _)| name.starts_with(&hidden))
    {
        fs::remove_dir_all(path).map_err(|source| TrainError::io("removing", path, source))?;
    }
    Ok(())
}

/// Writes a file atomically: after a crash it has either its old or its new content.
///
/// # Errors
/// Names the path.
pub fn write_file(path: &Path, contents: &[u8]) -> Result<(), TrainError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let written = fs::write(&partial, contents)
        .map_err(|source| TrainError::io("writing", path, source))
        .and_then(|()| sync(&partial))
        .and_then(|()| {
            fs::rename(&partial, path)
                .map_err(|source| TrainError::io("renaming", &partial, source))
        });
    if written.is_err() {
        let _ = fs::remove_file(&partial);
        return written;
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync(parent),
        _ => Ok(()),
    }
}

/// Directories of `checkpoints/` with their names.
fn entries(run: &Path) -> Result<Vec<(String, PathBuf)>, TrainError> {
    let parent = run.join(DIRECTORY);
    let unreadable = |source| TrainError::io("reading", &parent, source);
    let entries = match fs::read_dir(&parent) {
        Ok(entries) => entries,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(unreadable(source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        if let Some(name) = entry.file_name().to_str()
            && entry.path().is_dir()
        {
            found.push((name.to_owned(), entry.path()));
        }
    }
    Ok(found)
}

/// Renames a checkpoint and then removes it, so that no partly removed directory has a checkpoint's
/// name.
fn remove(path: &Path) -> Result<(), TrainError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let nameless = path.with_file_name(format!(".{name}.removed"));
    if nameless.exists() {
        fs::remove_dir_all(&nameless)
            .map_err(|source| TrainError::io("removing", &nameless, source))?;
    }
    fs::rename(path, &nameless).map_err(|source| TrainError::io("removing", path, source))?;
    fs::remove_dir_all(&nameless).map_err(|source| TrainError::io("removing", &nameless, source))
}

fn sync_tree(dir: &Path) -> Result<(), TrainError> {
    let entries = fs::read_dir(dir).map_err(|source| TrainError::io("reading", dir, source))?;
    for entry in entries {
        let path = entry
            .map_err(|source| TrainError::io("reading", dir, source))?
            .path();
        if path.is_dir() {
            sync_tree(&path)?
        } else {
            sync(&path)?
        }
    }
    sync(dir)
}

fn sync(path: &Path) -> Result<(), TrainError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| TrainError::io("syncing", path, source))
}

#[cfg(test)]
mod tests;
