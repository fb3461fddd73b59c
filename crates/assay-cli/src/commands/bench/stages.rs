//! The stages of an iteration on a synthetic workload.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use assay_critic::HeadSettings;
use assay_critic::player::Player;
use assay_critic::policy_model::{PolicyModel, Trainable};
use assay_critic::reward_model::RewardModel;
use assay_lm::adapter::{Adapter, LoraSettings, Projection};
use assay_lm::draw::DrawSettings;
use assay_lm::packed::Group;
use assay_lm::sampling::{SampleRequest, SamplingLimits, sample};
use assay_lm::transformer::Transformer;
use assay_lm::{ModelConfig, Placement};
use assay_tasks::random::StreamKey;
use assay_train::adam::AdamW;
use assay_train::execution::{Execution, infer_all};
use assay_train::memory::Residence;
use assay_train::optimiser::OptimiserSettings;
use assay_train::update::{LossGradients, Reach, UpdatePasses, update};
use clap::ValueEnum;
use serde::Serialize;

use crate::allocator::while_loading;
use crate::args::BenchArgs;

const SEED: u64 = 42;
/// Highest token id of the synthetic texts.
const IDS: usize = 40_000;

/// A stage of an iteration.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Sampling all completions from the policy.
    Sample,
    /// One update of the discriminator on all completions.
    UpdateReward,
    /// Token rewards of all completions.
    Score,
    /// One update of the policy on all completions.
    UpdatePolicy,
    /// All four, one after the other.
    Iteration,
}

/// The minimal work of a stage.
pub(crate) struct Cost {
    /// Number of multiplications and additions in its matrix products.
    pub(crate) operations: f64,
    /// Minimal number of bytes of weights that it reads.
    pub(crate) weight_bytes: f64,
}

impl Stage {
    /// Every stage.
    pub(crate) const ALL: [Self; 5] = [
        Self::Sample,
        Self::UpdateReward,
        Self::Score,
        Self::UpdatePolicy,
        Self::Iteration,
    ];

    /// The name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::UpdateReward => "update reward",
            Self::Score => "score",
            Self::UpdatePolicy => "update policy",
            Self::Iteration => "iteration",
        }
    }

    /// Operations: 2 per weight and row in the forward pass. Training adds 2 for the gradient of
    /// the input, 2 in layers whose forward pass is recomputed, and the gradients of an adapter's
    /// matrices. Attention is not counted.
    pub(crate) fn cost(self, args: &BenchArgs, residence: Residence) -> Cost {
        let config = config(args);
        let layers = layer_weights(&config) as f64;
        let output = (config.vocab_size * config.hidden_size) as f64;
        let adapter = adapter_weights(&config, args.rank) as f64;
        let generated = (args.prompts * args.samples * args.new_tokens) as f64;
        let rows = (args.prompts * args.prompt_tokens) as f64 + generated;
        let weights = 4.0 * (layers + adapter);
        let forward = 2.0 * (layers + adapter) * rows;
        let again = forward * share_recomputed(args, residence);
        let backward = again + 2.0 * (layers + 2.0 * adapter) * rows;
        // Logits: once for their values, once for their gradient.
        let logits = 2.0 * output * generated;
        let cost = |operations, weight_bytes| Cost {
            operations,
            weight_bytes,
        };
        match self {
            Self::Sample => cost(
                forward + logits,
                (weights + 4.0 * output) * args.new_tokens as f64,
            ),
            Self::UpdateReward => cost(forward + backward, 3.0 * weights),
            Self::Score => cost(forward, weights),
            Self::UpdatePolicy => cost(
                forward + backward + 2.0 * logits,
                3.0 * weights + 8.0 * output,
            ),
            Self::Iteration => {
                let parts = Self::ALL[..4]
                    .iter()
                    .map(|stage| stage.cost(args, residence));
                parts.fold(cost(0.0, 0.0), |sum, part| {
                    cost(
                        sum.operations + part.operations,
                        sum.weight_bytes + part.weight_bytes,
                    )
                })
            }
        }
    }
}

