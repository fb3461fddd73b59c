//! One run: its phases, its iterations, its checkpoints.
//!
//! Iterations are counted over all phases: first the supervised ones (where the policy starts from SFT, or in `sft`),
//! then those of the game. What an iteration does is a function of its number, the settings and the weights, so a
//! resumed run continues to the same bits.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use assay_lm::LanguageModel;
use assay_lm::draw::SamplingSettings as DrawSettings;
use assay_lm::packed::Group;
use assay_lm::sampling::SamplingLimits;
use assay_lm::transformer::Transformer;
use assay_tasks::problem::Problem;
use serde::{Deserialize, Serialize};

use super::describe::{describe_rewards, describe_rollouts};
use super::directory::{Best, RunDirectory};
use super::discriminator::{Discriminator, DiscriminatorBatch};
use super::engine::RolloutServer;
use super::evaluate::{EvaluationPlan, sample_problems};
use super::failure::{Batch, FailedPart, Origin, Seen};
use super::health;
use super::policy_phase::{
    PolicyOptimiser, no_rewards, policy_groups, sample_rows, token_rewards, update_policy,
};
use super::record::{Record, keep, recorded};
use super::rollout::{ROLLOUT, RolloutGroup, RolloutPlan, judged, rollout};
use super::start::{corrupt_share, start_discriminator, start_policy};
use super::step::Step;
use super::together::gather_rollouts;
use super::{Observer, order};
use crate::adam::AdamW;
use crate::encode::{Demonstration, Encoder, TokenLimits};
use crate::metrics::IterationMetrics;
use crate::parallel::{self, Collective};
use crate::player::{Passes, Player, Reach};
use crate::policy_model::PolicyModel;
use crate::relief::{Relief, Work};
use crate::reward::TraceRole;
use crate::reward_model::RewardModel;
use crate::settings::{PolicyStart, Settings};
use crate::sft::token_mean_nll;
use crate::{IrlError, checkpoint};

pub use super::directory::RunMode;

/// Which trainer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainerKind {
    /// Supervised fine-tuning on demonstrations.
    Sft,
    /// GRPO with the answer verifier.
    Grpo,
    /// Adversarial inverse reinforcement learning from demonstrations: no answer is read in training.
    Airl,
}

impl std::fmt::Display for TrainerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sft => "sft",
            Self::Grpo => "grpo",
            Self::Airl => "airl",
        })
    }
}

/// What a run needs.
pub struct TrainInputs<'i> {
    /// Which trainer.
    pub kind: TrainerKind,
    /// All settings.
    pub settings: &'i Settings,
    /// The policy's base model.
    pub model: &'i LanguageModel,
    /// The discriminator's base: the same transformer, or another.
    pub reward_backbone: Arc<Transformer>,
    /// Problems with demonstrations.
    pub train: &'i [Problem],
    /// Problems for measurements during the run; may be empty.
    pub validation: &'i [Problem],
    /// The processes that train together; [`Alone`](crate::parallel::Alone) for one.
    pub ranks: &'i dyn Collective,
}

/// What a run leaves in memory.
pub struct Trained {
    /// The policy.
    pub policy: PolicyModel,
    /// The reward, after `airl`.
    pub reward: Option<RewardModel>,
    /// Metrics of the last iteration.
    pub metrics: IterationMetrics,
    /// Iterations done, over all phases.
    pub iterations: usize,
    /// Iterations of the whole run: more than are done when the observer stopped it.
    pub total: usize,
}

pub(super) struct Run<'i> {
    pub(super) inputs: &'i TrainInputs<'i>,
    encoder: Encoder<'i>,
    pub(super) demonstrations: Arc<[Demonstration]>,
    draw: DrawSettings,
    limits: SamplingLimits,
    sft_iterations: usize,
    pub(super) policy: PolicyModel,
    pub(super) policy_optimiser: AdamW,
    pub(super) discriminator: Option<Discriminator>,
    /// Who samples; this process where there is none.
    server: Option<RolloutServer>,
    /// What is done where memory is refused.
    relief: &'i Relief,
    /// The best checkpoint so far.
    pub(super) best: Option<Best>,
}

