//! What is read off one trace: scalars and, for the style probe, its bag of tokens.

use assay_tasks::answers;
use assay_tasks::trace::{FinishReason, ScoredTrace};

use super::EvalSettings;
use super::probe::TokenBag;
use crate::error::EvalError;
use crate::scores::TraceScore;

/// The measurements of one trace; a pure function of it, so that traces may be read on several threads.
#[derive(Clone, Debug)]
pub struct Measured {
    pub(super) id: String,
    pub(super) generator: String,
    pub(super) correct: Option<bool>,
    pub(super) answer: Option<String>,
    pub(super) truncated: bool,
    /// Whether an answer stands where one was asked for: in tags, in a box, after hashes.
    pub(super) marked: bool,
    /// By [`TraceScore::ALL`].
    pub(super) scores: [Option<f64>; TraceScore::ALL.len()],
    pub(super) bag: TokenBag,
}

impl Measured {
    /// Reads off one trace.
    ///
    /// # Errors
    /// [`EvalError::Misaligned`] if a token array has another length than the tokens; [`EvalError::NonFinite`] if a
    /// score is NaN or infinite.
    pub fn of(trace: &ScoredTrace, settings: &EvalSettings) -> Result<Self, EvalError> {
        check_alignment(trace)?;
        let mut scores = [None; TraceScore::ALL.len()];
        for (slot, score) in scores.iter_mut().zip(TraceScore::ALL) {
            *slot = score.of(trace, &settings.scores);
            if slot.is_some_and(|value| !value.is_finite()) {
                return Err(EvalError::NonFinite {
                    what: format!("the score `{}`", score.name()),
                    id: trace.id.clone(),
                    generator: trace.generator.clone(),
                });
            }
        }
        Ok(Self {
            id: trace.id.clone(),
            generator: trace.generator.clone(),
            correct: correctness(trace),
            answer: trace.predicted_answer.clone(),
            truncated: trace.finish_reason == Some(FinishReason::Length),
            marked: answers::extract_lenient(&trace.text)
                .is_some_and(|found| found.source.is_marked()),
            scores,
            bag: TokenBag::of(trace),
        })
    }

    /// One of its trace scores.
    pub fn score(&self, score: TraceScore) -> Option<f64> {
        self.scores[score as usize]
    }

    /// Whether it is correct, if known.
    pub fn correct(&self) -> Option<bool> {
        self.correct
    }
}

/// Recorded correctness, else the predicted answer against the gold one; no predicted answer is a wrong one.
fn correctness(trace: &ScoredTrace) -> Option<bool> {
    trace.correct.or_else(|| {
        let gold = trace.answer.as_deref()?;
        Some(answers::is_correct(trace.predicted_answer.as_deref(), gold))
    })
}

fn check_alignment(trace: &ScoredTrace) -> Result<(), EvalError> {
    let expected = trace.token_ids.len().max(trace.token_offsets.len());
    let lengths = [
        ("token_ids", Some(trace.token_ids.len())),
        ("token_offsets", Some(trace.token_offsets.len())),
        ("token_rewards", Some(trace.token_rewards.len())),
        (
            "policy_logprobs",
            trace.policy_logprobs.as_ref().map(Vec::len),
        ),
        (
            "sampling_logprobs",
            trace.sampling_logprobs.as_ref().map(Vec::len),
        ),
        ("entropies", trace.entropies.as_ref().map(Vec::len)),
    ];
    for (field, found) in lengths {
        let found = found.unwrap_or(expected);
        if found != expected && !(field.starts_with("token") && found == 0) {
            return Err(EvalError::Misaligned {
                id: trace.id.clone(),
                field,
                expected,
                found,
            });
        }
    }
    Ok(())
}
