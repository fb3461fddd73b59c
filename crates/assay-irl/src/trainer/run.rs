//! One run: its phases, its iterations, its checkpoints.
//!
//! Iterations are counted over all phases: first the supervised ones (where the policy starts from SFT, or in `sft`),
//! then those of the game. What an iteration does is a function of its number, the settings and the weights, so a
//! resumed run continues to the same bits.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use assay_lm::draw::SamplingSettings as DrawSettings;
use assay_lm::packed::Group;
use assay_lm::sampling::SamplingLimits;
use assay_lm::transformer::Transformer;
use assay_lm::{LanguageModel, peft};
use assay_tasks::problem::Problem;
use candle_core::Device;

use super::describe::{describe_rewards, describe_rollouts};
use super::discriminator::{Discriminator, DiscriminatorBatch};
use super::evaluate::{EvaluationPlan, sample_problems};
use super::policy_phase::{
    PolicyOptimiser, no_rewards, policy_groups, token_rewards, update_policy,
};
use super::rollout::{ROLLOUT, RolloutGroup, RolloutPlan, rollout};
use super::start::{corrupt_share, save_policy, start_discriminator, start_policy};
use super::state::{POLICY, POLICY_OPTIMISER, REWARD, REWARD_OPTIMISER, RunState, open_directory};
use super::{Observer, order};
use crate::adam::AdamW;
use crate::encode::{Demonstration, Encoder, TokenLimits};
use crate::metrics::{IterationMetrics, MetricsFile};
use crate::player::{Player, update};
use crate::policy_model::{PolicyModel, Trainable};
use crate::reward_model::RewardModel;
use crate::settings::{PolicyStart, Settings};
use crate::sft::token_mean_nll;
use crate::{IrlError, checkpoint};

pub use super::state::RunMode;

/// Which trainer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainerKind {
    /// Supervised fine-tuning on demonstrations.
    Sft,
    /// GRPO with the answer verifier.
    Grpo,
    /// Adversarial inverse reinforcement learning from demonstrations: no answer is read in training.
    Airl,
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
}

/// What a run leaves in memory.
pub struct Trained {
    /// The policy.
    pub policy: PolicyModel,
    /// The reward, after `airl`.
    pub reward: Option<RewardModel>,
    /// Metrics of the last iteration.
    pub metrics: IterationMetrics,
}

struct Run<'i> {
    inputs: &'i TrainInputs<'i>,
    encoder: Encoder<'i>,
    demonstrations: Arc<[Demonstration]>,
    draw: DrawSettings,
    limits: SamplingLimits,
    sft_iterations: usize,
    policy: PolicyModel,
    policy_optimiser: AdamW,
    discriminator: Option<Discriminator>,
}

