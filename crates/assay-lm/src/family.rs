//! The table of model families: the tensors of a layer, and the names that files use for them.
//!
//! The loader, the writer, the map of GGUF names, the random model, the adapters and the memory
//! plan use this table, so a family that needs no new operation is one entry here. The computation
//! of a layer is in [`crate::transformer`]; `config` reads the settings of a family.

use serde::{Deserialize, Serialize};

use crate::ModelConfig;
use crate::adapter::Projection;

/// The supported model families.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Architecture {
    /// Llama 2 and 3, SmolLM 1 and 2, and others that publish as `LlamaForCausalLM`.
    Llama,
    /// Qwen 2 and 2.5: Llama with a bias on queries, keys and values.
    Qwen2,
    /// Qwen 3, dense: Llama with a norm on every query and key head.
    Qwen3,
    /// Mistral: Llama, with a sliding window in the first version.
    Mistral,
    /// Phi-3 and Phi-3.5 mini: Llama with fused projections.
    Phi3,
    /// SmolLM 3: Llama without rotary embedding in every fourth layer.
    #[serde(rename = "smollm3")]
    SmolLm3,
    /// Gemma 3, text: norms before and after each part, local and global layers, gated GELU.
    #[serde(rename = "gemma3")]
    Gemma3,
}

/// A norm of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Norm {
    /// Before attention.
    Input,
    /// Before the feed-forward part.
    FeedForward,
    /// On every query head, before rotation.
    Query,
    /// On every key head, before rotation.
    Key,
    /// On the output of attention, before it is added to the residual stream.
    AfterAttention,
    /// On the output of the feed-forward part, before it is added to the residual stream.
    AfterFeedForward,
}

/// The width of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// The residual stream.
    Hidden,
    /// One head.
    Head,
}

/// What a tensor is in the computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A norm's weight `[width]`.
    Norm(Norm, Width),
    /// A projection's weight `[out, in]`.
    Projection(Projection, Bias),
    /// The embedding `[vocab, hidden]`.
    Embedding,
    /// The weight of the norm after the last layer, `[hidden]`.
    FinalNorm,
    /// The output matrix `[vocab, hidden]`; absent if it is the embedding.
    Output,
}

/// Whether a projection has a bias `[out]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bias {
    /// Never.
    None,
    /// If [`ModelConfig::qkv_bias`] says so.
    WhereConfigured,
}

/// The values of a tensor in a randomly initialised model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Initial {
    /// Normal, with this factor of the standard deviation 1/sqrt(in).
    ByWidth(f32),
    /// As [`Initial::ByWidth`] with 1/sqrt(2 layers): the projection writes to the residual stream.
    Residual,
    /// Normal, with this standard deviation.
    Normal(f32),
    /// Ones.
    One,
}

/// One tensor of a model: its role, its names in files, and its initial values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TensorSpec {
    /// What it is in the computation.
    pub(crate) role: Role,
    /// Name in Hugging Face files, without `model.layers.N.` and without `.weight`.
    pub(crate) hugging_face: &'static str,
    /// Name in GGUF files, without `blk.N.` and without `.weight`.
    pub(crate) gguf: &'static str,
    /// Values in a randomly initialised model.
    pub(crate) initial: Initial,
}

/// The gate of the feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// x sigmoid(x).
    Silu,
    /// GELU by its tanh approximation.
    GeluTanh,
}

/// Which layers have a sliding window if the configuration does not name the kind of each layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WindowRule {
    /// None.
    Never,
    /// Those that `use_sliding_window` and `max_window_layers` switch on.
    ByFlag,
    /// All, if `sliding_window` has a value.
    Always,
    /// All but every n-th, where n is `sliding_window_pattern`; they have their own rotation base.
    Local,
}

/// The properties of a family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family {
    pub(crate) architecture: Architecture,
    /// `model_type` in `config.json`.
    pub(crate) model_type: &'static str,
    /// `general.architecture` in GGUF files.
    pub(crate) gguf: &'static str,
    /// The class that transformers builds for a language model.
    pub(crate) causal_lm_class: &'static str,
    /// The class that transformers builds for a per-token head, if it has one.
    pub(crate) token_classification_class: Option<&'static str>,
    /// Defaults of settings that are missing in `config.json`.
    pub(crate) defaults: Defaults,
    /// Whether GGUF files interleave the two halves of a query or key head that a rotation pairs.
    pub(crate) interleaved_in_gguf: bool,
    pub(crate) activation: Activation,
    pub(crate) window: WindowRule,
    /// Subtracted from the weights of norms in Hugging Face files.
    pub(crate) norm_offset: f64,
    /// Whether embeddings are multiplied by sqrt(hidden_size).
    pub(crate) scales_embedding: bool,
    /// The tensors of a layer, in the order in which they are read, written and initialised.
    pub(crate) layer: &'static [TensorSpec],
}