/// Trains in a run directory, which it locks.
///
/// # Errors
/// Settings or data without meaning, a directory that holds another run or is in use, a number that is not finite, a
/// trainable parameter without gradient, or a file that cannot be written. The last checkpoint is intact in every case.
pub fn train(
    inputs: &TrainInputs<'_>,
    dir: &Path,
    mode: RunMode,
    observer: &mut dyn Observer,
) -> Result<Trained, IrlError> {
    let ranks = inputs.ranks;
    inputs.settings.validate()?;
    let directory = parallel::on_first(ranks, || {
        RunDirectory::open(dir, inputs.settings, mode, observer)
    })?;
    let relief = Relief::default();
    let mut run = Run::new((inputs, &relief), observer)?;
    run.server = RolloutServer::new(&inputs.settings.sampling.engine, dir)?;
    run.compare_inputs()?;
    let total = run.total();
    let first = run.resume(dir, directory.as_ref(), observer)?;
    let record = directory.map(|directory| Record::open(directory, inputs.settings, first));
    let mut record = record.transpose()?;
    let last = record.as_ref().and_then(|record| record.file.last());
    let mut metrics = last.cloned().unwrap_or_default();
    relief.resume(&metrics);
    let (mut done, mut saved) = (first, first);
    while done < total && !parallel::any(ranks, observer.wants_stop())? {
        metrics = run
            .iterate(done, observer)
            .map_err(|error| recorded(error, dir, (ranks, done)))?;
        run.compare_weights()?;
        if let Some(record) = &mut record {
            record.file.append(&metrics)?;
        }
        observer.iteration(&metrics, total);
        done += 1;
        if done == total {
            health::check(&run, done)?;
        }
        if run.is_due(&metrics) {
            keep(&run, record.as_ref(), done)?;
            saved = done;
        }
    }
    if done > saved {
        keep(&run, record.as_ref(), done)?;
    }
    Ok(Trained {
        policy: run.policy,
        reward: run.discriminator.map(|d| d.model),
        metrics,
        iterations: done,
        total,
    })
}

/// The directory of the newest checkpoint's policy and reward.
///
/// # Errors
/// The directory cannot be read, or holds no checkpoint.
pub fn newest_checkpoint(dir: &Path) -> Result<PathBuf, IrlError> {
    match checkpoint::list(dir)?.pop() {
        Some((_, path)) => Ok(path),
        None => Err(IrlError::Malformed {
            path: dir.to_owned(),
            reason: "it holds no checkpoint".to_owned(),
        }),
    }
}

