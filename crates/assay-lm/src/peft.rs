//! Adapter files in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use serde_json::json;

use crate::adapter::{Adapter, AdapterCard, LoraSettings, Projection};
use crate::{LmError, ModelConfig};

/// File with rank, alpha, targets and the base model's name.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// File with the tensors.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// An adapter read from a PEFT directory, with the tensors that are no LoRA pair (e.g. a reward head).
#[derive(Debug)]
pub struct LoadedAdapter {
    /// The pairs.
    pub adapter: Adapter,
    /// `base_model_name_or_path`.
    pub base_model: String,
    /// `task_type`, if given.
    pub task_type: Option<String>,
    /// Remaining tensors by their name in the file, f32.
    pub extra: HashMap<String, Tensor>,
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    #[serde(default)]
    task_type: Option<String>,
    #[serde(default)]
    peft_type: Option<String>,
    r: usize,
    lora_alpha: f64,
    target_modules: Targets,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    rank_pattern: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    alpha_pattern: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Targets {
    List(BTreeSet<String>),
    Pattern(String),
}

/// Reads the base model's name from a PEFT directory without its weights.
///
/// # Errors
/// Names the file that is missing or malformed.
pub fn base_model(dir: &Path) -> Result<String, LmError> {
    Ok(read_config(dir)?
        .base_model_name_or_path
        .unwrap_or_default())
}

/// Loads a PEFT LoRA directory for a base model.
///
/// # Errors
/// Names the file and the thing: unreadable or malformed files, an unsupported kind of adapter, a tensor that is
/// missing or whose shape does not match the base model.
pub fn load(dir: &Path, config: &ModelConfig) -> Result<LoadedAdapter, LmError> {
    let file = read_config(dir)?;
    let settings = lora_settings(&file, dir)?;
    let path = dir.join(WEIGHTS_FILE);
    let mut tensors = read_tensors(&path)?;
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
    let mut extra = HashMap::new();
    for (name, tensor) in tensors {
        if name.contains(".lora_") {
            let reason = format!(
                "{} holds {name}, which the base model or target_modules do not have",
                path.display()
            );
            return Err(LmError::InvalidAdapter { reason });
        }
        extra.insert(name, tensor.to_dtype(DType::F32)?);
    }
    let base_model = file.base_model_name_or_path.unwrap_or_default();
    Ok(LoadedAdapter {
        adapter,
        base_model,
        task_type: file.task_type,
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
    let modules_to_save = if card.modules_to_save.is_empty() {
        None
    } else {
        Some(&card.modules_to_save)
    };
    let config = json!({
        "peft_type": "LORA",
        "task_type": card.task_type,
        "base_model_name_or_path": card.base_model,
        "r": adapter.settings.rank,
        "lora_alpha": whole_number(adapter.settings.alpha),
        "target_modules": adapter.settings.targets,
        "modules_to_save": modules_to_save,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "use_rslora": false,
        "use_dora": false,
    });
    let path = dir.join(CONFIG_FILE);
    let text = serde_json::to_string_pretty(&config).unwrap_or_default() + "\n";
    fs::write(&path, text).map_err(|source| LmError::Io {
        action: "writing",
        path,
        source,
    })
}

/// PEFT writes whole alphas as integers.
fn whole_number(value: f64) -> serde_json::Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

fn read_config(dir: &Path) -> Result<ConfigFile, LmError> {
    let path = dir.join(CONFIG_FILE);
    let io = |source| LmError::Io {
        action: "reading",
        path: path.clone(),
        source,
    };
    if fs::metadata(&path).map_err(io)?.len() > MAX_CONFIG_BYTES {
        let reason = format!("{} is larger than {MAX_CONFIG_BYTES} bytes", path.display());
        return Err(LmError::InvalidAdapter { reason });
    }
    let text = fs::read_to_string(&path).map_err(io)?;
    serde_json::from_str(&text).map_err(|source| LmError::InvalidAdapter {
        reason: format!("{}: {source}", path.display()),
    })
}

fn lora_settings(file: &ConfigFile, dir: &Path) -> Result<LoraSettings, LmError> {
    let refuse = |what: &str| {
        let reason = format!("{}: {what}", dir.join(CONFIG_FILE).display());
        Err(LmError::InvalidAdapter { reason })
    };
    if file.peft_type.as_deref().is_some_and(|kind| kind != "LORA") {
        return refuse("peft_type is not LORA; only LoRA adapters load");
    }
    if file.use_rslora || file.use_dora || file.bias.as_deref().is_some_and(|bias| bias != "none") {
        return refuse("rsLoRA, DoRA and trained biases are not supported");
    }
    if !file.rank_pattern.is_empty() || !file.alpha_pattern.is_empty() {
        return refuse(
            "rank_pattern and alpha_pattern are not supported: one rank and alpha an adapter",
        );
    }
    if file.r == 0 || !file.lora_alpha.is_finite() {
        return refuse("r must be at least 1 and lora_alpha finite");
    }
    let targets = match &file.target_modules {
        Targets::Pattern(pattern) if pattern == "all-linear" => Projection::ALL.to_vec(),
        Targets::Pattern(_) => return refuse("target_modules must be a list of module names"),
        Targets::List(names) => {
            let known = |name: &str| {
                Projection::ALL
                    .into_iter()
                    .find(|p| p.module().ends_with(&format!(".{name}")))
            };
            let mut targets = Vec::new();
            for name in names.iter().filter(|name| *name != "score") {
                match known(name) {
                    Some(projection) => targets.push(projection),
                    None => {
                        return refuse(&format!(
                            "target module {name} is none of the seven projections"
                        ));
                    }
                }
            }
            targets.sort();
            targets
        }
    };
    Ok(LoraSettings {
        rank: file.r,
        alpha: file.lora_alpha,
        targets,
    })
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
