//! Adapter files in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

mod base;
mod config;
mod keys;
mod rules;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use self::config::{ConfigFile, json_of};
use self::keys::{Key, Kind};
use self::rules::Rules;
use crate::adapter::{Adapter, AdapterCard, PairSpec, Projection};
use crate::files::refuse_pointer;
use crate::transformer::{Changes, MergedPair, Tie, Transformer, WholeTensor};
use crate::{LmError, ModelConfig};

/// File with rank, alpha, targets and the base model's name.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// File with the tensors.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// File with pickled tensors, which is not read.
const PICKLED_FILE: &str = "adapter_model.bin";
/// Module of a token classifier's head.
const HEAD: &str = "score";
const EMBEDDING: &str = "model.embed_tokens";
const OUTPUT: &str = "lm_head";

/// An adapter read from a PEFT directory, with the tensors outside of LoRA pairs, such as a reward
/// head.
#[derive(Debug)]
pub struct LoadedAdapter {
    /// The pairs.
    pub adapter: Adapter,
    /// `base_model_name_or_path`, and `@revision` where one is named.
    pub base_model: String,
    /// `task_type`, if given.
    pub task_type: Option<String>,
    /// Fingerprint of the frozen weights that it was trained on, if the directory has it.
    pub trained_on: Option<String>,
    /// The tensors of a score head by PEFT's names, f32.
    pub extra: HashMap<String, Tensor>,
    changes: Changes,
}

impl LoadedAdapter {
    /// Whether the adapter was trained on other weights than those of `base`. False if either is
    /// unknown.
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

/// Loads a PEFT LoRA directory whose pairs can be trained further.
///
/// # Errors
/// Names the file and the cause: unreadable or malformed files, an unsupported kind of adapter, a
/// tensor that is missing or whose shape does not match the base model, an adapter that changes the
/// base model itself (DoRA, `lora_bias`, `modules_to_save`, pairs on the embedding or the output
/// matrix; see [`load_with_base`]).
pub fn load(dir: &Path, config: &ModelConfig) -> Result<LoadedAdapter, LmError> {
    let loaded = read(dir, config)?;
    if loaded.changes.is_empty() {
        return Ok(loaded);
    }
    let reason = format!(
        "{} changes {} of the base model itself: such an adapter can be scored with, but neither trained further nor \
         merged here; merge it in PEFT and load the merged model",
        dir.display(),
        loaded.changes.example()
    );
    Err(LmError::InvalidAdapter { reason })
}

/// Loads any PEFT LoRA directory and the base model that its pairs belong to: `base` itself, or a
/// copy with the adapter's changes of the base model merged into it.
///
/// # Errors
/// As [`load`], except that changes of the base model are allowed.
pub fn load_with_base(
    dir: &Path,
    base: &Arc<Transformer>,
) -> Result<(LoadedAdapter, Arc<Transformer>), LmError> {
    let loaded = read(dir, base.config())?;
    if loaded.changes.is_empty() {
        return Ok((loaded, Arc::clone(base)));
    }
    let changed = base.changed(&loaded.changes).map_err(|error| match error {
        LmError::InvalidAdapter { reason } => LmError::InvalidAdapter {
            reason: format!("{}: {reason}", dir.display()),
        },
        other => other,
    })?;
    Ok((loaded, Arc::new(changed)))
}

fn read(dir: &Path, config: &ModelConfig) -> Result<LoadedAdapter, LmError> {
    let file = ConfigFile::read(dir)?;
    let rules = file.rules(dir)?;
    let path = dir.join(WEIGHTS_FILE);
    let mut parts = Parts::sort(read_tensors(dir)?, &path)?;
    let mut changes = Changes::default();
    let mut pairs = Vec::new();
    let mut tensors = HashMap::new();
    for layer in 0..config.layers {
        for projection in config.architecture.family().projections() {
            let Some(pair) = parts.projection(layer, projection, config, &rules)? else {
                continue;
            };
            if file.use_dora || pair.magnitude.is_some() || pair.bias.is_some() {
                changes.pairs.push(pair);
                continue;
            }
            let spec = PairSpec {
                layer,
                projection,
                rank: rules.rank(&pair.module),
                scale: pair.scale,
            };
            tensors.insert(spec.parameter("A"), pair.a);
            tensors.insert(spec.parameter("B"), pair.b);
            pairs.push(spec);
        }
    }
    parts.changes_of_the_base(&file, &rules, &mut changes)?;
    let mut targets: Vec<Projection> = pairs.iter().map(|pair| pair.projection).collect();
    targets.sort();
    targets.dedup();
    let settings = file.settings(targets);
    let adapter = Adapter::build(config, &settings, &pairs, |name, _| {
        tensors.remove(name).ok_or_else(|| missing(&path, name))
    })?;
    Ok(LoadedAdapter {
        adapter,
        base_model: file.base_model(),
        task_type: file.task_type,
        trained_on: base::read(dir)?,
        extra: parts.head,
        changes,
    })
}

/// The tensors of an adapter file by module.
struct Parts<'p> {
    path: &'p Path,
    pairs: BTreeMap<String, Pair>,
    whole: Vec<(Key, Tensor)>,
    head: HashMap<String, Tensor>,
}

