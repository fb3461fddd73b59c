//! Checks the expanded size of a parquet column's pages before the reader expands them.
//!
//! The reader expands a page of gzip or brotli to its end, whatever size the page states, and
//! compares sizes only then. So a page of some kilobytes could fill the memory. This module first
//! expands every such page up to its stated size and discards the result. The other codecs never
//! expand a page beyond that size, except the frames of the old lz4 layout, which are an error.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;

use super::thrift::{Compact, FALSE, I32, STRUCT, TRUE, refuse};

/// Size in bytes of the first window in which a page's header is parsed.
const HEADER: u64 = 1 << 12;
/// Maximum length of a page's header, in bytes; it may hold the smallest and the largest value of a
/// column.
const MAX_HEADER: u64 = 16 << 20;
/// Bytes of brotli's input buffer.
const BROTLI_BUFFER: usize = 1 << 12;
/// The first bytes of an lz4 frame.
const LZ4_FRAME: &[u8] = b"\x04\x22\x4d\x18";

/// The sizes in a page's header.
#[derive(Debug, PartialEq, Eq)]
struct PageHeader {
    /// Bytes of the header itself.
    length: u64,
    /// Bytes after the header.
    stored: u64,
    /// Bytes that the page expands to, including its uncompressed part.
    expanded: u64,
    /// Bytes at the beginning that are not compressed.
    plain: u64,
    compressed: bool,
}

/// Fails for a column in which a page expands to more bytes than it states.
///
/// # Errors
/// [`ParquetError::General`] with what is wrong; the file cannot be read or expanded.
pub(super) fn check(file: &mut File, chunk: &ColumnChunkMetaData) -> Result<(), ParquetError> {
    let codec = chunk.compression();
    if !matches!(
        codec,
        Compression::GZIP(_) | Compression::BROTLI(_) | Compression::LZ4
    ) {
        return Ok(());
    }
    let (mut at, length) = chunk.byte_range();
    let end = at.saturating_add(length);
    while at < end {
        let header = header(file, at, end)?;
        let next = at + header.length + header.stored;
        if next > end || header.plain > header.stored || header.plain > header.expanded {
            return refuse("a page of it ends outside its column");
        }
        if header.compressed && header.expanded > header.plain {
            file.seek(SeekFrom::Start(at + header.length + header.plain))?;
            let compressed = (&*file).take(header.stored - header.plain);
            check_page(codec, compressed, header.expanded - header.plain)?;
        }
        at = next;
    }
    Ok(())
}

/// The header of the page that begins here.
fn header(file: &mut File, at: u64, end: u64) -> Result<PageHeader, ParquetError> {
    let mut window = HEADER;
    loop {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(at))?;
        let length = window.min(end - at);
        (&*file).take(length).read_to_end(&mut bytes)?;
        match page_header(&bytes) {
            // A header may be longer than the window.
            Err(_) if length == window && window < MAX_HEADER => window = MAX_HEADER,
            result => return result,
        }
    }
}

/// `PageHeader`: 1 type, 2 expanded size, 3 stored size, 8 the second version's header, which has 5
/// and 6, the lengths of the uncompressed levels, and 7, whether the rest is compressed.
fn page_header(bytes: &[u8]) -> Result<PageHeader, ParquetError> {
    let mut input = Compact { bytes };
    let (mut expanded, mut stored) = (None, None);
    let (mut plain, mut compressed) = (0, true);
    let mut id = 0;
    while let Some((distance, kind)) = input.field()? {
        id += distance;
        match (id, kind) {
            (2, I32) => expanded = Some(input.natural()?),
            (3, I32) => stored = Some(input.natural()?),
            (2 | 3, _) => return refuse("a page of it has a size of an unknown kind"),
            (8, STRUCT) => {
                let mut id = 0;
                while let Some((distance, kind)) = input.field()? {
                    id += distance;
                    match (id, kind) {
                        (5 | 6, I32) => plain += input.natural()?,
                        (7, TRUE | FALSE) => compressed = kind == TRUE,
                        (5..=7, _) => return refuse("a page of it has a size of an unknown kind"),
                        _ => input.skip(kind)?,
                    }
                }
            }
            (8, _) => return refuse("a page of it has a field of an unknown kind"),
            _ => input.skip(kind)?,
        }
    }
    let (Some(expanded), Some(stored)) = (expanded, stored) else {
        return refuse("a page of it does not say its size");
    };
    Ok(PageHeader {
        length: (bytes.len() - input.bytes.len()) as u64,
        stored,
        expanded,
        plain,
        compressed,
    })
}

