//! Device and number type of a model's tensors: the CPU, or a GPU that this program has kernels
//! for.

use std::fmt;
use std::str::FromStr;

use assay_ops::{multiplies_bf16_natively, open_gpu};
use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::LmError;

/// A device as named in settings and options: `auto`, `cpu`, `cuda`, `cuda:1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceName {
    /// The first GPU that this program has kernels for and can open, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this index.
    Cuda(usize),
}

/// The type of matrices, and on a GPU of activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 on a GPU and on a CPU that multiplies bf16 faster than f32; f32 on other CPUs.
    #[default]
    Auto,
    /// f32.
    F32,
    /// bf16 weights and factors of products. Sums, adapters and log-probabilities stay f32; on a
    /// CPU, activations too.
    Bf16,
}

/// Device and number type of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlacementSettings {
    /// The device.
    pub device: DeviceName,
    /// The type of matrices and activations.
    pub dtype: Precision,
}

/// An opened device, and the type of matrices and activations on it.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The device.
    pub device: Device,
    /// Type of the matrices, F32 or BF16.
    pub dtype: DType,
}

impl Placement {
    /// f32 on the CPU.
    pub fn cpu() -> Self {
        Self {
            device: Device::Cpu,
            dtype: DType::F32,
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dtype = self.dtype.as_str();
        match self.device.location() {
            candle_core::DeviceLocation::Cpu => write!(f, "cpu, {dtype}"),
            candle_core::DeviceLocation::Cuda { gpu_id } => write!(f, "cuda:{gpu_id}, {dtype}"),
            candle_core::DeviceLocation::Metal { .. } => f.write_str("metal"),
        }
    }
}

impl PlacementSettings {
    /// Opens the device.
    ///
    /// # Errors
    /// [`LmError::Device`] for a GPU that this program has no kernels for or that cannot be opened.
    pub fn resolve(self) -> Result<Placement, LmError> {
        self.resolve_on(0)
    }

