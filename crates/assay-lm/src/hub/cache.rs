//! The cache's layout, shared with Python: `blobs/ETAG`, `snapshots/COMMIT/FILE` linking there,
//! `refs/REVISION`.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::RepoKind;
use crate::LmError;

/// The cache of one repository.
pub(super) struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// `repo` is `org/name`, already checked.
    pub(super) fn new(cache: &Path, kind: RepoKind, repo: &str) -> Self {
        let prefix = match kind {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        };
        Self {
            dir: cache.join(format!("{prefix}--{}", repo.replace('/', "--"))),
        }
    }

    /// The directory of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    /// The cached snapshot of a branch, tag or commit.
    pub(super) fn snapshot_of(&self, revision: &str) -> Option<PathBuf> {
        let named = fs::read_to_string(self.dir.join("refs").join(revision)).ok();
        let commit = named.as_deref().map_or(revision, str::trim);
        let snapshot = is_commit(commit).then(|| self.snapshot(commit))?;
        snapshot.is_dir().then_some(snapshot)
    }

    /// The path of a file's bytes.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.dir.join("blobs").join(etag)
    }

    /// Records the commit of a branch or tag.
    pub(super) fn set_ref(&self, revision: &str, commit: &str) -> Result<(), LmError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.dir.join("refs").join(revision);
        create_parent(&path)?;
        fs::write(&path, commit).map_err(|source| io("writing", &path, source))
    }

    /// Links a file of a commit to its bytes.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), LmError> {
        let path = self.snapshot(commit).join(file);
        create_parent(&path)?;
        let up = "../".repeat(2 + Path::new(file).components().count() - 1);
        let linked = link_to(&format!("{up}blobs/{etag}"), &self.blob(etag), &path);
        match linked {
            Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(io("writing", &path, source))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(unix)]
fn link_to(relative: &str, _blob: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(relative, path)
}

/// Copies the file, as Python does, because links need privileges on other systems.
#[cfg(not(unix))]
fn link_to(_relative: &str, blob: &Path, path: &Path) -> std::io::Result<()> {
    fs::copy(blob, path).map(|_| ())
}

pub(super) fn create_parent(path: &Path) -> Result<(), LmError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(|source| io("creating", parent, source))
}

pub(super) fn io(action: &'static str, path: &Path, source: std::io::Error) -> LmError {
    LmError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Whether a text is a git commit.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a text can name a blob.
pub(super) fn is_etag(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (8..=128).contains(&text.len()) && text.bytes().all(allowed)
}

/// Whether a path stays inside the directory it is joined to, on every system.
pub(super) fn is_inner_path(path: &str) -> bool {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    let characters = |c: char| c.is_ascii_alphanumeric() || "-_. /+=()".contains(c);
    (1..=512).contains(&path.len())
        && path.chars().all(characters)
        && !path
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == "..")
        && Path::new(path).components().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_hub_names_leaves_the_cache() {
        for inner in [
            "config.json",
            "main/train-00000-of-00001.parquet",
            "a b.gguf",
        ] {
            assert!(is_inner_path(inner), "{inner}");
        }
        for outer in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "./a",
            "a/.",
            "c:\\x",
            "a\\..\\x",
            "x\0y",
        ] {
            assert!(!is_inner_path(outer), "{outer}");
        }
        assert!(
            is_commit(&"0a".repeat(20)) && !is_commit("main") && !is_commit(&"../x".repeat(10))
        );
        assert!(is_etag(&"f".repeat(64)) && !is_etag("../../etc/x") && !is_etag(""));
    }
}