/// Defaults of settings that are missing in `config.json`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    /// Width of a head; if `None`, `hidden_size / num_attention_heads`.
    pub(crate) head_dim: Option<usize>,
    pub(crate) rope_theta: f64,
    pub(crate) is_tied: bool,
    pub(crate) sliding_window: Option<usize>,
}

const EMBEDDING: TensorSpec = TensorSpec {
    role: Role::Embedding,
    hugging_face: "model.embed_tokens",
    gguf: "token_embd",
    initial: Initial::Normal(0.5),
};
const FINAL_NORM: TensorSpec = TensorSpec {
    role: Role::FinalNorm,
    hugging_face: "model.norm",
    gguf: "output_norm",
    initial: Initial::One,
};
const OUTPUT: TensorSpec = TensorSpec {
    role: Role::Output,
    hugging_face: "lm_head",
    gguf: "output",
    initial: Initial::ByWidth(0.5),
};
/// The tensors outside the layers, with their full names without `.weight`.
pub(crate) const OUTER: [TensorSpec; 3] = [EMBEDDING, FINAL_NORM, OUTPUT];

const INPUT_NORM: TensorSpec = norm(Norm::Input, Width::Hidden, "input_layernorm", "attn_norm");
const FEED_FORWARD_NORM: TensorSpec = norm(
    Norm::FeedForward,
    Width::Hidden,
    "post_attention_layernorm",
    "ffn_norm",
);
const QUERY_NORM: TensorSpec = norm(Norm::Query, Width::Head, "self_attn.q_norm", "attn_q_norm");
const KEY_NORM: TensorSpec = norm(Norm::Key, Width::Head, "self_attn.k_norm", "attn_k_norm");
const QUERY: TensorSpec = projection(Projection::Query, "attn_q");
const KEY: TensorSpec = projection(Projection::Key, "attn_k");
const VALUE: TensorSpec = projection(Projection::Value, "attn_v");
const QUERY_KEY_VALUE: TensorSpec = projection(Projection::QueryKeyValue, "attn_qkv");
const ATTENTION_OUTPUT: TensorSpec = projection(Projection::Output, "attn_output").residual();
const GATE: TensorSpec = projection(Projection::Gate, "ffn_gate");
const UP: TensorSpec = projection(Projection::Up, "ffn_up");
/// Gate and up are one matrix here, although the name in the file does not say so.
const GATE_UP: TensorSpec = projection(Projection::GateUp, "ffn_up");
const DOWN: TensorSpec = projection(Projection::Down, "ffn_down").residual();

const LLAMA: &[TensorSpec] = &[
    INPUT_NORM,
    FEED_FORWARD_NORM,
    QUERY,
    KEY,
    VALUE,
    ATTENTION_OUTPUT,
    GATE,
    UP,
    DOWN,
];
const QWEN2: &[TensorSpec] = &[
    INPUT_NORM,
    FEED_FORWARD_NORM,
    QUERY.with_bias(),
    KEY.with_bias(),
    VALUE.with_bias(),
    ATTENTION_OUTPUT,
    GATE,
    UP,
    DOWN,
];
const QWEN3: &[TensorSpec] = &[
    INPUT_NORM,
    FEED_FORWARD_NORM,
    QUERY,
    KEY,
    VALUE,
    QUERY_NORM,
    KEY_NORM,
    ATTENTION_OUTPUT,
    GATE,
    UP,
    DOWN,
];

const PHI3: &[TensorSpec] = &[
    INPUT_NORM,
    FEED_FORWARD_NORM,
    QUERY_KEY_VALUE,
    ATTENTION_OUTPUT,
    GATE_UP,
    DOWN,
];
const GEMMA3: &[TensorSpec] = &[
    INPUT_NORM,
    norm(
        Norm::AfterAttention,
        Width::Hidden,
        "post_attention_layernorm",
        "post_attention_norm",
    ),
    norm(
        Norm::FeedForward,
        Width::Hidden,
        "pre_feedforward_layernorm",
        "ffn_norm",
    ),
    norm(
        Norm::AfterFeedForward,
        Width::Hidden,
        "post_feedforward_layernorm",
        "post_ffw_norm",
    ),
    QUERY,
    KEY,
    VALUE,
    QUERY_NORM,
    KEY_NORM,
    ATTENTION_OUTPUT,
    GATE,
    UP,
    DOWN,
];