/// Share of the layers whose forward pass an update recomputes.
fn share_recomputed(args: &BenchArgs, residence: Residence) -> f64 {
    let config = config(args);
    let batch = (super::training_rows(args, residence) * size_of::<f32>()) as u64;
    let layer = (config.layer_activations() * batch).max(1);
    let kept = (args.activation_mib.saturating_mul(1 << 20) / layer).min(config.layers as u64);
    1.0 - kept as f64 / config.layers as f64
}

/// The shape's configuration with the requested vocabulary size.
pub(super) fn config(args: &BenchArgs) -> ModelConfig {
    let mut config = args.shape.config();
    config.vocab_size = args.vocabulary.unwrap_or(config.vocab_size);
    config
}

/// Input and output sizes of the seven projections of a layer.
fn projections(config: &ModelConfig) -> [(usize, usize); 7] {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (query, key) = (config.query_size(), config.kv_heads * config.head_dim);
    [
        (hidden, query),
        (hidden, key),
        (hidden, key),
        (query, hidden),
        (hidden, inner),
        (hidden, inner),
        (inner, hidden),
    ]
}

fn layer_weights(config: &ModelConfig) -> usize {
    let a_layer: usize = projections(config).iter().map(|(i, o)| i * o).sum();
    config.layers * a_layer
}

fn adapter_weights(config: &ModelConfig, rank: usize) -> usize {
    let a_layer: usize = projections(config)
        .iter()
        .map(|(i, o)| rank * (i + o))
        .sum();
    config.layers * a_layer
}

/// A player. It has an optimiser once a stage has trained it.
struct Trainee<P> {
    player: P,
    optimiser: Option<AdamW>,
}

/// Two players and the completions that the stages process. A player is created when a stage first
/// needs it, so the peak memory of the process is that of the timed stages.
pub(crate) struct Workbench {
    transformer: Arc<Transformer>,
    lora: LoraSettings,
    policy: Option<Trainee<PolicyModel>>,
    reward: Option<Trainee<RewardModel>>,
    groups: Vec<Group>,
    new_tokens: usize,
    samples: usize,
    execution: Execution<'static>,
}

impl Workbench {
    /// Random weights and random texts of the workload's size.
    pub(crate) fn new(args: &BenchArgs, placement: &Placement) -> Result<Self> {
        let config = config(args);
        let transformer = while_loading(|| {
            let (transformer, _) = Transformer::random(&config, SEED)?;
            transformer.placed(placement)?.in_panels(placement.dtype)
        })?;
        let transformer = Arc::new(transformer);
        let lora = LoraSettings {
            rank: args.rank,
            alpha: 2.0 * args.rank as f64,
            targets: Projection::ALL.to_vec(),
        };
        let mut stream = StreamKey::BenchTexts.stream(SEED, &[]);
        let ids = IDS.min(config.vocab_size);
        let mut text = |tokens: usize| (0..tokens).map(|_| stream.below(ids) as u32).collect();
        let groups = (0..args.prompts)
            .map(|_| Group {
                prompt: text(args.prompt_tokens),
                completions: (0..args.samples).map(|_| text(args.new_tokens)).collect(),
            })
            .collect();
        Ok(Self {
            transformer,
            lora,
            policy: None,
            reward: None,
            groups,
            new_tokens: args.new_tokens,
            samples: args.samples,
            execution: Execution {
                budget: args.pass_budget(),
                ..Execution::single_process(args.token_budget)
            },
        })
    }

    /// A new adapter on all projections, on the model's device.
    fn adapter(&self, seed: u64) -> Result<Adapter> {
        let adapter = Adapter::new(self.transformer.config(), &self.lora, seed)?;
        Ok(adapter.to_device(&self.transformer.placement().device)?)
    }

    fn policy(&mut self) -> Result<&mut Trainee<PolicyModel>> {
        let policy = match self.policy.take() {
            Some(policy) => policy,
            None => Trainee {
                player: PolicyModel {
                    transformer: Arc::clone(&self.transformer),
                    trainable: Trainable::Adapter(self.adapter(1)?),
                },
                optimiser: None,
            },
        };
        Ok(self.policy.insert(policy))
    }

