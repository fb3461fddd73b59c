//! Writing tensors: a failure names the file.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;

use crate::LmError;

/// Writes tensors as one safetensors file, with the metadata that transformers asks for; equal tensors give equal bytes.
///
/// # Errors
/// [`LmError::Io`] names the file, e.g. on a full disk.
pub fn save_tensors(tensors: &HashMap<String, Tensor>, path: &Path) -> Result<(), LmError> {
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(format), path).map_err(|source| LmError::Io {
        action: "writing",
        path: path.to_owned(),
        source: std::io::Error::other(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let missing = Path::new("no such directory/x.safetensors");
        let error = save_tensors(&HashMap::new(), missing).unwrap_err();
        assert!(error.to_string().contains("no such directory"), "{error}");
        // The writer renames a finished file over its target, so a device like /dev/full would be replaced by it.
        let directory = tempfile::tempdir().unwrap();
        let error = save_tensors(&HashMap::new(), directory.path()).unwrap_err();
        assert!(std::error::Error::source(&error).is_some(), "{error}");
    }
}
