//! Writes tensors to a safetensors file.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::path::Path;

use candle_core::Tensor;

use crate::LmError;

/// Writes tensors as one safetensors file with the metadata that transformers requires. Equal
/// tensors give equal bytes.
///
/// # Errors
/// [`LmError::Io`] names the file, e.g. on a full disk.
pub fn save_tensors(tensors: &HashMap<String, Tensor>, path: &Path) -> Result<(), LmError> {
    let failed = |source| LmError::Io {
        action: "writing",
        path: path.to_owned(),
        source,
    };
    let (permissions, is_new) = permissions(path).map_err(failed)?;
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let written = safetensors::serialize_to_file(tensors, Some(format), path)
        .map_err(std::io::Error::other)
        .and_then(|()| fs::set_permissions(path, permissions));
    if written.is_err() && is_new {
        let _ = fs::remove_file(path);
    }
    written.map_err(failed)
}

/// The permissions of a file, and whether it is new. An existing file keeps its permissions; a new
/// one is created empty with the usual ones. The writer replaces the file by a temporary one that
/// only its owner can read, so the permissions are set again afterwards.
fn permissions(path: &Path) -> std::io::Result<(Permissions, bool)> {
    match File::create_new(path) {
        Ok(file) => Ok((file.metadata()?.permissions(), true)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Ok((fs::metadata(path)?.permissions(), false))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let missing = Path::new("no such directory/x.safetensors");
        let error = save_tensors(&HashMap::new(), missing).unwrap_err();
        assert!(error.to_string().contains("no such directory"), "{error}");
        // The writer renames a finished file over its target, so a device like /dev/full would be
        // replaced by it.
        let directory = tempfile::tempdir().unwrap();
        let error = save_tensors(&HashMap::new(), directory.path()).unwrap_err();
        assert!(std::error::Error::source(&error).is_some(), "{error}");
    }

    #[test]
    #[cfg(unix)]
    fn weights_have_the_permissions_of_new_files() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        let plain = directory.path().join("plain");
        fs::write(&plain, "").unwrap();
        let weights = directory.path().join("x.safetensors");
        save_tensors(&HashMap::new(), &weights).unwrap();
        assert_eq!(mode(&weights), mode(&plain));
        fs::set_permissions(&weights, Permissions::from_mode(0o640)).unwrap();
        save_tensors(&HashMap::new(), &weights).unwrap();
        assert_eq!(mode(&weights) & 0o777, 0o640, "what the user has set stays");
    }
}