impl<'i> Run<'i> {
    fn new(
        (inputs, relief): (&'i TrainInputs<'i>, &'i Relief),
        observer: &mut dyn Observer,
    ) -> Result<Self, IrlError> {
        let settings = inputs.settings;
        let sampling = &settings.sampling;
        let limits = TokenLimits {
            prompt: sampling.max_prompt_tokens,
            completion: sampling.max_completion_tokens,
        };
        let encoder = Encoder::new(inputs.model, &settings.prompt, limits);
        let (mut demonstrations, report) = encoder.demonstrations(inputs.train)?;
        observer.note(&format!(
            "{} demonstrations; left out: {} without one, {} beyond {} tokens; {} prompts lost their beginning",
            demonstrations.len(),
            report.without_demonstration,
            report.too_long,
            sampling.max_completion_tokens,
            report.prompts_cut
        ));
        let wrong = corrupt_share(&mut demonstrations, &encoder, settings)?;
        if wrong > 0 {
            observer.note(&format!(
                "{wrong} demonstrations replaced by wrong ones, as the settings ask"
            ));
        }
        let sft_iterations = match (inputs.kind, &settings.policy.start) {
            (TrainerKind::Sft, _) | (_, PolicyStart::Sft) => {
                let visits = settings.sft.epochs * demonstrations.len();
                visits.div_ceil(settings.sft.demonstrations_per_update)
            }
            _ => 0,
        };
        let policy = start_policy(inputs)?;
        let policy_optimiser = AdamW::new(&policy.parameters())?;
        let discriminator = match inputs.kind {
            TrainerKind::Airl => Some(start_discriminator(inputs)?),
            TrainerKind::Sft | TrainerKind::Grpo => None,
        };
        let draw = DrawSettings {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
        };
        let limits = SamplingLimits {
            max_new_tokens: sampling.max_completion_tokens,
            stop_tokens: vec![inputs.model.end_of_turn()],
            max_sequences: sampling.max_sequences,
        };
        Ok(Self {
            inputs,
            encoder,
            demonstrations: demonstrations.into(),
            draw,
            limits,
            sft_iterations,
            policy,
            policy_optimiser,
            discriminator,
            server: None,
            relief,
            best: None,
        })
    }

    /// Whether an iteration is saved, and takes note of the best one.
    fn is_due(&mut self, metrics: &IterationMetrics) -> bool {
        let settings = &self.inputs.settings.run;
        let every = settings.checkpoint_every;
        let regular = every > 0 && (metrics.iteration + 1).is_multiple_of(every);
        let before = self.best;
        if settings.keep_best {
            self.best = Best::after(before, metrics);
        }
        regular || self.best != before
    }

    pub(super) fn total(&self) -> usize {
        let game = match self.inputs.kind {
            TrainerKind::Sft => 0,
            TrainerKind::Grpo | TrainerKind::Airl => self.inputs.settings.run.iterations,
        };
        self.sft_iterations + game
    }

    /// How passes over an update are done.
    fn passes(&self) -> Passes<'i> {
        Passes {
            token_budget: self.inputs.settings.run.token_budget,
            kept_bytes: self.inputs.settings.run.kept_bytes(),
            ranks: self.inputs.ranks,
            // Ranks that cut an update in other places would not do the same work.
            relief: (self.inputs.ranks.size() == 1).then_some(self.relief),
        }
    }

    /// Samples with as many sequences at a time as memory is given for, `total` in all.
    fn sampled<T>(
        &self,
        total: usize,
        mut sample: impl FnMut(&SamplingLimits) -> Result<T, IrlError>,
    ) -> Result<T, IrlError> {
        let most = self.limits.max_sequences.min(total).max(1);
        self.relief.attempt(Work::Sequences, most, |max_sequences| {
            let limits = self.limits.clone();
            sample(&SamplingLimits {
                max_sequences,
                ..limits
            })
        })
    }

    fn iterate(
        &mut self,
        iteration: usize,
        observer: &mut dyn Observer,
    ) -> Result<IterationMetrics, IrlError> {
        let started = std::time::Instant::now();
        let relieved = self.relief.used();
        let mut metrics = IterationMetrics {
            iteration,
            ..IterationMetrics::default()
        };
        match iteration.checked_sub(self.sft_iterations) {
            None => {
                metrics.phase = "sft".to_owned();
                self.fine_tune(iteration, &mut metrics)?;
            }
            Some(game) => {
                if game == 0 {
                    self.policy_optimiser = AdamW::new(&self.policy.parameters())?;
                }
                self.play(game, &mut metrics, observer)?;
            }
        }
        let run = &self.inputs.settings.run;
        let last = iteration + 1 == self.total();
        if run.eval_every > 0 && (last || (iteration + 1).is_multiple_of(run.eval_every)) {
            self.measure(&mut metrics, observer)
                .map_err(|error| health::in_evaluation(error, iteration))?;
        }
        for text in self.relief.describe(relieved, &mut metrics)? {
            observer.note(&text);
        }
        metrics.set("seconds", started.elapsed().as_secs_f64())?;
        Ok(metrics)
    }

    fn fine_tune(
        &mut self,
        iteration: usize,
        metrics: &mut IterationMetrics,
    ) -> Result<(), IrlError> {
        let settings = self.inputs.settings;
        let sft = &settings.sft;
        let picked = order::batch(
            settings.seed,
            self.demonstrations.len(),
            sft.demonstrations_per_update,
            iteration,
        );
        let (groups, origins) = self.demonstrated(&picked);
        let step = Step {
            player: &self.policy,
            batch: Batch {
                part: FailedPart::Sft,
                update: 0,
                groups: &groups,
                origins: &origins,
            },
            passes: self.passes(),
            reach: Reach::Completion,
            optimiser: &sft.optimiser,
            schedule: &sft.optimiser.schedule(self.sft_iterations),
        };
        let stepped = step.take(&mut self.policy_optimiser, |logprobs, _| {
            let output = token_mean_nll(logprobs);
            Ok((output.loss, (), output.grads))
        })?;
        metrics.set("sft/loss", stepped.loss)?;
        metrics.set("sft/learning_rate", stepped.learning_rate)?;
        metrics.set("sft/gradient_norm", stepped.gradient_norm)
    }

