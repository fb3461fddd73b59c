//! One run: phases, iterations and checkpoints.
//!
//! Iterations are counted over all phases: first the supervised ones (if the policy starts from
//! SFT, or in `sft`), then those of the game. An iteration is a function of its number, the
//! settings and the weights, so a resumed run continues with the same bits. An iteration of the
//! game has these phases:
//!
//! 1. sample completions of the iteration's prompts from the policy;
//! 2. update the discriminator on demonstrations, perturbed demonstrations, branches and samples;
//! 3. score the samples with the updated discriminator;
//! 4. update the policy on the samples and their token rewards;
//! 5. record metrics, and save a checkpoint when one is due.

mod branches;
mod data;
mod directory;
pub mod discriminator;
mod early_stop;
pub mod evaluate;
mod failure;
mod fine_tuning;
mod health;
mod inputs;
mod judging;
mod kind;
mod lock;
mod measuring;
mod observer;
pub mod order;
mod player_update;
mod players;
pub mod policy_update;
mod rank_checks;
mod record;
pub mod replay;
mod report;
pub mod rollout;
mod rollout_server;
mod sampled;
mod saving;
mod start;
mod state;
mod stored_samples;

use std::path::Path;

use assay_critic::encode::{Encoder, TokenLimits};
use assay_lm::draw::DrawSettings;
use assay_lm::sampling::SamplingLimits;

use self::branches::Branches;
use self::directory::{Best, RunDirectory};
use self::discriminator::DiscriminatorPlan;
use self::early_stop::Extent;
use self::judging::join_rewards;
use self::players::Players;
use self::policy_update::{
    PolicyPlan, PolicyReport, fill_rewards, fill_zero_rewards, policy_groups, update_policy,
};
use self::rank_checks::{compare_inputs, compare_weights};
use self::record::{Record, recorded};
use self::report::{DiscriminatorPhase, IterationReport, RewardsReport, RolloutReport};
use self::rollout_server::RolloutServer;
use self::saving::{Checkpoints, Restored, choose, fingerprint};
use self::stored_samples::StoredSamples;
use crate::backoff::MemoryBackoff;
use crate::execution::Execution;
use crate::metrics::IterationMetrics;
use crate::ranks::Collective;
use crate::settings::{PolicyStart, Settings};
use crate::trace::PromptGroup;
use crate::{TrainError, checkpoint, ranks};

pub use self::directory::RunMode;
pub use self::early_stop::EarlyStop;
pub use self::inputs::{TrainInputs, Trained};
pub use self::kind::TrainerKind;
pub use self::lock::RunLock;
pub use self::observer::{Observer, Silent};
pub use self::saving::newest_checkpoint;

/// A run in progress.
struct Run<'i> {
    inputs: &'i TrainInputs<'i>,
    settings: &'i Settings,
    encoder: Encoder<'i>,
    /// The demonstrations, one group each.
    demonstrations: Vec<PromptGroup>,
    branches: Branches<'i>,
    draw: DrawSettings,
    limits: SamplingLimits,
    sft_iterations: usize,
    players: Players,
    /// The server that samples; `None` if this process samples.
    server: Option<RolloutServer>,
    /// Samples of a file; `None` if the policy samples.
    stored: Option<StoredSamples>,
    backoff: &'i MemoryBackoff,
    checkpoints: Checkpoints<'i>,
}

