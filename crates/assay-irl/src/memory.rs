//! What a run will hold in memory, before it starts.
//!
//! A plan is arithmetic on shapes: weights, adapters with gradients and optimiser state, the sampling cache and the
//! activations of one packed batch. It says whether that fits into what the machine has free, and what to change when it
//! does not. It bounds the large tensors, not every byte: text, tokenizer and thread stacks are left out.

use std::fmt;
use std::fs;

use assay_lm::ModelConfig;
use serde::Serialize;

use crate::IrlError;
use crate::settings::{Settings, TrainedParameters};

/// Bytes of an f32.
const F32: u64 = 4;
/// `[rows, hidden]` tensors alive at the peak of one layer's forward and backward pass.
const HIDDEN_TENSORS: u64 = 12;
/// `[rows, intermediate]` tensors alive at that peak.
const INNER_TENSORS: u64 = 7;

/// The sizes that a run's tensors depend on beside the model's shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Completions decoded at a time.
    pub sequences: usize,
    /// Most tokens of a completion.
    pub new_tokens: usize,
    /// Prompt rows of one sampling call.
    pub prompt_rows: usize,
    /// Rows of one packed batch in training.
    pub training_rows: usize,
    /// Most bytes of activations that a pass in training keeps.
    pub kept_bytes: u64,
}

/// A base model, as far as its memory goes.
pub struct BaseShape {
    /// The model's shape.
    pub config: ModelConfig,
    /// Bytes of its weights where they are kept as stored; expanded to f32 otherwise.
    pub stored_bytes: Option<u64>,
}

impl BaseShape {
    fn weights(&self) -> u64 {
        let expanded = MemoryPlan::new(&self.config, (0, 0), &Workload::default()).weights;
        self.stored_bytes.unwrap_or(expanded)
    }
}

/// Bytes by purpose.
///
/// # Units
/// Bytes, f32 on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// Frozen weights: 4 a parameter, or the file's size where they are kept as stored.
    pub weights: u64,
    /// Both players' adapters.
    pub adapters: u64,
    /// Gradients of one adapter at a time, and two moments of both.
    pub optimiser: u64,
    /// Keys and values of prompts and completions while sampling.
    pub cache: u64,
    /// Inputs of all layers, what is kept of them, and the working set of one, for one packed batch.
    pub activations: u64,
}

impl MemoryPlan {
    /// The plan of a shape with adapters of the two ranks on all seven projections; rank 0 is no adapter.
    pub fn new(config: &ModelConfig, ranks: (usize, usize), workload: &Workload) -> Self {
        let (hidden, inner) = (config.hidden_size as u64, config.intermediate_size as u64);
        let (query, key) = (
            config.query_size() as u64,
            (config.kv_heads * config.head_dim) as u64,
        );
        let layers = config.layers as u64;
        let projections = 2 * hidden * (query + key) + 3 * hidden * inner;
        let ends = 2 * (hidden + query) + 2 * (hidden + key) + 3 * (hidden + inner);
        let tables = if config.tie_word_embeddings { 1 } else { 2 };
        let adapter = |rank: usize| layers * ends * rank as u64;
        let (policy, reward) = (adapter(ranks.0), adapter(ranks.1));
        let cached_rows = (workload.sequences * workload.new_tokens + workload.prompt_rows) as u64;
        let rows = workload.training_rows as u64;
        let every_layer = F32 * rows * layers * config.layer_activations();
        Self {
            weights: F32 * (layers * projections + tables * config.vocab_size as u64 * hidden),
            adapters: F32 * (policy + reward),
            optimiser: F32 * (2 * (policy + reward) + policy.max(reward)),
            cache: F32 * 2 * layers * key * cached_rows,
            activations: F32
                * rows
                * ((layers + 1 + HIDDEN_TENSORS) * hidden + INNER_TENSORS * inner)
                + workload.kept_bytes.min(every_layer),
        }
    }

    /// The plan of a run with these settings; `reward` is the discriminator's base where it is another model.
    pub fn of_run(base: &BaseShape, reward: Option<&BaseShape>, settings: &Settings) -> Self {
        let sampling = &settings.sampling;
        let prompts = settings.run.prompts_per_iteration;
        let sequences = sampling.max_sequences.min(prompts * sampling.samples);
        let workload = Workload {
            sequences,
            new_tokens: sampling.max_completion_tokens,
            prompt_rows: prompts * sampling.max_prompt_tokens,
            training_rows: settings.run.token_budget,
            kept_bytes: settings.run.kept_bytes(),
        };
        let whole = settings.policy.trained == TrainedParameters::Whole;
        let policy = if whole { 0 } else { settings.lora.policy.rank };
        let mut plan = Self::new(&base.config, (policy, settings.lora.reward.rank), &workload);
        if whole {
            plan.optimiser += 3 * plan.weights;
        }
        plan.weights = base.weights() + reward.map_or(0, BaseShape::weights);
        plan
    }

    /// Most bytes held at one time: sampling and training do not overlap.
    pub fn total(&self) -> u64 {
        self.weights + self.adapters + self.optimiser + self.cache.max(self.activations)
    }

    /// Refuses a plan that exceeds the memory that is free; a machine that does not tell is trusted.
    ///
    /// # Errors
    /// [`IrlError::OutOfMemory`] with both numbers and the part that is largest.
    pub fn check(&self) -> Result<(), IrlError> {
        self.check_against(available_bytes())
    }

