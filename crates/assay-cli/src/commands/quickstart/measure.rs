//! The measurements of the quickstart: accuracy of every policy on test problems, selection by the
//! reward, and localisation of injected errors.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use assay_critic::encode::{Encoder, TokenLimits};
use assay_critic::policy_model::{PolicyModel, Trainable};
use assay_critic::{Critic, ErrorCase, ScoringPolicy};
use assay_evals::calibration::{Calibration, PROBABILITY};
use assay_evals::localisation::{Localisation, localise};
use assay_evals::scores::TraceScore;
use assay_evals::statistics::Estimate;
use assay_evals::{EvalSettings, Evaluation, Evaluator, Summary, evaluate};
use assay_lm::LanguageModel;
use assay_lm::draw::DrawSettings;
use assay_lm::sampling::SamplingLimits;
use assay_tasks::perturbations::{Perturbation, Registry};
use assay_tasks::problem::Problem;
use assay_tasks::trace::ScoredTrace;
use assay_train::run::evaluate::{EvaluationPlan, sample_problems};
use assay_train::settings::Settings;

use super::speed::speeds;
use super::stages::{Players, Stages};
use crate::progress::Progress;

/// Samples per problem.
pub(super) const SAMPLES: usize = 16;

/// All results.
pub(super) struct Measured {
    /// The traces of all policies; each policy is one generator.
    pub(super) policies: Evaluation,
    /// Traces of the SFT policy, scored by the reward.
    pub(super) critic: Evaluation,
    /// The trace score, chosen on validation problems.
    pub(super) score: TraceScore,
    /// P(correct), fitted on validation problems.
    pub(super) calibration: Option<Calibration>,
    /// Localisation of injected errors.
    pub(super) localisation: Localisation,
    /// Scored traces of the SFT policy.
    pub(super) traces: Vec<ScoredTrace>,
    /// Demonstrations with an injected error, scored.
    pub(super) errors: Vec<ErrorCase>,
    /// Tokens per second of every stage.
    pub(super) speeds: Summary,
}

/// Samples from every policy, scores the samples of the SFT policy and evaluates all.
pub(super) fn measure(
    stages: &Stages<'_>,
    base: &LanguageModel,
    players: &Players,
) -> Result<Measured> {
    let settings = &stages.settings;
    let limits = TokenLimits {
        prompt: settings.sampling.max_prompt_tokens,
        completion: settings.sampling.max_completion_tokens,
    };
    let encoder = Encoder::new(base, &settings.prompt, limits);
    let sft = PolicyModel {
        transformer: Arc::clone(&base.transformer),
        trainable: Trainable::Whole(Vec::new()),
    };
    let mut sampler = Sampler {
        settings,
        base,
        encoder: &encoder,
        tokens: 0,
        seconds: 0.0,
    };
    let policies = [
        ("sft", &sft),
        ("more_sft", &players.more_sft),
        ("airl", &players.airl),
        ("grpo", &players.grpo),
    ];
    let mut all = Vec::new();
    let mut traces = Vec::new();
    for (name, policy) in policies {
        let sampled = sampler.sample(policy, &stages.test, name)?;
        if name == "sft" {
            traces = sampled.clone();
        }
        all.extend(sampled);
    }
    let mut validation = sampler.sample(&sft, &stages.validation, "sft")?;
    let critic = Critic::new(&players.reward, base, settings.run.token_budget);
    let policy = ScoringPolicy {
        transformer: &base.transformer,
        adapter: None,
    };
    critic.score(&mut traces, Some(policy))?;
    critic.score(&mut validation, Some(policy))?;
    let calibration = calibrate(&validation)?;
    let eval = settings_of(calibration.as_ref(), &mut traces);
    let errors = injected(&critic, stages, policy)?;
    let localisation = localise(errors.iter().map(ErrorCase::view));
    let critic = evaluate(traces.clone(), &eval)?;
    let policies = evaluate(all, &EvalSettings::default())?;
    let mut speeds = speeds(players, &traces, settings)?;
    let sampling = sampler.tokens as f64 / sampler.seconds.max(1e-9);
    speeds.insert("tokens_per_second.sample", Estimate::exact(sampling));
    Ok(Measured {
        policies,
        critic,
        score: eval.score,
        calibration,
        localisation,
        traces,
        errors,
        speeds,
    })
}

/// The evaluation settings of a calibration. Also stores P(correct) in the scores of each trace.
fn settings_of(calibration: Option<&Calibration>, traces: &mut [ScoredTrace]) -> EvalSettings {
    for trace in traces {
        let probability = calibration.and_then(|c| c.probability(trace));
        let named = probability.map(|p| (PROBABILITY.to_owned(), p as f32));
        trace.scores.extend(named);
    }
    EvalSettings {
        score: calibration.map_or(TraceScore::SoftMin, Calibration::score),
        fitted: calibration.map(|c| c.fitted.clone()),
        ..EvalSettings::default()
    }
}

/// Scored test demonstrations with one injected error each. The kinds of errors are those of
/// training and the held-out ones.
fn injected(
    critic: &Critic<'_>,
    stages: &Stages<'_>,
    policy: ScoringPolicy<'_>,
) -> Result<Vec<ErrorCase>> {
    let perturbations = &stages.settings.reward.perturbations;
    let kinds: BTreeSet<Perturbation> = perturbations
        .kinds
        .iter()
        .chain(&perturbations.held_out)
        .copied()
        .collect();
    let kinds: Vec<Perturbation> = kinds.into_iter().collect();
    let registry = perturbations.within_alphabet(Registry::of(&kinds));
    let seed = stages.settings.seed;
    Ok(critic.inject(&stages.test, &registry, seed, policy, |_| ())?)
}

fn calibrate(validation: &[ScoredTrace]) -> Result<Option<Calibration>> {
    let mut evaluator = Evaluator::new(EvalSettings::default());
    for trace in validation {
        evaluator.push(trace)?;
    }
    Ok(evaluator.calibrate("quickstart validation problems"))
}

struct Sampler<'s> {
    settings: &'s Settings,
    base: &'s LanguageModel,
    encoder: &'s Encoder<'s>,
    tokens: usize,
    seconds: f64,
}

impl Sampler<'_> {
    fn sample(
        &mut self,
        policy: &PolicyModel,
        problems: &[Problem],
        name: &str,
    ) -> Result<Vec<ScoredTrace>> {
        let limits = SamplingLimits {
            max_new_tokens: self.settings.sampling.max_completion_tokens,
            stop_tokens: vec![self.base.end_of_turn()],
            max_sequences: self.settings.sampling.max_sequences,
        };
        let draw = DrawSettings::default();
        let seed = self.settings.seed;
        let plan = EvaluationPlan {
            draw: &draw,
            limits: &limits,
            samples: SAMPLES,
            seed,
            first_problem: 0,
            generator: name,
        };
        let started = Instant::now();
        let mut progress = Progress::new(&format!("sample {name}"), problems.len() * SAMPLES);
        let traces = sample_problems(policy, self.encoder, problems, &plan, |_| ())?;
        progress.set(traces.len(), traces.len(), "");
        progress.finish();
        self.seconds += started.elapsed().as_secs_f64();
        self.tokens += traces
            .iter()
            .map(|trace| trace.token_ids.len())
            .sum::<usize>();
        Ok(traces)
    }
}
