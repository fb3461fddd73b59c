//! Updates of the discriminator: the completions of a prompt with their labels, the loss over all of them, AdamW.
//!
//! A prompt's group holds the demonstration, its perturbations and the policy's samples of it. Replayed samples form
//! groups of their own under their own prompt: they enter the pointwise terms only.

use assay_lm::packed::Group;
use assay_tasks::perturbations::DemonstrationGroup;
use assay_tasks::random::Stream;
use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

use super::failure::{Batch, FailedPart, Origin};
use super::rollout::RolloutGroup;
use super::step::Step;
use crate::IrlError;
use crate::adam::AdamW;
use crate::encode::{Demonstration, EncodedCompletion, Encoder};
use crate::metrics::IterationMetrics;
use crate::optimiser::LrSchedule;
use crate::player::{Passes, Player, Reach};
use crate::reward::TraceRole;
use crate::reward::loss::{LabelledTrace, LossOutput, discriminator_loss};
use crate::reward::schedule::{ReplayBuffer, StyleAdvantage};
use crate::reward_model::RewardModel;
use crate::settings::RewardSettings;

/// Keys of the random streams of perturbing and of replaying.
const PERTURB: u64 = 0x9e;
const REPLAY: u64 = 0x4e;

/// A past policy sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PastSample {
    prompt: Vec<u32>,
    text: String,
    ids: Vec<u32>,
    offsets: Vec<(usize, usize)>,
    diverges_at: Option<usize>,
    problem: String,
}

/// The discriminator with everything that is saved of it.
pub struct Discriminator {
    /// The reward model.
    pub model: RewardModel,
    /// Its optimiser.
    pub optimiser: AdamW,
    /// How well it tells demonstrations from samples.
    pub style: StyleAdvantage,
    /// Past samples.
    pub replay: ReplayBuffer<PastSample>,
}

/// What an update works on.
pub struct DiscriminatorBatch<'b> {
    /// Index in the data set and demonstration of each prompt.
    pub demonstrations: &'b [(usize, &'b Demonstration)],
    /// Samples of the same prompts; empty when none were drawn.
    pub rollouts: &'b [RolloutGroup],
    /// Iteration, for random streams and schedules.
    pub iteration: usize,
    /// Seed of the run.
    pub seed: u64,
    /// How the passes over it are done.
    pub passes: Passes<'b>,
}

/// One completion of an update with what the loss needs to know of it.
struct Labelled {
    group: usize,
    role: TraceRole,
    positions: Vec<usize>,
    corrupted_from: Option<usize>,
    corrupted_until: Option<usize>,
    diverges_at: Option<usize>,
    weight: f32,
}

/// All completions of an update.
#[derive(Default)]
struct LabelledGroups {
    groups: Vec<Group>,
    labels: Vec<Labelled>,
    /// One a label.
    origins: Vec<Origin>,
    /// Id of the open group's problem.
    problem: String,
    skipped_perturbations: usize,
}

impl Discriminator {
    /// A discriminator before its first update.
    ///
    /// # Errors
    /// A device has no memory for the optimiser's state.
    pub fn new(model: RewardModel, settings: &RewardSettings) -> Result<Self, IrlError> {
        let factor = |name: &str| {
            if RewardModel::is_head(name) {
                settings.head_learning_rate_factor
            } else {
                1.0
            }
        };
        let optimiser = AdamW::with_factors(&model.parameters(), factor)?;
        let replay = ReplayBuffer::new(&settings.schedule.replay);
        Ok(Self {
            model,
            optimiser,
            style: StyleAdvantage::default(),
            replay,
        })
    }

    /// The weight of policy samples among the negatives in an iteration.
    pub fn policy_weight(&self, iteration: usize, settings: &RewardSettings) -> f64 {
        settings
            .schedule
            .policy_negatives
            .weight(iteration, self.style.running())
    }