/// The tensors of one pair in a file.
#[derive(Default)]
struct Pair {
    a: Option<Tensor>,
    b: Option<Tensor>,
    bias: Option<Tensor>,
    magnitude: Option<Tensor>,
}

impl<'p> Parts<'p> {
    fn sort(tensors: HashMap<String, Tensor>, path: &'p Path) -> Result<Self, LmError> {
        let mut parts = Self {
            path,
            pairs: BTreeMap::new(),
            whole: Vec::new(),
            head: HashMap::new(),
        };
        for (name, tensor) in tensors {
            let Some(key) = Key::parse(&name) else {
                return Err(parts.unexpected(&name));
            };
            let tensor = tensor.to_dtype(DType::F32)?;
            let is_whole = matches!(key.kind, Kind::Whole | Kind::Base);
            if is_whole && key.module == HEAD {
                let name = format!("base_model.model.{HEAD}.{}", key.part);
                parts.head.insert(name, tensor);
                continue;
            }
            if is_whole {
                parts.whole.push((key, tensor));
                continue;
            }
            let pair = parts.pairs.entry(key.module).or_default();
            let slot = match key.kind {
                Kind::A => &mut pair.a,
                Kind::B => &mut pair.b,
                Kind::UpBias => &mut pair.bias,
                Kind::Magnitude | Kind::Whole | Kind::Base => &mut pair.magnitude,
            };
            *slot = Some(tensor);
        }
        Ok(parts)
    }

    /// The pair of a projection if the file has one. Fails if the rules require one and it is
    /// missing.
    fn projection(
        &mut self,
        layer: usize,
        projection: Projection,
        config: &ModelConfig,
        rules: &Rules,
    ) -> Result<Option<MergedPair>, LmError> {
        let module = format!("model.layers.{layer}.{}", projection.module());
        let name = format!("base_model.model.{module}.lora_A.weight");
        let pair = match (rules.expects(&module), self.pairs.remove(&module)) {
            (Some(true), None) => return Err(missing(self.path, &name)),
            (_, None) => return Ok(None),
            (Some(false), Some(_)) => return Err(self.unexpected(&name)),
            (_, Some(pair)) => pair,
        };
        let pair = self.complete(module, pair, rules)?;
        let shape = projection.shape(config);
        let rank = rules.rank(&pair.module);
        for (half, tensor, expected) in [
            ("A", &pair.a, [rank, shape.columns]),
            ("B", &pair.b, [shape.rows, rank]),
        ] {
            if tensor.dims() != expected {
                return Err(LmError::TensorShape {
                    file: self.path.to_owned(),
                    tensor: format!("base_model.model.{}.lora_{half}.weight", pair.module),
                    expected: expected.to_vec(),
                    found: tensor.dims().to_vec(),
                });
            }
        }
        Ok(Some(pair))
    }

