//! Samples from a file: a discriminator learns from traces that were sampled earlier, and the
//! policy does not sample.
//!
//! So several discriminators can learn from the same samples. Samples of `assay judge` keep the
//! judge's token rewards.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use assay_critic::encode::{EncodedCompletion, Encoder};
use assay_tasks::trace::{FinishReason, ScoredTrace};
use assay_tasks::trace_io::read_foreign_traces;

use super::rollout::graded;
use crate::TrainError;
use crate::settings::EngineSettings;
use crate::trace::{PromptGroup, SampleRecord, Trace};

/// The trace score that marks token rewards as the judge's.
const JUDGED: &str = "judge";

/// The traces of a file by question.
pub(super) struct StoredSamples {
    by_question: HashMap<String, Vec<ScoredTrace>>,
}

impl StoredSamples {
    /// The samples of the file that the settings name; `None` if they name none.
    ///
    /// # Errors
    /// The file cannot be read, or holds no trace of any of `demonstrations`.
    pub(super) fn open(
        settings: &EngineSettings,
        demonstrations: &[PromptGroup],
    ) -> Result<Option<Self>, TrainError> {
        let EngineSettings::File { path } = settings else {
            return Ok(None);
        };
        let mut by_question: HashMap<String, Vec<ScoredTrace>> = HashMap::new();
        for trace in read_foreign_traces(path)? {
            let question = trace.question.trim().to_owned();
            by_question.entry(question).or_default().push(trace);
        }
        let stored = Self { by_question };
        if demonstrations
            .iter()
            .all(|group| stored.of(group).is_empty())
        {
            return Err(nothing_fits(path));
        }
        Ok(Some(stored))
    }

    /// Number of prompts with samples in the file.
    pub(super) fn coverage(&self, demonstrations: &[PromptGroup]) -> usize {
        let groups = demonstrations.iter();
        groups.filter(|group| !self.of(group).is_empty()).count()
    }

    fn of(&self, group: &PromptGroup) -> &[ScoredTrace] {
        let question = group.problem.question.trim();
        self.by_question.get(question).map_or(&[], Vec::as_slice)
    }

    /// Adds the first `samples` stored traces of each prompt to its group.
    ///
    /// # Errors
    /// The tokenizer fails on a trace without token ids.
    pub(super) fn add(
        &self,
        groups: &mut [PromptGroup],
        samples: usize,
        encoder: &Encoder<'_>,
    ) -> Result<(), TrainError> {
        for group in groups {
            let stored = self.of(group).iter().take(samples);
            let mut traces = Vec::with_capacity(samples);
            for trace in stored {
                traces.extend(sample(trace, group, encoder)?);
            }
            group.traces.extend(traces);
        }
        Ok(())
    }
}

fn nothing_fits(path: &Path) -> TrainError {
    TrainError::malformed(path, "it holds no trace of any training question")
}

/// A stored trace as a sample; `None` for an empty one and for one beyond the completion limit.
fn sample(
    stored: &ScoredTrace,
    group: &PromptGroup,
    encoder: &Encoder<'_>,
) -> Result<Option<Trace>, TrainError> {
    let mut stored = stored.clone();
    encoder.complete(&mut stored)?;
    if stored.token_ids.is_empty() {
        return Ok(None);
    }
    let completion = EncodedCompletion {
        text: std::mem::take(&mut stored.text),
        ids: std::mem::take(&mut stored.token_ids),
        offsets: std::mem::take(&mut stored.token_offsets),
    };
    let mut trace = graded(group, completion);
    trace.sampling = record(&stored, trace.len()).map(Arc::new);
    if stored.scores.contains_key(JUDGED) && stored.token_rewards.len() == trace.len() {
        let rewards = stored.token_rewards.iter();
        trace.judged = rewards.map(|reward| reward.unwrap_or(0.0)).collect();
    }
    Ok(Some(trace))
}

/// The log-probabilities of a sampled trace, if the file has them.
fn record(stored: &ScoredTrace, tokens: usize) -> Option<SampleRecord> {
    let whole = |list: &Option<Vec<f32>>| list.clone().filter(|list| list.len() == tokens);
    Some(SampleRecord {
        sampling_logprobs: whole(&stored.sampling_logprobs)?,
        policy_logprobs: whole(&stored.policy_logprobs)?,
        truncated: stored.finish_reason == Some(FinishReason::Length),
    })
}
