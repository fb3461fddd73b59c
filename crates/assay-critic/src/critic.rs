//! The reward model as a critic: token rewards of traces, injected errors, step rewards.
//!
//! This module decides which token ids a trace is scored on and which traces share a packed prompt.
//! A trace that carries token ids of this model is scored on those ids. Text alone, or text with
//! another tokenizer's ids, is rendered in the reward's prompt style and encoded. A trace that
//! cannot be scored stays in the list without rewards and is counted.
//!
//! Scoring has three parts: [`Critic::encode`] needs the tokenizer, [`Critic::outputs`] runs the
//! models on token ids, [`Critic::finish`] turns logits into rewards and scores. The server runs
//! [`Critic::outputs`] on a separate thread.

use std::ops::{AddAssign, ControlFlow, Range};

use assay_evals::localisation::LocalisationCase;
use assay_evals::scores::{ScoreSettings, score_all};
use assay_lm::LanguageModel;
use assay_lm::adapter::Adapter;
use assay_lm::packed::{PackedBatch, PromptGroups, PromptedCompletion};
use assay_lm::transformer::Transformer;
use assay_tasks::answers::{extract_lenient, is_correct};
use assay_tasks::perturbations::{DemonstrationGroup, Perturbed, Registry};
use assay_tasks::problem::Problem;
use assay_tasks::prompts::PromptSettings;
use assay_tasks::random::{StreamKey, text_key};
use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::StepTrace;

use crate::CriticError;
use crate::encode::{Demonstration, EncodedCompletion, Encoder, TokenLimits};
use crate::granularity::backfill;
use crate::player::Player;
use crate::policy_model::logprobs_and_entropies;
use crate::reward_model::RewardModel;

/// Demonstrations whose errors are scored together.
const WINDOW: usize = 16;

/// A policy whose log-probabilities are written with the rewards. It reads the reward's token ids.
#[derive(Clone, Copy)]
pub struct ScoringPolicy<'p> {
    /// Its base model.
    pub transformer: &'p Transformer,
    /// Its adapter.
    pub adapter: Option<&'p Adapter>,
}

/// A reward model with its base model, its encoder and the size of a batch.
pub struct Critic<'m> {
    reward: &'m RewardModel,
    model: &'m LanguageModel,
    encoder: Encoder<'m>,
    token_budget: usize,
}

/// Counts of a scoring call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScoreReport {
    /// Traces with rewards.
    pub scored: usize,
    /// Traces without tokens or longer than the model's positions. They stay in the list without
    /// rewards.
    pub unscored: usize,
    /// Unscored traces that, with their question, have more tokens than the model has positions.
    pub too_long: usize,
    /// Traces that carried another tokenizer's ids: they are encoded again and lose their
    /// log-probabilities.
    pub encoded_again: usize,
}

impl AddAssign for ScoreReport {
    fn add_assign(&mut self, other: Self) {
        self.scored += other.scored;
        self.unscored += other.unscored;
        self.too_long += other.too_long;
        self.encoded_again += other.encoded_again;
    }
}

/// A trace in the reward's tokens, before the models run. Its answer is already read and compared.
#[derive(Clone, Debug)]
pub struct EncodedTrace {
    trace: ScoredTrace,
    /// Labelled tokens, ascending.
    labelled: Vec<usize>,
    encoded_again: bool,
}

/// Outputs of the models for one completion.
///
/// # Shapes
/// Every list has one value per completion token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenOutputs {
    /// Logits of the reward.
    pub logits: Vec<f32>,
    /// Log-probabilities and entropies of the policy, if one was given.
    pub policy: Option<PolicyOutputs>,
}

/// Outputs of a policy for one completion, one value per token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyOutputs {
    /// log pi(token | tokens before it).
    pub logprobs: Vec<f32>,
    /// Entropies before each token, in nats.
    pub entropies: Vec<f32>,
}

impl EncodedTrace {
    /// The trace without rewards and scores.
    pub fn trace(&self) -> &ScoredTrace {
        &self.trace
    }