    /// As [`PlacementSettings::resolve`], for the process with this number among those of a run on
    /// this machine: `auto` opens the GPU with this index.
    ///
    /// # Errors
    /// As [`PlacementSettings::resolve`]; also if this machine has a GPU, but none with this index.
    pub fn resolve_on(self, local_rank: usize) -> Result<Placement, LmError> {
        let device = match self.device {
            DeviceName::Cpu => Device::Cpu,
            DeviceName::Cuda(index) => gpu(index)?,
            DeviceName::Auto => automatic(local_rank, gpu)?.unwrap_or(Device::Cpu),
        };
        let dtype = match self.dtype {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::Auto if !device.is_cpu() || multiplies_bf16_natively() => DType::BF16,
            Precision::Auto => DType::F32,
        };
        Ok(Placement { device, dtype })
    }
}

/// The GPU with the index `local_rank`; `None` where there is no GPU at all.
///
/// # Errors
/// There is a GPU, but none with this index. This process must not compute on the CPU then, because
/// the results of ranks on different devices differ.
fn automatic<D>(
    local_rank: usize,
    open: impl Fn(usize) -> Result<D, LmError>,
) -> Result<Option<D>, LmError> {
    match open(local_rank) {
        Ok(device) => Ok(Some(device)),
        Err(_) if local_rank == 0 => Ok(None),
        Err(error) => match open(0) {
            Ok(_) => Err(error),
            Err(_) => Ok(None),
        },
    }
}

fn gpu(index: usize) -> Result<Device, LmError> {
    let failed = |reason: String| LmError::Device {
        name: DeviceName::Cuda(index),
        reason,
    };
    if cfg!(not(feature = "cuda")) {
        let reason = "this program was built without kernels for it; build it with `cargo build --release --features \
                      cuda`, or use --device cpu";
        return Err(failed(reason.to_owned()));
    }
    open_gpu(index)
        .map_err(|source| failed(format!("it does not answer ({source}); use --device cpu")))
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let number = |digits: &str| digits.parse().ok().map(Self::Cuda);
        let found = match name {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            other => other.strip_prefix("cuda:").and_then(number),
        };
        found.ok_or_else(|| format!("{name:?} is not a device; use auto, cpu, cuda or cuda:N"))
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(0) => f.write_str("cuda"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl TryFrom<String> for DeviceName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.to_string()
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(format!("{name:?} is not a type; use auto, f32 or bf16")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_name() {
        for (name, device) in [
            ("auto", DeviceName::Auto),
            ("cpu", DeviceName::Cpu),
            ("cuda", DeviceName::Cuda(0)),
            ("cuda:3", DeviceName::Cuda(3)),
        ] {
            assert_eq!(name.parse(), Ok(device));
            assert_eq!(device.to_string(), name);
        }
        for name in ["", "gpu", "cuda:", "cuda:-1", "cuda:x"] {
            let refused = name.parse::<DeviceName>().unwrap_err();
            assert!(refused.contains("cuda:N"), "{refused}");
        }
    }

    #[test]
    fn ranks_use_the_gpu_with_their_number() {
        let with_gpus = |count: usize| {
            move |index: usize| match index < count {
                true => Ok(index),
                false => Err(LmError::Device {
                    name: DeviceName::Cuda(index),
                    reason: "it does not answer".to_owned(),
                }),
            }
        };
        assert_eq!(automatic(1, with_gpus(2)).unwrap(), Some(1));
        assert_eq!(automatic(0, with_gpus(0)).unwrap(), None);
        assert_eq!(automatic(3, with_gpus(0)).unwrap(), None);
        let refused = automatic(2, with_gpus(2)).unwrap_err().to_string();
        assert!(refused.contains("cuda:2"), "{refused}");
    }

    #[test]
    fn missing_devices_are_errors_with_advice() {
        let settings = |device, dtype| PlacementSettings { device, dtype };
        let cpu = settings(DeviceName::Cpu, Precision::Auto)
            .resolve()
            .unwrap();
        let fastest = match multiplies_bf16_natively() {
            true => DType::BF16,
            false => DType::F32,
        };
        assert_eq!((cpu.device.is_cpu(), cpu.dtype), (true, fastest));
        let bf16 = settings(DeviceName::Cpu, Precision::Bf16)
            .resolve()
            .unwrap();
        assert_eq!(bf16.to_string(), "cpu, bf16");
        if cfg!(not(feature = "cuda")) {
            let auto = PlacementSettings::default().resolve().unwrap();
            assert_eq!(auto.to_string(), format!("cpu, {}", fastest.as_str()));
            let refused = settings(DeviceName::Cuda(1), Precision::Auto)
                .resolve()
                .unwrap_err();
            let said = refused.to_string();
            assert!(
                said.contains("cuda:1") && said.contains("--features cuda"),
                "{said}"
            );
        }
    }

    #[test]
    fn bf16_models_stay_close_to_f32() {
        let dir = tempfile::tempdir().unwrap();
        let config = serde_json::json!({
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "max_position_embeddings": 128,
            "tie_word_embeddings": true,
            "bos_token_id": 1,
            "eos_token_id": 2,
        });
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let config = crate::ModelConfig::read(dir.path()).unwrap();
        let (model, _) = crate::transformer::Transformer::random(&config, 3).unwrap();
        let group = crate::packed::Group {
            prompt: vec![1, 2, 3],
            completions: vec![vec![4, 5, 6, 1], vec![2, 2]],
        };
        let batch = crate::PackedBatch::new(&[group]).unwrap();
        let hidden = |dtype| {
            let model = model.detached().in_panels(dtype).unwrap();
            assert_eq!(model.factors(), dtype);
            let hidden = model.hidden(&batch, None).unwrap().flatten_all().unwrap();
            hidden.to_vec1::<f32>().unwrap()
        };
        let (f32s, bf16s) = (hidden(DType::F32), hidden(DType::BF16));
        let largest = f32s.iter().fold(0f32, |m, v| m.max(v.abs()));
        let pairs = f32s.iter().zip(&bf16s);
        let off = pairs.fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest;
        assert!(off > 1e-5 && off < 4e-2, "{off}");
    }
}
