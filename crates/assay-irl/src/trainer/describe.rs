//! What an iteration's samples and rewards looked like, as metrics.

use super::rollout::RolloutGroup;
use crate::IrlError;
use crate::metrics::IterationMetrics;

/// Lengths, truncation, surprise, accuracy of the samples.
pub(super) fn describe_rollouts(
    rollouts: &[RolloutGroup],
    metrics: &mut IterationMetrics,
) -> Result<(), IrlError> {
    let samples: Vec<_> = rollouts.iter().flat_map(|group| &group.samples).collect();
    if samples.is_empty() {
        return Ok(());
    }
    let n = samples.len() as f64;
    let tokens: usize = samples
        .iter()
        .map(|sample| sample.completion.ids.len())
        .sum();
    let truncated = samples
        .iter()
        .filter(|sample| sample.drawn.truncated)
        .count();
    let surprise: f64 = samples
        .iter()
        .flat_map(|s| &s.drawn.policy_logprobs)
        .map(|&logprob| -f64::from(logprob))
        .sum();
    metrics.set("rollout/tokens", tokens as f64)?;
    metrics.set("rollout/length", tokens as f64 / n)?;
    metrics.set("rollout/truncated_share", truncated as f64 / n)?;
    metrics.set("rollout/entropy_estimate", surprise / tokens.max(1) as f64)?;
    let known: Vec<bool> = samples.iter().filter_map(|sample| sample.correct).collect();
    if !known.is_empty() {
        let right = known.iter().filter(|&&correct| correct).count();
        metrics.set("rollout/accuracy", right as f64 / known.len() as f64)?;
    }
    Ok(())
}

/// Mean reward, and how far it follows length.
pub(super) fn describe_rewards(
    rewards: &[Vec<f32>],
    metrics: &mut IterationMetrics,
) -> Result<(), IrlError> {
    let mean =
        |row: &Vec<f32>| row.iter().map(|&r| f64::from(r)).sum::<f64>() / row.len().max(1) as f64;
    let scores: Vec<f64> = rewards.iter().map(mean).collect();
    let lengths: Vec<f64> = rewards.iter().map(|row| row.len() as f64).collect();
    metrics.set(
        "rollout/reward",
        scores.iter().sum::<f64>() / scores.len().max(1) as f64,
    )?;
    if let Some(rho) = assay_evals::stability::reward_length_correlation(&scores, &lengths) {
        metrics.set("rollout/reward_length_correlation", rho)?;
    }
    Ok(())
}
