//! Judges the policy's samples with a model that reads the demonstration.

use assay_critic::judge::{Judge, JudgedTraces, judged_rewards, judged_score};
use assay_tasks::perturbations::Hints;
use assay_tasks::random::StreamKey;

use super::failure::{Computed, UpdateBatch, check_finite};
use crate::TrainError;
use crate::execution::{Execution, in_micro_batches};
use crate::failed_update::FailedPart;
use crate::settings::RewardSource;
use crate::trace::{PromptGroup, Trace, TraceRole};

/// Number of misleading versions of each demonstration that a judge also reads.
const MISLEADING: usize = 2;

/// How samples are judged.
#[derive(Clone, Copy)]
pub(super) struct JudgePlan<'p> {
    pub(super) judge: Judge<'p>,
    /// The formula of the judge's token rewards.
    pub(super) reward: JudgedReward,
    /// All demonstrations. If a demonstration cannot be corrupted, that of another problem
    /// misleads.
    pub(super) demonstrations: &'p [PromptGroup],
    pub(super) execution: Execution<'p>,
    pub(super) seed: u64,
}

/// The formula of a judge's token rewards.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum JudgedReward {
    /// Probability with the demonstration minus the mean with misleading versions of it.
    Contrast,
    /// Log-probability with the demonstration minus the sample's own.
    Teacher,
}

/// Fills in the judge's token rewards of every sample that has none.
///
/// # Errors
/// The chat template fails, or a hint with its sample exceeds the model's positions.
pub(super) fn judge_samples(
    groups: &mut [PromptGroup],
    plan: &JudgePlan<'_>,
) -> Result<(), TrainError> {
    for group in groups.iter_mut() {
        let open = |trace: &Trace| trace.role == TraceRole::Policy && trace.judged.is_empty();
        let completions: Vec<Vec<u32>> = group
            .traces
            .iter()
            .filter(|trace| open(trace))
            .map(|trace| trace.completion.ids.clone())
            .collect();
        if completions.is_empty() {
            continue;
        }
        let Some(hints) = plan.hints(group) else {
            continue;
        };
        let judged = JudgedTraces {
            question: &group.problem.question,
            hints,
            completions,
        };
        let logprobs = plan.logprobs(&judged)?;
        let rewards = match plan.reward {
            JudgedReward::Contrast => judged_rewards(&logprobs, judged.completions.len()),
            JudgedReward::Teacher => taught(group, &logprobs),
        };
        let samples = group.traces.iter_mut().filter(|trace| open(trace));
        for (trace, rewards) in samples.zip(rewards) {
            trace.judged = rewards;
        }
    }
    Ok(())
}

impl JudgePlan<'_> {
    fn logprobs(&self, judged: &JudgedTraces<'_>) -> Result<Vec<Vec<f32>>, TrainError> {
        let groups = self.judge.groups(judged)?;
        in_micro_batches(&groups, self.execution, |batch| {
            Ok(self.judge.logprobs(batch)?)
        })
    }

    /// The hints of a prompt; they depend on the seed and the problem only.
    fn hints(&self, group: &PromptGroup) -> Option<Hints> {
        let text = &group.demonstration()?.completion.text;
        let mut stream = StreamKey::Hints.stream(self.seed, &[group.index as u64]);
        let count = match self.reward {
            JudgedReward::Contrast => MISLEADING,
            JudgedReward::Teacher => 0,
        };
        let mut hints = Hints::of(text, count, &mut stream);
        if hints.wrong.len() < count.min(1) {
            let others = self.demonstrations.iter();
            let others = others.filter(|other| other.index != group.index);
            let others: Vec<&Trace> = others.filter_map(PromptGroup::demonstration).collect();
            if others.is_empty() {
                return None;
            }
            let drawn = (0..count).map(|_| others[stream.below(others.len())]);
            hints.wrong = drawn.map(|other| other.completion.text.clone()).collect();
        }
        Some(hints)
    }
}

/// Log-probabilities with the demonstration minus those of the samples under the policy.
fn taught(group: &PromptGroup, logprobs: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let samples = group.samples().filter(|sample| sample.judged.is_empty());
    let pairs = samples.zip(logprobs).map(|(sample, taught)| {
        let own = sample.sampling.iter().flat_map(|s| &s.policy_logprobs);
        taught.iter().zip(own).map(|(t, o)| t - o).collect()
    });
    pairs.collect()
}

/// Adds the judge's part to the token rewards of samples, see [`RewardSource`].
///
/// A trace's rewards are scaled so that their mean is its judged score J.
///
/// # Errors
/// [`TrainError::FailedUpdate`] when a reward is not finite.
pub(super) fn join_rewards(
    groups: &mut [PromptGroup],
    source: RewardSource,
) -> Result<(), TrainError> {
    if source == RewardSource::Learned {
        return Ok(());
    }
    let judged: Vec<Vec<f32>> = groups
        .iter()
        .flat_map(|group| &group.traces)
        .map(|trace| match source {
            RewardSource::SelfDistilled => trace.judged.clone(),
            _ => weighted(&trace.judged, trace.len()),
        })
        .collect();
    check_finite("the judge's reward", &judged).map_err(|error| {
        let batch = UpdateBatch {
            part: FailedPart::TokenRewards,
            update: 0,
            groups,
        };
        batch.explain(error, &Computed::default())
    })?;
    let learned: Vec<&[f32]> = groups
        .iter()
        .flat_map(|group| group.traces.iter().map(|trace| trace.rewards.as_slice()))
        .collect();
    let factors = match source {
        RewardSource::Mixed => Factors {
            learned: 1.0 / deviation(&learned),
            judged: 1.0 / deviation(&judged),
        },
        _ => Factors {
            learned: 0.0,
            judged: 1.0,
        },
    };
    let all = groups.iter_mut().flat_map(|group| &mut group.traces);
    for (trace, judged) in all.zip(judged) {
        trace.rewards.resize(judged.len(), 0.0);
        for (reward, judged) in trace.rewards.iter_mut().zip(judged) {
            *reward = factors.learned * *reward + factors.judged * judged;
        }
    }
    Ok(())
}

/// Factors of the two rewards.
struct Factors {
    learned: f32,
    judged: f32,
}

/// T |d_t| d_t / sum |d|: rewards whose mean over the trace is its judged score.
fn weighted(judged: &[f32], tokens: usize) -> Vec<f32> {
    let weight: f32 = judged.iter().map(|d| d.abs()).sum();
    if judged.len() != tokens || weight == 0.0 {
        return vec![0.0; tokens];
    }
    let factor = tokens as f32 / weight;
    let rewards: Vec<f32> = judged.iter().map(|d| factor * d.abs() * d).collect();
    debug_assert!({
        let mean = rewards.iter().sum::<f32>() / tokens as f32;
        (mean - judged_score(judged)).abs() < 1e-3
    });
    rewards
}

/// Standard deviation of the traces' mean rewards; 1 if they are all equal.
fn deviation(rewards: &[impl AsRef<[f32]>]) -> f32 {
    let means = rewards.iter().map(|trace| {
        let trace = trace.as_ref();
        trace.iter().sum::<f32>() / trace.len().max(1) as f32
    });
    let means: Vec<f32> = means.collect();
    let mean = means.iter().sum::<f32>() / means.len().max(1) as f32;
    let squares = means.iter().map(|m| (m - mean) * (m - mean)).sum::<f32>();
    let deviation = (squares / means.len().max(1) as f32).sqrt();
    if deviation > 0.0 { deviation } else { 1.0 }
}
