//! The reward model as a critic: token rewards of traces, injected errors, step rewards.
//!
//! Decided here: which ids a trace is scored on and which traces share a packed prompt. A trace that carries token ids
//! of this model is scored on those, never encoded again; text alone, or text with another tokenizer's ids, is rendered
//! in the reward's prompt style and encoded. A trace that cannot be scored keeps its place and is counted.

use std::collections::HashMap;
use std::ops::Range;

use assay_evals::localisation::LocalisationCase;
use assay_evals::scores::{ScoreSettings, score_all};
use assay_lm::LanguageModel;
use assay_lm::adapter::Adapter;
use assay_lm::packed::{Group, PackedBatch, micro_batches};
use assay_lm::transformer::Transformer;
use assay_tasks::answers::{extract_lenient, is_correct};
use assay_tasks::perturbations::{DemonstrationGroup, Perturbed, Registry};
use assay_tasks::problem::Problem;
use assay_tasks::prompts::PromptSettings;
use assay_tasks::random::{Stream, text_key};
use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::StepTrace;

use crate::CriticError;
use crate::encode::{Demonstration, EncodedCompletion, Encoder, TokenLimits};
use crate::granularity::backfill;
use crate::player::Player;
use crate::policy_model::logprobs_and_entropies;
use crate::reward_model::RewardModel;

/// Key of the streams of injected errors.
const INJECT: u64 = 0x1e;
/// Demonstrations whose errors are scored together.
const WINDOW: usize = 16;

/// A policy whose log-probabilities stand beside the rewards. It reads the reward's token ids.
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
    model: &'m LanguageModel,
    encoder: Encoder<'m>,
    token_budget: usize,
}

