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
        if Path::new("/dev/full").exists() {
            let tensor = Tensor::zeros(4, candle_core::DType::F32, &candle_core::Device::Cpu);
            let tensors = HashMap::from([("a".to_owned(), tensor.unwrap())]);
            let error = save_tensors(&tensors, Path::new("/dev/full")).unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains("No space left"), "{source}");
        }
    }
}
