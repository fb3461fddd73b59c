//! The shape of a decoder-only transformer, from `config.json` or GGUF metadata.
//!
//! Decides which models this crate supports. An architecture, activation, sliding window or rotary
//! embedding that is not implemented is an error that names it, never a wrong number later. Reads
//! no weights and no tokenizer.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::LmError;
use crate::adapter::Projection;
use crate::family::{Architecture, Norm, Role};

mod gguf;
mod hugging_face;
mod pattern;
mod rope;
mod write;

pub use pattern::LayerPattern;
pub use rope::{RopeScaling, RopeSettings};

pub(crate) use hugging_face::{CONFIG_FILE, read_json};

/// Rows (`out`) and columns (`in`) of a weight matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixShape {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub columns: usize,
}

/// The shape and constants of one model.
///
/// A value that comes from [`ModelConfig::read`] has passed [`ModelConfig::validate`].
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Rows of the embedding and of the output matrix.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of transformer layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// The constant under the root of every norm.
    pub rms_norm_eps: f64,
    /// The rotary embedding.
    pub rope: RopeSettings,
    /// The longest sequence in tokens; at most the sliding window if layers have one.
    pub max_positions: usize,
    /// What differs between layers.
    #[serde(default)]
    pub pattern: LayerPattern,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether the output matrix is the embedding.
    pub tie_word_embeddings: bool,
    /// The token that starts a document, if the model names one.
    pub bos_token_id: Option<u32>,
    /// Every token that ends a generation: `generation_config.json` where present, else the
    /// configuration.
    pub eos_token_ids: Vec<u32>,
}

impl ModelConfig {
    /// Reads a Hugging Face directory (`config.json`, `generation_config.json`) or a `.gguf` file.
    ///
    /// # Errors
    /// Names the file and the setting: missing or malformed files, an unsupported architecture or
    /// option, sizes that contradict each other.
    pub fn read(path: &Path) -> Result<Self, LmError> {
        crate::source::ModelSource::open(path)?.config()
    }

    /// Width of all query heads together.
    pub fn query_size(&self) -> usize {
        self.heads * self.head_dim
    }

    /// The matrices of one layer, in the order of the family's table.
    pub fn layer_matrices(&self) -> impl Iterator<Item = MatrixShape> {
        let family = self.architecture.family();
        family
            .projections()
            .map(|projection| projection.shape(self))
    }

    /// Number of activations per row of a layer, including its input and output: the input, two
    /// residual sums, rotated queries and keys, the attended values, the gated product, and the
    /// output of each norm and projection.
    ///
    /// Fused projections are counted twice: their parts are copies.
    pub fn layer_activations(&self) -> u64 {
        let family = self.architecture.family();
        let norms = family.layer.iter().map(|spec| match spec.role {
            Role::Norm(Norm::Query, _) => self.query_size(),
            Role::Norm(Norm::Key, _) => self.kv_size(),
            Role::Norm(_, width) => width.of(self),
            _ => 0,
        });
        let projected = family.projections().map(|projection| {
            let rows = projection.shape(self).rows;
            match projection {
                Projection::QueryKeyValue | Projection::GateUp => 2 * rows,
                _ => rows,
            }
        });
        let between =
            3 * self.hidden_size + 2 * self.query_size() + self.kv_size() + self.intermediate_size;
        (between + norms.sum::<usize>() + projected.sum::<usize>()) as u64
    }