/// What scoring did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScoreReport {
    /// Traces with rewards.
    pub scored: usize,
    /// Traces without a token, or beyond the model's positions: kept in place without rewards.
    pub unscored: usize,
    /// Traces that carried another tokenizer's ids: encoded again, their old log-probabilities dropped.
    pub encoded_again: usize,
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
    /// A critic over the model its reward was trained on. Prompts keep the end of at most half the model's positions.
    pub fn new(reward: &'m RewardModel, model: &'m LanguageModel, token_budget: usize) -> Self {
        let positions = model.transformer.config().max_positions;
        let limits = TokenLimits {
            prompt: (positions / 2).max(1),
            completion: positions,
        };
        Self {
            reward,
            model,
            encoder: Encoder::new(model, &reward.scoring.prompt, limits),
            token_budget,
        }
    }

    /// Fills tokens, rewards, trace scores, answers and correctness; with a policy its log-probabilities too.
    ///
    /// Traces of one question share their prompt, wherever they stand. The order is kept, and a trace's numbers do not
    /// depend on its neighbours.
    ///
    /// # Errors
    /// A model or tokenizer fails; [`CriticError::NonFiniteReward`] names the trace whose reward is not a number.
    pub fn score(
        &self,
        traces: &mut [ScoredTrace],
        beside: Option<Beside<'_>>,
    ) -> Result<ScoreReport, CriticError> {
        self.score_watched(traces, beside, |_| ())
    }

    /// [`Critic::score`] that tells `on_scored` how many traces have rewards so far.
    ///
    /// # Errors
    /// As [`Critic::score`].
    pub fn score_watched(
        &self,
        traces: &mut [ScoredTrace],
        beside: Option<Beside<'_>>,
        on_scored: impl FnMut(usize),
    ) -> Result<ScoreReport, CriticError> {
        let mut encoded_again = 0;
        for trace in traces.iter_mut() {
            encoded_again += usize::from(self.complete(trace)?);
            judge(trace);
        }
        let scored = self.score_encoded(traces, beside, on_scored)?;
        Ok(ScoreReport {
            scored,
            unscored: traces.len() - scored,
            encoded_again,
        })
    }

    /// Injects one error into each demonstration and scores both; demonstrations that offer none are left out.
    ///
    /// The error depends on the seed, the problem and its text, not on the other problems. `on_case` gets the number of
    /// demonstrations done.
    ///
    /// # Errors
    /// No problem has a usable demonstration, or a model fails.
    pub fn inject(
        &self,
        problems: &[Problem],
        registry: &Registry,
        seed: u64,
        beside: Beside<'_>,
        mut on_case: impl FnMut(usize),
    ) -> Result<Vec<ErrorCase>, CriticError> {
        let (demonstrations, _) = self.encoder.demonstrations(problems)?;
        let mut cases = Vec::with_capacity(demonstrations.len());
        let mut done = 0;
        for window in demonstrations.chunks(WINDOW) {
            let mut errors = Vec::with_capacity(window.len());
            let mut traces = Vec::with_capacity(2 * window.len());
            for demonstration in window {
                if let Some((perturbed, wrong)) = self.corrupt(demonstration, registry, seed)? {
                    errors.push(perturbed);
                    traces.push(trace_of(demonstration, wrong, "injected error"));
                    let right = demonstration.completion.clone();
                    traces.push(trace_of(demonstration, right, "demonstration"));
                }
            }
            self.score_encoded(&mut traces, Some(beside), |_| ())?;
            let mut scored = traces.into_iter();
            for perturbed in errors {
                if let (Some(trace), Some(original)) = (scored.next(), scored.next()) {
                    cases.push(ErrorCase {
                        trace,
                        original: original.token_rewards,
                        span: perturbed.span,
                        kind: perturbed.kind.name(),
                    });
                }
            }
            done += window.len();
            on_case(done);
        }
        Ok(cases)
    }

    /// Scores traces given as steps; the byte range of each step in the scored text comes beside each trace.
    ///
    /// The steps are joined by lines and rendered in the reward's prompt style, as [`Critic::score`] does with texts.
    ///
    /// # Errors
    /// A model or tokenizer fails.
    pub fn score_steps(
        &self,
        traces: &[StepTrace],
        beside: Option<Beside<'_>>,
        on_scored: impl FnMut(usize),
    ) -> Result<Vec<ScoredSteps>, CriticError> {
        let (mut records, mut ranges) = (Vec::new(), Vec::new());
        for trace in traces {
            let (text, steps) = rendered_steps(&self.reward.scoring.prompt, &trace.steps);
            let mut record = ScoredTrace {
                id: trace.id.clone(),
                question: trace.question.clone(),
                generator: trace.generator.clone(),
                prompt_token_ids: self.encoder.prompt(&trace.question)?,
                text,
                ..ScoredTrace::default()
            };
            if let Some(completion) = self.encoder.completion(&record.text)? {
                record.token_ids = completion.ids;
                record.token_offsets = completion.offsets;
            }
            records.push(record);
            ranges.push(steps);
        }
        self.score_encoded(&mut records, beside, on_scored)?;
        Ok(records.into_iter().zip(ranges).collect())
    }

    /// Rewards and trace scores of traces with token ids; gives how many received them.
    fn score_encoded(
        &self,
        traces: &mut [ScoredTrace],
        beside: Option<Beside<'_>>,
        mut on_scored: impl FnMut(usize),
    ) -> Result<usize, CriticError> {
        for trace in traces.iter_mut() {
            trace.token_rewards = vec![None; trace.token_ids.len()];
            trace.scores.clear();
        }
        let (groups, places) = grouped(traces, self.positions(beside));
        let mut scored = 0;
        for part in micro_batches(&groups, self.token_budget) {
            let batch = PackedBatch::new(&part.groups)?;
            let logits = self.reward.infer(&batch)?;
            let policy = beside
                .map(|policy| logprobs_and_entropies(policy.transformer, policy.adapter, &batch))
                .transpose()?;
            for (row, &(group, completion)) in part.origin.iter().enumerate() {
                let trace = &mut traces[places[group][completion]];
                trace.token_rewards = self.rewards(trace, &logits[row])?;
                if let Some((logprobs, entropies)) = &policy {
                    trace.policy_logprobs = Some(logprobs[row].clone());
                    trace.entropies = Some(entropies[row].clone());
                }
                trace.scores = score_all(trace, &ScoreSettings::default());
            }
            scored += part.origin.len();
            on_scored(scored);
        }
        Ok(scored)
    }

    /// The positions that every model of a scoring pass has.
    fn positions(&self, beside: Option<Beside<'_>>) -> usize {
        let own = self.model.transformer.config().max_positions;
        beside.map_or(own, |policy| {
            own.min(policy.transformer.config().max_positions)
        })
    }

    /// Gives a trace this model's ids where it has none or another tokenizer's; tells whether it had others.
    ///
    /// [`Critic::score`] does this first. A trace that is empty, or whose text exceeds the model's positions, stays
    /// without ids.
    ///
    /// # Errors
    /// The chat template or the tokenizer fails.
    pub fn complete(&self, trace: &mut ScoredTrace) -> Result<bool, CriticError> {
        let carried = !trace.token_ids.is_empty();
        let vocabulary = self.model.transformer.config().vocab_size;
        let known = |ids: &[u32]| ids.iter().all(|&id| (id as usize) < vocabulary);
        if carried && known(&trace.token_ids) && self.spells(trace)? {
            if trace.prompt_token_ids.is_empty() || !known(&trace.prompt_token_ids) {
                trace.prompt_token_ids = self.encoder.prompt(&trace.question)?;
            }
            return Ok(false);
        }
        trace.token_ids.clear();
        trace.token_offsets.clear();
        trace.policy_logprobs = None;
        trace.sampling_logprobs = None;
        trace.entropies = None;
        trace.prompt_token_ids = self.encoder.prompt(&trace.question)?;
        if trace.text.trim().is_empty() {
            return Ok(carried);
        }
        let rendered = self.reward.scoring.prompt.render_foreign(&trace.text);
        trace.predicted_answer = trace.predicted_answer.take().or(rendered.answer);
        if let Some(completion) = self.encoder.completion(&rendered.text)? {
            trace.text = completion.text;
            trace.token_ids = completion.ids;
            trace.token_offsets = completion.offsets;
        }
        Ok(carried)
    }

    /// Whether a trace's ids are its text in this tokenizer: they read back to it, or it encodes to them.
    fn spells(&self, trace: &ScoredTrace) -> Result<bool, CriticError> {
        if self.model.decode(&trace.token_ids).0 == trace.text {
            return Ok(true);
        }
        let encoded = self.encoder.completion(&trace.text)?;
        Ok(encoded.is_some_and(|completion| completion.ids == trace.token_ids))
    }

    fn rewards(
        &self,
        trace: &ScoredTrace,
        logits: &[f32],
    ) -> Result<Vec<Option<f32>>, CriticError> {
        let completion = EncodedCompletion {
            text: trace.text.clone(),
            ids: trace.token_ids.clone(),
            offsets: trace.token_offsets.clone(),
        };
        let scoring = &self.reward.scoring;
        let positions = scoring
            .granularity
            .labelled_positions(logits.len(), &completion.step_ends());
        let rewards = scoring.transform.rewards(&backfill(logits, &positions));
        match rewards.iter().position(|reward| !reward.is_finite()) {
            Some(token) => Err(CriticError::NonFiniteReward {
                trace: trace.id.clone(),
                token,
            }),
            None => Ok(rewards.into_iter().map(Some).collect()),
        }
    }

    fn corrupt(
        &self,
        demonstration: &Demonstration,
        registry: &Registry,
        seed: u64,
    ) -> Result<Option<(Perturbed, EncodedCompletion)>, CriticError> {
        let mut stream = Stream::new(seed, &[INJECT, text_key(&demonstration.problem.id)]);
        let text = demonstration.completion.text.as_str();
        let group =
            DemonstrationGroup::corrupt((&demonstration.problem, text), registry, 1, &mut stream);
        let Some(perturbed) = group.perturbed().first() else {
            return Ok(None);
        };
        let completion = self.encoder.completion(&perturbed.text)?;
        Ok(completion.map(|completion| (perturbed.clone(), completion)))
    }
}