    /// Both halves of a pair, and its scale.
    fn complete(&self, module: String, pair: Pair, rules: &Rules) -> Result<MergedPair, LmError> {
        let (Some(a), Some(b)) = (pair.a, pair.b) else {
            let name = format!("base_model.model.{module}.lora_A or lora_B");
            return Err(missing(self.path, &name));
        };
        let scale = rules.scale(&module);
        Ok(MergedPair {
            module,
            a,
            b,
            scale,
            magnitude: pair.magnitude,
            bias: pair.bias,
        })
    }

    /// Pairs on the embedding and the output matrix, and whole tensors. Fails for any other
    /// remaining tensor, which would have no effect on the outputs.
    fn changes_of_the_base(
        &mut self,
        file: &ConfigFile,
        rules: &Rules,
        changes: &mut Changes,
    ) -> Result<(), LmError> {
        for (module, pair) in std::mem::take(&mut self.pairs) {
            let is_outer = [EMBEDDING, OUTPUT].contains(&module.as_str());
            if !is_outer || rules.expects(&module) == Some(false) {
                return Err(self.unexpected(&format!("base_model.model.{module}.lora_A.weight")));
            }
            changes.pairs.push(self.complete(module, pair, rules)?);
        }
        for name in file.saved() {
            if !self
                .whole
                .iter()
                .any(|(key, _)| key.module.ends_with(name.as_str()))
            {
                return Err(missing(
                    self.path,
                    &format!("base_model.model.{name}.weight"),
                ));
            }
        }
        for (key, values) in std::mem::take(&mut self.whole) {
            let is_saved = file.saves(&key.module);
            if !is_saved && ![EMBEDDING, OUTPUT].contains(&key.module.as_str()) {
                return Err(self.unexpected(&format!("base_model.model.{}", key.base_tensor())));
            }
            let is_own = key.kind == Kind::Whole && is_saved && !file.ensure_weight_tying;
            changes.whole.push(WholeTensor {
                module: key.module,
                part: key.part,
                values,
                tie: if is_own { Tie::Cut } else { Tie::Kept },
            });
        }
        if file.use_dora
            && let Some(pair) = changes.pairs.iter().find(|pair| pair.magnitude.is_none())
        {
            let name = format!("base_model.model.{}.lora_magnitude_vector", pair.module);
            return Err(missing(self.path, &name));
        }
        Ok(())
    }

    fn unexpected(&self, name: &str) -> LmError {
        let reason = format!(
            "{} holds {name}, which is neither a pair of a projection that the base model and target_modules have \
             nor a score head; merge the adapter in PEFT and load the merged model",
            self.path.display()
        );
        LmError::InvalidAdapter { reason }
    }
}

fn missing(path: &Path, name: &str) -> LmError {
    LmError::MissingTensor {
        file: path.to_owned(),
        tensor: name.to_owned(),
    }
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
    for tensor in tensors.values_mut() {
        *tensor = tensor.to_dtype(card.weights.dtype())?;
    }
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

fn read_tensors(dir: &Path) -> Result<HashMap<String, Tensor>, LmError> {
    let path = dir.join(WEIGHTS_FILE);
    if !path.is_file() {
        if dir.join(PICKLED_FILE).is_file() {
            let reason = format!(
                "{} is a Python pickle, which is not read: load the adapter in PEFT and save it with \
                 save_pretrained(..., safe_serialization=True)",
                dir.join(PICKLED_FILE).display()
            );
            return Err(LmError::InvalidAdapter { reason });
        }
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(LmError::Io {
            action: "reading",
            path,
            source,
        });
    }
    refuse_pointer(&path)?;
    candle_core::safetensors::load(&path, &Device::Cpu).map_err(|source| LmError::InvalidAdapter {
        reason: format!("{}: {source}", path.display()),
    })
}
