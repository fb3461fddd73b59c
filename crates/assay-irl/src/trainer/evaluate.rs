//! Measuring a policy on problems with answers, during training and after it.

use assay_lm::draw::SamplingSettings as DrawSettings;
use assay_lm::sampling::SamplingLimits;
use assay_tasks::problem::Problem;
use assay_tasks::trace::{FinishReason, ScoredTrace};

use super::rollout::{RolloutGroup, RolloutPlan, rollout};
use crate::IrlError;
use crate::encode::Encoder;
use crate::policy_model::PolicyModel;

/// Key of the streams of measurements: their samples never coincide with those of training.
pub const EVALUATE: u64 = 0xe7;

/// How a policy is sampled for a measurement.
pub struct EvaluationPlan<'p> {
    /// Temperature, top-p, top-k.
    pub draw: &'p DrawSettings,
    /// Token limits and sequences at a time.
    pub limits: &'p SamplingLimits,
    /// Samples a problem.
    pub samples: usize,
    /// Seed of the samples.
    pub seed: u64,
    /// Number of the first problem in its data set: each problem has its own random streams.
    pub first_problem: usize,
    /// Name written into the traces.
    pub generator: &'p str,
}

/// Samples `problems` and gives traces as `traces.jsonl` holds them, without rewards.
///
/// # Errors
/// Encoding or sampling fails.
pub fn sample_problems(
    policy: &PolicyModel,
    encoder: &Encoder<'_>,
    problems: &[Problem],
    plan: &EvaluationPlan<'_>,
    on_token: impl FnMut(usize),
) -> Result<Vec<ScoredTrace>, IrlError> {
    let mut prompted = Vec::with_capacity(problems.len());
    for (index, problem) in problems.iter().enumerate() {
        prompted.push((
            plan.first_problem + index,
            problem,
            encoder.prompt(&problem.question)?,
        ));
    }
    let stream_path = [EVALUATE];
    let plan_of_rollout = RolloutPlan {
        sampling: plan.draw,
        limits: plan.limits,
        samples: plan.samples,
        stream_path: &stream_path,
        seed: plan.seed,
    };
    let groups = rollout(policy, encoder, &prompted, &plan_of_rollout, on_token)?;
    Ok(groups
        .iter()
        .zip(problems)
        .flat_map(|(group, problem)| traces(group, problem, plan))
        .collect())
}

fn traces(group: &RolloutGroup, problem: &Problem, plan: &EvaluationPlan<'_>) -> Vec<ScoredTrace> {
    let trace = |sample: &super::rollout::Sample| ScoredTrace {
        id: problem.id.clone(),
        question: problem.question.clone(),
        generator: plan.generator.to_owned(),
        seed: Some(plan.seed),
        prompt_token_ids: group.prompt.clone(),
        text: sample.completion.text.clone(),
        token_ids: sample.completion.ids.clone(),
        token_offsets: sample.completion.offsets.clone(),
        token_rewards: vec![None; sample.completion.ids.len()],
        policy_logprobs: Some(sample.drawn.policy_logprobs.clone()),
        sampling_logprobs: Some(sample.drawn.sampling_logprobs.clone()),
        answer: problem.answer.clone(),
        predicted_answer: sample.predicted_answer.clone(),
        correct: sample.correct,
        finish_reason: Some(if sample.drawn.truncated {
            FinishReason::Length
        } else {
            FinishReason::Stop
        }),
        ..ScoredTrace::default()
    };
    group.samples.iter().map(trace).collect()
}
