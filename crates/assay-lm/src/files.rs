//! Reads small files completely, up to a limit that does not depend on the size that the file
//! claims.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::LmError;

/// Largest configuration, index or chat template that is read.
pub(crate) const MAX_TEXT_BYTES: u64 = 1 << 24;
/// First bytes of a Git LFS pointer file.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// The bytes of a file of at most `limit` bytes.
///
/// # Errors
/// [`LmError::Io`] for a file that cannot be read or is longer than the limit, such as an endless
/// device or pipe.
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
    refuse_pointer_bytes(&bytes, path)?;
    Ok(bytes)
}

/// Returns an error for the pointer that Git LFS leaves in place of a large file.
///
/// # Errors
/// [`LmError::LfsPointer`] names the file and says how to download it. A file that cannot be read
/// is not an error here; its reader reports it.
pub(crate) fn refuse_pointer(path: &Path) -> Result<(), LmError> {
    let mut start = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(LFS_POINTER.len() as u64).read_to_end(&mut start);
    }
    refuse_pointer_bytes(&start, path)
}

fn refuse_pointer_bytes(bytes: &[u8], path: &Path) -> Result<(), LmError> {
    match bytes.starts_with(LFS_POINTER) {
        true => Err(LmError::LfsPointer {
            path: path.to_owned(),
        }),
        false => Ok(()),
    }
}

/// As [`read_bounded`], for UTF-8 text of at most [`MAX_TEXT_BYTES`].
///
/// # Errors
/// As [`read_bounded`]; also for bytes that are not UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String, LmError> {
    String::from_utf8(read_bounded(path, MAX_TEXT_BYTES)?).map_err(|source| LmError::Io {
        action: "reading",
        path: path.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, source),
    })
}
