//! Writes a model as a Hugging Face directory that transformers, vLLM and this crate load.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{DType, Tensor};
use serde_json::{Value, json};

use crate::config::invalid;
use crate::{LanguageModel, LmError};

/// Largest size of a weight file in bytes, the limit that transformers uses.
const SHARD_BYTES: usize = 5_000_000_000;
/// The head of a token classifier, `[labels, hidden]`.
pub const SCORE_WEIGHT: &str = "score.weight";
/// Its bias, `[labels]`.
pub const SCORE_BIAS: &str = "score.bias";
const TOKENIZER_FILE: &str = "tokenizer.json";
/// The files of a published tokenizer.
const TOKENIZER_FILES: [&str; 7] = [
    TOKENIZER_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

/// The head of a token classifier with one label, f32.
#[derive(Clone, Copy, Debug)]
pub struct ScoreHead<'t> {
    /// `[hidden]`.
    pub weight: &'t Tensor,
    /// `[1]`.
    pub bias: &'t Tensor,
}

/// Element type of written weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightType {
    /// 32 bits: the outputs are those of the model in memory.
    #[default]
    F32,
    /// 16 bits with f32's range: half the size, about three significant digits per weight.
    Bf16,
}

impl WeightType {
    /// The name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }

    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}

/// Writes `config.json`, `generation_config.json`, safetensors (several with an index when they are
/// large), tokenizer and chat template into an existing directory.
///
/// The tokenizer's files are copied from the model's directory. For a GGUF model they are written
/// from its metadata.
///
/// # Errors
/// Names the file that could not be written; a matrix cannot be expanded.
pub fn save(model: &LanguageModel, dir: &Path, weights: WeightType) -> Result<(), LmError> {
    save_sharded(model, dir, weights, SHARD_BYTES)
}

/// Writes a model and a head of one label as the directory of a token classifier. It has the files
/// of [`save`] without output matrix and generation settings, and with `score.weight` and
/// `score.bias`.
///
/// # Errors
/// As [`save`], and for a family without a token classifier in transformers.
pub fn save_token_classifier(
    model: &LanguageModel,
    head: ScoreHead<'_>,
    dir: &Path,
    weights: WeightType,
) -> Result<(), LmError> {
    let config = model.transformer.config();
    let Some(class) = config.architecture.token_classification_class() else {
        let reason = format!(
            "transformers has no token classifier of the family {}",
            config.architecture.model_type()
        );
        return invalid(&dir.join("config.json"), "architectures", reason);
    };
    let mut json = config.to_hf_json(weights.name());
    json["architectures"] = json!([class]);
    json["id2label"] = json!({ "0": "LABEL_0" });
    json["label2id"] = json!({ "LABEL_0": 0 });
    // A classifier has no output matrix.
    json["tie_word_embeddings"] = json!(true);
    write_json(&dir.join("config.json"), &json)?;
    let mut tensors = model.transformer.named_tensors()?;
    tensors.retain(|(name, _)| name != "lm_head.weight");
    tensors.push((SCORE_WEIGHT.to_owned(), head.weight.reshape((1, ()))?));
    tensors.push((SCORE_BIAS.to_owned(), head.bias.clone()));
    write_weights(&tensors, dir, weights, SHARD_BYTES)?;
    write_tokenizer(model, dir)
}

fn save_sharded(
    model: &LanguageModel,
    dir: &Path,
    weights: WeightType,
    shard_bytes: usize,
) -> Result<(), LmError> {
    let config = model.transformer.config();
    write_json(&dir.join("config.json"), &config.to_hf_json(weights.name()))?;
    let turn = model.end_of_turn();
    let others = config
        .eos_token_ids
        .iter()
        .copied()
        .filter(|id| *id != turn);
    let ends: Vec<u32> = std::iter::once(turn).chain(others).collect();
    let generation = json!({
        "bos_token_id": config.bos_token_id,
        "eos_token_id": ends,
        "pad_token_id": model.tokenizer.pad().unwrap_or(turn),
    });
    write_json(&dir.join("generation_config.json"), &generation)?;
    write_weights(
        &model.transformer.named_tensors()?,
        dir,
        weights,
        shard_bytes,
    )?;
    write_tokenizer(model, dir)
}

