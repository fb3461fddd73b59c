//! What the quickstart measures: every policy on fresh problems, the reward as a critic, and where it sees errors.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use assay_evals::evaluation::{EvalSettings, Evaluation, Evaluator};
use assay_evals::localisation::{Localisation, LocalisationCase, localise};
use assay_evals::scores::{ScoreSettings, TraceScore, score_all};
use assay_irl::encode::{Encoder, TokenLimits};
use assay_irl::player::infer_all;
use assay_irl::policy_model::{PolicyModel, Trainable, logprobs_and_entropies};
use assay_irl::reward::granularity::backfill;
use assay_irl::reward_model::RewardModel;
use assay_irl::settings::Settings;
use assay_irl::trainer::evaluate::{EvaluationPlan, sample_problems};
use assay_lm::draw::SamplingSettings as DrawSettings;
use assay_lm::packed::{Group, PackedBatch};
use assay_lm::sampling::SamplingLimits;
use assay_lm::LanguageModel;
use assay_tasks::perturbations::{DemonstrationGroup, Perturbation, Registry};
use assay_tasks::problem::Problem;
use assay_tasks::random::Stream;
use assay_tasks::trace::ScoredTrace;

use super::stages::{Players, Stages};
use crate::progress::Progress;

/// Samples a problem.
pub(super) const SAMPLES: usize = 16;
/// Key of the streams of injected errors.
const INJECT: u64 = 0x1e;

/// All results.
pub(super) struct Measured {
    /// All policies' traces together, one generator each.
    pub(super) policies: Evaluation,
    /// Traces of the SFT policy under the reward.
    pub(super) critic: Evaluation,
    /// The trace score chosen on validation.
    pub(super) score: TraceScore,
    /// Injected errors.
    pub(super) localisation: Localisation,
    /// Scored traces of the SFT policy.
    pub(super) traces: Vec<ScoredTrace>,
    /// Demonstrations with an injected error, scored, and where it is.
    pub(super) errors: Vec<(ScoredTrace, std::ops::Range<usize>)>,
    /// Tokens a second of sampling.
    pub(super) sampling_speed: f64,
}

/// Samples, scores and evaluates.
pub(super) fn measure(stages: &Stages<'_>, base: &LanguageModel, players: &Players) -> Result<Measured> {
    let settings = &stages.settings;
    let limits =
        TokenLimits { prompt: settings.sampling.max_prompt_tokens, completion: settings.sampling.max_completion_tokens };
    let encoder = Encoder::new(base, &settings.prompt, limits);
    let sft = PolicyModel { transformer: Arc::clone(&base.transformer), trainable: Trainable::Whole(Vec::new()) };
    let mut sampler = Sampler { settings, base, encoder: &encoder, tokens: 0, seconds: 0.0 };
    let policies =
        [("sft", &sft), ("more_sft", &players.more_sft), ("airl", &players.airl), ("grpo", &players.grpo)];
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
    let scorer = Scorer { reward: &players.reward, settings };
    scorer.score(&mut traces)?;
    scorer.score(&mut validation)?;
    let fitted = fit(&validation)?;
    let score = fitted.as_ref().map_or(TraceScore::SoftMin, |fitted| fitted.score);
    let eval = EvalSettings { score, fitted, ..EvalSettings::default() };
    let critic = assay_evals::evaluation::evaluate(traces.clone(), &eval)?;
    let policies = assay_evals::evaluation::evaluate(all, &EvalSettings::default())?;
    let (localisation, errors) = scorer.localise(&encoder, base, &stages.test, settings.seed)?;
    let sampling_speed = sampler.tokens as f64 / sampler.seconds.max(1e-9);
    Ok(Measured { policies, critic, score, localisation, traces, errors, sampling_speed })
}

fn fit(validation: &[ScoredTrace]) -> Result<Option<assay_evals::evaluation::Fitted>> {
    let mut evaluator = Evaluator::new(EvalSettings::default());
    for trace in validation {
        evaluator.push(trace)?;
    }
    Ok(evaluator.fit())
}

struct Sampler<'s> {
    settings: &'s Settings,
    base: &'s LanguageModel,
    encoder: &'s Encoder<'s>,
    tokens: usize,
    seconds: f64,
}

