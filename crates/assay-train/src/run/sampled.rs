//! The traces of an iteration: samples of the policy, their judgements, and branches of the
//! demonstrations.

use assay_critic::judge::Judge;
use assay_lm::sampling::SamplingLimits;
use assay_tasks::random::StreamKey;

use super::Run;
use super::branches::BranchPlan;
use super::failure::{Computed, UpdateBatch};
use super::judging::{JudgePlan, JudgedReward, judge_samples};
use super::kind::TrainerKind;
use super::observer::Observer;
use super::rank_checks::{gather_samples, gather_traces};
use super::rollout::{RolloutPlan, rollout};
use super::rollout_server;
use crate::backoff::BoundedWork;
use crate::execution::Execution;
use crate::failed_update::FailedPart;
use crate::settings::RewardSource;
use crate::trace::PromptGroup;
use crate::{TrainError, ranks};

impl Run<'_> {
    /// Phase 1: adds samples of the policy to the groups.
    pub(super) fn sample(
        &self,
        groups: &mut [PromptGroup],
        game: usize,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        if let Some(stored) = &self.stored {
            return stored.add(groups, self.settings.sampling.samples, &self.encoder);
        }
        let ranks = self.inputs.ranks;
        let own = match &self.server {
            None => ranks::share(ranks, groups.len()),
            // A server batches requests itself, and one rank loads the adapter.
            Some(_) if ranks::is_first(ranks) => 0..groups.len(),
            Some(_) => 0..0,
        };
        let drawn = self.sample_own(groups[own].to_vec(), game, observer);
        let samples = gather_samples(ranks, drawn)?;
        for (group, samples) in groups.iter_mut().zip(samples) {
            group.traces.extend(samples);
        }
        Ok(())
    }

    /// The groups of this rank with samples.
    fn sample_own(
        &self,
        groups: Vec<PromptGroup>,
        game: usize,
        observer: &mut dyn Observer,
    ) -> Result<Vec<PromptGroup>, TrainError> {
        if groups.is_empty() {
            return Ok(groups);
        }
        let plan = RolloutPlan {
            sampling: &self.draw,
            limits: &self.limits,
            samples: self.settings.sampling.samples,
            key: StreamKey::Rollout,
            stream_path: &[game as u64],
            seed: self.settings.seed,
        };
        let mut on_token = |count| observer.tokens(count);
        let drawn = match &self.server {
            None => self.with_sequences(groups.len() * plan.samples, |limits| {
                let plan = RolloutPlan { limits, ..plan };
                let mut drawn = groups.clone();
                let policy = &self.players.policy;
                rollout(policy, &self.encoder, &mut drawn, &plan, &mut on_token)?;
                Ok(drawn)
            }),
            Some(server) => {
                let mut drawn = groups.clone();
                let execution = Execution::single_process(self.settings.run.token_budget);
                let sampler = rollout_server::Sampler {
                    policy: &self.players.policy,
                    model: self.inputs.model,
                    encoder: &self.encoder,
                    execution,
                };
                let done = server.sample(&sampler, &mut drawn, &plan, on_token);
                done.map(|()| drawn)
            }
        };
        drawn.map_err(|error| {
            let batch = UpdateBatch {
                part: FailedPart::Rollout,
                update: 0,
                groups: &groups,
            };
            batch.explain(error, &Computed::default())
        })
    }

    /// Whether a judge that reads the demonstrations judges the samples.
    pub(super) fn judges(&self) -> bool {
        self.inputs.kind == TrainerKind::Airl && self.settings.reward.uses_judge()
    }

    /// Phase 1b: a model that reads the demonstrations judges the samples: the base model, or the
    /// policy in self-distillation.
    pub(super) fn judge(&self, groups: &mut [PromptGroup]) -> Result<(), TrainError> {
        let teaches = self.settings.reward.source == RewardSource::SelfDistilled;
        let plan = JudgePlan {
            judge: Judge {
                model: self.inputs.model,
                transformer: &self.inputs.model.transformer,
                adapter: self.players.policy.adapter().filter(|_| teaches),
                prompt: &self.settings.prompt,
            },
            reward: match teaches {
                true => JudgedReward::Teacher,
                false => JudgedReward::Contrast,
            },
            demonstrations: &self.demonstrations,
            execution: self.execution(),
            seed: self.settings.seed,
        };
        judge_samples(groups, &plan)
    }

    /// Phase 2a: adds branches of the demonstrations, as the discriminator's updates of this
    /// iteration need them.
    pub(super) fn add_branches(
        &self,
        groups: &mut [PromptGroup],
        game: usize,
    ) -> Result<(), TrainError> {
        let updates = self
            .settings
            .reward
            .schedule
            .plan(game)
            .discriminator_updates;
        if self.players.discriminator.is_none() || updates == 0 {
            return Ok(());
        }
        let ranks = self.inputs.ranks;
        let own = &groups[ranks::share(ranks, groups.len())];
        let most = own.len() * self.settings.reward.branches.per_demonstration;
        let made = self.with_sequences(most, |limits| {
            let plan = BranchPlan {
                policy: &self.players.policy,
                encoder: &self.encoder,
                limits,
                token_budget: self.settings.run.token_budget,
                iteration: game,
                seed: self.settings.seed,
            };
            self.branches.of(own, &plan)
        });
        let made = gather_traces(ranks, made)?;
        for (group, branches) in groups.iter_mut().zip(made) {
            group.traces.extend(branches);
        }
        Ok(())
    }

    /// Samples `total` sequences, as many at a time as memory allows.
    pub(super) fn with_sequences<T>(
        &self,
        total: usize,
        mut sample: impl FnMut(&SamplingLimits) -> Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        let most = self.limits.max_sequences.min(total).max(1);
        let work = BoundedWork::Sequences;
        self.backoff.attempt(work, most, |max_sequences| {
            let limits = self.limits.clone();
            sample(&SamplingLimits {
                max_sequences,
                ..limits
            })
        })
    }
}