    /// One optimiser step; `index` counts the updates of the iteration.
    ///
    /// # Errors
    /// A loss, gradient or weight that is not finite, a parameter without gradient, or a failing operation.
    pub fn update(
        &mut self,
        batch: &DiscriminatorBatch<'_>,
        index: usize,
        (encoder, settings): (&Encoder<'_>, &RewardSettings),
        (schedule, metrics): (&LrSchedule, &mut IterationMetrics),
    ) -> Result<(), IrlError> {
        let data = self.labelled(batch, index, encoder, settings)?;
        let step = Step {
            player: &self.model,
            batch: Batch {
                part: FailedPart::Reward,
                update: index,
                groups: &data.groups,
                origins: &data.origins,
            },
            passes: batch.passes,
            reach: Reach::Group,
            optimiser: &settings.optimiser,
            schedule,
        };
        let stepped = step.take(&mut self.optimiser, |logits, _| {
            let labelled = data.labels.iter().zip(logits);
            let traces: Vec<LabelledTrace<'_>> =
                labelled.map(|(label, logits)| label.with(logits)).collect();
            let mut output = discriminator_loss(&traces, &settings.loss)?;
            let gradients = std::mem::take(&mut output.grads);
            Ok((output.loss, output, gradients))
        })?;
        if settings.loss.wgan.weight > 0.0 {
            clip_parameters(&self.model.parameters(), settings.loss.wgan.clip)?;
        }
        let output = stepped.report;
        self.style.observe(output.statistics.pairs_policy);
        metrics.set("reward/learning_rate", stepped.learning_rate)?;
        metrics.set("reward/gradient_norm", stepped.gradient_norm)?;
        metrics.set(
            "reward/skipped_perturbations",
            data.skipped_perturbations as f64,
        )?;
        report(&output, metrics)
    }

    /// Keeps an iteration's samples for replay.
    pub fn remember(&mut self, batch: &DiscriminatorBatch<'_>) {
        for ((_, demonstration), rollout) in batch.demonstrations.iter().zip(batch.rollouts) {
            self.replay.extend(rollout.samples.iter().map(|sample| {
                PastSample {
                    problem: demonstration.problem.id.clone(),
                    prompt: rollout.prompt.clone(),
                    text: sample.completion.text.clone(),
                    ids: sample.completion.ids.clone(),
                    offsets: sample.completion.offsets.clone(),
                    diverges_at: sample
                        .completion
                        .diverges_from(&demonstration.completion.ids),
                }
            }));
        }
    }

    fn labelled(
        &self,
        batch: &DiscriminatorBatch<'_>,
        index: usize,
        encoder: &Encoder<'_>,
        settings: &RewardSettings,
    ) -> Result<LabelledGroups, IrlError> {
        let mut data = LabelledGroups::default();
        let weight = self.policy_weight(batch.iteration, settings) as f32;
        let samples: usize = batch
            .rollouts
            .iter()
            .map(|rollout| rollout.samples.len())
            .sum();
        let replayed = self
            .replay
            .replayed(samples, settings.schedule.replay.share);
        let mut seen = 0;
        let keys = [batch.iteration as u64, index as u64];
        for (place, (problem, demonstration)) in batch.demonstrations.iter().enumerate() {
            data.open_group(&demonstration.prompt, &demonstration.problem.id);
            data.push(&demonstration.completion, TraceRole::Expert, settings, 1.0);
            let mut stream = Stream::new(batch.seed, &[PERTURB, keys[0], keys[1], *problem as u64]);
            data.push_perturbed(demonstration, encoder, settings, &mut stream)?;
            let Some(rollout) = batch.rollouts.get(place) else {
                continue;
            };
            for sample in &rollout.samples {
                // Replayed samples take the places of new ones evenly, so that no prompt loses all of its own.
                let left_out = |count: usize| count * replayed / samples;
                seen += 1;
                if left_out(seen) > left_out(seen - 1) {
                    continue;
                }
                let verified = settings.label_switch && sample.correct == Some(true);
                let (role, weight) = if verified {
                    (TraceRole::Expert, 1.0)
                } else {
                    (TraceRole::Policy, weight)
                };
                data.push(&sample.completion, role, settings, weight);
                data.set_divergence(
                    sample
                        .completion
                        .diverges_from(&demonstration.completion.ids),
                );
            }
        }
        let mut stream = Stream::new(batch.seed, &[REPLAY, keys[0], keys[1]]);
        for past in self.replay.draw(replayed, &mut stream) {
            data.open_group(&past.prompt, &past.problem);
            let completion = EncodedCompletion {
                text: past.text.clone(),
                ids: past.ids.clone(),
                offsets: past.offsets.clone(),
            };
            data.push(&completion, TraceRole::Policy, settings, weight);
            data.set_divergence(past.diverges_at);
        }
        Ok(data)
    }
}

impl LabelledGroups {
    fn open_group(&mut self, prompt: &[u32], problem: &str) {
        self.problem = problem.to_owned();
        self.groups.push(Group {
            prompt: prompt.to_vec(),
            completions: Vec::new(),
        });
    }