    /// Demonstrations as a batch, each in a group of its own.
    fn demonstrated(&self, picked: &[usize]) -> (Vec<Group>, Vec<Origin>) {
        let demonstrations = picked.iter().map(|&index| &self.demonstrations[index]);
        let groups = demonstrations.clone().map(|demonstration| Group {
            prompt: demonstration.prompt.clone(),
            completions: vec![demonstration.completion.ids.clone()],
        });
        let origins = demonstrations.map(|demonstration| Origin {
            problem: demonstration.problem.id.clone(),
            role: TraceRole::Expert,
        });
        (groups.collect(), origins.collect())
    }

    fn play(
        &mut self,
        game: usize,
        metrics: &mut IterationMetrics,
        observer: &mut dyn Observer,
    ) -> Result<(), IrlError> {
        let settings = self.inputs.settings;
        let plan = settings.reward.schedule.plan(game);
        let warming = self.discriminator.is_some() && plan.policy_updates == 0;
        metrics.phase = if warming { "reward_warmup" } else { "policy" }.to_owned();
        let size = settings.run.prompts_per_iteration;
        let picked = order::batch(settings.seed, self.demonstrations.len(), size, game);
        let weight = self
            .discriminator
            .as_ref()
            .map_or(0.0, |d| d.policy_weight(game, &settings.reward));
        let rollouts = if warming && weight == 0.0 {
            Vec::new()
        } else {
            self.sample(&picked, game, observer)?
        };
        describe_rollouts(&rollouts, metrics)?;
        if let Some(server) = &self.server {
            server.describe(metrics)?;
        }
        let all = Arc::clone(&self.demonstrations);
        let demonstrations: Vec<(usize, &Demonstration)> =
            picked.iter().map(|&index| (index, &all[index])).collect();
        let passes = self.passes();
        if let Some(discriminator) = &mut self.discriminator {
            let batch = DiscriminatorBatch {
                demonstrations: &demonstrations,
                rollouts: &rollouts,
                iteration: game,
                seed: settings.seed,
                passes,
            };
            metrics.set("reward/policy_weight", weight)?;
            let total = settings
                .reward
                .schedule
                .total_updates(settings.run.iterations);
            let schedule = settings.reward.optimiser.schedule(total);
            for index in 0..plan.discriminator_updates {
                let how = (&self.encoder, &settings.reward);
                discriminator.update(&batch, index, how, (&schedule, metrics))?;
            }
            discriminator.remember(&batch);
        }
        if warming {
            return Ok(());
        }
        self.improve(&rollouts, &demonstrations, metrics)
    }

