//! The reports of an iteration's phases, and their conversion into metrics.
//!
//! docs/metrics.md gives the formula of each metric.

use assay_evals::{stability, statistics};

use super::discriminator::DiscriminatorReport;
use super::player_update::OptimiserReport;
use super::policy_update::PolicyReport;
use crate::TrainError;
use crate::backoff::HalvedLimit;
use crate::metrics::IterationMetrics;
use crate::trace::{PromptGroup, Trace};

/// The reports of an iteration's phases; `None` for a phase that did not run.
#[derive(Default)]
pub(super) struct IterationReport {
    pub(super) phase: &'static str,
    pub(super) sft: Option<OptimiserReport>,
    pub(super) rollout: Option<RolloutReport>,
    pub(super) discriminator: Option<DiscriminatorPhase>,
    pub(super) rewards: Option<RewardsReport>,
    pub(super) policy: Option<PolicyReport>,
    pub(super) validation: Option<ValidationReport>,
    pub(super) halved: Vec<HalvedLimit>,
    pub(super) seconds: f64,
}

/// Statistics of the samples of an iteration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RolloutReport {
    samples: usize,
    tokens: usize,
    truncated: usize,
    /// Sum of -log pi over all tokens, nats.
    surprise: f64,
    /// Number of samples with a gold answer.
    verdicts: usize,
    right: usize,
    /// Number of unusable responses of a rollout server.
    pub(super) discarded_answers: Option<usize>,
}

/// The discriminator's phase of an iteration.
pub(super) struct DiscriminatorPhase {
    /// Weight of policy samples among the negatives.
    pub(super) policy_weight: f64,
    /// The last update; `None` if the iteration had none.
    pub(super) update: Option<DiscriminatorReport>,
}

/// Statistics of the samples' token rewards.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RewardsReport {
    mean: f64,
    length_correlation: Option<f64>,
    format_correlation: Option<f64>,
}

/// An evaluation on validation problems.
pub(super) struct ValidationReport {
    pub(super) right: usize,
    pub(super) traces: usize,
}

impl RolloutReport {
    /// The report of the samples among the traces of `groups`.
    pub(super) fn of(groups: &[PromptGroup]) -> Self {
        let mut report = Self::default();
        for sample in groups.iter().flat_map(PromptGroup::samples) {
            report.samples += 1;
            report.tokens += sample.len();
            report.truncated += usize::from(sample.is_truncated());
            for &logprob in sample.sampling.iter().flat_map(|s| &s.policy_logprobs) {
                report.surprise += -f64::from(logprob);
            }
            if let Some(correct) = sample.verdict.correct {
                report.verdicts += 1;
                report.right += usize::from(correct);
            }
        }
        report
    }

    fn write(&self, metrics: &mut IterationMetrics) -> Result<(), TrainError> {
        if let Some(discarded) = self.discarded_answers {
            metrics.set("rollout/discarded_answers", discarded as f64)?;
        }
        if self.samples == 0 {
            return Ok(());
        }
        let (n, tokens) = (self.samples as f64, self.tokens as f64);
        metrics.set("rollout/tokens", tokens)?;
        metrics.set("rollout/length", tokens / n)?;
        metrics.set("rollout/truncated_share", self.truncated as f64 / n)?;
        metrics.set("rollout/entropy_estimate", self.surprise / tokens.max(1.0))?;
        if self.verdicts > 0 {
            let accuracy = self.right as f64 / self.verdicts as f64;
            metrics.set("rollout/accuracy", accuracy)?;
        }
        Ok(())
    }
}

impl RewardsReport {
    /// The report of the samples among the traces of `groups`; all of them have token rewards.
    pub(super) fn of(groups: &[PromptGroup]) -> Self {
        let samples: Vec<&Trace> = groups.iter().flat_map(PromptGroup::samples).collect();
        let mean = |trace: &&Trace| {
            let sum: f64 = trace.rewards.iter().map(|&r| f64::from(r)).sum();
            sum / trace.rewards.len().max(1) as f64
        };
        let scores: Vec<f64> = samples.iter().map(mean).collect();
        let lengths: Vec<f64> = samples.iter().map(|s| s.rewards.len() as f64).collect();
        let answered = samples.iter().map(|s| s.verdict.predicted_answer.is_some());
        let answered: Vec<f64> = answered.map(|found| f64::from(u8::from(found))).collect();
        Self {
            mean: scores.iter().sum::<f64>() / scores.len().max(1) as f64,
            length_correlation: stability::reward_length_correlation(&scores, &lengths),
            format_correlation: statistics::pearson(&scores, &answered),
        }
    }

    fn write(&self, metrics: &mut IterationMetrics) -> Result<(), TrainError> {
        metrics.set("rollout/reward", self.mean)?;
        if let Some(rho) = self.length_correlation {
            metrics.set("rollout/reward_length_correlation", rho)?;
        }
        if let Some(rho) = self.format_correlation {
            metrics.set("rollout/reward_format_correlation", rho)?;
        }
        Ok(())
    }
}

