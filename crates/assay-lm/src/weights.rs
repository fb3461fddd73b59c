//! Weights by Hugging Face name, from any supported file.
//!
//! Two sources: a directory of safetensors files ([`safetensors`](self), one or sharded) and a
//! `.gguf` file. Files are mapped. A tensor is converted when it is requested, after its shape was
//! compared with that of the configuration. This module knows names only, not layers.

use std::fs::File;
use std::path::{Path, PathBuf};

use assay_ops::Matrix;
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use memmap2::Mmap;

use crate::LmError;
use crate::family::OUTER;

mod fingerprint;
pub(crate) mod gguf;
mod names;
mod packed;
mod safetensors;

pub use gguf::GgufFile;
pub(crate) use packed::Packing;
pub(crate) use safetensors::SafetensorsDirectory;

/// The tensors of one model.
#[derive(Debug)]
pub struct Weights {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Safetensors(SafetensorsDirectory),
    Gguf(std::sync::Arc<GgufFile>),
}

/// Floating-point types that are converted to f32 when they are read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FloatType {
    F32,
    F16,
    Bf16,
}

impl Weights {
    /// Opens a directory with `model.safetensors` or `model.safetensors.index.json`, or a `.gguf`
    /// file.
    ///
    /// # Errors
    /// Names the file and what is wrong with it: missing, truncated, malformed, a shard outside the
    /// directory.
    pub fn open(path: &Path) -> Result<Self, LmError> {
        crate::source::ModelSource::open(path)?.weights()
    }

    pub(crate) fn from_directory(dir: &Path) -> Result<Self, LmError> {
        Ok(Self {
            source: Source::Safetensors(SafetensorsDirectory::open(dir)?),
        })
    }

    pub(crate) fn from_gguf(file: std::sync::Arc<GgufFile>) -> Self {
        Self {
            source: Source::Gguf(file),
        }
    }

    /// Hugging Face names of every tensor, sorted.
    pub fn names(&self) -> Vec<String> {
        match &self.source {
            Source::Safetensors(directory) => directory.names(),
            Source::Gguf(file) => names::hugging_face_names(file),
        }
    }

    /// Whether there is an output matrix other than the embedding, whatever the configuration says
    /// about tying.
    pub(crate) fn has_own_output(&self) -> bool {
        let [embedding, _, output] = OUTER.map(|spec| format!("{}.weight", spec.hugging_face));
        match &self.source {
            Source::Safetensors(directory) => directory.differ(&embedding, &output),
            Source::Gguf(file) => names::is_untied(file),
        }
    }

    /// Whether the family's offset is subtracted from stored weights of norms. GGUF files store the
    /// factors themselves.
    pub(crate) fn stores_offset_norms(&self) -> bool {
        matches!(self.source, Source::Safetensors(_))
    }

    /// The directory or file that the tensors come from.
    pub fn path(&self) -> &Path {
        match &self.source {
            Source::Safetensors(directory) => directory.path(),
            Source::Gguf(file) => file.path(),
        }
    }

    /// A digest of the files' contents, independent of their paths. Files of up to 64 MiB are read
    /// completely; of longer ones 32 blocks of 1 MiB, at equal distances from the first to the last
    /// byte.
    pub fn fingerprint(&self) -> String {
        match &self.source {
            Source::Safetensors(directory) => fingerprint::fingerprint(directory.files()),
            Source::Gguf(file) => fingerprint::fingerprint(file.whole()),
        }
    }

    /// A matrix by name: f32 on the CPU, or the quantised blocks of a GGUF file. Packed matrices of
    /// safetensors files (bitsandbytes, GPTQ, AWQ) are unpacked.
    ///
    /// Query and key rows of Llama GGUF files are reordered as in Hugging Face files.
    ///
    /// # Shapes
    /// `[out, in]`.
    ///
    /// # Errors
    /// [`LmError::MissingTensor`], [`LmError::TensorShape`], or an unsupported type; the error
    /// names file and tensor.
    pub fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Matrix, LmError> {
        match &self.source {
            Source::Safetensors(directory) => Ok(Matrix::Dense(directory.tensor(name, &shape)?)),
            Source::Gguf(file) => names::gguf_matrix(file, name, shape),
        }
    }

    /// A vector by name, f32 on the CPU.
    ///
    /// # Shapes
    /// `[length]`.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn vector(&self, name: &str, length: usize) -> Result<Tensor, LmError> {
        match &self.source {
            Source::Safetensors(directory) => directory.tensor(name, &[length]),
            Source::Gguf(file) => names::gguf_vector(file, name, length),
        }
    }
}

impl FloatType {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The nearest value of this type.
    pub(crate) fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// Converts little-endian bytes to f32.
    pub(crate) fn widen(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|&b| f32::from_le_bytes(b))
                .collect(),
            Self::F16 => bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|&b| f16::from_le_bytes(b).to_f32())
                .collect(),
            Self::Bf16 => bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|&b| bf16::from_le_bytes(b).to_f32())
                .collect(),
        }
    }
}

/// Maps a whole file.
#[allow(unsafe_code)]
pub(crate) fn map_file(path: &Path) -> Result<Mmap, LmError> {
    crate::files::refuse_pointer(path)?;
    let io = |source| LmError::Io {
        action: "reading",
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() == 0 {
        return Err(io(std::io::Error::new(
            std::io::ErrorKind::UnexpectedEof,
            "the file is empty",
        )));
    }
    // SAFETY: the mapping is read-only and private to this process's view of a weight file, which
    // nothing here writes; every read is bounds-checked against the mapped length. A file that
    // another process truncates meanwhile ends this process, as with every reader that maps
    // weights.
    unsafe { Mmap::map(&file) }.map_err(io)
}

pub(crate) fn dense(values: Vec<f32>, shape: &[usize]) -> Result<Tensor, LmError> {
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

pub(crate) fn check_shape(
    file: &Path,
    tensor: &str,
    expected: &[usize],
    found: &[usize],
) -> Result<(), LmError> {
    if expected == found {
        return Ok(());
    }
    Err(LmError::TensorShape {
        file: PathBuf::from(file),
        tensor: tensor.to_owned(),
        expected: expected.to_vec(),
        found: found.to_vec(),
    })
}
