//! Updates of the discriminator: the traces of a prompt with their labels, the loss over all of
//! them, AdamW.
//!
//! A prompt's group holds the demonstration, its perturbations, its branches and the policy's
//! samples. Replayed samples form separate groups with their own prompt, so they enter the
//! pointwise terms only.

use assay_critic::RewardModel;
use assay_critic::encode::Encoder;
use assay_critic::player::Player;
use assay_tasks::perturbations::DemonstrationGroup;
use assay_tasks::random::{Stream, StreamKey};
use candle_core::{Tensor, Var};

use super::failure::UpdateBatch;
use super::player_update::{LossValue, OptimiserReport, PlayerUpdate};
use crate::TrainError;
use crate::adam::AdamW;
use crate::execution::Execution;
use crate::failed_update::FailedPart;
use crate::optimiser::{LrSchedule, OptimiserSettings};
use crate::reward::loss::{LabelledTrace, LossOutput, WganSettings, discriminator_loss};
use crate::reward::schedule::{ReplayBuffer, StyleAdvantage};
use crate::settings::RewardSettings;
use crate::trace::{PastSample, PromptGroup, Trace, TraceRole, traces};
use crate::update::Reach;

/// The discriminator with its saved state.
pub struct Discriminator {
    /// The reward model.
    pub model: RewardModel,
    /// Its optimiser.
    pub optimiser: AdamW,
    /// How well it distinguishes demonstrations from samples.
    pub style: StyleAdvantage,
    /// Past samples.
    pub replay: ReplayBuffer<PastSample>,
}

/// The inputs of the discriminator's update other than the traces.
#[derive(Clone, Copy)]
pub struct DiscriminatorPlan<'p> {
    /// The discriminator's settings.
    pub settings: &'p RewardSettings,
    /// Encodes perturbed demonstrations.
    pub encoder: &'p Encoder<'p>,
    /// The discriminator's optimiser.
    pub optimiser: &'p OptimiserSettings,
    /// The learning rate by update.
    pub schedule: &'p LrSchedule,
    /// How passes are executed.
    pub execution: Execution<'p>,
    /// Iteration of the game, for random streams and the weight of policy samples.
    pub iteration: usize,
    /// Seed of the run.
    pub seed: u64,
}

/// Statistics of a discriminator update.
#[derive(Clone, Debug, Default)]
pub struct DiscriminatorReport {
    /// Loss, learning rate, gradient norm.
    pub optimiser: OptimiserReport,
    /// Terms and statistics of the loss, without gradients.
    pub output: LossOutput,
    /// Number of perturbations that could not be made or exceed the token limit.
    pub skipped_perturbations: usize,
}

/// The groups of an update, and the number of perturbations left out.
#[derive(Default)]
struct LabelledGroups {
    groups: Vec<PromptGroup>,
    skipped_perturbations: usize,
}

impl Discriminator {
    /// A discriminator before its first update.
    ///
    /// # Errors
    /// A device has no memory for the optimiser's state.
    pub fn new(model: RewardModel, settings: &RewardSettings) -> Result<Self, TrainError> {
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
        let negatives = &settings.schedule.policy_negatives;
        negatives.weight(iteration, self.style.running())
    }

    /// One optimiser update; `index` counts the updates of the iteration. `groups` hold the
    /// demonstration of each prompt, its branches and, if there are any, the policy's samples.
    ///
    /// # Errors
    /// A loss, gradient or weight that is not finite, a parameter without gradient, or a failing
    /// operation.
    pub fn update(
        &mut self,
        groups: &[PromptGroup],
        index: usize,
        plan: &DiscriminatorPlan<'_>,
    ) -> Result<DiscriminatorReport, TrainError> {
        let settings = plan.settings;
        let data = self.labelled(groups, index, plan)?;
        let policy_weight = self.policy_weight(plan.iteration, settings) as f32;
        let positions: Vec<Vec<usize>> = traces(&data.groups)
            .map(|trace| labelled_positions(trace, settings))
            .collect();
        let update = PlayerUpdate {
            player: &self.model,
            batch: UpdateBatch {
                part: FailedPart::Reward,
                update: index,
                groups: &data.groups,
            },
            execution: plan.execution,
            reach: Reach::Group,
            optimiser: plan.optimiser,
            schedule: plan.schedule,
        };
        let updated = update.apply(&mut self.optimiser, |logits, _| {
            let groups = data.groups.iter().enumerate();
            let members = groups.flat_map(|(group, g)| g.traces.iter().map(move |t| (group, t)));
            let labelled = members.zip(&positions).zip(logits);
            let labelled: Vec<LabelledTrace<'_>> = labelled
                .map(|(((group, trace), positions), logits)| LabelledTrace {
                    group,
                    role: trace.role,
                    logits,
                    positions,
                    spans: trace.spans,
                    judged: &trace.judged,
                    weight: match trace.role {
                        TraceRole::Policy => policy_weight * trace.weight,
                        TraceRole::Expert | TraceRole::Perturbed => trace.weight,
                    },
                })
                .collect();
            let mut output = discriminator_loss(&labelled, &settings.loss)?;
            let gradients = std::mem::take(&mut output.grads);
            Ok(LossValue {
                loss: output.loss,
                report: output,
                gradients,
            })
        })?;
        if settings.loss.wgan.weight > 0.0 {
            clip_parameters(&self.model.parameters(), WganSettings::CLIP)?;
        }
        self.style.observe(updated.report.statistics.pairs_policy);
        Ok(DiscriminatorReport {
            optimiser: updated.optimiser,
            output: updated.report,
            skipped_perturbations: data.skipped_perturbations,
        })
    }