/// Trains in a run directory, which it locks.
///
/// # Errors
/// Invalid settings or data, a directory that holds another run or is in use, a number that is not
/// finite, a trainable parameter without gradient, or a file that cannot be written. The last
/// checkpoint is intact in every case.
pub fn train(
    inputs: &TrainInputs<'_>,
    dir: &Path,
    mode: RunMode,
    observer: &mut dyn Observer,
) -> Result<Trained, TrainError> {
    let ranks = inputs.ranks;
    inputs.settings.validate()?;
    let directory = ranks::on_first(ranks, || {
        RunDirectory::open(dir, inputs.settings, mode, observer)
    })?;
    let backoff = MemoryBackoff::default();
    let mut run = Run::new(inputs, &backoff, dir, observer)?;
    compare_inputs(inputs, &run.checkpoints.data)?;
    let total = run.total();
    let mut now = run.resume(dir, directory.as_ref(), observer)?;
    let record = directory.map(|own| Record::open(own, inputs, now.iterations));
    let mut record = record.transpose()?;
    let last = record.as_ref().and_then(|record| record.metrics.last());
    let mut metrics = last.cloned().unwrap_or_default();
    backoff.restore(&metrics);
    let mut saved = now.iterations;
    let mut ends = ends_early(ranks, record.as_ref())?;
    while now.iterations < total && !ends && !ranks::any(ranks, observer.wants_stop())? {
        metrics = run
            .iterate(now.iterations, observer)
            .map_err(|error| recorded(error, dir, ranks, now.iterations))?;
        compare_weights(ranks, &run.players)?;
        match &mut record {
            Some(record) => record.add(&metrics, total, observer)?,
            None => observer.iteration(&metrics, total),
        }
        now.iterations += 1;
        ends = ends_early(ranks, record.as_ref())?;
        if let Some(first) = run.demonstrations.first()
            && (ends || now.iterations == total)
        {
            health::check(&run.players, first, now.iterations)?;
        }
        if run.is_due(&metrics, &mut now.best) {
            run.save(record.as_ref(), &now)?;
            saved = now.iterations;
        }
    }
    if now.iterations > saved {
        run.save(record.as_ref(), &now)?;
    }
    let extent = Extent {
        iterations: now.iterations,
        total,
    };
    let early_stop = record.as_ref().map(|record| record.finish(extent));
    Ok(Trained {
        policy: run.players.policy,
        reward: run.players.discriminator.map(|own| own.model),
        metrics,
        iterations: now.iterations,
        total,
        ended_early: ends && now.iterations < total,
        early_stop: early_stop.transpose()?.flatten(),
    })
}

/// Whether the settings end the run here. The first rank decides.
fn ends_early(ranks: &dyn Collective, record: Option<&Record>) -> Result<bool, TrainError> {
    ranks::any(ranks, record.is_some_and(Record::ends_early))
}

impl<'i> Run<'i> {
    fn new(
        inputs: &'i TrainInputs<'i>,
        backoff: &'i MemoryBackoff,
        dir: &Path,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let settings = inputs.settings;
        let sampling = &settings.sampling;
        let limits = TokenLimits {
            prompt: sampling.max_prompt_tokens,
            completion: sampling.max_completion_tokens,
        };
        let encoder = Encoder::new(inputs.model, &settings.prompt, limits);
        let demonstrations = data::demonstrations(inputs.train, &encoder, settings, observer)?;
        let stored = StoredSamples::open(&sampling.engine, &demonstrations)?;
        if let Some(stored) = &stored {
            let covered = stored.coverage(&demonstrations);
            let all = demonstrations.len();
            observer.note(&format!("stored samples of {covered} of {all} prompts"));
        }
        let branches = Branches::new(inputs, &demonstrations, &encoder, observer)?;
        if settings.run.early_stop.evaluations > 0 && inputs.validation.is_empty() {
            let reason = "needs validation problems: set `data.validation.path`";
            return Err(TrainError::setting("run.early_stop.evaluations", reason));
        }
        let measured = settings.run.eval_problems.min(inputs.validation.len());
        encoder.ensure_prompts_fit(&inputs.validation[..measured])?;
        let sft_iterations = match (inputs.kind, &settings.policy.start) {
            (TrainerKind::Sft, _) | (_, PolicyStart::Sft) => {
                let visits = settings.sft.epochs * demonstrations.len();
                visits.div_ceil(settings.sft.demonstrations_per_update)
            }
            _ => 0,
        };
        let checkpoints = Checkpoints {
            inputs,
            data: fingerprint(&demonstrations),
        };
        Ok(Self {
            inputs,
            settings,
            encoder,
            demonstrations,
            branches,
            draw: DrawSettings {
                temperature: sampling.temperature,
                top_p: 1.0,
                top_k: 0,
            },
            limits: SamplingLimits {
                max_new_tokens: sampling.max_completion_tokens,
                stop_tokens: vec![inputs.model.end_of_turn()],
                max_sequences: sampling.max_sequences,
            },
            sft_iterations,
            players: Players::start(inputs)?,
            server: RolloutServer::new(&sampling.engine, dir)?,
            stored,
            backoff,
            checkpoints,
        })
    }