impl IterationReport {
    /// The metrics of iteration `iteration`.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] names the metric that is not finite.
    pub(super) fn metrics(&self, iteration: usize) -> Result<IterationMetrics, TrainError> {
        let mut metrics = IterationMetrics {
            iteration,
            phase: self.phase.to_owned(),
            ..IterationMetrics::default()
        };
        if let Some(sft) = &self.sft {
            write_optimiser("sft", sft, &mut metrics)?;
        }
        if let Some(rollout) = &self.rollout {
            rollout.write(&mut metrics)?;
        }
        if let Some(phase) = &self.discriminator {
            metrics.set("reward/policy_weight", phase.policy_weight)?;
            if let Some(update) = &phase.update {
                write_discriminator(update, &mut metrics)?;
            }
        }
        if let Some(rewards) = &self.rewards {
            rewards.write(&mut metrics)?;
        }
        if let Some(policy) = &self.policy {
            write_policy(policy, &mut metrics)?;
        }
        if let Some(validation) = &self.validation {
            let accuracy = validation.right as f64 / validation.traces.max(1) as f64;
            metrics.set("validation/accuracy", accuracy)?;
            metrics.set("validation/traces", validation.traces as f64)?;
        }
        for halved in &self.halved {
            metrics.set(halved.work.metric(), halved.limit as f64)?;
        }
        metrics.set("seconds", self.seconds)?;
        Ok(metrics)
    }
}

fn write_optimiser(
    part: &str,
    report: &OptimiserReport,
    metrics: &mut IterationMetrics,
) -> Result<(), TrainError> {
    metrics.set(&format!("{part}/loss"), report.loss)?;
    metrics.set(&format!("{part}/learning_rate"), report.learning_rate)?;
    metrics.set(&format!("{part}/gradient_norm"), report.gradient_norm)
}

fn write_discriminator(
    report: &DiscriminatorReport,
    metrics: &mut IterationMetrics,
) -> Result<(), TrainError> {
    write_optimiser("reward", &report.optimiser, metrics)?;
    let skipped = report.skipped_perturbations as f64;
    metrics.set("reward/skipped_perturbations", skipped)?;
    for (name, value) in report.output.terms.named() {
        metrics.set(&format!("reward/loss_{name}"), value)?;
    }
    let s = &report.output.statistics;
    let named = [
        ("accuracy_expert", s.accuracy_expert),
        ("accuracy_policy", s.accuracy_policy),
        ("accuracy_perturbed", s.accuracy_perturbed),
        ("gap_policy", s.gap_policy),
        ("gap_perturbed", s.gap_perturbed),
        ("pairs_policy", s.pairs_policy),
        ("pairs_perturbed", s.pairs_perturbed),
        ("pairs_at_error", s.pairs_at_error),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            metrics.set(&format!("reward/{name}"), value)?;
        }
    }
    Ok(())
}

fn write_policy(report: &PolicyReport, metrics: &mut IterationMetrics) -> Result<(), TrainError> {
    let a = &report.advantages;
    let zero_std_share = a.zero_std_groups as f64 / a.groups.max(1) as f64;
    metrics.set("advantage/zero_std_share", zero_std_share)?;
    metrics.set("advantage/group_std", a.mean_std)?;
    metrics.set("advantage/magnitude", a.mean_magnitude)?;
    metrics.set("rollout/score", a.mean_score)?;
    write_optimiser("policy", &report.optimiser, metrics)?;
    let s = &report.objective;
    let named = [
        ("clip_fraction_low", s.clip_fraction_low),
        ("clip_fraction_high", s.clip_fraction_high),
        ("approx_kl", s.approx_kl),
        ("reference_kl", s.reference_kl),
        ("ratio_max", s.ratio_max),
        ("sampling_gap_mean", s.sampling_gap_mean),
        ("sampling_gap_max", s.sampling_gap_max),
        ("importance_mean", s.importance_mean),
        ("importance_capped", s.importance_capped),
        ("expert_share", s.expert_share),
    ];
    for (name, value) in named {
        metrics.set(&format!("policy/{name}"), value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use assay_critic::encode::EncodedCompletion;
    use assay_tasks::problem::Problem;

    use super::*;
    use crate::trace::TraceRole;

    fn sample(answer: Option<&str>, rewards: &[f32]) -> Trace {
        let mut trace = Trace::new(TraceRole::Policy, EncodedCompletion::default());
        trace.verdict.predicted_answer = answer.map(str::to_owned);
        trace.rewards = rewards.to_vec();
        trace
    }

    #[test]
    fn a_reward_of_format_correlates_with_it() {
        let prompt = PromptGroup::new(0, Problem::default(), vec![1]);
        let expert = Trace::new(TraceRole::Expert, EncodedCompletion::default());
        let groups = [
            prompt.with_traces(vec![
                sample(Some("1"), &[2.0, 2.0]),
                sample(None, &[0.0]),
                expert,
            ]),
            prompt.with_traces(vec![sample(None, &[0.0, 0.0]), sample(Some("2"), &[2.0])]),
        ];
        let report = RewardsReport::of(&groups);
        assert!((report.format_correlation.unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(report.mean, 1.0);
        assert_eq!(report.length_correlation, Some(0.0));
    }
}
