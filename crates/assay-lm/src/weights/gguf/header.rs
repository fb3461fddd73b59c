//! A bounded reader of GGUF headers.
//!
//! Every length is compared with the remaining bytes before anything is allocated, so a hostile
//! header uses at most a few times its own size in memory. Versions 2 and 3, little-endian.

use std::collections::BTreeMap;
use std::path::Path;

use super::TensorEntry;
use super::blocks::{BlockType, refusal};
use crate::LmError;

const MAX_ENTRIES: u64 = 1 << 16;
/// Longest header in bytes; published ones have up to 20 MB. Lists of small numbers take eight
/// times as much memory.
const MAX_HEADER: usize = 1 << 26;
const MAX_DIMENSIONS: u32 = 4;
const MAX_ALIGNMENT: usize = 1 << 16;

/// A metadata value; numbers are widened.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Numbers(Vec<f64>),
}

pub(super) type Parsed = (BTreeMap<String, Value>, BTreeMap<String, TensorEntry>);

/// A cursor over the header.
pub(super) struct Header<'b> {
    path: &'b Path,
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Header<'b> {
    pub(super) fn new(path: &'b Path, bytes: &'b [u8]) -> Self {
        Self { path, bytes, at: 0 }
    }

    pub(super) fn read(mut self) -> Result<Parsed, LmError> {
        if self.take(4, "magic")? != b"GGUF" {
            return self.bad("magic", "the file does not start with GGUF");
        }
        let version = self.u32("version")?;
        if !(2..=3).contains(&version) {
            return self.bad(
                "version",
                format!("{version} is not supported, only 2 and 3 (little-endian)"),
            );
        }
        let tensor_count = self.count("tensor count")?;
        let value_count = self.count("metadata count")?;
        let mut metadata = BTreeMap::new();
        for _ in 0..value_count {
            let key = self.string("metadata key")?;
            let kind = self.u32(&key)?;
            let value = self.value(kind, &key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return self.bad(&key, "the key appears twice");
            }
        }
        let mut entries = Vec::new();
        for _ in 0..tensor_count {
            entries.push(self.tensor()?);
        }
        let tensors = self.place(entries, alignment(self.path, &metadata)?)?;
        Ok((metadata, tensors))
    }

    /// A tensor's name and entry; its range is still relative to the data section.
    fn tensor(&mut self) -> Result<(String, TensorEntry), LmError> {
        let name = self.string("tensor name")?;
        let rank = self.u32(&name)?;
        if rank == 0 || rank > MAX_DIMENSIONS {
            return self.bad(
                &name,
                format!("{rank} dimensions; must lie in 1..={MAX_DIMENSIONS}"),
            );
        }
        let mut shape = Vec::new();
        for _ in 0..rank {
            shape.push(self.u64(&name)?);
        }
        let code = self.u32(&name)?;
        let start = self.u64(&name)?;
        let Some(block_type) = BlockType::from_code(code) else {
            return self.bad(&name, refusal(code));
        };
        let (block, size) = block_type.block();
        let count = shape
            .iter()
            .try_fold(1_u64, |product, &n| product.checked_mul(n));
        if shape.contains(&0) || !shape[0].is_multiple_of(block as u64) {
            return self.bad(
                &name,
                format!(
                    "rows of {} values are not whole blocks of {block}",
                    shape[0]
                ),
            );
        }
        let end = count
            .map(|count| count / block as u64)
            .and_then(|blocks| blocks.checked_mul(size as u64));
        let end = end
            .and_then(|length| length.checked_add(start))
            .filter(|&end| end <= self.bytes.len() as u64);
        let Some(end) = end else {
            return self.bad(
                &name,
                format!("a tensor of dimensions {shape:?} at {start} ends outside the file"),
            );
        };
        let shape = shape.iter().rev().map(|&n| n as usize).collect();
        Ok((
            name,
            TensorEntry {
                block_type,
                shape,
                part: 0,
                range: start as usize..end as usize,
            },
        ))
    }

    /// Adds the start of the data section to the ranges, and checks that they are inside of the
    /// file and do not overlap.
    fn place(
        &self,
        entries: Vec<(String, TensorEntry)>,
        alignment: usize,
    ) -> Result<BTreeMap<String, TensorEntry>, LmError> {
        let data = self.at.next_multiple_of(alignment);
        let mut spans = Vec::with_capacity(entries.len());
        let mut tensors = BTreeMap::new();
        for (name, mut entry) in entries {
            entry.range = data + entry.range.start..data + entry.range.end;
            if entry.range.end > self.bytes.len() {
                let reason = format!(
                    "needs bytes to {}, but the file has {}",
                    entry.range.end,
                    self.bytes.len()
                );
                return self.bad(&name, reason);
            }
            spans.push((entry.range.clone(), name.clone()));
            if tensors.insert(name.clone(), entry).is_some() {
                return self.bad(&name, "the tensor appears twice");
            }
        }
        spans.sort_by_key(|(range, _)| range.start);
        for pair in spans.windows(2) {
            if pair[0].0.end > pair[1].0.start {
                return self.bad(&pair[1].1, format!("overlaps {}", pair[0].1));
            }
        }
        Ok(tensors)
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value, LmError> {
        Ok(match kind {
            8 => Value::Text(self.string(key)?),
            9 => self.list(key)?,
            _ => {
                let Some(width) = scalar_width(kind) else {
                    return self.bad(key, format!("value type {kind} is unknown"));
                };
                scalar(kind, self.take(width, key)?)
            }
        })
    }

    fn list(&mut self, key: &str) -> Result<Value, LmError> {
        let kind = self.u32(key)?;
        let length = self.u64(key)?;
        let smallest = if kind == 8 {
            Some(size_of::<u64>())
        } else {
            scalar_width(kind)
        };
        let Some(smallest) = smallest else {
            return self.bad(key, format!("lists of value type {kind} are not read"));
        };
        let left = (self.bytes.len() - self.at) as u64;
        if length
            .checked_mul(smallest as u64)
            .is_none_or(|needed| needed > left)
        {
            return self.bad(
                key,
                format!("a list of {length} values does not fit into the {left} bytes left"),
            );
        }
        if kind == 8 {
            let texts: Result<Vec<String>, LmError> =
                (0..length).map(|_| self.string(key)).collect();
            return Ok(Value::Texts(texts?));
        }
        let bytes = self.take(length as usize * smallest, key)?;
        let number = |bytes: &[u8]| match scalar(kind, bytes) {
            Value::Unsigned(value) => value as f64,
            Value::Signed(value) => value as f64,
            Value::Float(value) => value,
            _ => f64::from(bytes[0]),
        };
        Ok(Value::Numbers(
            bytes.chunks_exact(smallest).map(number).collect(),
        ))
    }

    fn string(&mut self, what: &str) -> Result<String, LmError> {
        let length = self.u64(what)?;
        let left = self.bytes.len() - self.at;
        let Some(length) = usize::try_from(length)
            .ok()
            .filter(|&length| length <= left)
        else {
            return self.bad(
                what,
                format!("a text of {length} bytes does not fit into the {left} bytes left"),
            );
        };
        let bytes = self.take(length, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => self.bad(what, format!("no valid UTF-8: {error}")),
        }
    }

    fn count(&mut self, what: &str) -> Result<u64, LmError> {
        let count = self.u64(what)?;
        if count > MAX_ENTRIES {
            return self.bad(
                what,
                format!("{count} is more than the {MAX_ENTRIES} that are read"),
            );
        }
        Ok(count)
    }

    fn u32(&mut self, what: &str) -> Result<u32, LmError> {
        Ok(little_endian(self.take(4, what)?) as u32)
    }

    fn u64(&mut self, what: &str) -> Result<u64, LmError> {
        Ok(little_endian(self.take(8, what)?))
    }

    fn take(&mut self, length: usize, what: &str) -> Result<&'b [u8], LmError> {
        let bytes = self
            .at
            .checked_add(length)
            .and_then(|end| self.bytes.get(self.at..end));
        let Some(bytes) = bytes else {
            return self.bad(what, "the file ends in the middle of its header");
        };
        self.at += length;
        if self.at > MAX_HEADER {
            let reason = format!("the header is longer than the {MAX_HEADER} bytes that are read");
            return self.bad(what, reason);
        }
        Ok(bytes)
    }

    fn bad<T>(&self, what: &str, reason: impl Into<String>) -> Result<T, LmError> {
        bad(self.path, what, reason)
    }
}

