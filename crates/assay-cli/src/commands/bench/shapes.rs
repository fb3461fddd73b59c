//! Named model shapes: the configurations of published models.

use assay_lm::{Architecture, ModelConfig, RopeScaling, RopeSettings};
use clap::ValueEnum;

/// A published model's shape.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Shape {
    /// SmolLM2-135M.
    #[value(name = "135m")]
    Smol135m,
    /// Qwen2.5-0.5B.
    #[value(name = "0.5b")]
    Qwen05b,
    /// Qwen2.5-1.5B.
    #[value(name = "1.5b")]
    Qwen15b,
    /// Qwen2.5-7B.
    #[value(name = "7b")]
    Qwen7b,
}

impl Shape {
    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Smol135m => "135m",
            Self::Qwen05b => "0.5b",
            Self::Qwen15b => "1.5b",
            Self::Qwen7b => "7b",
        }
    }

    /// The configuration.
    pub(crate) fn config(self) -> ModelConfig {
        // hidden, intermediate, layers, heads, kv heads, vocabulary
        let (hidden, intermediate, layers, heads, kv_heads, vocabulary) = match self {
            Self::Smol135m => (576, 1536, 30, 9, 3, 49_152),
            Self::Qwen05b => (896, 4864, 24, 14, 2, 151_936),
            Self::Qwen15b => (1536, 8960, 28, 12, 2, 151_936),
            Self::Qwen7b => (3584, 18_944, 28, 28, 4, 152_064),
        };
        let llama = matches!(self, Self::Smol135m);
        ModelConfig {
            architecture: if llama {
                Architecture::Llama
            } else {
                Architecture::Qwen2
            },
            vocab_size: vocabulary,
            hidden_size: hidden,
            intermediate_size: intermediate,
            layers,
            heads,
            kv_heads,
            head_dim: hidden / heads,
            rms_norm_eps: 1e-6,
            rope: RopeSettings {
                theta: 1e6,
                scaling: RopeScaling::None,
            },
            max_positions: 4096,
            pattern: assay_lm::LayerPattern::default(),
            qkv_bias: !llama,
            tie_word_embeddings: !matches!(self, Self::Qwen7b),
            bos_token_id: None,
            eos_token_ids: vec![2],
        }
    }
}
