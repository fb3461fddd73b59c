//! Memory plan of a run, computed before it starts.
//!
//! A plan is computed from shapes: weights, adapters with gradients and optimiser state, the
//! sampling cache, and the activations of one packed batch, in main memory or on a device. If the
//! plan exceeds the free memory, the error says which setting to change. The plan covers the large
//! tensors; text, tokenizer and thread stacks are left out.

use std::fmt;
use std::fs;

use assay_lm::{ModelConfig, Placement};
use candle_core::Device;
use serde::Serialize;

use crate::TrainError;
use crate::settings::{PassBudget, Settings, TrainedParameters};

/// Bytes of an f32.
const F32: u64 = 4;
/// `[rows, hidden]` tensors alive at the peak of one layer's forward and backward pass.
const HIDDEN_TENSORS: u64 = 12;
/// `[rows, intermediate]` tensors alive at that peak.
const INNER_TENSORS: u64 = 7;

/// Minimum number of rows of a micro-batch on the CPU: matrix products of fewer rows are slower.
const MIN_TRAINING_ROWS: usize = 1024;

/// Maximum number of f32 logits on a device at a time.
const DEVICE_LOGITS: u64 = 1 << 26;

/// Where a run's tensors are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residence {
    /// Main memory. Weights take `weight` bytes per value; all other tensors are f32.
    Host {
        /// 4 for f32, 2 for bf16.
        weight: u64,
    },
    /// A device's memory. Weights, caches and activations take `value` bytes per value; adapters,
    /// optimiser and logits are f32. Sampling merges the adapter into a copy of the projections.
    Device {
        /// 4 for f32, 2 for bf16.
        value: u64,
    },
}

impl Default for Residence {
    fn default() -> Self {
        Self::Host { weight: F32 }
    }
}

impl Residence {
    /// The residence of a placement's tensors.
    pub fn of(placement: &Placement) -> Self {
        let value = placement.dtype.size_in_bytes() as u64;
        match placement.device.is_cpu() {
            true => Self::Host { weight: value },
            false => Self::Device { value },
        }
    }

    fn value(self) -> u64 {
        match self {
            Self::Host { .. } => F32,
            Self::Device { value } => value,
        }
    }

    /// Bytes of a frozen weight.
    fn weight(self) -> u64 {
        match self {
            Self::Host { weight } => weight,
            Self::Device { value } => value,
        }
    }
}

/// The sizes, in addition to the model's shape, that a run's tensors depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Completions decoded at a time.
    pub sequences: usize,
    /// Maximum number of tokens of a completion.
    pub new_tokens: usize,
    /// Prompt rows of one sampling call.
    pub prompt_rows: usize,
    /// Rows of one packed batch in training.
    pub training_rows: usize,
    /// Rows of one packed batch that is scored.
    pub scored_rows: usize,
    /// Maximum number of bytes of activations that a pass in training keeps.
    pub kept_bytes: u64,
    /// Where the tensors are stored.
    pub residence: Residence,
}

/// Ranks of the two players' adapters; 0 is no adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdapterRanks {
    /// The policy's.
    pub policy: usize,
    /// The reward model's.
    pub reward: usize,
}

/// The properties of a base model that determine its memory.
pub struct BaseShape {
    /// The model's shape.
    pub config: ModelConfig,
    /// Bytes of its weights if they are kept as stored; `None` if they are expanded to f32.
    pub stored_bytes: Option<u64>,
}

impl BaseShape {
    fn weights(&self, residence: Residence) -> u64 {
        let workload = Workload {
            residence,
            ..Workload::default()
        };
        let expanded = MemoryPlan::new(&self.config, AdapterRanks::default(), &workload).weights;
        self.stored_bytes.unwrap_or(expanded)
    }
}

