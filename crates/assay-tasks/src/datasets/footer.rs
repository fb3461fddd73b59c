//! Checks the schema of a parquet file before the reader builds it.
//!
//! The reader recurses into groups and allocates by the number of children that a group claims,
//! both without a limit. This module parses the list of schema elements, which begins every footer,
//! without recursion (Thrift's compact protocol). It fails if groups nest deeper than [`MAX_DEPTH`]
//! or claim more children than there are elements. It also fails wherever the reader could
//! interpret a byte differently.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use parquet::errors::ParquetError;

use super::thrift::{BINARY, BYTE, Compact, FALSE, I32, LIST, STRUCT, TRUE, refuse};

/// Maximum depth of nested groups; published data sets have five.
const MAX_DEPTH: usize = 64;
/// Maximum number of columns and groups; the reader allocates memory for all of them at once.
const MAX_ELEMENTS: u64 = 1 << 16;
/// Maximum length of a footer, in bytes: about a hundred thousand chunks of columns.
const MAX_FOOTER: u64 = 16 << 20;
/// Number of bytes after the footer: its length and `PAR1`.
const TAIL: u64 = 8;

/// Fails for a file whose schema the reader could not build within bounds. The reader detects other
/// damage.
///
/// # Errors
/// [`ParquetError::General`] with what is wrong; the file cannot be read.
pub(super) fn check(file: &mut File) -> Result<(), ParquetError> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut tail = [0; TAIL as usize];
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    if length < 2 * TAIL || file.read_exact(&mut tail).is_err() || &tail[4..] != b"PAR1" {
        return refuse("it does not end as a parquet file does");
    }
    let footer = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if footer > MAX_FOOTER || footer + TAIL > length {
        return refuse("its footer is longer than 16 MiB or than the file");
    }
    let mut bytes = vec![0; footer as usize];
    file.seek(SeekFrom::Start(length - TAIL - footer))?;
    file.read_exact(&mut bytes)?;
    file.rewind()?;
    check_schema(&mut Compact { bytes: &bytes })
}

/// `FileMetaData`: 1 version, 2 the schema as a list, depth first.
fn check_schema(input: &mut Compact<'_>) -> Result<(), ParquetError> {
    if input.field()? != Some((1, I32)) {
        return refuse("its footer does not begin with a version");
    }
    input.number()?;
    if input.field()? != Some((1, LIST)) {
        return refuse("its footer has no schema after the version");
    }
    let elements = input.list_of_structs()?;
    if elements > MAX_ELEMENTS {
        return refuse("its schema has more than 65536 columns and groups");
    }
    // Number of missing children of each open group.
    let mut open: Vec<u64> = Vec::new();
    for element in 0..elements {
        let children = input.schema_element()?;
        if children > elements - element {
            return refuse("a group of its schema claims more children than there are");
        }
        while open.last() == Some(&0) {
            open.pop();
        }
        if let Some(waiting) = open.last_mut() {
            *waiting -= 1;
        }
        if children > 0 {
            open.push(children);
        }
        if open.len() > MAX_DEPTH {
            return refuse("groups of its schema nest deeper than 64");
        }
    }
    Ok(())
}

