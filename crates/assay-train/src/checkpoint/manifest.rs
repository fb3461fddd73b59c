//! The manifest of a checkpoint: the digest of every file. It detects truncated, changed and
//! missing files.
//!
//! Files that the manifest does not name are ignored: a reward directory may get a calibration
//! later.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::TrainError;

/// Name of the manifest in a checkpoint.
pub const MANIFEST: &str = "manifest.json";
/// Largest manifest in bytes.
const MAX_BYTES: u64 = 1 << 24;
const BUFFER: usize = 1 << 20;

/// Size and SHA-256 of each file by its path in the checkpoint, `/` between directories.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    files: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Entry {
    bytes: u64,
    sha256: String,
}

/// Writes the manifest of everything in a directory.
///
/// # Errors
/// Names the file that could not be read or written.
pub(super) fn write(dir: &Path) -> Result<(), TrainError> {
    let mut files = BTreeMap::new();
    collect(dir, "", &mut files)?;
    let path = dir.join(MANIFEST);
    let text = serde_json::to_string_pretty(&Manifest { files })
        .map_err(|source| TrainError::malformed(path.clone(), source.to_string()))?;
    fs::write(&path, text + "\n").map_err(|source| TrainError::io("writing", &path, source))
}

/// The damage of a checkpoint; `None` if every file is as it was written.
///
/// # Errors
/// A file exists but cannot be read, which does not count as damage.
pub(super) fn damage(dir: &Path) -> Result<Option<String>, TrainError> {
    let manifest = match read(&dir.join(MANIFEST))? {
        Ok(manifest) => manifest,
        Err(reason) => return Ok(Some(reason)),
    };
    for (name, expected) in &manifest.files {
        if !is_inside(name) {
            return Ok(Some(format!("{MANIFEST} names {name:?}, a path outside")));
        }
        let path = dir.join(name);
        let found = match entry(&path) {
            Ok(found) => found,
            Err(source) if is_absence(source.kind()) => {
                return Ok(Some(format!("{name} is missing")));
            }
            Err(source) => return Err(TrainError::io("reading", &path, source)),
        };
        if found.bytes != expected.bytes {
            let (found, expected) = (found.bytes, expected.bytes);
            return Ok(Some(format!(
                "{name} has {found} bytes, {expected} were written"
            )));
        }
        if found.sha256 != expected.sha256 {
            return Ok(Some(format!("{name} is not what was written")));
        }
    }
    Ok(None)
}

/// SHA-256 as lower-case hexadecimal.
pub fn hex_digest(hasher: Sha256) -> String {
    hasher
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn read(path: &Path) -> Result<Result<Manifest, String>, TrainError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(serde_json::from_str(&text).map_err(|error| format!("{MANIFEST}: {error}"))),
        Err(source) if is_absence(source.kind()) => Ok(Err(format!("{MANIFEST} is missing"))),
        Err(source) if source.kind() == ErrorKind::InvalidData => {
            Ok(Err(format!("{MANIFEST} is not text")))
        }
        Err(source) => Err(TrainError::io("reading", path, source)),
    }
}

fn is_absence(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory
    )
}

fn is_inside(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    parts.all(|part| matches!(part, Component::Normal(_)))
}

fn collect(
    dir: &Path,
    prefix: &str,
    files: &mut BTreeMap<String, Entry>,
) -> Result<(), TrainError> {
    let entries = fs::read_dir(dir).map_err(|source| TrainError::io("reading", dir, source))?;
    for found in entries {
        let found = found.map_err(|source| TrainError::io("reading", dir, source))?;
        let path = found.path();
        let name = format!("{prefix}{}", found.file_name().to_string_lossy());
        if path.is_dir() {
            collect(&path, &format!("{name}/"), files)?;
        } else {
            let entry = entry(&path).map_err(|source| TrainError::io("reading", &path, source))?;
            files.insert(name, entry);
        }
    }
    Ok(())
}

fn entry(path: &Path) -> std::io::Result<Entry> {
    let mut file = File::open(path)?;
    let (mut hasher, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        bytes += count as u64;
    }
    Ok(Entry {
        bytes,
        sha256: hex_digest(hasher),
    })
}