/// Tensors in files of at most `shard_bytes` (one tensor at least), named and indexed as
/// transformers does.
fn write_weights(
    tensors: &[(String, Tensor)],
    dir: &Path,
    weights: WeightType,
    shard_bytes: usize,
) -> Result<(), LmError> {
    let size = weights.dtype().size_in_bytes();
    let mut shards: Vec<Vec<&(String, Tensor)>> = vec![Vec::new()];
    let (mut filled, mut total) = (0, 0);
    for named in tensors {
        let bytes = named.1.elem_count() * size;
        if filled > 0 && filled + bytes > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        total += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(named);
        }
    }
    let count = shards.len();
    let mut index = BTreeMap::new();
    for (number, shard) in shards.iter().enumerate() {
        let file = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        let mut converted = HashMap::new();
        for (name, tensor) in shard {
            converted.insert(name.clone(), tensor.to_dtype(weights.dtype())?);
            index.insert(name.clone(), file.clone());
        }
        crate::save_tensors(&converted, &dir.join(file))?;
    }
    if count > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": index });
        write_json(&dir.join("model.safetensors.index.json"), &index)?;
    }
    Ok(())
}

fn write_tokenizer(model: &LanguageModel, dir: &Path) -> Result<(), LmError> {
    let source = model.tokenizer.path();
    let published = source
        .parent()
        .filter(|_| source.ends_with(TOKENIZER_FILE) && source.is_file());
    let Some(published) = published else {
        model.tokenizer.save(dir)?;
        return model.template.save(dir);
    };
    for name in TOKENIZER_FILES {
        let (from, to) = (published.join(name), dir.join(name));
        if from.is_file() {
            fs::copy(&from, &to).map_err(|source| LmError::Io {
                action: "writing",
                path: to,
                source,
            })?;
        }
    }
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Result<(), LmError> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    fs::write(path, text).map_err(|source| LmError::Io {
        action: "writing",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::Weights;

    /// Three tensors of 16 bytes each and a limit of 40 bytes give two files and an index.
    #[test]
    fn shards_keep_their_size_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let named: Vec<(String, Tensor)> = ["a", "b", "c"]
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let values = vec![i as f32 + 0.5, 1.0, -2.0, 3.0];
                let tensor = Tensor::from_vec(values, 4, &Device::Cpu).unwrap();
                ((*name).to_owned(), tensor)
            })
            .collect();
        write_weights(&named, dir.path(), WeightType::F32, 40).unwrap();
        fs::write(dir.path().join("config.json"), "{}").unwrap();
        let index: Value = serde_json::from_slice(
            &fs::read(dir.path().join("model.safetensors.index.json")).unwrap(),
        )
        .unwrap();
        assert_eq!(index["metadata"]["total_size"], 48);
        assert_eq!(index["weight_map"]["b"], "model-00001-of-00002.safetensors");
        assert_eq!(index["weight_map"]["c"], "model-00002-of-00002.safetensors");
        let weights = Weights::open(dir.path()).unwrap();
        for (name, tensor) in &named {
            let read = weights.vector(name, 4).unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(read, tensor.to_vec1::<f32>().unwrap());
        }
    }

    /// 1/3 in bf16 is 0.333984375.
    #[test]
    fn half_precision_rounds_once() {
        let dir = tempfile::tempdir().unwrap();
        let third = Tensor::from_vec(vec![1.0_f32 / 3.0], 1, &Device::Cpu).unwrap();
        write_weights(&[("a".to_owned(), third)], dir.path(), WeightType::Bf16, 40).unwrap();
        fs::write(dir.path().join("config.json"), "{}").unwrap();
        let read = Weights::open(dir.path()).unwrap().vector("a", 1).unwrap();
        assert_eq!(read.to_vec1::<f32>().unwrap(), [0.333_984_38]);
    }
}
