//! GGUF files, mapped: typed access to metadata and tensors, of one file or of all parts of a split
//! one.
//!
//! `config`, `tokenizer` and `names` interpret metadata and tensors.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::map_file;
use crate::LmError;

mod blocks;
mod header;
mod split;

pub(crate) use blocks::BlockType;
use header::{Header, Value, bad};
use split::SplitName;
pub(crate) use split::first_part;

/// Number of parts of a split file.
const SPLIT_COUNT: &str = "split.count";
/// Which part a file is, from 0.
const SPLIT_NUMBER: &str = "split.no";

/// An open GGUF file, or all parts of a split one: its metadata and the positions of its tensors.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    parts: Vec<Mmap>,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorEntry>,
}

/// One tensor of the file.
#[derive(Debug)]
pub(crate) struct TensorEntry {
    pub(crate) block_type: BlockType,
    /// Outermost dimension first, as Hugging Face writes it.
    pub(crate) shape: Vec<usize>,
    part: usize,
    range: Range<usize>,
}

impl GgufFile {
    /// Maps a file and reads its header. Of a split file (`-00001-of-00003.gguf`) it opens all
    /// parts, whichever is named.
    ///
    /// # Errors
    /// [`LmError::InvalidWeightFile`] names the file and the part: a wrong magic or version,
    /// lengths beyond the file, unknown types, tensors that overlap or end outside the file, a part
    /// that belongs to another file.
    pub fn open(path: &Path) -> Result<Self, LmError> {
        let path = &first_part(path);
        let mut file = Self::open_one(path)?;
        let count = file.unsigned(SPLIT_COUNT)?.unwrap_or(1);
        if count <= 1 {
            return Ok(file);
        }
        let name = SplitName::parse(path).filter(|name| name.count == count);
        let Some(name) = name else {
            let reason = format!(
                "the file is one of {count} parts, so its name must end in -00001-of-{count:05}.gguf"
            );
            return file.bad(SPLIT_COUNT, reason);
        };
        for number in 2..=count {
            file.add(&name.part(number), number)?;
        }
        if let Some(total) = file.unsigned("split.tensors.count")?
            && total != file.tensors.len()
        {
            let reason = format!(
                "{total} tensors are announced, the parts hold {}",
                file.tensors.len()
            );
            return file.bad("split.tensors.count", reason);
        }
        Ok(file)
    }

    fn open_one(path: &Path) -> Result<Self, LmError> {
        let bytes = map_file(path)?;
        let (metadata, tensors) = Header::new(path, &bytes).read()?;
        Ok(Self {
            path: path.to_owned(),
            parts: vec![bytes],
            metadata,
            tensors,
        })
    }

    /// Adds the tensors of another part. Only the part number of its metadata is read.
    fn add(&mut self, path: &Path, number: usize) -> Result<(), LmError> {
        let mut other = Self::open_one(path)?;
        if other.unsigned(SPLIT_NUMBER)? != Some(number - 1) {
            let reason = format!("the file is not part {number}");
            return other.bad(SPLIT_NUMBER, reason);
        }
        for (name, mut entry) in std::mem::take(&mut other.tensors) {
            entry.part = self.parts.len();
            if self.tensors.insert(name.clone(), entry).is_some() {
                return other.bad(&name, "another part holds a tensor of the same name");
            }
        }
        self.parts.append(&mut other.parts);
        Ok(())
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `general.architecture`.
    ///
    /// # Errors
    /// Names the file if the key is missing or not a text.
    pub fn architecture(&self) -> Result<&str, LmError> {
        match self.text("general.architecture")? {
            Some(name) => Ok(name),
            None => self.bad("general.architecture", "the key is missing"),
        }
    }

    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, &TensorEntry)> {
        self.tensors
            .iter()
            .map(|(name, entry)| (name.as_str(), entry))
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.get(name)
    }

    pub(crate) fn bytes(&self, entry: &TensorEntry) -> &[u8] {
        &self.parts[entry.part][entry.range.clone()]
    }

    /// Every byte, part after part.
    pub(super) fn whole(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(|part| &part[..])
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, LmError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => self.bad(key, "must be a text"),
        }
    }

    pub(crate) fn unsigned(&self, key: &str) -> Result<Option<usize>, LmError> {
        let value = match self.metadata.get(key) {
            None => return Ok(None),
            Some(Value::Unsigned(value)) => usize::try_from(*value).ok(),
            Some(Value::Signed(value)) => usize::try_from(*value).ok(),
            Some(_) => None,
        };
        match value {
            Some(value) => Ok(Some(value)),
            None => self.bad(key, "must be an integer of at least 0"),
        }
    }

    pub(crate) fn require_unsigned(&self, key: &str) -> Result<usize, LmError> {
        match self.unsigned(key)? {
            Some(value) => Ok(value),
            None => self.bad(key, "the key is missing"),
        }
    }

    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, LmError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(value)) => Ok(Some(*value)),
            Some(_) => self.bad(key, "must be a floating-point number"),
        }
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, LmError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => self.bad(key, "must be true or false"),
        }
    }

    pub(crate) fn texts(&self, key: &str) -> Result<Option<&[String]>, LmError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Texts(list)) => Ok(Some(list)),
            Some(_) => self.bad(key, "must be a list of texts"),
        }
    }

    pub(crate) fn numbers(&self, key: &str) -> Result<Option<&[f64]>, LmError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Numbers(list)) => Ok(Some(list)),
            Some(_) => self.bad(key, "must be a list of numbers"),
        }
    }

    pub(crate) fn bad<T>(&self, what: &str, reason: impl Into<String>) -> Result<T, LmError> {
        bad(&self.path, what, reason)
    }
}