    /// Keeps an iteration's samples for replay.
    pub fn remember(&mut self, groups: &[PromptGroup]) {
        for group in groups {
            let samples = group.samples();
            self.replay
                .extend(samples.map(|sample| PastSample::new(group, sample)));
        }
    }

    /// The groups of one update: demonstrations, their perturbations and branches, the policy's
    /// samples, replayed samples.
    fn labelled(
        &self,
        groups: &[PromptGroup],
        index: usize,
        plan: &DiscriminatorPlan<'_>,
    ) -> Result<LabelledGroups, TrainError> {
        let mut data = LabelledGroups::default();
        let samples: usize = groups.iter().map(|group| group.samples().count()).sum();
        let share = plan.settings.schedule.replay.share;
        let replayed = self.replay.replayed(samples, share);
        // Replayed samples replace new ones evenly, so that no prompt loses all its samples.
        let left_out = |count: usize| count * replayed / samples;
        let mut seen = 0;
        let keys = [plan.iteration as u64, index as u64];
        for group in groups {
            let Some(demonstration) = group.demonstration() else {
                continue;
            };
            let mut own = vec![demonstration.clone()];
            let path = [keys[0], keys[1], group.index as u64];
            let mut stream = StreamKey::Perturbation.stream(plan.seed, &path);
            own.extend(data.perturbed(group, demonstration, plan, &mut stream)?);
            own.extend(group.branches().cloned());
            for sample in group.samples() {
                seen += 1;
                if left_out(seen) == left_out(seen - 1) {
                    own.push(relabelled(sample, plan.settings));
                }
            }
            data.groups.push(group.with_traces(own));
        }
        let mut stream = StreamKey::Replay.stream(plan.seed, &keys);
        let past = self.replay.draw(replayed, &mut stream).into_iter();
        data.groups.extend(past.map(PastSample::group));
        Ok(data)
    }
}

impl LabelledGroups {
    /// The demonstration's perturbations; counts those that cannot be made or exceed the token
    /// limit.
    fn perturbed(
        &mut self,
        group: &PromptGroup,
        demonstration: &Trace,
        plan: &DiscriminatorPlan<'_>,
        stream: &mut Stream,
    ) -> Result<Vec<Trace>, TrainError> {
        let registry = plan.settings.perturbations.registry();
        let count = plan.settings.perturbations.per_demonstration;
        let expert = &demonstration.completion;
        let (problem, text) = (&*group.problem, expert.text.as_str());
        let corrupted = DemonstrationGroup::corrupt(problem, text, &registry, count, stream);
        self.skipped_perturbations += count - corrupted.perturbed().len().min(count);
        let mut traces = Vec::with_capacity(count);
        for perturbed in corrupted.perturbed() {
            let Some(completion) = plan.encoder.completion(&perturbed.text)? else {
                self.skipped_perturbations += 1;
                continue;
            };
            let from = completion.diverges_from(&expert.ids);
            let mut trace = Trace::new(TraceRole::Perturbed, completion);
            trace.spans.corrupted_from = from;
            let until = trace.completion.first_after(perturbed.span.end, from);
            trace.spans.corrupted_until = Some(until);
            traces.push(trace);
        }
        Ok(traces)
    }
}

/// A sample with its role for the discriminator: verified ones become positives if the settings say
/// so.
fn relabelled(sample: &Trace, settings: &RewardSettings) -> Trace {
    let mut trace = sample.clone();
    if settings.label_switch && sample.verdict.correct == Some(true) {
        trace.role = TraceRole::Expert;
    }
    trace
}

fn labelled_positions(trace: &Trace, settings: &RewardSettings) -> Vec<usize> {
    let ends = trace.completion.step_ends();
    settings.granularity.labelled_positions(trace.len(), &ends)
}

/// The Wasserstein critic's Lipschitz bound: clips every trained value to ±clip.
fn clip_parameters(parameters: &[(String, Var)], clip: f32) -> Result<(), TrainError> {
    for (_, var) in parameters {
        let clipped: Tensor = var.as_tensor().detach().clamp(-clip, clip)?;
        var.set(&clipped)?;
    }
    Ok(())
}