impl Compact<'_> {
    /// The length of a list of structs.
    fn list_of_structs(&mut self) -> Result<u64, ParquetError> {
        let byte = self.byte()?;
        match (byte >> 4, byte & 0xf) {
            (15, STRUCT) => self.number(),
            (length, STRUCT) => Ok(u64::from(length)),
            _ => refuse("its schema is not a list of structs"),
        }
    }

    /// Skips one `SchemaElement` and returns the number of its children.
    fn schema_element(&mut self) -> Result<u64, ParquetError> {
        let (mut id, mut children) = (0, 0);
        while let Some((distance, kind)) = self.field()? {
            id += distance;
            match (id, kind) {
                // An i32 is stored with its sign in the lowest bit, so a negative number of
                // children is read as a huge one and fails.
                (5, I32) => {
                    let stored = self.number()?;
                    children = if stored & 1 == 0 {
                        stored >> 1
                    } else {
                        u64::MAX
                    };
                }
                (1..=3 | 6..=9, I32) => drop(self.number()?),
                (4, BINARY) => self.text()?,
                (10, STRUCT) => self.logical_type()?,
                _ => return refuse("its schema has a field of an unknown kind"),
            }
        }
        Ok(children)
    }

    /// A union of structs with a few plain fields, by the number of its variant.
    fn logical_type(&mut self) -> Result<(), ParquetError> {
        let Some((variant, STRUCT)) = self.field()? else {
            return refuse("its schema has an annotation of an unknown kind");
        };
        let mut id = 0;
        while let Some((distance, kind)) = self.field()? {
            id += distance;
            match (variant, id, kind) {
                // Decimal: scale and precision.
                (5, 1 | 2, I32) => drop(self.number()?),
                // Time and timestamp: whether in UTC, and the unit, a union of empty structs.
                (7 | 8, 1, TRUE | FALSE) => {}
                (7 | 8, 2, STRUCT) => self.unit()?,
                // Integer: bits and sign.
                (10, 1, BYTE) => drop(self.byte()?),
                (10, 2, TRUE | FALSE) => {}
                _ => return refuse("its schema has an annotation of an unknown kind"),
            }
        }
        match self.field()? {
            None => Ok(()),
            Some(_) => refuse("its schema has an annotation of two kinds"),
        }
    }

    fn unit(&mut self) -> Result<(), ParquetError> {
        let named = matches!(self.field()?, Some((_, STRUCT)));
        if named && self.field()?.is_none() && self.field()?.is_none() {
            return Ok(());
        }
        refuse("its schema has a unit of an unknown kind")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A footer up to its schema, whose elements have these numbers of children, sign in the lowest
    /// bit.
    fn footer(children: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x15, 2, 0x19, 0xfc];
        let mut length = children.len();
        while length > 0x7f {
            bytes.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        for &count in children {
            bytes.extend([0x48, 1, b'a', 0x15, count, 0]);
        }
        bytes
    }

    fn told(bytes: &[u8]) -> String {
        let checked = check_schema(&mut Compact { bytes });
        checked.map_or_else(|error| error.to_string(), |()| "ok".to_owned())
    }

    #[test]
    fn depth_and_number_of_children_are_bounded() {
        let deep = |groups: usize| {
            let mut children = vec![2; groups];
            children.push(0);
            told(&footer(&children))
        };
        assert_eq!(deep(64), "ok");
        assert!(deep(65).contains("nest deeper than 64"), "{}", deep(65));
        assert!(deep(60_000).contains("nest deeper than 64"));
        assert!(deep(70_000).contains("more than 65536 columns"));
        // A root of 100 groups of one leaf each is two deep.
        let wide: Vec<u8> = std::iter::once(200).chain([2, 0].repeat(100)).collect();
        let mut bytes = footer(&wide);
        // 200 takes two bytes.
        let at = bytes.iter().position(|&b| b == 200).unwrap();
        bytes.splice(at..=at, [0xc8, 1]);
        assert_eq!(told(&bytes), "ok");
        for claim in [
            [0xfe, 0xff, 0xff, 0xff, 0x0f],
            [0xff, 0xff, 0xff, 0xff, 0x0f],
        ] {
            let mut bytes = footer(&[0]);
            let at = bytes.len() - 2;
            bytes.splice(at..=at, claim);
            assert!(
                told(&bytes).contains("more children than there are"),
                "{claim:?}"
            );
        }
    }

    #[test]
    fn ambiguous_footers_are_refused() {
        let cases: [(&[u8], &str); 12] = [
            (&[], "ends in the middle"),
            (&[0x19, 0x1c], "begin with a version"),
            (&[0x18, 1, 0], "begin with a version"),
            (&[0x15, 2, 0x29, 0x1c], "no schema after the version"),
            (&[0x15, 2, 0x19, 0x15], "not a list of structs"),
            (&[0x15, 0xff, 0xff, 0xff, 0xff, 0xff, 1], "too long"),
            (&[0x15, 2, 0x19, 0x1c, 0x05, 2], "out of order"),
            (&[0x15, 2, 0x19, 0x1c, 0x58, 2], "unknown kind"),
            (&[0x15, 2, 0x19, 0x1c, 0x48, 0x7f], "outside the footer"),
            (
                &[0x15, 2, 0x19, 0x1c, 0xac, 0x75, 1],
                "annotation of an unknown kind",
            ),
            (
                &[0x15, 2, 0x19, 0x1c, 0xac, 0x1c, 0, 0x1c, 0, 0],
                "annotation of two kinds",
            ),
            (
                &[0x15, 2, 0x19, 0x1c, 0xac, 0x7c, 0x11, 0x15, 1],
                "annotation of an unknown kind",
            ),
        ];
        for (bytes, expected) in cases {
            assert!(
                told(bytes).contains(expected),
                "{bytes:x?}: {}",
                told(bytes)
            );
        }
    }
}
