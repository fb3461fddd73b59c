//! The configuration of a GGUF file, from its metadata.

use super::pattern::{
    GLOBAL_EVERY, LOCAL_THETA, LayerPattern, UNROTATED_EVERY, all_but_every, every,
};
use super::{ModelConfig, RopeScaling, RopeSettings, invalid};
use crate::LmError;
use crate::family::{Architecture, Family};
use crate::weights::GgufFile;
use crate::weights::gguf::BlockType;

/// Constants of the published Llama 3 scalings: factor of 3.1 and 3.3, factor of 3.2.
const LLAMA3_FACTORS: [f64; 2] = [8.0, 32.0];

/// Number of layers of the only Gemma 3 that scales queries by hidden size / heads instead of the
/// head's width.
const GEMMA3_27B_LAYERS: usize = 62;

impl ModelConfig {
    /// Reads the metadata of a GGUF file.
    pub(crate) fn from_gguf(file: &GgufFile) -> Result<Self, LmError> {
        let name = file.architecture()?;
        let Some(family) = Family::of_gguf(name) else {
            return Err(LmError::UnsupportedArchitecture {
                path: file.path().to_owned(),
                name: name.to_owned(),
                supported: Family::supported(),
            });
        };
        let architecture = family.architecture;
        let key = |name: &str| format!("{}.{name}", family.gguf);
        refuse_unsupported(file, architecture)?;
        let heads = file.require_unsigned(&key("attention.head_count"))?;
        let hidden_size = file.require_unsigned(&key("embedding_length"))?;
        let head_dim = match file.unsigned(&key("attention.key_length"))? {
            Some(width) => width,
            None if heads > 0 && hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => {
                let reason = format!("{heads} heads of {hidden_size}");
                return invalid(file.path(), &key("attention.head_count"), reason);
            }
        };
        let layers = file.require_unsigned(&key("block_count"))?;
        let mut max_positions = file.require_unsigned(&key("context_length"))?;
        let mut pattern = pattern(file, family, layers)?;
        let window = file.unsigned(&key("attention.sliding_window"))?;
        pattern.limit(window.filter(|window| *window > 0), &mut max_positions);
        if architecture == Architecture::Gemma3 && layers == GEMMA3_27B_LAYERS && heads > 0 {
            let factor = (head_dim as f64 * heads as f64 / hidden_size as f64).sqrt();
            pattern.query_factor = Some(factor);
        }
        let config = Self {
            architecture,
            vocab_size: vocab_size(file)?,
            hidden_size,
            intermediate_size: file.require_unsigned(&key("feed_forward_length"))?,
            layers,
            heads,
            kv_heads: file
                .unsigned(&key("attention.head_count_kv"))?
                .unwrap_or(heads),
            head_dim,
            rms_norm_eps: file
                .float(&key("attention.layer_norm_rms_epsilon"))?
                .unwrap_or(1e-5),
            rope: rope(file, family, head_dim)?,
            max_positions,
            pattern,
            qkv_bias: family.has_qkv_bias(),
            tie_word_embeddings: file.tensor("output.weight").is_none(),
            bos_token_id: token(file, "tokenizer.ggml.bos_token_id")?,
            eos_token_ids: eos_token_ids(file)?,
        };
        config.validate(file.path())?;
        Ok(config)
    }
}

fn token(file: &GgufFile, key: &str) -> Result<Option<u32>, LmError> {
    Ok(file.unsigned(key)?.and_then(|id| u32::try_from(id).ok()))
}

/// Every token that ends a generation.
fn eos_token_ids(file: &GgufFile) -> Result<Vec<u32>, LmError> {
    let mut ids: Vec<u32> = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
        ids.extend(token(file, key)?.filter(|id| !ids.contains(id)));
    }
    Ok(ids)
}

/// The differences between layers. GGUF files do not contain them; they follow from the family.
fn pattern(file: &GgufFile, family: &Family, layers: usize) -> Result<LayerPattern, LmError> {
    let mut pattern = LayerPattern::default();
    match family.architecture {
        Architecture::Gemma3 => {
            let theta = file.float(&format!("{}.rope.freq_base_swa", family.gguf))?;
            pattern.local = all_but_every(GLOBAL_EVERY, layers);
            pattern.local_theta = Some(theta.unwrap_or(LOCAL_THETA));
        }
        Architecture::SmolLm3 => pattern.unrotated = every(UNROTATED_EVERY, layers),
        _ => {}
    }
    Ok(pattern)
}

