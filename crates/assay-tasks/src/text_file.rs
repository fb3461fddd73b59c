//! Opens text files that may be compressed with gzip or zstd. Their first bytes decide, not their
//! names.
//!
//! For files of other kinds (xz, zip, UTF-16, a Git LFS pointer, ...) the error names the kind. A
//! compressed file may expand to at most [`MAX_DECOMPRESSED`] bytes; it is never in memory as a
//! whole.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use crate::TasksError;

/// Maximum number of bytes that a compressed file may expand to.
const MAX_DECOMPRESSED: u64 = 64 << 30;
/// Maximum window of zstd, as a power of two: the largest that the format recommends to accept.
const MAX_ZSTD_WINDOW: u32 = 27;
/// Bytes of the read buffer.
const BUFFER: usize = 1 << 18;

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// The first bytes of a parquet file.
pub(crate) const PARQUET: &[u8] = b"PAR1";

/// Unsupported formats: the first bytes of a file, and the error with a remedy.
const REFUSED: [(&[u8], &str); 9] = [
    (
        b"\xfd7zXZ\0",
        "compressed with xz, which is not read: decompress it, or compress it with gzip or zstd",
    ),
    (
        b"BZh",
        "compressed with bzip2, which is not read: decompress it, or compress it with gzip or zstd",
    ),
    (
        b"PK\x03\x04",
        "a zip archive, which is not read: extract it",
    ),
    (
        b"\x04\x22\x4d\x18",
        "compressed with lz4, which is not read: decompress it, or compress it with gzip or zstd",
    ),
    (
        b"ARROW1",
        "an Arrow file, which is not read: write it as parquet or JSON lines",
    ),
    (
        b"\xff\xff\xff\xff",
        "an Arrow stream, which is not read: write it as parquet or JSON lines",
    ),
    (
        b"\xff\xfe",
        "text in UTF-16, which is not read: save it as UTF-8",
    ),
    (
        b"\xfe\xff",
        "text in UTF-16, which is not read: save it as UTF-8",
    ),
    (
        b"version https://git-lfs",
        "a Git LFS pointer and not the file itself: fetch it with `git lfs pull`",
    ),
];

/// A text file, decompressed while it is read.
pub(crate) type TextReader = Box<dyn BufRead + Send>;

/// Opens a file as UTF-8 text, decompressing gzip and zstd.
///
/// # Errors
/// [`TasksError::Read`]; [`TasksError::FileKind`] for an unsupported kind.
pub(crate) fn open(path: &Path) -> Result<TextReader, TasksError> {
    let reading = |source| TasksError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(reading)?;
    let mut file = BufReader::with_capacity(BUFFER, file);
    let first = file.fill_buf().map_err(reading)?;
    if let Some((_, reason)) = REFUSED.iter().find(|(bytes, _)| first.starts_with(bytes)) {
        return Err(TasksError::FileKind {
            path: path.to_owned(),
            reason,
        });
    }
    if first.starts_with(GZIP) {
        return Ok(bounded(flate2::bufread::MultiGzDecoder::new(file)));
    }
    if first.starts_with(ZSTD) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(file).map_err(reading)?;
        decoder.window_log_max(MAX_ZSTD_WINDOW).map_err(reading)?;
        return Ok(bounded(decoder));
    }
    Ok(Box::new(file))
}

/// Whether a file begins with these bytes.
///
/// # Errors
/// [`TasksError::Read`].
pub(crate) fn starts_with(path: &Path, bytes: &[u8]) -> Result<bool, TasksError> {
    let read = || {
        let mut first = Vec::new();
        let file = File::open(path)?;
        file.take(bytes.len() as u64).read_to_end(&mut first)?;
        Ok(first == bytes)
    };
    read().map_err(|source| TasksError::Read {
        path: path.to_owned(),
        source,
    })
}

fn bounded(decoder: impl Read + Send + 'static) -> TextReader {
    let bounded = Bounded {
        inner: decoder,
        left: MAX_DECOMPRESSED,
    };
    Box::new(BufReader::with_capacity(BUFFER, bounded))
}

/// A reader that fails beyond the maximum size.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::other(format!("it expands to more than {MAX_DECOMPRESSED} bytes"))
        })?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_beyond_the_bound_is_an_error() {
        let mut reader = Bounded {
            inner: io::repeat(b'0'),
            left: 10,
        };
        let mut buffer = [0; 8];
        assert_eq!(reader.read(&mut buffer).unwrap(), 8);
        let error = reader.read(&mut buffer).unwrap_err().to_string();
        assert_eq!(error, "it expands to more than 68719476736 bytes");
    }

    #[test]
    fn kinds_that_are_not_read_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.jsonl");
        for (bytes, word) in [
            (b"\xfd7zXZ\0rest".as_slice(), "xz"),
            (b"BZh9", "bzip2"),
            (b"PK\x03\x04", "zip"),
            (b"\xff\xfe{\0", "UTF-16"),
            (
                b"version https://git-lfs.github.com/spec/v1\n",
                "git lfs pull",
            ),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let Err(error) = open(&path) else {
                panic!("{word} is read");
            };
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
