//! `base.json` in an adapter's directory: the weights that it was trained on. PEFT has no field for
//! it and ignores the file.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::LmError;
use crate::files::read_bounded;

const FILE: &str = "base.json";
const MAX_BYTES: u64 = 1 << 12;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BaseFile {
    /// [`crate::Weights::fingerprint`].
    weights: String,
}

/// The fingerprint in a directory; `None` if there is no such file.
pub(super) fn read(dir: &Path) -> Result<Option<String>, LmError> {
    let path = dir.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read_bounded(&path, MAX_BYTES)?;
    let file: BaseFile =
        serde_json::from_slice(&bytes).map_err(|source| LmError::InvalidAdapter {
            reason: format!("{}: {source}", path.display()),
        })?;
    Ok(Some(file.weights))
}

pub(super) fn write(dir: &Path, weights: &str) -> Result<(), LmError> {
    let path = dir.join(FILE);
    let file = BaseFile {
        weights: weights.to_owned(),
    };
    let text = serde_json::to_string_pretty(&file).unwrap_or_default() + "\n";
    fs::write(&path, text).map_err(|source| LmError::Io {
        action: "writing",
        path,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_adapters_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        write(dir.path(), "ab12").unwrap();
        assert_eq!(read(dir.path()).unwrap().as_deref(), Some("ab12"));
        fs::write(dir.path().join(FILE), "{\"weights\": 3}").unwrap();
        let said = read(dir.path()).unwrap_err().to_string();
        assert!(said.contains(FILE), "{said}");
        fs::write(dir.path().join(FILE), " ".repeat(1 << 13)).unwrap();
        assert!(read(dir.path()).is_err());
    }
}