fn alignment(path: &Path, metadata: &BTreeMap<String, Value>) -> Result<usize, LmError> {
    let key = "general.alignment";
    match metadata.get(key) {
        None => Ok(32),
        Some(Value::Unsigned(value)) => match usize::try_from(*value) {
            Ok(value) if value.is_power_of_two() && value <= MAX_ALIGNMENT => Ok(value),
            _ => bad(
                path,
                key,
                format!("{value} is not a power of two up to {MAX_ALIGNMENT}"),
            ),
        },
        Some(_) => bad(path, key, "must be an unsigned integer"),
    }
}

pub(super) fn bad<T>(path: &Path, what: &str, reason: impl Into<String>) -> Result<T, LmError> {
    Err(LmError::InvalidWeightFile {
        path: path.to_owned(),
        what: what.to_owned(),
        reason: reason.into(),
    })
}

/// Bytes of a number or truth value of this type code.
fn scalar_width(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// A number of a known type code from exactly its bytes.
fn scalar(kind: u32, bytes: &[u8]) -> Value {
    let raw = little_endian(bytes);
    match kind {
        0 | 2 | 4 | 10 => Value::Unsigned(raw),
        1 => Value::Signed(i64::from(raw as u8 as i8)),
        3 => Value::Signed(i64::from(raw as u16 as i16)),
        5 => Value::Signed(i64::from(raw as u32 as i32)),
        6 => Value::Float(f64::from(f32::from_bits(raw as u32))),
        7 => Value::Bool(raw != 0),
        11 => Value::Signed(raw as i64),
        _ => Value::Float(f64::from_bits(raw)),
    }
}

/// Up to eight bytes as an unsigned number.
fn little_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}