    /// Continues from the newest intact checkpoint. The first rank chooses it, and all ranks read
    /// it.
    fn resume(
        &mut self,
        dir: &Path,
        directory: Option<&RunDirectory>,
        observer: &mut dyn Observer,
    ) -> Result<Restored, TrainError> {
        let ranks = self.inputs.ranks;
        let chosen = directory.map_or(Ok(None), |own| choose(own, observer));
        let Some(number) = ranks::from_first(ranks, chosen)? else {
            return Ok(Restored {
                iterations: 0,
                best: None,
            });
        };
        let path = checkpoint::path(dir, number);
        let restored = self.checkpoints.restore(&mut self.players, &path);
        let restored = ranks::agree(ranks, restored)?;
        if let Some(directory) = directory {
            self.checkpoints.tidy(directory, restored.best.as_ref())?;
        }
        observer.note(&format!(
            "resuming after iteration {} of {}",
            restored.iterations,
            self.total()
        ));
        Ok(restored)
    }

    /// Iterations of the whole run.
    fn total(&self) -> usize {
        let game = match self.inputs.kind {
            TrainerKind::Sft => 0,
            TrainerKind::Grpo | TrainerKind::Airl => self.settings.run.iterations,
        };
        self.sft_iterations + game
    }

    fn iterate(
        &mut self,
        iteration: usize,
        observer: &mut dyn Observer,
    ) -> Result<IterationMetrics, TrainError> {
        let started = std::time::Instant::now();
        let halved_before = self.backoff.limits();
        let mut report = IterationReport::default();
        match iteration.checked_sub(self.sft_iterations) {
            None => {
                report.phase = "sft";
                report.sft = Some(self.fine_tune(iteration)?);
            }
            Some(game) => {
                if game == 0 {
                    self.players.reset_policy_optimiser()?;
                }
                self.play(game, &mut report, observer)?;
            }
        }
        if self.is_measured(iteration) {
            let validation = self.validate(observer);
            report.validation =
                validation.map_err(|error| health::in_evaluation(error, iteration))?;
        }
        report.halved = self.backoff.limits();
        for halved in &report.halved {
            if !halved_before.contains(halved) {
                observer.note(&halved.warning(iteration));
            }
        }
        report.seconds = started.elapsed().as_secs_f64();
        report.metrics(iteration)
    }

    /// An iteration of the game.
    fn play(
        &mut self,
        game: usize,
        report: &mut IterationReport,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let schedule = &self.settings.reward.schedule;
        let warming =
            self.players.discriminator.is_some() && schedule.plan(game).policy_updates == 0;
        report.phase = if warming { "reward_warmup" } else { "policy" };
        let mut groups = self.picked(game, self.settings.run.prompts_per_iteration);
        if !warming || self.policy_weight(game) != 0.0 || self.judges() {
            self.sample(&mut groups, game, observer)?;
        }
        if self.judges() {
            self.judge(&mut groups)?;
        }
        report.rollout = Some(self.rollout_report(&groups));
        self.add_branches(&mut groups, game)?;
        report.discriminator = self.update_discriminator(&groups, game)?;
        if warming {
            return Ok(());
        }
        let expert = self.settings.policy.advantage.expert_in_group;
        let mut learned = policy_groups(&groups, expert);
        report.rewards = self.score(&mut learned)?;
        report.policy = Some(self.update_policy(&learned)?);
        Ok(())
    }

    /// The demonstrations of an iteration, `size` of them.
    fn picked(&self, iteration: usize, size: usize) -> Vec<PromptGroup> {
        let count = self.demonstrations.len();
        let picked = order::batch(self.settings.seed, count, size, iteration);
        let groups = picked.into_iter().map(|index| &self.demonstrations[index]);
        groups.cloned().collect()
    }

    fn rollout_report(&self, groups: &[PromptGroup]) -> RolloutReport {
        let mut report = RolloutReport::of(groups);
        report.discarded_answers = self.server.as_ref().map(RolloutServer::take_discarded);
        report
    }

