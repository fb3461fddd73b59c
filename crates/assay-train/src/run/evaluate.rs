//! Samples a policy on problems with answers, during training and after it.

use assay_critic::PolicyModel;
use assay_critic::encode::Encoder;
use assay_lm::draw::DrawSettings;
use assay_lm::sampling::SamplingLimits;
use assay_tasks::problem::Problem;
use assay_tasks::random::StreamKey;
use assay_tasks::trace::{FinishReason, ScoredTrace};

use super::rollout::{RolloutPlan, rollout};
use crate::TrainError;
use crate::trace::{PromptGroup, SampleRecord, Trace};

/// How a policy is sampled for an evaluation.
pub struct EvaluationPlan<'p> {
    /// Temperature, top-p, top-k.
    pub draw: &'p DrawSettings,
    /// Token limits and sequences at a time.
    pub limits: &'p SamplingLimits,
    /// Samples per problem.
    pub samples: usize,
    /// Seed of the samples.
    pub seed: u64,
    /// Index of the first problem in its data set. It selects the random streams of each problem.
    pub first_problem: usize,
    /// Name written into the traces.
    pub generator: &'p str,
}

/// Samples completions of `problems` and returns them as traces of `traces.jsonl`, without rewards.
///
/// # Errors
/// Encoding or sampling fails.
pub fn sample_problems(
    policy: &PolicyModel,
    encoder: &Encoder<'_>,
    problems: &[Problem],
    plan: &EvaluationPlan<'_>,
    on_token: impl FnMut(usize),
) -> Result<Vec<ScoredTrace>, TrainError> {
    let mut groups = Vec::with_capacity(problems.len());
    for (offset, problem) in problems.iter().enumerate() {
        let prompt = encoder.prompt(&problem.question)?;
        let index = plan.first_problem + offset;
        groups.push(PromptGroup::new(index, problem.clone(), prompt));
    }
    let rollout_plan = RolloutPlan {
        sampling: plan.draw,
        limits: plan.limits,
        samples: plan.samples,
        key: StreamKey::Evaluation,
        stream_path: &[],
        seed: plan.seed,
    };
    rollout(policy, encoder, &mut groups, &rollout_plan, on_token)?;
    let traces = groups.iter().flat_map(|group| {
        let samples = group.samples();
        samples.map(move |trace| scored_trace(group, trace, plan))
    });
    Ok(traces.collect())
}

fn scored_trace(group: &PromptGroup, trace: &Trace, plan: &EvaluationPlan<'_>) -> ScoredTrace {
    let problem = &group.problem;
    let logprobs = |list: fn(&SampleRecord) -> &Vec<f32>| {
        let record = trace.sampling.as_deref();
        record.map(|record| list(record).clone())
    };
    ScoredTrace {
        id: problem.id.clone(),
        question: problem.question.clone(),
        generator: plan.generator.to_owned(),
        seed: Some(plan.seed),
        prompt_token_ids: group.prompt.to_vec(),
        text: trace.completion.text.clone(),
        token_ids: trace.completion.ids.clone(),
        token_offsets: trace.completion.offsets.clone(),
        token_rewards: vec![None; trace.len()],
        policy_logprobs: logprobs(|record| &record.policy_logprobs),
        sampling_logprobs: logprobs(|record| &record.sampling_logprobs),
        answer: problem.answer.clone(),
        predicted_answer: trace.verdict.predicted_answer.clone(),
        correct: trace.verdict.correct,
        finish_reason: Some(if trace.is_truncated() {
            FinishReason::Length
        } else {
            FinishReason::Stop
        }),
        ..ScoredTrace::default()
    }
}