/// Trains in a run directory.
///
/// # Errors
/// Settings or data without meaning, a directory that holds another run, a number that is not finite, a trainable
/// parameter without gradient, or a file that cannot be written. The last checkpoint is intact in every case.
pub fn train(
    inputs: &TrainInputs<'_>,
    dir: &Path,
    mode: RunMode,
    observer: &mut dyn Observer,
) -> Result<Trained, IrlError> {
    inputs.settings.validate()?;
    open_directory(dir, inputs.settings, mode)?;
    let mut run = Run::new(inputs, observer)?;
    let total = run.total();
    let first = match checkpoint::list(dir)?.last() {
        Some((_, path)) => run.restore(path)?,
        None => 0,
    };
    if first > 0 {
        observer.note(&format!("resuming after iteration {first} of {total}"));
    }
    let mut file = MetricsFile::open(&dir.join("metrics.jsonl"), first)?;
    let mut metrics = IterationMetrics::default();
    for iteration in first..total {
        metrics = run.iterate(iteration, observer)?;
        file.append(&metrics)?;
        observer.iteration(&metrics, total);
        let every = inputs.settings.run.checkpoint_every;
        let last = iteration + 1 == total;
        if last || (every > 0 && (iteration + 1).is_multiple_of(every)) {
            checkpoint::write(dir, iteration + 1, |target| run.save(target, iteration + 1))?;
            if inputs.settings.run.keep_last > 0 {
                checkpoint::prune(dir, inputs.settings.run.keep_last)?;
            }
        }
    }
    Ok(Trained {
        policy: run.policy,
        reward: run.discriminator.map(|d| d.model),
        metrics,
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
    fn new(inputs: &'i TrainInputs<'i>, observer: &mut dyn Observer) -> Result<Self, IrlError> {
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
        let policy_optimiser = AdamW::new(&policy.parameters());
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
        })
    }

    fn total(&self) -> usize {
        let game = match self.inputs.kind {
            TrainerKind::Sft => 0,
            TrainerKind::Grpo | TrainerKind::Airl => self.inputs.settings.run.iterations,
        };
        self.sft_iterations + game
    }

    fn iterate(
        &mut self,
        iteration: usize,
        observer: &mut dyn Observer,
    ) -> Result<IterationMetrics, IrlError> {
        let started = std::time::Instant::now();
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
                    self.policy_optimiser = AdamW::new(&self.policy.parameters());
                }
                self.play(game, &mut metrics, observer)?;
            }
        }
        let run = &self.inputs.settings.run;
        let last = iteration + 1 == self.total();
        if run.eval_every > 0 && (last || (iteration + 1).is_multiple_of(run.eval_every)) {
            self.measure(&mut metrics, observer)?;
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
        let groups: Vec<Group> = picked
            .iter()
            .map(|&index| {
                let demonstration = &self.demonstrations[index];
                let completions = vec![demonstration.completion.ids.clone()];
                Group {
                    prompt: demonstration.prompt.clone(),
                    completions,
                }
            })
            .collect();
        let (loss, gradients) = update(
            &self.policy,
            &groups,
            settings.run.token_budget,
            |logprobs| {
                let output = token_mean_nll(logprobs);
                Ok((output.loss, output.grads))
            },
        )?;
        let schedule = sft.optimiser.schedule(self.sft_iterations);
        let rate = schedule.learning_rate(self.policy_optimiser.iterations() as usize);
        let parameters = self.policy.parameters();
        let adamw = sft.optimiser.adamw(rate);
        let step =
            self.policy_optimiser
                .step(&parameters, &gradients, &adamw, sft.optimiser.clip_norm)?;
        metrics.set("sft/loss", loss)?;
        metrics.set("sft/learning_rate", rate)?;
        metrics.set("sft/gradient_norm", step.gradient_norm)
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
        let all = Arc::clone(&self.demonstrations);
        let demonstrations: Vec<(usize, &Demonstration)> =
            picked.iter().map(|&index| (index, &all[index])).collect();
        if let Some(discriminator) = &mut self.discriminator {
            let batch = DiscriminatorBatch {
                demonstrations: &demonstrations,
                rollouts: &rollouts,
                iteration: game,
                seed: settings.seed,
                token_budget: settings.run.token_budget,
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
        let plan = RolloutPlan {
            sampling: &self.draw,
            limits: &self.limits,
            samples: self.inputs.settings.sampling.samples,
            stream_path: &stream_path,
            seed: self.inputs.settings.seed,
        };
        rollout(&self.policy, &self.encoder, &problems, &plan, |count| {
            observer.tokens(count)
        })
    }

    /// Scores the samples and updates the policy.
    fn improve(
        &mut self,
        rollouts: &[RolloutGroup],
        demonstrations: &[(usize, &Demonstration)],
        metrics: &mut IterationMetrics,
    ) -> Result<(), IrlError> {
        let settings = self.inputs.settings;
        let budget = settings.run.token_budget;
        let mut policy_settings = settings.policy.clone();
        let groups = policy_groups(
            rollouts,
            demonstrations,
            policy_settings.advantage.expert_in_group,
        );
        let rewards = match &self.discriminator {
            Some(discriminator) => {
                let rewards =
                    token_rewards(&discriminator.model, &groups, &settings.reward, budget)?;
                describe_rewards(&rewards, metrics)?;
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
            (&policy_settings, budget),
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
        let plan = EvaluationPlan {
            draw: &self.draw,
            limits: &self.limits,
            samples: run.eval_samples,
            seed: self.inputs.settings.seed,
            first_problem: 0,
            generator: "policy",
        };
        let traces = sample_problems(&self.policy, &self.encoder, problems, &plan, |count| {
            observer.tokens(count)
        })?;
        let right = traces
            .iter()
            .filter(|trace| trace.correct == Some(true))
            .count();
        metrics.set(
            "validation/accuracy",
            right as f64 / traces.len().max(1) as f64,
        )?;
        metrics.set("validation/traces", traces.len() as f64)
    }

    fn save(&self, dir: &Path, iterations: usize) -> Result<(), IrlError> {
        let make = |name: &str| -> Result<PathBuf, IrlError> {
            let path = dir.join(name);
            fs::create_dir(&path).map_err(|source| IrlError::io("creating", &path, source))?;
            Ok(path)
        };
        save_policy(&self.policy, self.inputs.model, &make(POLICY)?)?;
        self.policy_optimiser.save(&dir.join(POLICY_OPTIMISER))?;
        let mut state = RunState {
            iterations,
            style: Default::default(),
            replay: None,
        };
        if let Some(discriminator) = &self.discriminator {
            let base = self
                .inputs
                .settings
                .reward_model_path()
                .display()
                .to_string();
            discriminator.model.save(&make(REWARD)?, &base)?;
            discriminator.optimiser.save(&dir.join(REWARD_OPTIMISER))?;
            state.style = discriminator.style;
            state.replay = Some(discriminator.replay.clone());
        }
        state.write(dir)
    }

    fn restore(&mut self, dir: &Path) -> Result<usize, IrlError> {
        let state = RunState::read(dir)?;
        let policy = dir.join(POLICY);
        match &mut self.policy.trainable {
            Trainable::Adapter(adapter) => {
                *adapter = peft::load(&policy, self.policy.transformer.config())?.adapter;
            }
            Trainable::Whole(parameters) => {
                let path = policy.join("model.safetensors");
                let tensors = candle_core::safetensors::load(&path, &Device::Cpu)?;
                for (name, var) in parameters {
                    let missing = || IrlError::Malformed {
                        path: path.clone(),
                        reason: format!("{name} is missing"),
                    };
                    var.set(tensors.get(name.as_str()).ok_or_else(missing)?)?;
                }
            }
        }
        self.policy_optimiser = AdamW::new(&self.policy.parameters());
        self.policy_optimiser.restore(&dir.join(POLICY_OPTIMISER))?;
        if let Some(discriminator) = &mut self.discriminator {
            let model = RewardModel::load(&dir.join(REWARD), self.inputs.reward_backbone.clone())?;
            *discriminator = Discriminator::new(model, &self.inputs.settings.reward);
            discriminator
                .optimiser
                .restore(&dir.join(REWARD_OPTIMISER))?;
            discriminator.style = state.style;
            if let Some(replay) = state.replay {
                discriminator.replay = replay;
            }
        }
        Ok(state.iterations)
    }
}