fn refuse_unsupported(file: &GgufFile, architecture: Architecture) -> Result<(), LmError> {
    let key = |name: &str| format!("{}.{name}", architecture.family().gguf);
    if let Some(experts) = file
        .unsigned(&key("expert_count"))?
        .filter(|&count| count > 0)
    {
        return invalid(
            file.path(),
            &key("expert_count"),
            format!("{experts} experts are not supported"),
        );
    }
    if file.tensor("rope_factors_long.weight").is_some() {
        let reason = "rotary embeddings scaled by context length (longrope) are not supported";
        return invalid(file.path(), "rope_factors_long.weight", reason);
    }
    let family = architecture.family();
    if !family.has_qkv_bias() && file.tensor("blk.0.attn_q.bias").is_some() {
        let reason = format!(
            "biases on the attention of {} are not supported",
            family.causal_lm_class
        );
        return invalid(file.path(), "blk.0.attn_q.bias", reason);
    }
    Ok(())
}

/// Rows of the embedding matrix, including padding tokens.
fn vocab_size(file: &GgufFile) -> Result<usize, LmError> {
    match file
        .tensor("token_embd.weight")
        .map(|entry| entry.shape.as_slice())
    {
        Some([rows, _]) => Ok(*rows),
        _ => Err(LmError::MissingTensor {
            file: file.path().to_owned(),
            tensor: "token_embd.weight (a matrix)".to_owned(),
        }),
    }
}

fn rope(file: &GgufFile, family: &Family, head_dim: usize) -> Result<RopeSettings, LmError> {
    let key = |name: &str| format!("{}.{name}", family.gguf);
    let theta = file.float(&key("rope.freq_base"))?;
    let theta = theta.unwrap_or(family.defaults.rope_theta);
    let rotated = file
        .unsigned(&key("rope.dimension_count"))?
        .unwrap_or(head_dim);
    if rotated != head_dim {
        let reason =
            format!("{rotated} of {head_dim} dimensions rotate; only whole heads are supported");
        return invalid(file.path(), &key("rope.dimension_count"), reason);
    }
    let scaling = if let Some(divisors) = rope_divisors(file)? {
        named_llama3(theta, head_dim, &divisors).unwrap_or(RopeScaling::Divisors { divisors })
    } else {
        match file.text(&key("rope.scaling.type"))? {
            None | Some("none") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear {
                factor: file.float(&key("rope.scaling.factor"))?.unwrap_or(1.0),
            },
            Some(other) => {
                let reason = format!(
                    "{other:?} is not supported; supported are none, linear and rope_freqs.weight"
                );
                return invalid(file.path(), &key("rope.scaling.type"), reason);
            }
        }
    };
    Ok(RopeSettings { theta, scaling })
}

fn rope_divisors(file: &GgufFile) -> Result<Option<Vec<f32>>, LmError> {
    let Some(entry) = file.tensor("rope_freqs.weight") else {
        return Ok(None);
    };
    match entry.block_type {
        BlockType::Float(float) => Ok(Some(float.widen(file.bytes(entry)))),
        BlockType::Quantised(_) | BlockType::Expanded(_) => {
            file.bad("rope_freqs.weight", "must be f32, f16 or bf16")
        }
    }
}

/// The published Llama 3 scaling with these divisors up to rounding, if there is one.
fn named_llama3(theta: f64, head_dim: usize, divisors: &[f32]) -> Option<RopeScaling> {
    let plain = RopeSettings {
        theta,
        scaling: RopeScaling::None,
    }
    .inverse_frequencies(head_dim);
    LLAMA3_FACTORS.into_iter().find_map(|factor| {
        let scaling = RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let scaled = RopeSettings {
            theta,
            scaling: scaling.clone(),
        }
        .inverse_frequencies(head_dim);
        let agrees = |((p, s), d): ((&f32, &f32), &f32)| (p / d - s).abs() <= 1e-5 * s;
        let same =
            divisors.len() == plain.len() && plain.iter().zip(&scaled).zip(divisors).all(agrees);
        same.then_some(scaling)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_of_a_published_scaling_are_recognised() {
        let scaling = |factor| RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let of = |scaling| {
            RopeSettings {
                theta: 5e5,
                scaling,
            }
            .inverse_frequencies(64)
        };
        let plain = of(RopeScaling::None);
        let divisors: Vec<f32> = plain
            .iter()
            .zip(of(scaling(32.0)))
            .map(|(p, s)| p / s)
            .collect();
        assert_eq!(named_llama3(5e5, 64, &divisors), Some(scaling(32.0)));
        let mut other = divisors;
        other[20] *= 1.01;
        assert_eq!(named_llama3(5e5, 64, &other), None);
    }
}