/// Traces with a prompt and tokens that fit, grouped by prompt in the order of first appearance; beside each group the places of its
/// completions among the traces.
fn grouped(traces: &[ScoredTrace], positions: usize) -> (Vec<Group>, Vec<Vec<usize>>) {
    let (mut groups, mut places) = (Vec::<Group>::new(), Vec::<Vec<usize>>::new());
    let mut known: HashMap<&[u32], usize> = HashMap::new();
    for (place, trace) in traces.iter().enumerate() {
        let tokens = trace.prompt_token_ids.len() + trace.token_ids.len();
        let empty = trace.prompt_token_ids.is_empty() || trace.token_ids.is_empty();
        if empty || tokens > positions {
            continue;
        }
        let group = *known.entry(&trace.prompt_token_ids).or_insert_with(|| {
            groups.push(Group {
                prompt: trace.prompt_token_ids.clone(),
                completions: Vec::new(),
            });
            places.push(Vec::new());
            groups.len() - 1
        });
        groups[group].completions.push(trace.token_ids.clone());
        places[group].push(place);
    }
    (groups, places)
}

/// Reads the answer, and compares it with the gold answer where nobody has yet.
fn judge(trace: &mut ScoredTrace) {
    if trace.predicted_answer.is_none() {
        trace.predicted_answer = extract_lenient(&trace.text).map(|found| found.text.to_owned());
    }
    if let (None, Some(gold)) = (trace.correct, trace.answer.as_deref()) {
        trace.correct = Some(is_correct(trace.predicted_answer.as_deref(), gold));
    }
}

