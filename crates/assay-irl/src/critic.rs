//! The reward model as a critic: token rewards of traces, injected errors, step rewards.
//!
//! Decided here: which ids a trace is scored on and which traces share a packed prompt. A trace that carries its own
//! token ids is scored on those; text alone is rendered in the reward's prompt style and encoded.

use std::ops::Range;

use assay_evals::localisation::LocalisationCase;
use assay_evals::scores::{ScoreSettings, score_all};
use assay_lm::LanguageModel;
use assay_lm::adapter::Adapter;
use assay_lm::packed::{Group, PackedBatch, micro_batches};
use assay_lm::transformer::Transformer;
use assay_tasks::answers::{extract_lenient, same_answer};
use assay_tasks::perturbations::{DemonstrationGroup, Registry};
use assay_tasks::problem::Problem;
use assay_tasks::random::Stream;
use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::StepTrace;

use crate::IrlError;
use crate::encode::{EncodedCompletion, Encoder, TokenLimits};
use crate::player::{TokenScalars, infer_all};
use crate::policy_model::logprobs_and_entropies;
use crate::reward::granularity::backfill;
use crate::reward_model::RewardModel;

/// Key of the streams of injected errors.
const INJECT: u64 = 0x1e;

/// A policy whose log-probabilities stand beside the rewards.
#[derive(Clone, Copy)]
pub struct Beside<'p> {
    /// Its base.
    pub transformer: &'p Transformer,
    /// Its adapter.
    pub adapter: Option<&'p Adapter>,
}

/// A reward model with what scoring needs.
pub struct Critic<'m> {
    reward: &'m RewardModel,
    encoder: Encoder<'m>,
    token_budget: usize,
}

/// What scoring did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScoreReport {
    /// Traces with rewards.
    pub scored: usize,
    /// Traces without a token, or beyond the model's positions: written without rewards.
    pub unscored: usize,
}

/// A demonstration with one injected error, scored.
#[derive(Clone, Debug)]
pub struct ErrorCase {
    /// The perturbed demonstration with rewards and the policy's log-probabilities and entropies.
    pub trace: ScoredTrace,
    /// Rewards of the demonstration itself.
    pub original: Vec<Option<f32>>,
    /// Bytes of the trace's text that are wrong.
    pub span: Range<usize>,
    /// The perturbation's name.
    pub kind: &'static str,
}

/// A scored trace and the byte range of each of its steps in the scored text.
pub type ScoredSteps = (ScoredTrace, Vec<Range<usize>>);

impl ErrorCase {
    /// The case as localisation reads it.
    pub fn view(&self) -> LocalisationCase<'_> {
        LocalisationCase {
            id: &self.trace.id,
            kind: self.kind,
            text: &self.trace.text,
            token_offsets: &self.trace.token_offsets,
            token_rewards: &self.trace.token_rewards,
            reference_rewards: Some(&self.original),
            logprobs: self.trace.policy_logprobs.as_deref(),
            entropies: self.trace.entropies.as_deref(),
            error_start: self.span.start,
            error_end: self.span.end,
        }
    }
}

impl<'m> Critic<'m> {
    /// A critic over the model its reward was trained on.
    pub fn new(reward: &'m RewardModel, model: &'m LanguageModel, token_budget: usize) -> Self {
        let positions = model.transformer.config().max_positions;
        let limits = TokenLimits {
            prompt: positions / 2,
            completion: positions / 2,
        };
        Self {
            reward,
            encoder: Encoder::new(model, &reward.scoring.prompt, limits),
            token_budget,
        }
    }

    /// Fills tokens, rewards, trace scores, answers and correctness; with a policy its log-probabilities too.
    ///
    /// Neighbouring traces of one question share their prompt. The order is kept.
    ///
    /// # Errors
    /// A model or tokenizer fails.
    pub fn score(
        &self,
        traces: &mut [ScoredTrace],
        beside: Option<Beside<'_>>,
    ) -> Result<ScoreReport, IrlError> {
        for trace in traces.iter_mut() {
            self.complete(trace)?;
        }
        let mut report = ScoreReport::default();
        for chunk in traces.chunk_by_mut(|a, b| a.prompt_token_ids == b.prompt_token_ids) {
            self.score_group(chunk, beside, &mut report)?;
        }
        Ok(report)
    }

    fn score_group(
        &self,
        traces: &mut [ScoredTrace],
        beside: Option<Beside<'_>>,
        report: &mut ScoreReport,
    ) -> Result<(), IrlError> {
        let group = Group {
            prompt: traces
                .first()
                .map(|trace| trace.prompt_token_ids.clone())
                .unwrap_or_default(),
            completions: traces.iter().map(|trace| trace.token_ids.clone()).collect(),
        };
        let logits = infer_all(self.reward, std::slice::from_ref(&group), self.token_budget)?;
        let policy = beside
            .map(|policy| self.beside(policy, &group))
            .transpose()?;
        for (index, (trace, logits)) in traces.iter_mut().zip(&logits).enumerate() {
            if logits.is_empty() {
                report.unscored += 1;
                continue;
            }
            report.scored += 1;
            trace.token_rewards = self.rewards(trace, logits);
            if let Some((logprobs, entropies)) = &policy {
                trace.policy_logprobs = Some(logprobs[index].clone());
                trace.entropies = Some(entropies[index].clone());
            }
            trace.scores = score_all(trace, &ScoreSettings::default());
        }
        Ok(())
    }

