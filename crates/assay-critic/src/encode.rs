//! Encodes problems and texts as token ids. Prompts and completions are encoded only here.
//!
//! A prompt is the model's own chat template with the question. A completion is the text's tokens
//! and one end-of-turn token. The two are joined as ids, never by encoding again. Neither is ever
//! truncated: a truncated prompt would lose its system turn and the beginning of the question, a
//! truncated completion its answer. A text longer than its limit is an error, or it is left out and
//! counted.

use std::ops::Range;

use assay_lm::LanguageModel;
use assay_tasks::problem::Problem;
use assay_tasks::prompts::PromptSettings;
use assay_tasks::segments::{StepUnit, steps};
use assay_tasks::trace::ScoredTrace;
use serde::{Deserialize, Serialize};

use crate::CriticError;

/// Token limits of prompts and completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLimits {
    /// Maximum number of prompt tokens. A longer prompt is an error.
    pub prompt: usize,
    /// Maximum number of completion tokens, including the end-of-turn token.
    pub completion: usize,
}

/// A completion as text and as tokens.
///
/// # Shapes
/// `offsets` has one byte range of `text` per token. That of the end-of-turn token is empty and at
/// the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodedCompletion {
    /// The text.
    pub text: String,
    /// Its tokens and the end-of-turn token.
    pub ids: Vec<u32>,
    /// Byte range of each token.
    pub offsets: Vec<(usize, usize)>,
}

impl EncodedCompletion {
    /// Index of the first token that overlaps a byte span, or of the last token if none does.
    pub fn token_at(&self, span: &Range<usize>) -> usize {
        let overlaps = |&(start, end): &(usize, usize)| {
            start < span.end.max(span.start + 1) && end > span.start
        };
        self.offsets
            .iter()
            .position(overlaps)
            .unwrap_or(self.ids.len().saturating_sub(1))
    }

    /// Index of the first token after token `from` that begins at byte `end` or later; the number
    /// of tokens if there is none.
    ///
    /// A token that reaches past `end` (`4>>` for the span `4`) contains a part of the span and
    /// does not count.
    pub fn first_after(&self, end: usize, from: Option<usize>) -> usize {
        let after = self.offsets.partition_point(|&(start, _)| start < end);
        after.max(from.map_or(0, |from| from + 1))
    }

    /// Index of the first token that differs from another completion's; `None` when they are equal.
    pub fn diverges_from(&self, other: &[u32]) -> Option<usize> {
        let shared = self
            .ids
            .iter()
            .zip(other)
            .take_while(|(a, b)| a == b)
            .count();
        (shared < self.ids.len() || shared < other.len())
            .then(|| shared.min(self.ids.len().saturating_sub(1)))
    }
}

/// An expert demonstration ready for training.
#[derive(Clone, Debug)]
pub struct Demonstration {
    /// The problem it belongs to.
    pub problem: Problem,
    /// The rendered prompt.
    pub prompt: Vec<u32>,
    /// The rendered demonstration.
    pub completion: EncodedCompletion,
}

/// Numbers of problems left out during encoding, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodeReport {
    /// Problems without a demonstration.
    pub without_demonstration: usize,
    /// Demonstrations longer than the completion limit.
    pub too_long: usize,
    /// Demonstrations whose prompt is longer than the prompt limit.
    pub prompts_too_long: usize,
}

impl EncodedCompletion {
    /// Tokens that end a reasoning step.
    pub fn step_ends(&self) -> Vec<usize> {
        let ends = steps(&self.text, StepUnit::Line).into_iter();
        ends.map(|step| self.token_at(&(step.end.saturating_sub(1)..step.end)))
            .collect()
    }
}

/// Renders and encodes prompts and completions for one model.
pub struct Encoder<'m> {
    model: &'m LanguageModel,
    prompt: &'m PromptSettings,
    limits: TokenLimits,
}

impl<'m> Encoder<'m> {
    /// An encoder for a model, a prompt style and limits.
    pub fn new(model: &'m LanguageModel, prompt: &'m PromptSettings, limits: TokenLimits) -> Self {
        Self {
            model,
            prompt,
            limits,
        }
    }

    /// The rendered prompt of a question.
    ///
    /// # Errors
    /// [`CriticError::PromptTooLong`] beyond the limit; the chat template fails or is missing.
    pub fn prompt(&self, question: &str) -> Result<Vec<u32>, CriticError> {
        let ids = self.whole_prompt(question)?;
        if ids.len() > self.limits.prompt {
            return Err(CriticError::PromptTooLong {
                question: start_of(question),
                tokens: ids.len(),
                limit: self.limits.prompt,
            });
        }
        Ok(ids)
    }

    /// The rendered prompt of a question, without a limit on its length. The caller checks whether
    /// it fits together with a completion.
    ///
    /// # Errors
    /// The chat template fails or is missing.
    pub fn whole_prompt(&self, question: &str) -> Result<Vec<u32>, CriticError> {
        let messages = self.prompt.messages(question);
        Ok(self.model.prompt_ids_by(self.prompt.template, &messages)?)
    }

    /// Checks the length of the prompts of all problems, so that a long one fails before the work
    /// begins.
    ///
    /// # Errors
    /// As [`Encoder::prompt`], for the first problem whose prompt does not fit.
    pub fn ensure_prompts_fit(&self, problems: &[Problem]) -> Result<(), CriticError> {
        problems
            .iter()
            .try_for_each(|problem| self.prompt(&problem.question).map(drop))
    }