impl Sampler<'_> {
    fn sample(&mut self, policy: &PolicyModel, problems: &[Problem], name: &str) -> Result<Vec<ScoredTrace>> {
        let limits = SamplingLimits {
            max_new_tokens: self.settings.sampling.max_completion_tokens,
            stop_tokens: vec![self.base.end_of_turn()],
            max_sequences: self.settings.sampling.max_sequences,
        };
        let draw = DrawSettings::default();
        let seed = self.settings.seed;
        let plan = EvaluationPlan { draw: &draw, limits: &limits, samples: SAMPLES, seed, generator: name };
        let started = Instant::now();
        let mut progress = Progress::new(&format!("sample {name}"), problems.len() * SAMPLES);
        let traces = sample_problems(policy, self.encoder, problems, &plan, |_| ())?;
        progress.set(traces.len(), traces.len(), "");
        progress.finish();
        self.seconds += started.elapsed().as_secs_f64();
        self.tokens += traces.iter().map(|trace| trace.token_ids.len()).sum::<usize>();
        Ok(traces)
    }
}

struct Scorer<'s> {
    reward: &'s RewardModel,
    settings: &'s Settings,
}

impl Scorer<'_> {
    /// Fills token rewards and trace scores; traces of one problem lie together and share their prompt.
    fn score(&self, traces: &mut [ScoredTrace]) -> Result<()> {
        let groups: Vec<Group> = traces
            .chunk_by(|a, b| a.id == b.id)
            .map(|chunk| Group {
                prompt: chunk[0].prompt_token_ids.clone(),
                completions: chunk.iter().map(|trace| trace.token_ids.clone()).collect(),
            })
            .collect();
        let logits = infer_all(self.reward, &groups, self.settings.run.token_budget)?;
        for (trace, logits) in traces.iter_mut().zip(logits) {
            trace.token_rewards = self.rewards(&logits).into_iter().map(Some).collect();
            trace.scores = score_all(trace, &ScoreSettings::default());
        }
        Ok(())
    }

    fn rewards(&self, logits: &[f32]) -> Vec<f32> {
        let reward = &self.settings.reward;
        let positions = reward.granularity.labelled_positions(logits.len(), &[]);
        reward.transform.rewards(&backfill(logits, &positions))
    }

    /// Injects one number error into each test demonstration and asks where it is.
    fn localise(
        &self,
        encoder: &Encoder<'_>,
        base: &LanguageModel,
        problems: &[Problem],
        seed: u64,
    ) -> Result<(Localisation, Vec<(ScoredTrace, std::ops::Range<usize>)>)> {
        let registry = Registry::of(&[Perturbation::CorruptNumbers]);
        let registry = registry.within(&self.settings.reward.perturbations.alphabet);
        let (demonstrations, _) = encoder.demonstrations(problems)?;
        let mut errors = Vec::new();
        let mut originals = Vec::new();
        let mut surprise = Vec::new();
        for (index, demonstration) in demonstrations.iter().enumerate() {
            let mut stream = Stream::new(seed, &[INJECT, index as u64]);
            let text = demonstration.completion.text.as_str();
            let group = DemonstrationGroup::corrupt((&demonstration.problem, text), &registry, 1, &mut stream);
            let Some(perturbed) = group.perturbed().first() else { continue };
            let Some(completion) = encoder.completion(&perturbed.text)? else { continue };
            let group = Group {
                prompt: demonstration.prompt.clone(),
                completions: vec![completion.ids.clone(), demonstration.completion.ids.clone()],
            };
            let logits = infer_all(self.reward, std::slice::from_ref(&group), usize::MAX)?;
            let batch = PackedBatch::new(&[group])?;
            let (logprobs, entropies) = logprobs_and_entropies(&base.transformer, None, &batch)?;
            originals.push(self.rewards(&logits[1]).into_iter().map(Some).collect::<Vec<_>>());
            surprise.push((logprobs[0].clone(), entropies[0].clone()));
            let trace = ScoredTrace {
                id: demonstration.problem.id.clone(),
                question: demonstration.problem.question.clone(),
                generator: "injected error".to_owned(),
                text: completion.text,
                token_ids: completion.ids,
                token_offsets: completion.offsets,
                token_rewards: self.rewards(&logits[0]).into_iter().map(Some).collect(),
                ..ScoredTrace::default()
            };
            errors.push((trace, perturbed.span.clone()));
        }
        if errors.is_empty() {
            return Err(anyhow!("no test demonstration has a number to corrupt"));
        }
        let cases = errors.iter().zip(&originals).zip(&surprise).map(|(((trace, span), original), surprise)| {
            LocalisationCase {
                id: &trace.id,
                kind: Perturbation::CorruptNumbers.name(),
                text: &trace.text,
                token_offsets: &trace.token_offsets,
                token_rewards: &trace.token_rewards,
                reference_rewards: Some(original),
                logprobs: Some(&surprise.0),
                entropies: Some(&surprise.1),
                error_start: span.start,
                error_end: span.end,
            }
        });
        Ok((localise(cases, None), errors))
    }
}
