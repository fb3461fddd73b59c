//! The files of a path: one, or all that a `*` in its last part matches.

use std::fs;
use std::path::{Path, PathBuf};

use crate::TasksError;

/// The files in order of their names.
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>, TasksError> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if !name.contains('*') || path.exists() {
        return Ok(vec![path.to_owned()]);
    }
    let reading = |source| TasksError::Read {
        path: path.to_owned(),
        source,
    };
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in fs::read_dir(parent).map_err(reading)? {
        let entry = entry.map_err(reading)?;
        if entry
            .file_name()
            .to_str()
            .is_some_and(|file| matches(name, file))
        {
            found.push(entry.path());
        }
    }
    found.sort();
    match found.is_empty() {
        true => Err(reading(std::io::Error::from(std::io::ErrorKind::NotFound))),
        false => Ok(found),
    }
}

/// Whether a name is the pattern with every `*` replaced by any text.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(start) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        match name.split_once(part) {
            Some((_, after)) => name = after,
            None => return false,
        }
    }
    name.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_any_text() {
        let pattern = "train-*-of-*.parquet";
        assert!(matches(pattern, "train-00000-of-00002.parquet"));
        assert!(!matches(pattern, "test-00000-of-00002.parquet"));
        assert!(!matches(pattern, "train-00000-of-00002.parquet.lock"));
        assert!(matches("*", "a") && matches("a*b", "ab") && !matches("a*ba", "aba-"));
        assert!(!matches("ab*b", "ab"));
    }
}
