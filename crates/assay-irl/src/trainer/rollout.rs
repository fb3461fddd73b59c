//! Rollouts: completions of a batch of problems sampled from the policy, with text, answer and correctness.
//!
//! Sample i of problem p in iteration t draws from the stream (seed, ROLLOUT, t, p, i): results depend neither on the
//! batch layout nor on where a run was resumed.

use assay_lm::draw::SamplingSettings;
use assay_lm::packed::Group;
use assay_lm::sampling::{Completion, SampleRequest, SamplingLimits, sample};
use assay_tasks::answers;
use assay_tasks::problem::Problem;
use assay_tasks::random::Stream;
use serde::{Deserialize, Serialize};

use crate::IrlError;
use crate::encode::{EncodedCompletion, Encoder};
use crate::policy_model::PolicyModel;

/// Key of the rollout streams of training.
pub const ROLLOUT: u64 = 0x5a;

/// One sampled completion with what is known of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Text, tokens, offsets.
    pub completion: EncodedCompletion,
    /// Log-probabilities as the sampler saw them, and whether it was cut.
    pub drawn: Completion,
    /// The answer read from the text.
    pub predicted_answer: Option<String>,
    /// Whether it equals the gold answer; `None` without one. Training from demonstrations never reads this.
    pub correct: Option<bool>,
}

/// The samples of one problem.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RolloutGroup {
    /// Index of the problem in its data set.
    pub problem: usize,
    /// The rendered prompt.
    pub prompt: Vec<u32>,
    /// Its samples, in order.
    pub samples: Vec<Sample>,
}

impl RolloutGroup {
    /// Prompt and completions as the unit of a packed batch.
    pub fn group(&self) -> Group {
        let completions = self
            .samples
            .iter()
            .map(|s| s.completion.ids.clone())
            .collect();
        Group {
            prompt: self.prompt.clone(),
            completions,
        }
    }
}

/// What a rollout needs beside the problems.
#[derive(Clone, Copy)]
pub struct RolloutPlan<'p> {
    /// Temperature, top-p, top-k.
    pub sampling: &'p SamplingSettings,
    /// Token limits and sequences at a time.
    pub limits: &'p SamplingLimits,
    /// Samples a problem.
    pub samples: usize,
    /// Key path of the streams; problem index and sample index are appended.
    pub stream_path: &'p [u64],
    /// Seed of the run.
    pub seed: u64,
}

/// Problems as a rollout takes them: index in the data set, problem, rendered prompt.
pub type Prompted<'p> = (usize, &'p Problem, Vec<u32>);

/// Samples completions of `problems` (index in the data set, problem, rendered prompt).
///
/// # Errors
/// Sampling or decoding fails.
pub fn rollout(
    policy: &PolicyModel,
    encoder: &Encoder<'_>,
    problems: &[Prompted<'_>],
    plan: &RolloutPlan<'_>,
    on_token: impl FnMut(usize),
) -> Result<Vec<RolloutGroup>, IrlError> {
    let requests: Vec<SampleRequest> = problems
        .iter()
        .map(|(index, _, prompt)| SampleRequest {
            prompt: prompt.clone(),
            streams: (0..plan.samples).map(|i| stream(plan, *index, i)).collect(),
            max_new_tokens: None,
        })
        .collect();
    let drawn = sample(
        &policy.transformer,
        policy.adapter(),
        &requests,
        (plan.sampling, plan.limits),
        on_token,
    )?;
    Ok(judged(encoder, problems, drawn))
}

/// Completions of problems, with text, answer and correctness.
pub(super) fn judged(
    encoder: &Encoder<'_>,
    problems: &[Prompted<'_>],
    drawn: Vec<Vec<Completion>>,
) -> Vec<RolloutGroup> {
    let groups = problems
        .iter()
        .zip(drawn)
        .map(|((index, problem, prompt), completions)| RolloutGroup {
            problem: *index,
            prompt: prompt.clone(),
            samples: completions
                .into_iter()
                .map(|drawn| judge(encoder, problem, drawn))
                .collect(),
        });
    groups.collect()
}

/// The stream of one sample.
pub(super) fn stream(plan: &RolloutPlan<'_>, problem: usize, sample: usize) -> Stream {
    let path: Vec<u64> = plan
        .stream_path
        .iter()
        .copied()
        .chain([problem as u64, sample as u64])
        .collect();
    Stream::new(plan.seed, &path)
}

fn judge(encoder: &Encoder<'_>, problem: &Problem, drawn: Completion) -> Sample {
    let completion = encoder.decode(&drawn.token_ids);
    let checked = answers::check(&completion.text, problem.answer.as_deref());
    Sample {
        completion,
        drawn,
        predicted_answer: checked.predicted,
        correct: checked.correct,
    }
}