fn check_page(
    codec: Compression,
    mut compressed: impl Read,
    expanded: u64,
) -> Result<(), ParquetError> {
    let found = match codec {
        Compression::GZIP(_) => {
            let buffered = io::BufReader::new(compressed);
            expand(flate2::bufread::MultiGzDecoder::new(buffered), expanded)?
        }
        Compression::BROTLI(_) => expand(
            brotli::Decompressor::new(compressed, BROTLI_BUFFER),
            expanded,
        )?,
        _ => {
            let mut first = [0; 4];
            if compressed.read_exact(&mut first).is_ok() && first == LZ4_FRAME {
                return refuse(
                    "it is compressed with lz4 in frames, which is not read; lz4 in blocks, snappy, gzip, brotli and \
                     zstd are",
                );
            }
            return Ok(());
        }
    };
    match found == expanded {
        true => Ok(()),
        false => refuse("a page of it expands to another size than it states"),
    }
}

/// The number of bytes that are expanded, at most one more than the limit.
fn expand(decoder: impl Read, limit: u64) -> io::Result<u64> {
    io::copy(&mut decoder.take(limit + 1), &mut io::sink())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_both_versions_are_read() {
        // Type 0, expanded 100, stored 50, version 1: 3 values, plain encoding.
        let first = [
            0x15, 0, 0x15, 200, 1, 0x15, 100, 0x2c, 0x15, 6, 0x15, 0, 0, 0,
        ];
        let header = PageHeader {
            length: 14,
            stored: 50,
            expanded: 100,
            plain: 0,
            compressed: true,
        };
        assert_eq!(
            page_header(&[&first[..], &[7; 9]].concat()).unwrap(),
            header
        );
        // Version 2: 3 values, 0 null, 3 rows, encoding 0, levels of 4 and 2 bytes, not compressed.
        let second = [
            0x15, 6, 0x15, 200, 1, 0x15, 100, 0x5c, 0x15, 6, 0x15, 0, 0x15, 6, 0x15, 0, 0x15, 8,
            0x15, 4, 0x12, 0, 0,
        ];
        let header = PageHeader {
            length: 23,
            plain: 6,
            compressed: false,
            ..header
        };
        assert_eq!(page_header(&second).unwrap(), header);
    }

    #[test]
    fn headers_without_a_plausible_size_are_refused() {
        for (bytes, expected) in [
            (&[0x15, 0, 0x15, 3, 0][..], "is negative"),
            (&[0x15, 0, 0], "does not say its size"),
            (&[0x15, 0, 0x16, 2, 0x15, 2, 0], "of an unknown kind"),
            (&[0x15, 0, 0x05, 4, 2], "out of order"),
            (&[0x15], "ends in the middle"),
        ] {
            let message = page_header(bytes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_page_is_not_expanded_beyond_its_size() {
        use std::io::Write;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![0; 1 << 18]).unwrap();
        let gzip = gzip.finish().unwrap();
        let mut brotli = Vec::new();
        brotli::CompressorWriter::new(&mut brotli, 4096, 5, 22)
            .write_all(&vec![0; 1 << 18])
            .unwrap();
        let (gzip_codec, brotli_codec) = (
            Compression::GZIP(parquet::basic::GzipLevel::default()),
            Compression::BROTLI(parquet::basic::BrotliLevel::default()),
        );
        for (codec, bytes) in [(gzip_codec, gzip), (brotli_codec, brotli)] {
            assert!(check_page(codec, bytes.as_slice(), 1 << 18).is_ok());
            for wrong in [1 << 10, (1 << 18) + 1] {
                let message = check_page(codec, bytes.as_slice(), wrong)
                    .unwrap_err()
                    .to_string();
                assert!(message.contains("another size than it states"), "{message}");
            }
        }
        let frame = [LZ4_FRAME, b"rest"].concat();
        assert!(check_page(Compression::LZ4, frame.as_slice(), 9).is_err());
        assert!(check_page(Compression::LZ4, &b"\0\0\0\x09\0\0\0\x02ab"[..], 9).is_ok());
    }
}