/// Bytes by purpose.
///
/// # Units
/// Bytes of values as [`Residence`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// Frozen weights: 4 bytes per parameter, 2 in bf16, or the file's size if kept as stored.
    pub weights: u64,
    /// Both players' adapters.
    pub adapters: u64,
    /// Gradients of one adapter at a time, and both adapters' two moments.
    pub optimiser: u64,
    /// During sampling: keys and values of prompts and completions, one step's logits, and a copy
    /// of the adapter in the product's layout. On a device, the merged projections and the
    /// activations of one recorded step replace that copy.
    pub cache: u64,
    /// For one packed batch. In training: inputs of all layers, stored activations, and the working
    /// set of one layer. In scoring: the working set alone.
    pub activations: u64,
}

impl MemoryPlan {
    /// The plan of a shape with adapters on all seven projections.
    pub fn new(config: &ModelConfig, ranks: AdapterRanks, workload: &Workload) -> Self {
        let (hidden, inner) = (config.hidden_size as u64, config.intermediate_size as u64);
        let key = config.kv_size() as u64;
        let layers = config.layers as u64;
        let matrices = || config.layer_matrices();
        let projections: u64 = matrices().map(|m| (m.rows * m.columns) as u64).sum();
        let ends: u64 = matrices().map(|m| (m.rows + m.columns) as u64).sum();
        let tables = if config.tie_word_embeddings { 1 } else { 2 };
        let adapter = |rank: usize| layers * ends * rank as u64;
        let (policy, reward) = (adapter(ranks.policy), adapter(ranks.reward));
        let cached_rows = (workload.sequences * workload.new_tokens + workload.prompt_rows) as u64;
        let rows = workload.training_rows as u64;
        let scored = workload.scored_rows as u64;
        let value = workload.residence.value();
        let working = HIDDEN_TENSORS * hidden + INNER_TENSORS * inner;
        let every_layer = value * rows * layers * config.layer_activations();
        let sampling_logits = F32 * workload.sequences as u64 * config.vocab_size as u64;
        let samples = workload.sequences > 0 && policy > 0;
        let (for_decoding, logits) = match workload.residence {
            // The adapter in the product's layout.
            Residence::Host { .. } => (F32 * policy * u64::from(samples), 0),
            // Merged projections, and the activations of one recorded decoding step.
            Residence::Device { .. } => (
                value * layers * projections * u64::from(samples)
                    + value * workload.sequences as u64 * layers * config.layer_activations(),
                F32 * DEVICE_LOGITS.min(rows.max(scored) * config.vocab_size as u64),
            ),
        };
        Self {
            weights: workload.residence.weight()
                * (layers * projections + tables * config.vocab_size as u64 * hidden),
            adapters: F32 * (policy + reward),
            optimiser: F32 * (2 * (policy + reward) + policy.max(reward)),
            cache: value * 2 * layers * key * cached_rows + sampling_logits + for_decoding,
            activations: (value * rows * ((layers + 1) * hidden + working)
                + workload.kept_bytes.min(every_layer))
            .max(value * scored * working)
                + logits,
        }
    }

    /// The plan of a run with these settings; `reward` is the discriminator's base if it has its
    /// own.
    pub fn of_run(
        base: &BaseShape,
        reward: Option<&BaseShape>,
        settings: &Settings,
        residence: Residence,
    ) -> Self {
        let sampling = &settings.sampling;
        let prompts = settings.run.prompts_per_iteration;
        let sequences = sampling.max_sequences.min(prompts * sampling.samples);
        let workload = Workload {
            sequences,
            new_tokens: sampling.max_completion_tokens,
            prompt_rows: prompts * sampling.max_prompt_tokens,
            training_rows: max_training_rows(&base.config, settings, residence),
            scored_rows: settings.run.token_budget,
            kept_bytes: settings.run.pass_budget().kept_bytes,
            residence,
        };
        let whole = settings.policy.trained == TrainedParameters::Whole;
        let policy = if whole { 0 } else { settings.lora.policy.rank };
        let ranks = AdapterRanks {
            policy,
            reward: settings.lora.reward.rank,
        };
        let mut plan = Self::new(&base.config, ranks, &workload);
        if whole {
            plan.optimiser += 3 * plan.weights;
        }
        plan.weights =
            base.weights(residence) + reward.map_or(0, |reward| reward.weights(residence));
        plan
    }

