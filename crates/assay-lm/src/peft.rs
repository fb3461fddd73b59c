//! Adapter files in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

mod base;
mod config;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use self::config::{ConfigFile, json_of};
use crate::adapter::{Adapter, AdapterCard};
use crate::transformer::Transformer;
use crate::{LmError, ModelConfig};

/// File with rank, alpha, targets and the base model's name.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// File with the tensors.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// How names of a token classifier's head begin.
const HEAD_PREFIX: &str = "base_model.model.score.";

/// An adapter read from a PEFT directory, with the tensors that are no LoRA pair (e.g. a reward head).
#[derive(Debug)]
pub struct LoadedAdapter {
    /// The pairs.
    pub adapter: Adapter,
    /// `base_model_name_or_path`, and `@revision` where one is named.
    pub base_model: String,
    /// `task_type`, if given.
    pub task_type: Option<String>,
    /// Fingerprint of the frozen weights that it was trained on, where the directory says so.
    pub trained_on: Option<String>,
    /// Remaining tensors by their name in the file, f32.
    pub extra: HashMap<String, Tensor>,
}

impl LoadedAdapter {
    /// Whether the adapter was trained on other weights than `base` has, as far as both are known.
    ///
    /// The same model in another format or precision counts as another.
    pub fn is_on_other_weights(&self, base: &Transformer) -> bool {
        match (&self.trained_on, base.fingerprint()) {
            (Some(before), Some(now)) => before != now,
            _ => false,
        }
    }
}

/// Reads the base model's name from a PEFT directory without its weights; a revision follows `@`.
///
/// # Errors
/// Names the file that is missing or malformed.
pub fn base_model(dir: &Path) -> Result<String, LmError> {
    Ok(ConfigFile::read(dir)?.base_model())
}

/// Loads a PEFT LoRA directory for a base model.
///
/// # Errors
/// Names the file and the thing: unreadable or malformed files, an unsupported kind of adapter, a tensor that is
/// missing or whose shape does not match the base model.
pub fn load(dir: &Path, config: &ModelConfig) -> Result<LoadedAdapter, LmError> {
    let file = ConfigFile::read(dir)?;
    let path = dir.join(WEIGHTS_FILE);
    let mut tensors = read_tensors(&path)?;
    let settings = file.settings(dir, tensors.keys())?;
    let adapter = Adapter::build(config, &settings, |name, (rows, columns)| {
        let tensor = tensors.remove(name).ok_or_else(|| LmError::MissingTensor {
            file: path.clone(),
            tensor: name.to_owned(),
        })?;
        if tensor.dims() != [rows, columns] {
            return Err(LmError::TensorShape {
                file: path.clone(),
                tensor: name.to_owned(),
                expected: vec![rows, columns],
                found: tensor.dims().to_vec(),
            });
        }
        Ok(tensor.to_dtype(DType::F32)?)
    })?;
    let extra = head(tensors, &path)?;
    Ok(LoadedAdapter {
        adapter,
        base_model: file.base_model(),
        task_type: file.task_type,
        trained_on: base::read(dir)?,
        extra,
    })
}

pub(crate) fn save(
    adapter: &Adapter,
    dir: &Path,
    card: &AdapterCard,
    extra: &[(String, Tensor)],
) -> Result<(), LmError> {
    let mut tensors: HashMap<String, Tensor> = adapter
        .parameters()
        .iter()
        .map(|(name, var)| (name.clone(), var.as_tensor().clone()))
        .collect();
    tensors.extend(extra.iter().cloned());
    let weights = dir.join(WEIGHTS_FILE);
    crate::save_tensors(&tensors, &weights)?;
    if let Some(trained_on) = &card.trained_on {
        base::write(dir, trained_on)?;
    }
    let path = dir.join(CONFIG_FILE);
    let text = serde_json::to_string_pretty(&json_of(adapter, card)).unwrap_or_default() + "\n";
    fs::write(&path, text).map_err(|source| LmError::Io {
        action: "writing",
        path,
        source,
    })
}

/// The tensors of a score head; any other that is left over would be missing from the outputs.
fn head(tensors: HashMap<String, Tensor>, path: &Path) -> Result<HashMap<String, Tensor>, LmError> {
    let mut head = HashMap::new();
    for (name, tensor) in tensors {
        if !name.starts_with(HEAD_PREFIX) {
            let reason = format!(
                "{} holds {name}, which is neither a pair of a projection that the base model and target_modules have \
                 nor a score head; merge the adapter in PEFT and load the merged model",
                path.display()
            );
            return Err(LmError::InvalidAdapter { reason });
        }
        head.insert(name, tensor.to_dtype(DType::F32)?);
    }
    Ok(head)
}

fn read_tensors(path: &Path) -> Result<HashMap<String, Tensor>, LmError> {
    if !path.is_file() {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(LmError::Io {
            action: "reading",
            path: path.to_owned(),
            source,
        });
    }
    candle_core::safetensors::load(path, &Device::Cpu).map_err(|source| LmError::InvalidAdapter {
        reason: format!("{}: {source}", path.display()),
    })
}