    /// Adds a completion to the open group.
    fn push(
        &mut self,
        completion: &EncodedCompletion,
        role: TraceRole,
        settings: &RewardSettings,
        weight: f32,
    ) {
        let Some(group) = self.groups.last_mut() else {
            return;
        };
        group.completions.push(completion.ids.clone());
        let positions = settings
            .granularity
            .labelled_positions(completion.ids.len(), &completion.step_ends());
        let group = self.groups.len() - 1;
        self.origins.push(Origin {
            problem: self.problem.clone(),
            role,
        });
        let (corrupted_from, corrupted_until, diverges_at) = (None, None, None);
        self.labels.push(Labelled {
            group,
            role,
            positions,
            corrupted_from,
            corrupted_until,
            diverges_at,
            weight,
        });
    }

    fn set_divergence(&mut self, diverges_at: Option<usize>) {
        if let Some(label) = self.labels.last_mut() {
            label.diverges_at = diverges_at;
        }
    }

    /// Adds the demonstration's perturbations under its own prompt; those beyond the token limit are counted.
    fn push_perturbed(
        &mut self,
        demonstration: &Demonstration,
        encoder: &Encoder<'_>,
        settings: &RewardSettings,
        stream: &mut Stream,
    ) -> Result<(), IrlError> {
        let registry = settings.perturbations.registry();
        let count = settings.perturbations.per_demonstration;
        let text = &demonstration.completion.text;
        let group =
            DemonstrationGroup::corrupt((&demonstration.problem, text), &registry, count, stream);
        self.skipped_perturbations += count - group.perturbed().len().min(count);
        for perturbed in group.perturbed() {
            let Some(completion) = encoder.completion(&perturbed.text)? else {
                self.skipped_perturbations += 1;
                continue;
            };
            let corrupted_from = completion.diverges_from(&demonstration.completion.ids);
            self.push(&completion, TraceRole::Perturbed, settings, 1.0);
            if let Some(label) = self.labels.last_mut() {
                label.corrupted_from = corrupted_from;
                label.corrupted_until =
                    Some(completion.first_after(perturbed.span.end, corrupted_from));
            }
        }
        Ok(())
    }
}

impl Labelled {
    fn with<'a>(&'a self, logits: &'a [f32]) -> LabelledTrace<'a> {
        LabelledTrace {
            group: self.group,
            role: self.role,
            logits,
            positions: &self.positions,
            corrupted_from: self.corrupted_from,
            corrupted_until: self.corrupted_until,
            diverges_at: self.diverges_at,
            weight: self.weight,
        }
    }
}

fn report(output: &LossOutput, metrics: &mut IterationMetrics) -> Result<(), IrlError> {
    metrics.set("reward/loss", output.loss)?;
    for (name, value) in output.terms.named() {
        metrics.set(&format!("reward/loss_{name}"), value)?;
    }
    let s = &output.statistics;
    let named = [
        ("accuracy_expert", s.accuracy_expert),
        ("accuracy_policy", s.accuracy_policy),
        ("accuracy_perturbed", s.accuracy_perturbed),
        ("gap_policy", s.gap_policy),
        ("gap_perturbed", s.gap_perturbed),
        ("pairs_policy", s.pairs_policy),
        ("pairs_perturbed", s.pairs_perturbed),
        ("pairs_at_error", s.pairs_at_error),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            metrics.set(&format!("reward/{name}"), value)?;
        }
    }
    Ok(())
}

/// The Wasserstein critic's Lipschitz bound: every trained value within ±clip.
fn clip_parameters(parameters: &[(String, Var)], clip: f32) -> Result<(), IrlError> {
    for (_, var) in parameters {
        let clipped: Tensor = var.as_tensor().detach().clamp(-clip, clip)?;
        var.set(&clipped)?;
    }
    Ok(())
}