    fn reward(&mut self) -> Result<&mut Trainee<RewardModel>> {
        let reward = match self.reward.take() {
            Some(reward) => reward,
            None => Trainee {
                player: RewardModel::new(
                    Arc::clone(&self.transformer),
                    self.adapter(2)?,
                    HeadSettings::Linear,
                )?,
                optimiser: None,
            },
        };
        Ok(self.reward.insert(reward))
    }

    /// Runs a stage on two short completions, so that pages are mapped and kernels loaded.
    pub(crate) fn warm_up(&mut self, stage: Stage) -> Result<()> {
        let mut small = self.groups[0].clone();
        small.completions.truncate(2);
        let all = std::mem::replace(&mut self.groups, vec![small]);
        let (new_tokens, samples) = (self.new_tokens, self.samples);
        (self.new_tokens, self.samples) = (4, 2);
        let done = self.run(stage);
        self.groups = all;
        (self.new_tokens, self.samples) = (new_tokens, samples);
        done.map(|_| ())
    }

    /// Runs a stage and returns its duration in seconds.
    pub(crate) fn run(&mut self, stage: Stage) -> Result<f64> {
        let started = Instant::now();
        let groups = std::mem::take(&mut self.groups);
        let done = self.work(stage, &groups);
        self.groups = groups;
        done?;
        Ok(started.elapsed().as_secs_f64())
    }

    fn work(&mut self, stage: Stage, groups: &[Group]) -> Result<()> {
        let execution = self.execution;
        let passes = |reach| UpdatePasses { execution, reach };
        match stage {
            Stage::Sample => self.sample(groups),
            Stage::UpdateReward => train(self.reward()?, groups, passes(Reach::Group)),
            Stage::Score => {
                infer_all(&self.reward()?.player, groups, execution)?;
                Ok(())
            }
            Stage::UpdatePolicy => train(self.policy()?, groups, passes(Reach::Completion)),
            Stage::Iteration => {
                let mut parts = Stage::ALL[..4].iter();
                parts.try_for_each(|part| self.work(*part, groups))
            }
        }
    }

    fn sample(&mut self, groups: &[Group]) -> Result<()> {
        let (samples, new_tokens) = (self.samples, self.new_tokens);
        let request = |(index, group): (usize, &Group)| SampleRequest {
            prompt: group.prompt.clone(),
            streams: (0..samples)
                .map(|sample| StreamKey::BenchSamples.stream(SEED, &[index as u64, sample as u64]))
                .collect(),
            max_new_tokens: None,
            not_first: None,
        };
        let requests: Vec<_> = groups.iter().enumerate().map(request).collect();
        let limits = SamplingLimits {
            max_new_tokens: new_tokens,
            stop_tokens: Vec::new(),
            max_sequences: groups.len() * samples,
        };
        let draw = DrawSettings::default();
        let policy = &self.policy()?.player;
        let (model, adapter) = (&policy.transformer, policy.adapter());
        sample(model, adapter, &requests, &draw, &limits, |_| ())?;
        Ok(())
    }
}

/// One forward and backward pass, with gradients of alternating sign, and one AdamW step.
fn train<P: Player>(
    Trainee { player, optimiser }: &mut Trainee<P>,
    groups: &[Group],
    passes: UpdatePasses<'_>,
) -> Result<()> {
    let parameters = player.parameters();
    let mut adamw = match optimiser.take() {
        Some(adamw) => adamw,
        None => AdamW::new(&parameters)?,
    };
    let loss = |scalars: &[Vec<f32>], _: Range<usize>| {
        let tokens: usize = scalars.iter().map(Vec::len).sum();
        let sign = |row: usize| if row.is_multiple_of(2) { 1.0 } else { -1.0 };
        let rows = scalars.iter().enumerate();
        let gradients = rows.map(|(row, own)| vec![sign(row) / tokens as f32; own.len()]);
        Ok(LossGradients {
            report: (),
            gradients: gradients.collect(),
        })
    };
    let ((), gradients) = update(&*player, groups, passes, loss)?;
    let settings = OptimiserSettings::default();
    adamw.step(
        &parameters,
        &gradients,
        &settings.adamw(1e-6),
        settings.clip_norm,
    )?;
    *optimiser = Some(adamw);
    Ok(())
}