/// Llama; the other families are defined by their differences from it.
const LLAMA_FAMILY: Family = Family {
    architecture: Architecture::Llama,
    model_type: "llama",
    gguf: "llama",
    causal_lm_class: "LlamaForCausalLM",
    token_classification_class: Some("LlamaForTokenClassification"),
    defaults: Defaults {
        head_dim: None,
        rope_theta: 10_000.0,
        is_tied: false,
        sliding_window: None,
    },
    interleaved_in_gguf: true,
    activation: Activation::Silu,
    window: WindowRule::Never,
    norm_offset: 0.0,
    scales_embedding: false,
    layer: LLAMA,
};

/// Every family. If several share a GGUF name, the first is used.
pub(crate) static FAMILIES: &[Family] = &[
    LLAMA_FAMILY,
    Family {
        architecture: Architecture::Qwen2,
        model_type: "qwen2",
        gguf: "qwen2",
        causal_lm_class: "Qwen2ForCausalLM",
        token_classification_class: Some("Qwen2ForTokenClassification"),
        interleaved_in_gguf: false,
        window: WindowRule::ByFlag,
        layer: QWEN2,
        ..LLAMA_FAMILY
    },
    Family {
        architecture: Architecture::Qwen3,
        model_type: "qwen3",
        gguf: "qwen3",
        causal_lm_class: "Qwen3ForCausalLM",
        token_classification_class: Some("Qwen3ForTokenClassification"),
        defaults: Defaults {
            head_dim: Some(128),
            ..LLAMA_FAMILY.defaults
        },
        interleaved_in_gguf: false,
        window: WindowRule::ByFlag,
        layer: QWEN3,
        ..LLAMA_FAMILY
    },
    Family {
        architecture: Architecture::Mistral,
        model_type: "mistral",
        causal_lm_class: "MistralForCausalLM",
        token_classification_class: Some("MistralForTokenClassification"),
        defaults: Defaults {
            sliding_window: Some(4096),
            ..LLAMA_FAMILY.defaults
        },
        window: WindowRule::Always,
        ..LLAMA_FAMILY
    },
    Family {
        architecture: Architecture::Phi3,
        model_type: "phi3",
        gguf: "phi3",
        causal_lm_class: "Phi3ForCausalLM",
        token_classification_class: Some("Phi3ForTokenClassification"),
        interleaved_in_gguf: false,
        window: WindowRule::Always,
        layer: PHI3,
        ..LLAMA_FAMILY
    },
    Family {
        architecture: Architecture::SmolLm3,
        model_type: "smollm3",
        gguf: "smollm3",
        causal_lm_class: "SmolLM3ForCausalLM",
        token_classification_class: Some("SmolLM3ForTokenClassification"),
        defaults: Defaults {
            rope_theta: 2_000_000.0,
            is_tied: true,
            ..LLAMA_FAMILY.defaults
        },
        window: WindowRule::ByFlag,
        ..LLAMA_FAMILY
    },
    Family {
        architecture: Architecture::Gemma3,
        model_type: "gemma3_text",
        gguf: "gemma3",
        causal_lm_class: "Gemma3ForCausalLM",
        token_classification_class: None,
        defaults: Defaults {
            head_dim: Some(256),
            rope_theta: 1_000_000.0,
            is_tied: true,
            sliding_window: Some(4096),
        },
        interleaved_in_gguf: false,
        activation: Activation::GeluTanh,
        window: WindowRule::Local,
        norm_offset: 1.0,
        scales_embedding: true,
        layer: GEMMA3,
    },
];

const fn norm(
    norm: Norm,
    width: Width,
    hugging_face: &'static str,
    gguf: &'static str,
) -> TensorSpec {
    TensorSpec {
        role: Role::Norm(norm, width),
        hugging_face,
        gguf,
        initial: Initial::One,
    }
}

const fn projection(projection: Projection, gguf: &'static str) -> TensorSpec {
    TensorSpec {
        role: Role::Projection(projection, Bias::None),
        hugging_face: projection.module(),
        gguf,
        initial: Initial::ByWidth(1.0),
    }
}

impl TensorSpec {
    const fn with_bias(self) -> Self {
        let role = match self.role {
            Role::Projection(projection, _) => Role::Projection(projection, Bias::WhereConfigured),
            other => other,
        };
        Self { role, ..self }
    }

    const fn residual(self) -> Self {
        Self {
            initial: Initial::Residual,
            ..self
        }
    }
}

impl Width {
    /// The value of this width in a configuration.
    pub(crate) fn of(self, config: &ModelConfig) -> usize {
        match self {
            Self::Hidden => config.hidden_size,
            Self::Head => config.head_dim,
        }
    }
}