    /// Maximum number of bytes held at one time: sampling and training do not overlap.
    pub fn total(&self) -> u64 {
        self.weights + self.adapters + self.optimiser + self.cache.max(self.activations)
    }

    /// Checks the plan against the free memory of `device`. Passes if the free memory is unknown.
    ///
    /// # Errors
    /// [`TrainError::OutOfMemory`] with both numbers and advice on the largest part.
    pub fn check(&self, device: &Device) -> Result<(), TrainError> {
        self.check_against(match device.is_cpu() {
            true => available_bytes(),
            false => assay_ops::free_bytes(device),
        })
    }

    fn check_against(&self, available: Option<u64>) -> Result<(), TrainError> {
        match available {
            Some(available) if self.total() > available => Err(TrainError::OutOfMemory {
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
            "a smaller `run.token_budget` or `run.activation_mib`: the result stays the same but for rounding"
        } else {
            "a smaller `sampling.max_sequences`: the result stays the same"
        }
    }
}

/// Rows of a micro-batch of an update, within the token budget. On the CPU: as many as keep all
/// their activations, but enough for fast matrix products. If no activations are kept, and on an
/// accelerator, which gains more from many rows than from saving a forward pass: the token budget.
pub fn training_rows(config: &ModelConfig, residence: Residence, budget: PassBudget) -> usize {
    let PassBudget { tokens, kept_bytes } = budget;
    let row = residence.value() * config.layers as u64 * config.layer_activations();
    let kept = usize::try_from(kept_bytes / row.max(1)).unwrap_or(usize::MAX);
    match (residence, kept_bytes) {
        (Residence::Device { .. }, _) | (Residence::Host { .. }, 0) => tokens,
        (Residence::Host { .. }, _) => kept.max(MIN_TRAINING_ROWS).min(tokens),
    }
}

/// Maximum number of rows of a packed batch in training: those of a micro-batch or, if larger, of
/// the largest group, which is not split.
fn max_training_rows(config: &ModelConfig, settings: &Settings, residence: Residence) -> usize {
    let (run, sampling) = (&settings.run, &settings.sampling);
    let reward = &settings.reward;
    let negatives = reward.perturbations.per_demonstration + reward.branches.per_demonstration;
    let completions = sampling.samples + 1 + negatives;
    let group = sampling.max_prompt_tokens + completions * sampling.max_completion_tokens;
    let rows = training_rows(config, residence, run.pass_budget());
    rows.max(group).min(run.token_budget)
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

/// A number of bytes as text: `1.5 GB`, `12 MB`.
pub fn bytes(count: u64) -> String {
    if count >= 1_000_000_000 {
        format!("{:.1} GB", count as f64 / 1e9)
    } else {
        format!("{} MB", count.div_ceil(1_000_000))
    }
}

/// Bytes that this process may still allocate: the minimum of the machine's and the control group's
/// free memory.
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

/// Peak memory of this process so far, in bytes.
pub fn peak_bytes() -> Option<u64> {
    field("/proc/self/status", "VmHWM:")
}

/// Reads a field in kB of a file in `/proc`, in bytes.
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

    const RANKS: AdapterRanks = AdapterRanks {
        policy: 16,
        reward: 8,
    };

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
            pattern: assay_lm::LayerPattern::default(),
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
            scored_rows: 0,
            kept_bytes: 1 << 30,
            residence: Residence::default(),
        };
        let plan = MemoryPlan::new(&smol(), RANKS, &workload);
        // SmolLM2-135M has 134,515,008 parameters, 35,136 of them in norms, which the plan leaves
        // out.
        assert_eq!(plan.weights, 4 * (134_515_008 - 61 * 576));
        // A rank adds 576+576 (q, o twice), 576+192 (k, v) and 576+1536 (gate, up, down) a layer:
        // 10,176.
        assert_eq!(plan.adapters, 4 * 30 * 10_176 * 24);
        assert_eq!(plan.optimiser, 4 * 30 * 10_176 * (2 * 24 + 16));
        let cached = 2 * 30 * 192 * (64 * 150 + 1200);
        let laid_out = 4 * 30 * 10_176 * 16;
        assert_eq!(plan.cache, 4 * cached + 4 * 64 * 49_152 + laid_out);
        let working = 4 * 4096 * (43 * 576 + 7 * 1536);
        assert_eq!(plan.activations, working + (1 << 30));
        // A row of a layer, whole: 7 x 576 residual values, 3 x (576 + 192) of attention, 3 x 1536
        // of the feed-forward part.
        let boundless = Workload {
            kept_bytes: u64::MAX,
            ..workload
        };
        let whole = MemoryPlan::new(&smol(), RANKS, &boundless).activations;
        assert_eq!(
            whole,
            working + 4 * 4096 * 30 * (7 * 576 + 3 * 768 + 3 * 1536)
        );
        assert_eq!(
            plan.total(),
            plan.weights + plan.adapters + plan.optimiser + plan.activations
        );
        // Scoring keeps nothing: 12 residual and 7 inner tensors.
        let scores = Workload {
            scored_rows: 1 << 20,
            ..workload
        };
        let scoring = MemoryPlan::new(&smol(), RANKS, &scores).activations;
        assert_eq!(scoring, 4 * (1 << 20) * (12 * 576 + 7 * 1536));
        let on_device = Workload {
            residence: Residence::Device { value: 2 },
            ..workload
        };
        let half = MemoryPlan::new(&smol(), RANKS, &on_device);
        assert_eq!(
            (half.adapters, half.optimiser),
            (plan.adapters, plan.optimiser)
        );
        assert_eq!(half.weights, plan.weights / 2);
        // A layer: q and o 576 x 576, k and v 576 x 192, gate, up and down 576 x 1536.
        let projections = 30 * 576 * (2 * 576 + 2 * 192 + 3 * 1536);
        let step = 64 * 30 * (7 * 576 + 3 * 768 + 3 * 1536);
        assert_eq!(
            half.cache,
            2 * cached + 4 * 64 * 49_152 + 2 * projections + 2 * step
        );
        assert_eq!(half.activations, working / 2 + (1 << 30) + 4 * (1 << 26));
    }

