//! Updates of the policy: token rewards of its samples, advantages within a prompt, the clipped objective, AdamW.

use assay_lm::packed::{Group, PackedBatch, micro_batches};

use super::failure::{Batch, FailedPart, Origin, Seen, check_finite};
use super::rollout::RolloutGroup;
use super::step::Step;
use crate::IrlError;
use crate::adam::AdamW;
use crate::encode::Demonstration;
use crate::metrics::IterationMetrics;
use crate::optimiser::LrSchedule;
use crate::parallel;
use crate::player::{self, Passes, Reach, TokenScalars, infer_all};
use crate::policy::advantage::{AdvantageSettings, ExpertInGroup, RewardedTrace, advantages};
use crate::policy::objective::{Ending, ObjectiveStatistics, PolicyTrace, objective};
use crate::policy_model::{PolicyModel, logprobs_and_entropies};
use crate::reward::TraceRole;
use crate::reward::granularity::backfill;
use crate::reward_model::RewardModel;
use crate::settings::{PolicySettings, RewardSettings};

/// Samples of one prompt and, where the settings ask for it, its demonstration.
pub struct PolicyGroup<'g> {
    /// Id of the problem.
    pub problem: &'g str,
    /// The samples.
    pub rollout: &'g RolloutGroup,
    /// The demonstration of the same prompt.
    pub demonstration: Option<&'g Demonstration>,
}

impl PolicyGroup<'_> {
    /// Samples first, then the demonstration.
    fn group(&self) -> Group {
        let mut group = self.rollout.group();
        group
            .completions
            .extend(self.demonstration.map(|d| d.completion.ids.clone()));
        group
    }

    fn origins(&self) -> impl Iterator<Item = Origin> {
        let of = move |role| Origin {
            problem: self.problem.to_owned(),
            role,
        };
        let samples = self.rollout.samples.iter().map(|_| TraceRole::Policy);
        let expert = self.demonstration.map(|_| TraceRole::Expert);
        samples.chain(expert).map(of)
    }

    fn rows(&self) -> usize {
        self.rollout.samples.len() + usize::from(self.demonstration.is_some())
    }
}

/// Pairs rollouts with the demonstrations that belong to their group.
pub fn policy_groups<'g>(
    rollouts: &'g [RolloutGroup],
    demonstrations: &[(usize, &'g Demonstration)],
    expert: ExpertInGroup,
) -> Vec<PolicyGroup<'g>> {
    let with = rollouts.iter().enumerate().map(|(place, rollout)| {
        let demonstration = demonstrations
            .get(place)
            .map(|&(_, demonstration)| demonstration);
        PolicyGroup {
            problem: demonstration.map_or("", |d| d.problem.id.as_str()),
            rollout,
            demonstration: demonstration.filter(|_| expert != ExpertInGroup::Off),
        }
    });
    with.collect()
}