impl Initial {
    /// The standard deviation of a matrix with `columns` columns; `None` for ones.
    pub(crate) fn deviation(self, columns: usize, config: &ModelConfig) -> Option<f32> {
        let by_width = 1.0 / (columns as f32).sqrt();
        match self {
            Self::ByWidth(factor) => Some(factor * by_width),
            Self::Residual => Some(by_width / (2.0 * config.layers as f32).sqrt()),
            Self::Normal(deviation) => Some(deviation),
            Self::One => None,
        }
    }
}

impl Family {
    /// The family that a `config.json` names by its `model_type` or its class.
    pub(crate) fn of_hugging_face(name: &str) -> Option<&'static Self> {
        FAMILIES
            .iter()
            .find(|family| [family.model_type, family.causal_lm_class].contains(&name))
    }

    /// The family that a GGUF file names.
    pub(crate) fn of_gguf(name: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.gguf == name)
    }

    /// Names of every family, for messages.
    pub(crate) fn supported() -> String {
        let names = FAMILIES
            .iter()
            .map(|family| format!("{} ({})", family.model_type, family.causal_lm_class));
        names.collect::<Vec<_>>().join(", ")
    }

    /// The projections of a layer, in the order of the table.
    pub(crate) fn projections(&self) -> impl Iterator<Item = Projection> {
        self.layer.iter().filter_map(|spec| match spec.role {
            Role::Projection(projection, _) => Some(projection),
            _ => None,
        })
    }

    /// The projections of this family that `targets` name; fused projections replace their parts.
    pub(crate) fn present(&self, targets: &[Projection]) -> Vec<Projection> {
        let mut present = Vec::new();
        for &target in targets {
            let is_own = self.projections().any(|projection| projection == target);
            let projection = match target {
                _ if is_own => target,
                Projection::Query | Projection::Key | Projection::Value => {
                    Projection::QueryKeyValue
                }
                Projection::Gate | Projection::Up => Projection::GateUp,
                other => other,
            };
            if !present.contains(&projection) {
                present.push(projection);
            }
        }
        present
    }

    /// Whether queries, keys and values have a bias.
    pub(crate) fn has_qkv_bias(&self) -> bool {
        let has_bias =
            |spec: &TensorSpec| matches!(spec.role, Role::Projection(_, Bias::WhereConfigured));
        self.layer.iter().any(has_bias)
    }

    /// Hugging Face's name of a tensor that a GGUF file has; `None` for one that the table lacks.
    pub(crate) fn hugging_face_name(&self, gguf: &str) -> Option<String> {
        if let Some((module, kind)) = gguf.rsplit_once('.')
            && let Some(spec) = OUTER.iter().find(|spec| spec.gguf == module)
        {
            return Some(format!("{}.{kind}", spec.hugging_face));
        }
        let (layer, rest) = gguf.strip_prefix("blk.")?.split_once('.')?;
        let (module, kind) = rest.rsplit_once('.')?;
        let spec = self.layer.iter().find(|spec| spec.gguf == module)?;
        Some(format!("model.layers.{layer}.{}.{kind}", spec.hugging_face))
    }

    /// The name in a GGUF file of a tensor with this Hugging Face name; `None` for one that the
    /// table lacks.
    pub(crate) fn gguf_name(&self, hugging_face: &str) -> Option<String> {
        let (module, kind) = hugging_face.rsplit_once('.')?;
        if let Some(spec) = OUTER.iter().find(|spec| spec.hugging_face == module) {
            return Some(format!("{}.{kind}", spec.gguf));
        }
        let (layer, module) = module.strip_prefix("model.layers.")?.split_once('.')?;
        let spec = self.layer.iter().find(|spec| spec.hugging_face == module)?;
        Some(format!("blk.{layer}.{}.{kind}", spec.gguf))
    }
}

impl Architecture {
    /// The family's row of the table.
    pub(crate) fn family(self) -> &'static Family {
        let row = FAMILIES.iter().find(|family| family.architecture == self);
        // Every architecture has a row: a test checks it.
        row.unwrap_or(&FAMILIES[0])
    }

    /// The class that transformers builds for this family.
    pub fn causal_lm_class(self) -> &'static str {
        self.family().causal_lm_class
    }

    /// The class that transformers builds for a per-token head on this family, if it has one.
    pub fn token_classification_class(self) -> Option<&'static str> {
        self.family().token_classification_class
    }

    /// The family's `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        self.family().model_type
    }
}

#[cfg(test)]
mod tests;
