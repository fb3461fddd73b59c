//! Safetensors files of a Hugging Face directory, one or sharded.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use candle_core::Tensor;
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::Value;

use super::packed::{PackedMatrix, Packing};
use super::{FloatType, check_shape, dense, map_file};
use crate::LmError;
use crate::config::{CONFIG_FILE, read_json};

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
/// Weight files in unsupported formats.
const PICKLED_FILES: [&str; 4] = [
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.bin",
    "consolidated.00.pth",
];

/// Mapped safetensors files and the position of each tensor.
#[derive(Debug)]
pub(crate) struct SafetensorsDirectory {
    path: PathBuf,
    shards: Vec<Shard>,
    entries: BTreeMap<String, Entry>,
    /// How its matrices are packed; `None` if they are not.
    packing: Option<Packing>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    bytes: Mmap,
}

#[derive(Debug)]
struct Entry {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// The part of `config.json` that says how matrices are packed.
#[derive(Deserialize)]
struct PackingConfig {
    quantization_config: Option<Value>,
}

#[derive(Deserialize)]
struct IndexFile {
    weight_map: BTreeMap<String, String>,
}

impl SafetensorsDirectory {
    pub(crate) fn open(dir: &Path) -> Result<Self, LmError> {
        let mut directory = Self {
            path: dir.to_owned(),
            shards: Vec::new(),
            entries: BTreeMap::new(),
            packing: packing(dir)?,
        };
        let index = dir.join(INDEX_FILE);
        if dir.join(SINGLE_FILE).is_file() {
            directory.add(dir.join(SINGLE_FILE))?;
        } else if index.is_file() {
            directory.add_sharded(&index)?;
        } else {
            let pickled = PICKLED_FILES.iter().find(|name| dir.join(name).is_file());
            let reason = match pickled {
                Some(name) => format!(
                    "{name} holds Python pickles, which are not read: load the model in transformers and save it \
                     with save_pretrained(..., safe_serialization=True)"
                ),
                None => format!(
                    "it has neither {SINGLE_FILE} nor {INDEX_FILE} (other weight formats are not read)"
                ),
            };
            return Err(LmError::NotAModel {
                path: dir.to_owned(),
                reason,
            });
        }
        Ok(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of every file, in the order of their names.
    pub(super) fn files(&self) -> impl Iterator<Item = &[u8]> {
        self.shards.iter().map(|shard| &shard.bytes[..])
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// Whether both tensors exist and have different values.
    pub(super) fn differ(&self, one: &str, other: &str) -> bool {
        let (Some(one), Some(other)) = (self.entries.get(one), self.entries.get(other)) else {
            return false;
        };
        let bytes = |entry: &Entry| &self.shards[entry.shard].bytes[entry.range.clone()];
        one.dtype != other.dtype || bytes(one) != bytes(other)
    }

    /// A tensor in f32, unpacked if its values are packed.
    ///
    /// # Errors
    /// It is missing, or has another shape or an unsupported type.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, LmError> {
        if let [outputs, inputs] = *shape {
            let packed = PackedMatrix::new(self, name, [outputs, inputs]);
            if let Some(values) = packed.values(self.packing)? {
                return dense(values, shape);
            }
        }
        self.check_shape(name, shape)?;
        dense(self.floats(name)?.0, shape)
    }

    pub(super) fn holds(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub(super) fn shape(&self, name: &str) -> Result<&[usize], LmError> {
        Ok(&self.entry(name)?.shape)
    }

    pub(super) fn check_shape(&self, name: &str, expected: &[usize]) -> Result<(), LmError> {
        let entry = self.entry(name)?;
        check_shape(&self.shards[entry.shard].path, name, expected, &entry.shape)
    }

    /// The bytes of a tensor of any type; there must be `length` if it is given.
    pub(super) fn bytes(&self, name: &str, length: Option<usize>) -> Result<&[u8], LmError> {
        let entry = self.entry(name)?;
        let bytes = &self.shards[entry.shard].bytes[entry.range.clone()];
        match length.filter(|&length| length != bytes.len()) {
            Some(length) => {
                let reason = format!("has {} bytes, where {length} are needed", bytes.len());
                Err(self.fault(name, &reason))
            }
            None => Ok(bytes),
        }
    }

    /// The values of a tensor of a floating-point type, and the type.
    pub(super) fn floats(&self, name: &str) -> Result<(Vec<f32>, FloatType), LmError> {
        let entry = self.entry(name)?;
        let float = match entry.dtype {
            Dtype::F32 => FloatType::F32,
            Dtype::F16 => FloatType::F16,
            Dtype::BF16 => FloatType::Bf16,
            other => {
                let reason = format!("type {other:?} is not read, only F32, F16 and BF16");
                return Err(self.fault(name, &reason));
            }
        };
        Ok((float.widen(self.bytes(name, None)?), float))
    }

    /// An error of a tensor, with the file that holds it.
    pub(super) fn fault(&self, name: &str, reason: &str) -> LmError {
        let shard = self
            .entries
            .get(name)
            .map(|entry| &self.shards[entry.shard]);
        LmError::InvalidWeightFile {
            path: shard.map_or(&self.path, |shard| &shard.path).clone(),
            what: name.to_owned(),
            reason: reason.to_owned(),
        }
    }

    fn entry(&self, name: &str) -> Result<&Entry, LmError> {
        self.entries
            .get(name)
            .ok_or_else(|| LmError::MissingTensor {
                file: self.path.clone(),
                tensor: name.to_owned(),
            })
    }

    /// Maps one file and records its tensors; the header was checked for gaps, overlaps and
    /// truncation.
    fn add(&mut self, path: PathBuf) -> Result<(), LmError> {
        let bytes = map_file(&path)?;
        let wrap = |source| LmError::Safetensors {
            path: path.clone(),
            source,
        };
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(wrap)?;
        let data = header + size_of::<u64>();
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let entry = Entry {
                shard: self.shards.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                range: data + start..data + end,
            };
            if self.entries.insert(name.clone(), entry).is_some() {
                let reason = "another shard holds a tensor of the same name".to_owned();
                return Err(LmError::InvalidWeightFile {
                    path,
                    what: name,
                    reason,
                });
            }
        }
        self.shards.push(Shard { path, bytes });
        Ok(())
    }

    fn add_sharded(&mut self, index: &Path) -> Result<(), LmError> {
        let file: IndexFile = read_json(index, "safetensors index")?;
        let mut shards: Vec<&String> = file.weight_map.values().collect();
        shards.sort();
        shards.dedup();
        for name in shards {
            if !is_plain_file_name(name) {
                let reason = format!("shard {name:?} is not a plain file name of this directory");
                let (path, what) = (index.to_owned(), "weight_map".to_owned());
                return Err(LmError::InvalidWeightFile { path, what, reason });
            }
            self.add(self.path.join(name))?;
        }
        for (tensor, shard) in &file.weight_map {
            if !self.entries.contains_key(tensor) {
                return Err(LmError::MissingTensor {
                    file: self.path.join(shard),
                    tensor: tensor.clone(),
                });
            }
        }
        Ok(())
    }
}

/// How the matrices of a directory are packed, from its `config.json` if it has one.
fn packing(dir: &Path) -> Result<Option<Packing>, LmError> {
    let path = dir.join(CONFIG_FILE);
    if !path.is_file() {
        return Ok(None);
    }
    let config: PackingConfig = read_json(&path, "model configuration")?;
    let settings = config.quantization_config.as_ref();
    let packing = settings.map(Packing::parse).transpose();
    packing.map_err(|reason| LmError::InvalidConfig {
        path,
        field: "quantization_config".to_owned(),
        reason,
    })
}

/// Whether a name stays inside its directory on every system.
fn is_plain_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let single = matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    );
    single && !name.contains(['/', '\\', ':', '\0'])
}