/// The rows of the groups that are the policy's samples, without the demonstrations among them.
pub fn sample_rows<'r>(rows: &'r [Vec<f32>], groups: &[PolicyGroup<'_>]) -> Vec<&'r [f32]> {
    let mut rest = rows.iter();
    let mut samples = Vec::with_capacity(rows.len());
    for group in groups {
        let own = rest.by_ref().take(group.rollout.samples.len());
        samples.extend(own.map(Vec::as_slice));
        if group.demonstration.is_some() {
            rest.next();
        }
    }
    samples
}

/// Token rewards of every row of the groups, from a reward model: logits at labelled positions, backfilled, transformed.
///
/// # Errors
/// [`IrlError::FailedUpdate`] when a reward is not finite; fails when the batch does not fit the model.
pub fn token_rewards(
    model: &RewardModel,
    groups: &[PolicyGroup<'_>],
    settings: &RewardSettings,
    passes: Passes<'_>,
) -> Result<TokenScalars, IrlError> {
    let packed: Vec<Group> = groups.iter().map(PolicyGroup::group).collect();
    let logits = infer_all(model, &packed, passes)?;
    let completions = groups.iter().flat_map(|group| {
        let samples = group
            .rollout
            .samples
            .iter()
            .map(|sample| &sample.completion);
        samples.chain(group.demonstration.map(|d| &d.completion))
    });
    let rewards = completions.zip(&logits).map(|(completion, logits)| {
        let positions = settings
            .granularity
            .labelled_positions(logits.len(), &completion.step_ends());
        settings.transform.rewards(&backfill(logits, &positions))
    });
    let rewards: TokenScalars = rewards.collect();
    check_finite("the token reward", &rewards).map_err(|error| {
        let origins: Vec<Origin> = groups.iter().flat_map(PolicyGroup::origins).collect();
        let batch = Batch {
            part: FailedPart::TokenRewards,
            update: 0,
            groups: &packed,
            origins: &origins,
        };
        let seen = Seen {
            scalars: logits.clone(),
            ..Seen::default()
        };
        batch.explain(error, &seen)
    })?;
    Ok(rewards)
}

/// Token rewards of zero, for a run whose advantages come from the verifier alone.
pub fn no_rewards(groups: &[PolicyGroup<'_>]) -> TokenScalars {
    let rows = groups.iter().flat_map(|group| {
        let samples = group
            .rollout
            .samples
            .iter()
            .map(|sample| sample.completion.ids.len());
        samples.chain(group.demonstration.map(|d| d.completion.ids.len()))
    });
    rows.map(|length| vec![0.0; length]).collect()
}

/// The optimiser's part of a policy update.
pub struct PolicyOptimiser<'o> {
    /// AdamW and its state.
    pub adamw: &'o mut AdamW,
    /// The learning rate by update.
    pub schedule: LrSchedule,
}

/// Updates the policy on its samples and their token rewards.
///
/// # Errors
/// A reward, loss, gradient or weight that is not finite, a parameter without gradient, or a failing operation.
pub fn update_policy(
    policy: &PolicyModel,
    optimiser: PolicyOptimiser<'_>,
    (groups, rewards): (&[PolicyGroup<'_>], &TokenScalars),
    (settings, passes): (&PolicySettings, Passes<'_>),
    metrics: &mut IterationMetrics,
) -> Result<(), IrlError> {
    let (advantages, multiplicities) =
        group_advantages(groups, rewards, &settings.advantage, metrics)?;
    let packed: Vec<Group> = groups.iter().map(PolicyGroup::group).collect();
    let reference = match settings.objective.kl_weight > 0.0 {
        true => Some(reference_logprobs(policy, &packed, passes)?),
        false => None,
    };
    let origins: Vec<Origin> = groups.iter().flat_map(PolicyGroup::origins).collect();
    let mut old: Option<TokenScalars> = None;
    for index in 0..settings.updates_per_iteration {
        let step = Step {
            player: policy,
            batch: Batch {
                part: FailedPart::Policy,
                update: index,
                groups: &packed,
                origins: &origins,
            },
            passes,
            reach: Reach::Completion,
            optimiser: &settings.optimiser,
            schedule: &optimiser.schedule,
        };
        let stepped = step.take(optimiser.adamw, |logprobs, part| {
            let before = old.as_deref().unwrap_or(logprobs);
            // What is not known yet counts as unchanged: a log-probability of 0 would be far from what it was.
            let now = |i: usize| match part.contains(&i) {
                true => &logprobs[i],
                false => &before[i],
            };
            let traces = rows(groups).enumerate().map(|(i, row)| PolicyTrace {
                role: row.role,
                logprobs: now(i),
                old: &before[i],
                reference: reference.as_ref().map(|r| r[i].as_slice()),
                sampling: row.sampling,
                advantages: &advantages[i],
                multiplicity: multiplicities[i],
                ending: row.ending,
            });
            let traces: Vec<PolicyTrace<'_>> = traces.collect();
            let output = objective(&traces, &settings.objective)?;
            Ok((output.loss, output.statistics, output.grads))
        })?;
        old.get_or_insert(stepped.scalars);
        metrics.set("policy/learning_rate", stepped.learning_rate)?;
        metrics.set("policy/gradient_norm", stepped.gradient_norm)?;
        report_objective(stepped.loss, &stepped.report, metrics)?;
    }
    Ok(())
}

struct Row<'r> {
    role: TraceRole,
    sampling: Option<&'r [f32]>,
    ending: Ending,
    outcome: Option<f32>,
}

/// Every row of the groups: samples, then the demonstration, group after group.
fn rows<'r>(groups: &'r [PolicyGroup<'_>]) -> impl Iterator<Item = Row<'r>> {
    groups.iter().flat_map(|group| {
        let samples = group.rollout.samples.iter().map(|sample| Row {
            role: TraceRole::Policy,
            sampling: Some(&sample.drawn.sampling_logprobs),
            ending: if sample.drawn.truncated {
                Ending::Truncated
            } else {
                Ending::Stopped
            },
            outcome: sample.correct.map(|correct| f32::from(u8::from(correct))),
        });
        let expert = group.demonstration.map(|_| Row {
            role: TraceRole::Expert,
            sampling: None,
            ending: Ending::Stopped,
            outcome: Some(1.0),
        });
        samples.chain(expert)
    })
}

fn group_advantages(
    groups: &[PolicyGroup<'_>],
    rewards: &TokenScalars,
    settings: &AdvantageSettings,
    metrics: &mut IterationMetrics,
) -> Result<(TokenScalars, Vec<f32>), IrlError> {
    let asks_verifier = settings.outcome_weight > 0.0;
    let mut all = rows(groups).zip(rewards);
    let rewarded: Vec<Vec<RewardedTrace<'_>>> = groups
        .iter()
        .map(|group| {
            let own = all.by_ref().take(group.rows());
            own.map(|(row, rewards)| RewardedTrace {
                role: row.role,
                rewards,
                outcome: row.outcome.filter(|_| asks_verifier),
            })
            .collect()
        })
        .collect();
    let output = advantages(&rewarded, settings)?;
    let s = &output.statistics;
    metrics.set(
        "advantage/zero_std_share",
        s.zero_std_groups as f64 / s.groups.max(1) as f64,
    )?;
    metrics.set("advantage/group_std", s.mean_std)?;
    metrics.set("advantage/magnitude", s.mean_magnitude)?;
    metrics.set("rollout/score", s.mean_score)?;
    Ok((output.advantages, output.multiplicities))
}

fn reference_logprobs(
    policy: &PolicyModel,
    groups: &[Group],
    passes: Passes<'_>,
) -> Result<TokenScalars, IrlError> {
    passes.attempt(player::rows(groups).min(passes.token_budget), |passes| {
        let parts = micro_batches(groups, passes.token_budget);
        parallel::scalars(passes.ranks, &parts, |part| {
            let batch = PackedBatch::new(&part.groups)?;
            Ok(logprobs_and_entropies(&policy.transformer, None, &batch)?.0)
        })
    })
}

fn report_objective(
    loss: f64,
    s: &ObjectiveStatistics,
    metrics: &mut IterationMetrics,
) -> Result<(), IrlError> {
    metrics.set("policy/loss", loss)?;
    metrics.set("policy/clip_fraction_low", s.clip_fraction_low)?;
    metrics.set("policy/clip_fraction_high", s.clip_fraction_high)?;
    metrics.set("policy/approx_kl", s.approx_kl)?;
    metrics.set("policy/reference_kl", s.reference_kl)?;
    metrics.set("policy/ratio_max", s.ratio_max)?;
    metrics.set("policy/sampling_gap_mean", s.sampling_gap_mean)?;
    metrics.set("policy/sampling_gap_max", s.sampling_gap_max)?;
    metrics.set("policy/importance_mean", s.importance_mean)?;
    metrics.set("policy/importance_capped", s.importance_capped)?;
    metrics.set("policy/expert_share", s.expert_share)
}

#[cfg(test)]
mod tests {
    use super::super::rollout::Sample;
    use super::*;

    #[test]
    fn rows_of_demonstrations_are_left_out() {
        let sample = || Sample {
            completion: Default::default(),
            drawn: Default::default(),
            predicted_answer: None,
            correct: None,
        };
        let rollout = |samples: usize| RolloutGroup {
            problem: 0,
            prompt: Vec::new(),
            samples: vec![sample(); samples],
        };
        let (two, one) = (rollout(2), rollout(1));
        let demonstration = Demonstration {
            problem: Default::default(),
            prompt: Vec::new(),
            completion: Default::default(),
        };
        let group = |rollout, demonstration| PolicyGroup {
            problem: "",
            rollout,
            demonstration,
        };
        let groups = [group(&two, Some(&demonstration)), group(&one, None)];
        let rows = [vec![1.0], vec![2.0], vec![9.0], vec![3.0]];
        assert_eq!(sample_rows(&rows, &groups), [[1.0], [2.0], [3.0]]);
    }
}
