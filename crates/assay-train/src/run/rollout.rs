//! Rollouts: completions of a batch of prompts sampled from the policy, with text, answer and
//! verdict.
//!
//! Sample i of problem p in iteration t draws from the stream (seed, rollout, t, p, i): results
//! depend neither on the batch layout nor on where a run was resumed.

use std::sync::Arc;

use assay_critic::PolicyModel;
use assay_critic::encode::{EncodedCompletion, Encoder};
use assay_lm::draw::DrawSettings;
use assay_lm::sampling::{Completion, SampleRequest, SamplingLimits, sample};
use assay_tasks::answers;
use assay_tasks::random::{Stream, StreamKey};

use crate::TrainError;
use crate::trace::{PromptGroup, SampleRecord, Trace, TraceRole, Verdict};

/// How completions are sampled.
#[derive(Clone, Copy)]
pub struct RolloutPlan<'p> {
    /// Temperature, top-p, top-k.
    pub sampling: &'p DrawSettings,
    /// Token limits and sequences at a time.
    pub limits: &'p SamplingLimits,
    /// Samples per prompt.
    pub samples: usize,
    /// The purpose of the samples.
    pub key: StreamKey,
    /// Path of the streams; problem index and sample index are appended.
    pub stream_path: &'p [u64],
    /// Seed of the run.
    pub seed: u64,
}

impl RolloutPlan<'_> {
    /// The stream of one sample.
    pub(super) fn stream(&self, problem: usize, sample: usize) -> Stream {
        let own = [problem as u64, sample as u64];
        let path: Vec<u64> = self.stream_path.iter().copied().chain(own).collect();
        self.key.stream(self.seed, &path)
    }
}

/// Samples completions of the prompts of `groups` and adds them to the groups' traces.
///
/// # Errors
/// Sampling or decoding fails.
pub fn rollout(
    policy: &PolicyModel,
    encoder: &Encoder<'_>,
    groups: &mut [PromptGroup],
    plan: &RolloutPlan<'_>,
    on_token: impl FnMut(usize),
) -> Result<(), TrainError> {
    let requests: Vec<SampleRequest> = groups
        .iter()
        .map(|group| SampleRequest {
            prompt: group.prompt.to_vec(),
            streams: (0..plan.samples)
                .map(|sample| plan.stream(group.index, sample))
                .collect(),
            max_new_tokens: None,
            not_first: None,
        })
        .collect();
    let drawn = sample(
        &policy.transformer,
        policy.adapter(),
        &requests,
        plan.sampling,
        plan.limits,
        on_token,
    )?;
    add_samples(encoder, groups, drawn);
    Ok(())
}

/// Adds the sampled completions of each group to its traces.
pub(super) fn add_samples(
    encoder: &Encoder<'_>,
    groups: &mut [PromptGroup],
    drawn: Vec<Vec<Completion>>,
) {
    for (group, completions) in groups.iter_mut().zip(drawn) {
        let traces = completions.into_iter();
        let traces: Vec<Trace> = traces
            .map(|drawn| drawn_sample(encoder, group, drawn))
            .collect();
        group.traces.extend(traces);
    }
}

/// A sampled completion as a trace.
fn drawn_sample(encoder: &Encoder<'_>, group: &PromptGroup, drawn: Completion) -> Trace {
    let mut trace = graded(group, encoder.decode(&drawn.token_ids));
    trace.sampling = Some(Arc::new(SampleRecord {
        sampling_logprobs: drawn.sampling_logprobs,
        policy_logprobs: drawn.policy_logprobs,
        truncated: drawn.truncated,
    }));
    trace
}

/// A completion as a sample of a prompt, with its verdict and where it differs from the
/// demonstration.
pub(super) fn graded(group: &PromptGroup, completion: EncodedCompletion) -> Trace {
    let checked = answers::check(&completion.text, group.problem.answer.as_deref());
    let mut trace = Trace::new(TraceRole::Policy, completion);
    if let Some(demonstration) = group.demonstration() {
        let expert = &demonstration.completion.ids;
        trace.spans.diverges_at = trace.completion.diverges_from(expert);
    }
    trace.verdict = Verdict {
        predicted_answer: checked.predicted,
        correct: checked.correct,
    };
    trace
}
