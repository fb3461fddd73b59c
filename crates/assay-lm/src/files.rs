//! Reading small files whole, with a limit that holds whatever the file claims about its length.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::LmError;

/// Largest configuration, index or chat template that is read.
pub(crate) const MAX_TEXT_BYTES: u64 = 1 << 24;

/// The bytes of a file of at most `limit` bytes.
///
/// # Errors
/// [`LmError::Io`] for a file that cannot be read or is longer, devices and pipes without an end included.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, LmError> {
    let io = |source| LmError::Io {
        action: "reading",
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io)?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        let reason = format!("larger than the {limit} bytes that such a file may have");
        return Err(io(std::io::Error::other(reason)));
    }
    Ok(bytes)
}

/// As [`read_bounded`], for UTF-8 text of at most [`MAX_TEXT_BYTES`].
///
/// # Errors
/// As [`read_bounded`]; also for bytes that are no UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String, LmError> {
    String::from_utf8(read_bounded(path, MAX_TEXT_BYTES)?).map_err(|source| LmError::Io {
        action: "reading",
        path: path.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, source),
    })
}