fn trace_of(
    demonstration: &Demonstration,
    completion: EncodedCompletion,
    generator: &str,
) -> ScoredTrace {
    ScoredTrace {
        id: demonstration.problem.id.clone(),
        question: demonstration.problem.question.clone(),
        generator: generator.to_owned(),
        prompt_token_ids: demonstration.prompt.clone(),
        text: completion.text,
        token_ids: completion.ids,
        token_offsets: completion.offsets,
        answer: demonstration.problem.answer.clone(),
        ..ScoredTrace::default()
    }
}

/// Steps as one rendered completion, and where each step lies in it.
///
/// A step reaches to where the next one begins: a token that ends a step and its line at once (`.\n`) belongs to the step that it ends.
/// Rendering may rewrite a step that states the final answer; such a step reaches from the end of the one before to the
/// end of the text if it is the last, and is empty otherwise.
fn rendered_steps(prompt: &PromptSettings, steps: &[String]) -> (String, Vec<Range<usize>>) {
    let trimmed: Vec<&str> = steps.iter().map(|step| step.trim()).collect();
    let text = prompt.render_foreign(&trimmed.join("\n")).text;
    let mut end = 0;
    let mut ranges = Vec::with_capacity(steps.len());
    for (index, step) in trimmed.iter().enumerate() {
        let range = match text[end..].find(step) {
            Some(at) => end + at..end + at + step.len(),
            None if index + 1 == steps.len() => end..text.len(),
            None => end..end,
        };
        end = range.end;
        ranges.push(range);
    }
    for next in 1..ranges.len() {
        ranges[next - 1].end = ranges[next].start;
    }
    (text, ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(prompt: &[u32], ids: &[u32]) -> ScoredTrace {
        ScoredTrace {
            prompt_token_ids: prompt.to_vec(),
            token_ids: ids.to_vec(),
            ..ScoredTrace::default()
        }
    }

    #[test]
    fn traces_of_one_prompt_meet_in_one_group_wherever_they_stand() {
        let traces = [
            trace(&[1, 2], &[5]),
            trace(&[3], &[6, 7]),
            trace(&[1, 2], &[]),
            trace(&[1, 2], &[8, 9]),
            trace(&[3], &[1, 1, 1, 1]),
        ];
        let (groups, places) = grouped(&traces, 4);
        assert_eq!(places, [vec![0, 3], vec![1]]);
        assert_eq!(groups[0].prompt, [1, 2]);
        assert_eq!(groups[0].completions, [vec![5], vec![8, 9]]);
        assert_eq!(groups[1].completions, [vec![6, 7]]);
    }

    #[test]
    fn steps_are_found_in_the_rendered_text() {
        let prompt = PromptSettings::default();
        let steps = ["2+2 = 4", " 4*3 = 12 ", "The answer is 12."].map(str::to_owned);
        let (text, ranges) = rendered_steps(&prompt, &steps);
        assert_eq!(
            text,
            "<think>\n2+2 = 4\n4*3 = 12\n</think>\n<answer>\n12\n</answer>"
        );
        assert_eq!(&text[ranges[0].clone()], "2+2 = 4\n");
        assert_eq!(&text[ranges[1].clone()], "4*3 = 12");
        assert_eq!(ranges[2], ranges[1].end..text.len());
        let boxed = ["a = 1", "a = 1", "so \\boxed{1}"].map(str::to_owned);
        let (text, ranges) = rendered_steps(&prompt, &boxed);
        assert_eq!(&text[ranges[2].clone()], "so \\boxed{1}");
        assert!(ranges[0].end <= ranges[1].start && ranges[1].len() == 6);
        // A token that ends a step and its line at once belongs to the step.
        let (text, ranges) = rendered_steps(&prompt, &["So.".to_owned(), "Yes".to_owned()]);
        let at = text.find(".\n").unwrap();
        assert!(ranges[0].contains(&(at + 1)) && !ranges[1].contains(&(at + 1)));
    }

    #[test]
    fn answers_are_judged_once() {
        let mut trace = ScoredTrace {
            text: "so it is 1,000".to_owned(),
            answer: Some("1000".to_owned()),
            ..ScoredTrace::default()
        };
        judge(&mut trace);
        assert_eq!(trace.predicted_answer.as_deref(), Some("1,000"));
        assert_eq!(trace.correct, Some(true));
        trace.answer = Some("7".to_owned());
        judge(&mut trace);
        assert_eq!(trace.correct, Some(true));
    }
}