    fn beside(
        &self,
        policy: Beside<'_>,
        group: &Group,
    ) -> Result<(TokenScalars, TokenScalars), IrlError> {
        let (mut logprobs, mut entropies) = (Vec::new(), Vec::new());
        for part in micro_batches(std::slice::from_ref(group), self.token_budget) {
            let batch = PackedBatch::new(&part.groups)?;
            let (l, e) = logprobs_and_entropies(policy.transformer, policy.adapter, &batch)?;
            logprobs.extend(l);
            entropies.extend(e);
        }
        Ok((logprobs, entropies))
    }

    /// Gives a text-only trace its ids, and any trace its answer and correctness.
    fn complete(&self, trace: &mut ScoredTrace) -> Result<(), IrlError> {
        if trace.token_ids.is_empty() {
            let rendered = self.reward.scoring.prompt.render_foreign(&trace.text);
            trace.predicted_answer = trace.predicted_answer.take().or(rendered.answer);
            trace.prompt_token_ids = self.encoder.prompt(&trace.question)?;
            if let Some(completion) = self.encoder.completion(&rendered.text)? {
                trace.text = completion.text;
                trace.token_ids = completion.ids;
                trace.token_offsets = completion.offsets;
            }
            trace.token_rewards = vec![None; trace.token_ids.len()];
        }
        if trace.predicted_answer.is_none() {
            trace.predicted_answer =
                extract_lenient(&trace.text).map(|found| found.text.to_owned());
        }
        if let (None, Some(gold)) = (trace.correct, trace.answer.as_deref()) {
            trace.correct = Some(
                trace
                    .predicted_answer
                    .as_deref()
                    .is_some_and(|found| same_answer(found, gold)),
            );
        }
        Ok(())
    }

    fn rewards(&self, trace: &ScoredTrace, logits: &[f32]) -> Vec<Option<f32>> {
        let completion = EncodedCompletion {
            text: trace.text.clone(),
            ids: trace.token_ids.clone(),
            offsets: trace.token_offsets.clone(),
        };
        let scoring = &self.reward.scoring;
        let positions = scoring
            .granularity
            .labelled_positions(logits.len(), &completion.step_ends());
        scoring
            .transform
            .rewards(&backfill(logits, &positions))
            .into_iter()
            .map(Some)
            .collect()
    }

    /// Injects one error into each demonstration and scores both; problems that offer none are left out.
    ///
    /// # Errors
    /// No problem has a usable demonstration, or a model fails.
    pub fn inject(
        &self,
        problems: &[Problem],
        (registry, seed): (&Registry, u64),
        beside: Beside<'_>,
        mut on_case: impl FnMut(usize),
    ) -> Result<Vec<ErrorCase>, IrlError> {
        let (demonstrations, _) = self.encoder.demonstrations(problems)?;
        let mut cases = Vec::with_capacity(demonstrations.len());
        for (index, demonstration) in demonstrations.iter().enumerate() {
            on_case(index);
            let mut stream = Stream::new(seed, &[INJECT, index as u64]);
            let text = demonstration.completion.text.as_str();
            let group = DemonstrationGroup::corrupt(
                (&demonstration.problem, text),
                registry,
                1,
                &mut stream,
            );
            let Some(perturbed) = group.perturbed().first() else {
                continue;
            };
            let Some(completion) = self.encoder.completion(&perturbed.text)? else {
                continue;
            };
            let trace = |completion: EncodedCompletion, generator: &str| ScoredTrace {
                id: demonstration.problem.id.clone(),
                question: demonstration.problem.question.clone(),
                generator: generator.to_owned(),
                prompt_token_ids: demonstration.prompt.clone(),
                text: completion.text,
                token_rewards: vec![None; completion.ids.len()],
                token_ids: completion.ids,
                token_offsets: completion.offsets,
                answer: demonstration.problem.answer.clone(),
                ..ScoredTrace::default()
            };
            let mut both = [
                trace(completion, "injected error"),
                trace(demonstration.completion.clone(), "demonstration"),
            ];
            self.score(&mut both, Some(beside))?;
            let [wrong, right] = both;
            let (span, kind) = (perturbed.span.clone(), perturbed.kind.name());
            cases.push(ErrorCase {
                trace: wrong,
                original: right.token_rewards,
                span,
                kind,
            });
        }
        Ok(cases)
    }

    /// Scores traces given as steps; the byte range of each step in the scored text comes beside each trace.
    ///
    /// # Errors
    /// A model or tokenizer fails.
    pub fn score_steps(&self, traces: &[StepTrace]) -> Result<Vec<ScoredSteps>, IrlError> {
        let mut scored = Vec::with_capacity(traces.len());
        for trace in traces {
            let (mut text, mut steps) = (String::new(), Vec::with_capacity(trace.steps.len()));
            for step in &trace.steps {
                let start = text.len();
                text.push_str(step.trim());
                steps.push(start..text.len());
                text.push('\n');
            }
            let mut record = ScoredTrace {
                id: trace.id.clone(),
                question: trace.question.clone(),
                generator: trace.generator.clone(),
                prompt_token_ids: self.encoder.prompt(&trace.question)?,
                text: text.clone(),
                ..ScoredTrace::default()
            };
            if let Some(completion) = self.encoder.completion(&text)? {
                record.token_rewards = vec![None; completion.ids.len()];
                record.token_ids = completion.ids;
                record.token_offsets = completion.offsets;
            }
            let mut one = [record];
            self.score(&mut one, None)?;
            let [record] = one;
            scored.push((record, steps));
        }
        Ok(scored)
    }
}