    /// Width of all key (or value) heads together.
    pub fn kv_size(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Checks that sizes are within bounds and do not contradict each other; `path` is named in the
    /// error.
    ///
    /// # Errors
    /// [`LmError::InvalidConfig`] naming the setting and its bound.
    pub fn validate(&self, path: &Path) -> Result<(), LmError> {
        let bounds: [(&str, usize, usize); 8] = [
            ("vocab_size", self.vocab_size, 1 << 22),
            ("hidden_size", self.hidden_size, 1 << 16),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("num_hidden_layers", self.layers, 1 << 10),
            ("num_attention_heads", self.heads, 1 << 10),
            ("num_key_value_heads", self.kv_heads, 1 << 10),
            ("head_dim", self.head_dim, 1 << 10),
            ("max_position_embeddings", self.max_positions, 1 << 24),
        ];
        for (field, value, highest) in bounds {
            if value == 0 || value > highest {
                return invalid(
                    path,
                    field,
                    format!("must lie in 1..={highest}, not {value}"),
                );
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let reason = format!(
                "{} does not divide num_attention_heads = {}",
                self.kv_heads, self.heads
            );
            return invalid(path, "num_key_value_heads", reason);
        }
        if !self.head_dim.is_multiple_of(2) {
            return invalid(
                path,
                "head_dim",
                format!("must be even for rotary embedding, not {}", self.head_dim),
            );
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return invalid(
                path,
                "rms_norm_eps",
                format!("must lie in (0, 1), not {}", self.rms_norm_eps),
            );
        }
        for &id in self.eos_token_ids.iter().chain(&self.bos_token_id) {
            if id as usize >= self.vocab_size {
                let reason = format!("{id} is outside the vocabulary of {}", self.vocab_size);
                return invalid(path, "bos_token_id, eos_token_id", reason);
            }
        }
        self.pattern.validate(path, self.layers)?;
        self.rope.validate(path, self.head_dim)
    }
}

pub(crate) fn invalid<T>(
    path: &Path,
    field: &str,
    reason: impl Into<String>,
) -> Result<T, LmError> {
    Err(LmError::InvalidConfig {
        path: path.to_owned(),
        field: field.to_owned(),
        reason: reason.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn small() -> ModelConfig {
        ModelConfig {
            architecture: Architecture::Llama,
            vocab_size: 64,
            hidden_size: 32,
            intermediate_size: 48,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            rms_norm_eps: 1e-5,
            rope: RopeSettings {
                theta: 10_000.0,
                scaling: RopeScaling::None,
            },
            max_positions: 128,
            pattern: LayerPattern::default(),
            qkv_bias: false,
            tie_word_embeddings: true,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
        }
    }

    /// Llama: 7 x 32 residual, 3 x (32 + 16) attention, 3 x 48 feed-forward values. Qwen 3 norms
    /// queries and keys; Phi-3 copies the parts of fused projections; Gemma 3 norms the output of
    /// each part.
    #[test]
    fn activations_follow_the_table() {
        let of = |architecture| {
            ModelConfig {
                architecture,
                ..small()
            }
            .layer_activations()
        };
        let llama = 7 * 32 + 3 * (32 + 16) + 3 * 48;
        assert_eq!(of(Architecture::Llama), llama);
        assert_eq!(of(Architecture::Qwen3), llama + 32 + 16);
        assert_eq!(of(Architecture::Phi3), llama + (32 + 2 * 16) + 2 * 48);
        assert_eq!(of(Architecture::Gemma3), llama + 32 + 16 + 2 * 32);
        let phi3 = ModelConfig {
            architecture: Architecture::Phi3,
            ..small()
        };
        let count = |config: &ModelConfig| -> usize {
            config.layer_matrices().map(|m| m.rows * m.columns).sum()
        };
        assert_eq!(count(&phi3), count(&small()));
    }

    #[test]
    fn contradictory_sizes_name_the_setting() {
        let path = Path::new("m/config.json");
        assert!(small().validate(path).is_ok());
        type Break = fn(&mut ModelConfig);
        let broken: [(Break, &str); 8] = [
            (
                |c| c.heads = 0,
                "m/config.json: num_attention_heads: must lie in 1..=1024, not 0",
            ),
            (
                |c| c.kv_heads = 3,
                "num_key_value_heads: 3 does not divide num_attention_heads = 4",
            ),
            (|c| c.head_dim = 7, "head_dim: must be even"),
            (|c| c.layers = 1 << 40, "num_hidden_layers"),
            (|c| c.vocab_size = usize::MAX, "vocab_size"),
            (|c| c.rms_norm_eps = f64::NAN, "rms_norm_eps"),
            (|c| c.rope.theta = 0.0, "rope_theta"),
            (
                |c| c.eos_token_ids = vec![64],
                "64 is outside the vocabulary of 64",
            ),
        ];
        for (break_it, expected) in broken {
            let mut config = small();
            break_it(&mut config);
            let message = config.validate(path).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }
}