    /// Weight of policy samples among the discriminator's negatives.
    fn policy_weight(&self, game: usize) -> f64 {
        let discriminator = self.players.discriminator.as_ref();
        discriminator.map_or(0.0, |own| own.policy_weight(game, &self.settings.reward))
    }

    /// Phase 2: updates the discriminator as often as the schedule says. Returns `None` without a
    /// discriminator.
    fn update_discriminator(
        &mut self,
        groups: &[PromptGroup],
        game: usize,
    ) -> Result<Option<DiscriminatorPhase>, TrainError> {
        let policy_weight = self.policy_weight(game);
        let (execution, reward) = (self.execution(), &self.settings.reward);
        let Some(discriminator) = &mut self.players.discriminator else {
            return Ok(None);
        };
        let total = reward.schedule.total_updates(self.settings.run.iterations);
        let optimiser = self.settings.optimiser.reward();
        let plan = DiscriminatorPlan {
            settings: reward,
            encoder: &self.encoder,
            optimiser: &optimiser,
            schedule: &optimiser.schedule(total),
            execution,
            iteration: game,
            seed: self.settings.seed,
        };
        let mut update = None;
        for index in 0..reward.schedule.plan(game).discriminator_updates {
            update = Some(discriminator.update(groups, index, &plan)?);
        }
        discriminator.remember(groups);
        Ok(Some(DiscriminatorPhase {
            policy_weight,
            update,
        }))
    }

    /// Phase 3: fills in the token rewards of the discriminator, the judge or both; zeros for
    /// `grpo`.
    fn score(&self, groups: &mut [PromptGroup]) -> Result<Option<RewardsReport>, TrainError> {
        match &self.players.discriminator {
            Some(discriminator) => {
                let (model, reward) = (&discriminator.model, &self.settings.reward);
                fill_rewards(model, groups, reward, self.execution())?;
            }
            None => fill_zero_rewards(groups),
        }
        if self.inputs.kind != TrainerKind::Airl {
            return Ok(None);
        }
        join_rewards(groups, self.settings.reward.source)?;
        Ok(Some(RewardsReport::of(groups)))
    }

    /// Phase 4: updates the policy on traces with token rewards.
    fn update_policy(&mut self, groups: &[PromptGroup]) -> Result<PolicyReport, TrainError> {
        let mut settings = self.settings.policy.clone();
        let mut warmup = self.settings.reward.schedule.warmup_iterations;
        if self.players.discriminator.is_none() {
            warmup = 0;
        }
        if self.inputs.kind == TrainerKind::Grpo {
            settings.advantage.outcome_weight = 1.0;
        }
        let iterations = self.settings.run.iterations.saturating_sub(warmup);
        let updates = iterations * settings.updates_per_iteration;
        let optimiser = self.settings.optimiser.policy();
        let plan = PolicyPlan {
            settings: &settings,
            optimiser: &optimiser,
            schedule: &optimiser.schedule(updates),
            execution: self.execution(),
        };
        let Players {
            policy,
            policy_optimiser,
            ..
        } = &mut self.players;
        update_policy(policy, policy_optimiser, groups, &plan)
    }

    /// Whether a checkpoint is due. Updates the best checkpoint.
    fn is_due(&self, metrics: &IterationMetrics, best: &mut Option<Best>) -> bool {
        let run = &self.settings.run;
        let every = run.checkpoint_every;
        let regular = every > 0 && (metrics.iteration + 1).is_multiple_of(every);
        let before = *best;
        *best = Best::after(before, metrics);
        regular || *best != before
    }

    /// Phase 5: writes a checkpoint if this rank writes.
    fn save(&self, record: Option<&Record>, now: &Restored) -> Result<(), TrainError> {
        let Some(record) = record else {
            return Ok(());
        };
        record.metrics.sync()?;
        self.checkpoints
            .write(&record.directory, &self.players, now)
    }

    /// How passes are executed.
    fn execution(&self) -> Execution<'i> {
        Execution {
            budget: self.settings.run.pass_budget(),
            ranks: self.inputs.ranks,
            // With several ranks all must split an update in the same way.
            backoff: (self.inputs.ranks.size() == 1).then_some(self.backoff),
        }
    }
}
