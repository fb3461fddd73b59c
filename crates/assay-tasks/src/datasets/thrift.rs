//! The part of Thrift's compact protocol that the checks of parquet files need.
//!
//! Only ascending field numbers in their short form are accepted, so that no field can occur twice.

use parquet::errors::ParquetError;

/// Types of the compact protocol.
pub(super) const TRUE: u8 = 1;
pub(super) const FALSE: u8 = 2;
pub(super) const BYTE: u8 = 3;
pub(super) const I32: u8 = 5;
pub(super) const BINARY: u8 = 8;
pub(super) const LIST: u8 = 9;
pub(super) const STRUCT: u8 = 12;
const I16: u8 = 4;
const I64: u8 = 6;
const DOUBLE: u8 = 7;

/// Maximum depth of structs that are skipped.
const MAX_DEPTH: usize = 8;

/// Reads the compact protocol; a premature end is an error.
pub(super) struct Compact<'b> {
    pub(super) bytes: &'b [u8],
}

impl Compact<'_> {
    pub(super) fn byte(&mut self) -> Result<u8, ParquetError> {
        let Some((&byte, rest)) = self.bytes.split_first() else {
            return refuse("its footer or a page's header ends in the middle");
        };
        self.bytes = rest;
        Ok(byte)
    }

    /// An unsigned number of at most 32 bits as it is stored.
    pub(super) fn number(&mut self) -> Result<u64, ParquetError> {
        self.varint(5)
    }

    fn varint(&mut self, max_bytes: u32) -> Result<u64, ParquetError> {
        let mut number = 0;
        for index in 0..max_bytes {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        refuse("a number of its schema or of a page's header is too long")
    }

    /// A 32-bit number that is not negative.
    pub(super) fn natural(&mut self) -> Result<u64, ParquetError> {
        let stored = self.number()?;
        if stored & 1 == 1 || stored > u64::from(u32::MAX) {
            return refuse("a size of a page is negative");
        }
        Ok(stored >> 1)
    }

    /// Distance to the previous field, and type; `None` at the end of a struct. The long form of
    /// field numbers does not occur in a schema.
    pub(super) fn field(&mut self) -> Result<Option<(u8, u8)>, ParquetError> {
        let byte = self.byte()?;
        match (byte >> 4, byte & 0xf) {
            (_, 0) => Ok(None),
            (0, _) => refuse("a field of its schema or of a page's header is out of order"),
            known => Ok(Some(known)),
        }
    }

    /// Skips a string.
    pub(super) fn text(&mut self) -> Result<(), ParquetError> {
        let length = self.number()? as usize;
        match self.bytes.get(length..) {
            Some(rest) => self.bytes = rest,
            None => return refuse("a text ends outside the footer or outside a page's header"),
        }
        Ok(())
    }

    /// Skips a value of any type but a map.
    pub(super) fn skip(&mut self, kind: u8) -> Result<(), ParquetError> {
        self.skip_nested(kind, 0)
    }

    fn skip_nested(&mut self, kind: u8, depth: usize) -> Result<(), ParquetError> {
        match kind {
            TRUE | FALSE => Ok(()),
            BYTE => self.byte().map(drop),
            I16 | I32 | I64 => self.varint(10).map(drop),
            DOUBLE => (0..8).try_for_each(|_| self.byte().map(drop)),
            BINARY => self.text(),
            STRUCT if depth < MAX_DEPTH => {
                while let Some((_, kind)) = self.field()? {
                    self.skip_nested(kind, depth + 1)?;
                }
                Ok(())
            }
            LIST if depth < MAX_DEPTH => {
                let header = self.byte()?;
                let length = match header >> 4 {
                    15 => self.number()?,
                    length => u64::from(length),
                };
                for _ in 0..length {
                    // A boolean of a list has a byte of its own, unlike one of a struct.
                    match header & 0xf {
                        TRUE | FALSE => drop(self.byte()?),
                        kind => self.skip_nested(kind, depth + 1)?,
                    }
                }
                Ok(())
            }
            _ => refuse("a page's header has a field of an unknown kind"),
        }
    }
}

pub(super) fn refuse<T>(reason: &str) -> Result<T, ParquetError> {
    Err(ParquetError::General(reason.to_owned()))
}