    /// The token ids that the models read.
    pub fn ids(&self) -> PromptedCompletion<'_> {
        PromptedCompletion {
            prompt: &self.trace.prompt_token_ids,
            completion: &self.trace.token_ids,
        }
    }
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
    /// The case as an input of localisation.
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
    /// A critic on the model that its reward was trained on. A prompt and its trace may fill all
    /// positions of the model.
    pub fn new(reward: &'m RewardModel, model: &'m LanguageModel, token_budget: usize) -> Self {
        let positions = model.transformer.config().max_positions;
        let limits = TokenLimits {
            prompt: positions,
            completion: positions,
        };
        Self {
            reward,
            model,
            encoder: Encoder::new(model, &reward.scoring.prompt, limits),
            token_budget,
        }
    }

    /// Fills in tokens, rewards, trace scores, answers and correctness, and with a policy its
    /// log-probabilities.
    ///
    /// Traces with the same question share their prompt. The order is kept, and the results of a
    /// trace do not depend on the other traces.
    ///
    /// # Errors
    /// A model or tokenizer fails. [`CriticError::NonFiniteReward`] names a trace whose reward is
    /// not finite.
    pub fn score(
        &self,
        traces: &mut [ScoredTrace],
        policy: Option<ScoringPolicy<'_>>,
    ) -> Result<ScoreReport, CriticError> {
        self.score_watched(traces, policy, |_| ())
    }

    /// The same as [`Critic::score`]; `on_scored` receives the number of traces scored so far.
    ///
    /// # Errors
    /// As [`Critic::score`].
    pub fn score_watched(
        &self,
        traces: &mut [ScoredTrace],
        policy: Option<ScoringPolicy<'_>>,
        on_scored: impl FnMut(usize),
    ) -> Result<ScoreReport, CriticError> {
        let mut encoded = Vec::with_capacity(traces.len());
        for trace in traces.iter() {
            encoded.push(self.encode(trace.clone())?);
        }
        let positions = self.positions(policy);
        let too_long = |encoded: &&EncodedTrace| is_too_long(encoded.trace(), positions);
        let mut report = ScoreReport {
            encoded_again: encoded.iter().filter(|trace| trace.encoded_again).count(),
            too_long: encoded.iter().filter(too_long).count(),
            ..ScoreReport::default()
        };
        let scored = self.score_encoded(encoded, policy, on_scored)?;
        for (trace, scored) in traces.iter_mut().zip(scored) {
            report.scored += usize::from(scored.token_rewards.iter().any(Option::is_some));
            *trace = scored;
        }
        report.unscored = traces.len() - report.scored;
        Ok(report)
    }

    /// Injects one error into each demonstration and scores both; demonstrations in which no error
    /// can be injected are left out.
    ///
    /// The error depends on the seed, the problem and its text, not on the other problems.
    /// `on_case` receives the number of demonstrations done.
    ///
    /// # Errors
    /// No problem has a usable demonstration, or a model fails.
    pub fn inject(
        &self,
        problems: &[Problem],
        registry: &Registry,
        seed: u64,
        policy: ScoringPolicy<'_>,
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
                    traces.push(self.ready(trace_of(demonstration, wrong, "injected error")));
                    let right = demonstration.completion.clone();
                    traces.push(self.ready(trace_of(demonstration, right, "demonstration")));
                }
            }
            let scored = self.score_encoded(traces, Some(policy), |_| ())?;
            let mut scored = scored.into_iter();
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

    /// Scores traces given as steps; returns each trace with the byte range of each step in the
    /// scored text.
    ///
    /// The steps are joined by lines and rendered in the reward's prompt style, as
    /// [`Critic::score`] does with texts.
    ///
    /// # Errors
    /// A model or tokenizer fails.
    pub fn score_steps(
        &self,
        traces: &[StepTrace],
        policy: Option<ScoringPolicy<'_>>,
        on_scored: impl FnMut(usize),
    ) -> Result<Vec<ScoredSteps>, CriticError> {
        let (mut records, mut ranges) = (Vec::new(), Vec::new());
        for trace in traces {
            let (text, steps) = rendered_steps(&self.reward.scoring.prompt, &trace.steps);
            let mut record = ScoredTrace {
                id: trace.id.clone(),
                question: trace.question.clone(),
                generator: trace.generator.clone(),
                prompt_token_ids: self.encoder.whole_prompt(&trace.question)?,
                text,
                ..ScoredTrace::default()
            };
            if let Some(completion) = self.encoder.completion(&record.text)? {
                record.token_ids = completion.ids;
                record.token_offsets = completion.offsets;
            }
            records.push(self.ready(record));
            ranges.push(steps);
        }
        let scored = self.score_encoded(records, policy, on_scored)?;
        Ok(scored.into_iter().zip(ranges).collect())
    }

    /// Runs the models on encoded traces and fills in their rewards, in order.
    fn score_encoded(
        &self,
        encoded: Vec<EncodedTrace>,
        policy: Option<ScoringPolicy<'_>>,
        mut on_scored: impl FnMut(usize),
    ) -> Result<Vec<ScoredTrace>, CriticError> {
        let ids: Vec<PromptedCompletion<'_>> = encoded.iter().map(EncodedTrace::ids).collect();
        let outputs = self.outputs(&ids, policy, |scored| {
            on_scored(scored);
            ControlFlow::Continue(())
        })?;
        let pairs = encoded.into_iter().zip(outputs);
        pairs
            .map(|(trace, outputs)| self.finish(trace, outputs))
            .collect()
    }

    /// Outputs of the models for completions, in their order; `None` for a completion that does not
    /// fit.
    ///
    /// Completions with the same prompt share it, and the outputs of a completion do not depend on
    /// the others. After each pass `on_scored` receives the number of completions done; if it
    /// returns `Break`, the rest stays `None`.
    ///
    /// # Errors
    /// A model fails.
    pub fn outputs(
        &self,
        completions: &[PromptedCompletion<'_>],
        policy: Option<ScoringPolicy<'_>>,
        mut on_scored: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<Option<TokenOutputs>>, CriticError> {
        let groups = PromptGroups::new(completions.iter().copied(), self.positions(policy));
        let mut all = vec![None; completions.len()];
        let mut scored = 0;
        for (groups, places) in groups.micro_batches(self.token_budget) {
            let batch = PackedBatch::new(&groups)?;
            let logits = self.reward.infer(&batch)?;
            let policy = match policy {
                Some(policy) => policy_outputs(&policy, &batch)?
                    .into_iter()
                    .map(Some)
                    .collect(),
                None => vec![None; places.len()],
            };
            scored += places.len();
            for (place, (logits, policy)) in places.into_iter().zip(logits.into_iter().zip(policy))
            {
                all[place] = Some(TokenOutputs { logits, policy });
            }
            if on_scored(scored).is_break() {
                break;
            }
        }
        Ok(all)
    }

    /// Fills in rewards and trace scores from the models' outputs. Without outputs the encoded
    /// trace is returned unchanged.
    ///
    /// # Errors
    /// [`CriticError::NonFiniteReward`] names a trace whose reward is not finite.
    pub fn finish(
        &self,
        encoded: EncodedTrace,
        outputs: Option<TokenOutputs>,
    ) -> Result<ScoredTrace, CriticError> {
        let EncodedTrace {
            mut trace,
            labelled,
            ..
        } = encoded;
        let Some(TokenOutputs { logits, policy }) = outputs else {
            return Ok(trace);
        };
        let transform = &self.reward.scoring.transform;
        let rewards = transform.rewards(&backfill(&logits, &labelled));
        if let Some(token) = rewards.iter().position(|reward| !reward.is_finite()) {
            let trace = trace.id;
            return Err(CriticError::NonFiniteReward { trace, token });
        }
        trace.token_rewards = rewards.into_iter().map(Some).collect();
        if let Some(PolicyOutputs {
            logprobs,
            entropies,
        }) = policy
        {
            trace.policy_logprobs = Some(logprobs);
            trace.entropies = Some(entropies);
        }
        trace.scores = score_all(&trace, &ScoreSettings::default());
        Ok(trace)
    }

    /// The number of positions that all models of a scoring pass have.
    fn positions(&self, policy: Option<ScoringPolicy<'_>>) -> usize {
        let own = self.model.transformer.config().max_positions;
        policy.map_or(own, |policy| {
            own.min(policy.transformer.config().max_positions)
        })
    }

    /// Encodes a trace in this model's tokens, reads its answer and, if a gold answer is known,
    /// compares them.
    ///
    /// A trace that is empty, or whose text exceeds the model's positions, gets no tokens.
    ///
    /// # Errors
    /// The chat template or the tokenizer fails.
    pub fn encode(&self, mut trace: ScoredTrace) -> Result<EncodedTrace, CriticError> {
        let encoded_again = self.encoder.complete(&mut trace)?;
        grade(&mut trace);
        Ok(EncodedTrace {
            encoded_again,
            ..self.ready(trace)
        })
    }

    /// Prepares a trace that has this model's ids. Removes earlier rewards and scores.
    fn ready(&self, mut trace: ScoredTrace) -> EncodedTrace {
        let count = trace.token_ids.len();
        trace.token_rewards = vec![None; count];
        trace.scores.clear();
        let completion = EncodedCompletion {
            text: std::mem::take(&mut trace.text),
            ids: std::mem::take(&mut trace.token_ids),
            offsets: std::mem::take(&mut trace.token_offsets),
        };
        let granularity = self.reward.scoring.granularity;
        let labelled = granularity.labelled_positions(count, &completion.step_ends());
        trace.text = completion.text;
        trace.token_ids = completion.ids;
        trace.token_offsets = completion.offsets;
        EncodedTrace {
            trace,
            labelled,
            encoded_again: false,
        }
    }

    fn corrupt(
        &self,
        demonstration: &Demonstration,
        registry: &Registry,
        seed: u64,
    ) -> Result<Option<(Perturbed, EncodedCompletion)>, CriticError> {
        let problem = text_key(&demonstration.problem.id);
        let mut stream = StreamKey::InjectedError.stream(seed, &[problem]);
        let text = demonstration.completion.text.as_str();
        let group =
            DemonstrationGroup::corrupt(&demonstration.problem, text, registry, 1, &mut stream);
        let Some(perturbed) = group.perturbed().first() else {
            return Ok(None);
        };
        let completion = self.encoder.completion(&perturbed.text)?;
        Ok(completion.map(|completion| (perturbed.clone(), completion)))
    }
}

pub(crate) fn policy_outputs(
    policy: &ScoringPolicy<'_>,
    batch: &PackedBatch,
) -> Result<Vec<PolicyOutputs>, CriticError> {
    let (logprobs, entropies) = logprobs_and_entropies(policy.transformer, policy.adapter, batch)?;
    let pairs = logprobs.into_iter().zip(entropies);
    let outputs = pairs.map(|(logprobs, entropies)| PolicyOutputs {
        logprobs,
        entropies,
    });
    Ok(outputs.collect())
}

/// Whether a trace has, with its question, more tokens than a model has positions. A text that is
/// too long without its question has no ids.
pub(crate) fn is_too_long(trace: &ScoredTrace, positions: usize) -> bool {
    match trace.token_ids.len() {
        0 => !trace.text.trim().is_empty(),
        tokens => trace.prompt_token_ids.len() + tokens > positions,
    }
}

/// Reads the answer and compares it with the gold answer, unless the trace already has the results.
pub(crate) fn grade(trace: &mut ScoredTrace) {
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

/// The steps as one rendered completion, and the byte range of each step in it.
///
/// A step ends where the next one begins: a token that ends a step and its line (`.\n`) belongs to
/// the step that it ends. Rendering may rewrite a step that states the final answer. Such a step
/// reaches from the end of the previous step to the end of the text if it is the last one, and is
/// empty otherwise.
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
    fn answers_are_graded_once() {
        let mut trace = ScoredTrace {
            text: "so it is 1,000".to_owned(),
            answer: Some("1000".to_owned()),
            ..ScoredTrace::default()
        };
        grade(&mut trace);
        assert_eq!(trace.predicted_answer.as_deref(), Some("1,000"));
        assert_eq!(trace.correct, Some(true));
        trace.answer = Some("7".to_owned());
        grade(&mut trace);
        assert_eq!(trace.correct, Some(true));
    }
}