    fn check_against(&self, available: Option<u64>) -> Result<(), IrlError> {
        match available {
            Some(available) if self.total() > available => Err(IrlError::OutOfMemory {
                plan: self.to_string(),
                available: bytes(available),
                way_out: self.way_out(),
            }),
            _ => Ok(()),
        }
    }

    fn way_out(&self) -> &'static str {
        let fixed = self.weights + self.adapters + self.optimiser;
        if fixed > self.cache.max(self.activations) {
            "a smaller model, a .gguf file with `model.storage = \"as_stored\"`, or smaller `lora` ranks"
        } else if self.activations >= self.cache {
            "a smaller `run.token_budget` or `run.activation_mib`: the result stays the same"
        } else {
            "a smaller `sampling.max_sequences`: the result stays the same"
        }
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at most (weights {}, adapters {}, optimiser {}, sampling cache {}, activations {})",
            bytes(self.total()),
            bytes(self.weights),
            bytes(self.adapters),
            bytes(self.optimiser),
            bytes(self.cache),
            bytes(self.activations)
        )
    }
}

/// Bytes for people: `1.5 GB`, `12 MB`.
pub fn bytes(count: u64) -> String {
    if count >= 1_000_000_000 {
        format!("{:.1} GB", count as f64 / 1e9)
    } else {
        format!("{} MB", count.div_ceil(1_000_000))
    }
}

/// Bytes that this process may still take: the machine's free memory or its control group's, whichever is less.
pub fn available_bytes() -> Option<u64> {
    let free = field("/proc/meminfo", "MemAvailable:");
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let limit = number("/sys/fs/cgroup/memory.max");
    let used = number("/sys/fs/cgroup/memory.current");
    let group = limit
        .zip(used)
        .map(|(limit, used)| limit.saturating_sub(used));
    free.into_iter().chain(group).min()
}

/// Most bytes that this process has held so far.
pub fn peak_bytes() -> Option<u64> {
    field("/proc/self/status", "VmHWM:")
}

/// A field in kB of one of the kernel's tables.
fn field(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use assay_lm::{Architecture, RopeScaling, RopeSettings};

    use super::*;

    fn smol() -> ModelConfig {
        ModelConfig {
            architecture: Architecture::Llama,
            vocab_size: 49_152,
            hidden_size: 576,
            intermediate_size: 1536,
            layers: 30,
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            rms_norm_eps: 1e-5,
            rope: RopeSettings {
                theta: 1e5,
                scaling: RopeScaling::None,
            },
            max_positions: 8192,
            qkv_bias: false,
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_ids: vec![2],
        }
    }

    #[test]
    fn a_plan_is_the_arithmetic_of_its_shapes() {
        let workload = Workload {
            sequences: 64,
            new_tokens: 150,
            prompt_rows: 8 * 150,
            training_rows: 4096,
            kept_bytes: 1 << 30,
        };
        let plan = MemoryPlan::new(&smol(), (16, 8), &workload);
        // SmolLM2-135M has 134,515,008 parameters, 35,136 of them in norms, which the plan leaves out.
        assert_eq!(plan.weights, 4 * (134_515_008 - 61 * 576));
        // A rank adds 576+576 (q, o twice), 576+192 (k, v) and 576+1536 (gate, up, down) a layer: 10,176.
        assert_eq!(plan.adapters, 4 * 30 * 10_176 * 24);
        assert_eq!(plan.optimiser, 4 * 30 * 10_176 * (2 * 24 + 16));
        assert_eq!(plan.cache, 4 * 2 * 30 * 192 * (64 * 150 + 1200));
        let working = 4 * 4096 * (43 * 576 + 7 * 1536);
        assert_eq!(plan.activations, working + (1 << 30));
        // A row of a layer, whole: 7 x 576 residual values, 3 x (576 + 192) of attention, 3 x 1536 of the feed-forward part.
        let boundless = Workload {
            kept_bytes: u64::MAX,
            ..workload
        };
        let whole = MemoryPlan::new(&smol(), (16, 8), &boundless).activations;
        assert_eq!(
            whole,
            working + 4 * 4096 * 30 * (7 * 576 + 3 * 768 + 3 * 1536)
        );
        assert_eq!(
            plan.total(),
            plan.weights + plan.adapters + plan.optimiser + plan.activations
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_way_out() {
        let workload = Workload {
            training_rows: 16_384,
            ..Workload::default()
        };
        let plan = MemoryPlan::new(&smol(), (16, 16), &workload);
        assert!(plan.check_against(Some(plan.total())).is_ok());
        assert!(plan.check_against(None).is_ok());
        let said = plan
            .check_against(Some(plan.total() - 1))
            .unwrap_err()
            .to_string();
        assert!(said.contains("run.token_budget"), "{said}");
        assert!(said.contains(&bytes(plan.total())), "{said}");
        let large = MemoryPlan::new(&smol(), (16, 16), &Workload::default());
        let said = large.check_against(Some(1)).unwrap_err().to_string();
        assert!(said.contains("smaller model"), "{said}");
    }

    #[test]
    fn the_kernel_tells_what_is_held_and_free() {
        if cfg!(target_os = "linux") {
            let (peak, free) = (peak_bytes().unwrap(), available_bytes().unwrap());
            assert!(peak > 1 << 20 && free > 1 << 20, "{peak} {free}");
        }
    }
}
