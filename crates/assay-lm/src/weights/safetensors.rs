//! Safetensors files of a Hugging Face directory, one or sharded.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use candle_core::Tensor;
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::{FloatType, check_shape, dense, map_file};
use crate::LmError;
use crate::config::read_json;

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

    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, LmError> {
        let Some(entry) = self.entries.get(name) else {
            return Err(LmError::MissingTensor {
                file: self.path.clone(),
                tensor: name.to_owned(),
            });
        };
        let shard = &self.shards[entry.shard];
        check_shape(&shard.path, name, shape, &entry.shape)?;
        let float = match entry.dtype {
            Dtype::F32 => FloatType::F32,
            Dtype::F16 => FloatType::F16,
            Dtype::BF16 => FloatType::Bf16,
            other => {
                let reason = format!("type {other:?} is not read, only F32, F16 and BF16");
                return Err(LmError::InvalidWeightFile {
                    path: shard.path.clone(),
                    what: name.to_owned(),
                    reason,
                });
            }
        };
        dense(float.widen(&shard.bytes[entry.range.clone()]), shape)
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

/// Whether a name stays inside its directory on every system.
fn is_plain_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let single = matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    );
    single && !name.contains(['/', '\\', ':', '\0'])
}
