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

/// Mean reward, and how far it follows length and format.
///
/// `rewards` has a row a sample in the order of the rollouts; where demonstrations stand among them, format is left out.
pub(super) fn describe_rewards(
    rewards: &[&[f32]],
    rollouts: &[RolloutGroup],
    metrics: &mut IterationMetrics,
) -> Result<(), IrlError> {
    let mean =
        |row: &&[f32]| row.iter().map(|&r| f64::from(r)).sum::<f64>() / row.len().max(1) as f64;
    let scores: Vec<f64> = rewards.iter().map(mean).collect();
    let lengths: Vec<f64> = rewards.iter().map(|row| row.len() as f64).collect();
    metrics.set(
        "rollout/reward",
        scores.iter().sum::<f64>() / scores.len().max(1) as f64,
    )?;
    if let Some(rho) = assay_evals::stability::reward_length_correlation(&scores, &lengths) {
        metrics.set("rollout/reward_length_correlation", rho)?;
    }
    let samples = rollouts.iter().flat_map(|group| &group.samples);
    let answered: Vec<f64> = samples
        .map(|sample| f64::from(u8::from(sample.predicted_answer.is_some())))
        .collect();
    if let Some(rho) = assay_evals::statistics::pearson(&scores, &answered) {
        metrics.set("rollout/reward_format_correlation", rho)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::rollout::Sample;
    use super::*;

    fn group(answers: &[Option<&str>]) -> RolloutGroup {
        let sample = |answer: &Option<&str>| Sample {
            completion: Default::default(),
            drawn: Default::default(),
            predicted_answer: answer.map(str::to_owned),
            correct: None,
        };
        RolloutGroup {
            problem: 0,
            prompt: Vec::new(),
            samples: answers.iter().map(sample).collect(),
        }
    }

    #[test]
    fn a_reward_of_format_correlates_with_it() {
        let rollouts = [group(&[Some("1"), None]), group(&[None, Some("2")])];
        let rewards: [&[f32]; 4] = [&[2.0, 2.0], &[0.0], &[0.0, 0.0], &[2.0]];
        let mut metrics = IterationMetrics::default();
        describe_rewards(&rewards, &rollouts, &mut metrics).unwrap();
        assert!((metrics.values["rollout/reward_format_correlation"] - 1.0).abs() < 1e-12);
        assert_eq!(metrics.values["rollout/reward"], 1.0);
        assert_eq!(metrics.values["rollout/reward_length_correlation"], 0.0);
    }
}