    fn sample(
        &self,
        picked: &[usize],
        game: usize,
        observer: &mut dyn Observer,
    ) -> Result<Vec<RolloutGroup>, IrlError> {
        let ranks = self.inputs.ranks;
        let own = match &self.server {
            None => parallel::share((ranks.rank(), ranks.size()), picked.len()),
            // A server has batches of its own, and one to hand the adapter over.
            Some(_) if parallel::is_first(ranks) => 0..picked.len(),
            Some(_) => 0..0,
        };
        let picked = &picked[own];
        if picked.is_empty() {
            return gather_rollouts(ranks, Ok(Vec::new()));
        }
        let problems: Vec<_> = picked
            .iter()
            .map(|&index| {
                (
                    index,
                    &self.demonstrations[index].problem,
                    self.demonstrations[index].prompt.clone(),
                )
            })
            .collect();
        let stream_path = [ROLLOUT, game as u64];
        let samples = self.inputs.settings.sampling.samples;
        let plan = RolloutPlan {
            sampling: &self.draw,
            limits: &self.limits,
            samples,
            stream_path: &stream_path,
            seed: self.inputs.settings.seed,
        };
        let mut on_token = |count| observer.tokens(count);
        let drawn = match &self.server {
            None => self.sampled(picked.len() * samples, |limits| {
                let plan = RolloutPlan { limits, ..plan };
                rollout(&self.policy, &self.encoder, &problems, &plan, &mut on_token)
            }),
            Some(server) => {
                let prompts: Vec<_> = problems.iter().map(|(i, _, p)| (*i, p.clone())).collect();
                let passes = Passes::alone(self.inputs.settings.run.token_budget);
                let players = (&self.policy, self.inputs.model);
                let drawn = server.sample(players, &prompts, (&plan, passes), on_token);
                drawn.map(|drawn| judged(&self.encoder, &problems, drawn))
            }
        };
        let drawn = drawn.map_err(|error| {
            let (groups, origins) = self.demonstrated(picked);
            let batch = Batch {
                part: FailedPart::Rollout,
                update: 0,
                groups: &groups,
                origins: &origins,
            };
            batch.explain(error, &Seen::default())
        });
        gather_rollouts(ranks, drawn)
    }

    /// Scores the samples and updates the policy.
    fn improve(
        &mut self,
        rollouts: &[RolloutGroup],
        demonstrations: &[(usize, &Demonstration)],
        metrics: &mut IterationMetrics,
    ) -> Result<(), IrlError> {
        let settings = self.inputs.settings;
        let passes = self.passes();
        let mut policy_settings = settings.policy.clone();
        let groups = policy_groups(
            rollouts,
            demonstrations,
            policy_settings.advantage.expert_in_group,
        );
        let rewards = match &self.discriminator {
            Some(discriminator) => {
                let rewards =
                    token_rewards(&discriminator.model, &groups, &settings.reward, passes)?;
                describe_rewards(&sample_rows(&rewards, &groups), rollouts, metrics)?;
                rewards
            }
            None => {
                policy_settings.advantage.outcome_weight = 1.0;
                no_rewards(&groups)
            }
        };
        let updates = policy_settings.updates_per_iteration;
        let warmup = self
            .discriminator
            .as_ref()
            .map_or(0, |_| settings.reward.schedule.warmup_iterations);
        let iterations = settings.run.iterations.saturating_sub(warmup);
        let schedule = policy_settings.optimiser.schedule(iterations * updates);
        let optimiser = PolicyOptimiser {
            adamw: &mut self.policy_optimiser,
            schedule,
        };
        update_policy(
            &self.policy,
            optimiser,
            (&groups, &rewards),
            (&policy_settings, passes),
            metrics,
        )
    }

    fn measure(
        &self,
        metrics: &mut IterationMetrics,
        observer: &mut dyn Observer,
    ) -> Result<(), IrlError> {
        let run = &self.inputs.settings.run;
        let problems =
            &self.inputs.validation[..run.eval_problems.min(self.inputs.validation.len())];
        if problems.is_empty() {
            return Ok(());
        }
        let ranks = self.inputs.ranks;
        let own = parallel::share((ranks.rank(), ranks.size()), problems.len());
        let traces = self.sampled(own.len() * run.eval_samples, |limits| {
            let plan = EvaluationPlan {
                draw: &self.draw,
                limits,
                samples: run.eval_samples,
                seed: self.inputs.settings.seed,
                first_problem: own.start,
                generator: "policy",
            };
            let problems = &problems[own.clone()];
            sample_problems(&self.policy, &self.encoder, problems, &plan, |count| {
                observer.tokens(count);
            })
        });
        let verdicts = traces.map(|traces| {
            let right = traces.iter().map(|trace| trace.correct == Some(true));
            right.map(u8::from).collect()
        });
        let verdicts = parallel::exchange(ranks, verdicts)?.concat();
        let right = verdicts.iter().filter(|&&right| right == 1).count();
        metrics.set(
            "validation/accuracy",
            right as f64 / verdicts.len().max(1) as f64,
        )?;
        metrics.set("validation/traces", verdicts.len() as f64)
    }
}