    #[test]
    fn half_precision_halves_only_weights_on_cpus() {
        let plan = |weight| {
            let workload = Workload {
                sequences: 8,
                new_tokens: 150,
                training_rows: 1024,
                residence: Residence::Host { weight },
                ..Workload::default()
            };
            MemoryPlan::new(&smol(), RANKS, &workload)
        };
        let (whole, half) = (plan(4), plan(2));
        assert_eq!(half.weights, whole.weights / 2);
        assert_eq!(
            MemoryPlan {
                weights: whole.weights,
                ..half
            },
            whole
        );
    }

    #[test]
    fn excess_memory_names_the_setting_to_change() {
        let workload = Workload {
            training_rows: 16_384,
            ..Workload::default()
        };
        let plan = MemoryPlan::new(
            &smol(),
            AdapterRanks {
                policy: 16,
                reward: 16,
            },
            &workload,
        );
        assert!(plan.check_against(Some(plan.total())).is_ok());
        assert!(plan.check_against(None).is_ok());
        let said = plan
            .check_against(Some(plan.total() - 1))
            .unwrap_err()
            .to_string();
        assert!(said.contains("run.token_budget"), "{said}");
        assert!(said.contains(&bytes(plan.total())), "{said}");
        let large = MemoryPlan::new(
            &smol(),
            AdapterRanks {
                policy: 16,
                reward: 16,
            },
            &Workload::default(),
        );
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