    /// The tokens of a completion's text and the end-of-turn token; `None` beyond the limit.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn completion(&self, text: &str) -> Result<Option<EncodedCompletion>, CriticError> {
        let (mut ids, mut offsets) = self.model.tokenizer.encode_with_offsets(text)?;
        ids.push(self.model.end_of_turn());
        offsets.push((text.len(), text.len()));
        Ok(
            (ids.len() <= self.limits.completion).then(|| EncodedCompletion {
                text: text.to_owned(),
                ids,
                offsets,
            }),
        )
    }

    /// Encodes a trace that has no ids or another tokenizer's ids. Returns whether it had another
    /// tokenizer's.
    ///
    /// Ids that spell the trace's text in this tokenizer are kept. Other text is rendered in the
    /// prompt style and encoded. A trace that is empty, or whose text exceeds the limit, gets no
    /// tokens.
    ///
    /// # Errors
    /// The chat template or the tokenizer fails.
    pub fn complete(&self, trace: &mut ScoredTrace) -> Result<bool, CriticError> {
        let carried = !trace.token_ids.is_empty();
        if carried && self.spells(trace)? {
            if trace.prompt_token_ids.is_empty() || !self.knows(&trace.prompt_token_ids) {
                trace.prompt_token_ids = self.whole_prompt(&trace.question)?;
            }
            return Ok(false);
        }
        trace.token_ids.clear();
        trace.token_offsets.clear();
        trace.policy_logprobs = None;
        trace.sampling_logprobs = None;
        trace.entropies = None;
        trace.prompt_token_ids = self.whole_prompt(&trace.question)?;
        if trace.text.trim().is_empty() {
            return Ok(carried);
        }
        let rendered = self.prompt.render_foreign(&trace.text);
        trace.predicted_answer = trace.predicted_answer.take().or(rendered.answer);
        if let Some(completion) = self.completion(&rendered.text)? {
            trace.text = completion.text;
            trace.token_ids = completion.ids;
            trace.token_offsets = completion.offsets;
        }
        Ok(carried)
    }

    /// Whether a trace's ids are its text in this tokenizer: they decode to the text, or the text
    /// encodes to them.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn spells(&self, trace: &ScoredTrace) -> Result<bool, CriticError> {
        if !self.knows(&trace.token_ids) {
            return Ok(false);
        }
        if self.model.decode(&trace.token_ids).0 == trace.text {
            return Ok(true);
        }
        let encoded = self.completion(&trace.text)?;
        Ok(encoded.is_some_and(|completion| completion.ids == trace.token_ids))
    }

    /// Whether all ids are in the vocabulary.
    fn knows(&self, ids: &[u32]) -> bool {
        let vocabulary = self.model.transformer.config().vocab_size;
        ids.iter().all(|&id| (id as usize) < vocabulary)
    }

    /// Decodes sampled tokens into text with offsets.
    pub fn decode(&self, ids: &[u32]) -> EncodedCompletion {
        let (text, offsets) = self.model.decode(ids);
        EncodedCompletion {
            text,
            ids: ids.to_vec(),
            offsets,
        }
    }

    /// Encodes every problem's demonstration. Returns also the numbers of problems left out.
    ///
    /// # Errors
    /// As [`Encoder::prompt`]; [`CriticError::NoDemonstrations`] when none is left.
    pub fn demonstrations(
        &self,
        problems: &[Problem],
    ) -> Result<(Vec<Demonstration>, EncodeReport), CriticError> {
        let mut report = EncodeReport::default();
        let mut demonstrations = Vec::with_capacity(problems.len());
        for problem in problems {
            let Some(text) = self.prompt.demonstration(problem) else {
                report.without_demonstration += 1;
                continue;
            };
            let Some(completion) = self.completion(&text)? else {
                report.too_long += 1;
                continue;
            };
            let prompt = self.whole_prompt(&problem.question)?;
            if prompt.len() > self.limits.prompt {
                report.prompts_too_long += 1;
                continue;
            }
            demonstrations.push(Demonstration {
                problem: problem.clone(),
                prompt,
                completion,
            });
        }
        if demonstrations.is_empty() {
            return Err(CriticError::NoDemonstrations {
                problems: problems.len(),
                too_long: report.too_long,
                limit: self.limits.completion,
                prompts_too_long: report.prompts_too_long,
                prompt_limit: self.limits.prompt,
            });
        }
        Ok((demonstrations, report))
    }
}

/// The first characters of a question, to identify it in a message.
pub(crate) fn start_of(question: &str) -> String {
    const SHOWN: usize = 60;
    let mut start: String = question.chars().take(SHOWN).collect();
    if start.len() < question.len() {
        start.push_str("...");
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_past_a_span_belongs_to_it() {
        // "=24>>x": the third token is "4>>".
        let completion = EncodedCompletion {
            text: "=24>>x".to_owned(),
            ids: vec![0, 1, 2, 3],
            offsets: vec![(0, 1), (1, 2), (2, 5), (5, 6)],
        };
        assert_eq!(completion.first_after(3, Some(2)), 3);
        assert_eq!(completion.first_after(2, Some(1)), 2);
        assert_eq!(
            completion.first_after(1, Some(2)),
            3,
            "never before the error"
        );
        assert_eq!(completion.first_after(6, None), 4, "nothing follows");
    }
}
