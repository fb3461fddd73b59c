//! Updates of the policy: token rewards of its samples, advantages within a prompt, the clipped
//! objective, AdamW.

use assay_critic::player::TokenScalars;
use assay_critic::policy_model::logprobs_and_entropies;
use assay_critic::{PolicyModel, RewardModel};

use super::failure::{Computed, UpdateBatch, check_finite};
use super::player_update::{LossValue, OptimiserReport, PlayerUpdate};
use crate::TrainError;
use crate::adam::AdamW;
use crate::execution::{Execution, in_micro_batches, infer_all};
use crate::failed_update::FailedPart;
use crate::optimiser::{LrSchedule, OptimiserSettings};
use crate::policy::advantage::{
    AdvantageOutput, AdvantageSettings, AdvantageStatistics, ExpertInGroup, RewardedTrace,
    TraceAdvantage, advantages,
};
use crate::policy::objective::{Ending, ObjectiveStatistics, PolicyTrace, objective};
use crate::settings::{PolicySettings, RewardSettings};
use crate::trace::{PromptGroup, Trace, TraceRole, packed, traces};
use crate::update::Reach;

/// The inputs of the policy's update other than the traces.
#[derive(Clone, Copy)]
pub struct PolicyPlan<'p> {
    /// The policy's settings.
    pub settings: &'p PolicySettings,
    /// The policy's optimiser.
    pub optimiser: &'p OptimiserSettings,
    /// The learning rate by update.
    pub schedule: &'p LrSchedule,
    /// How passes are executed.
    pub execution: Execution<'p>,
}

/// Statistics of the updates of an iteration.
#[derive(Clone, Debug, Default)]
pub struct PolicyReport {
    /// The groups' advantages.
    pub advantages: AdvantageStatistics,
    /// Loss, learning rate, gradient norm of the last update.
    pub optimiser: OptimiserReport,
    /// The objective before the last update.
    pub objective: ObjectiveStatistics,
}

/// The traces that the policy learns from: the samples, then the demonstration if the settings say
/// so.
pub fn policy_groups(groups: &[PromptGroup], expert: ExpertInGroup) -> Vec<PromptGroup> {
    let learned = groups.iter().map(|group| {
        let mut own: Vec<Trace> = group.samples().cloned().collect();
        if expert != ExpertInGroup::Off {
            own.extend(group.demonstration().cloned());
        }
        group.with_traces(own)
    });
    learned.collect()
}

/// Fills in the token rewards of every trace: logits at labelled positions, backfilled and
/// transformed.
///
/// # Errors
/// [`TrainError::FailedUpdate`] if a reward is not finite. The batch does not fit the model.
pub fn fill_rewards(
    model: &RewardModel,
    groups: &mut [PromptGroup],
    settings: &RewardSettings,
    execution: Execution<'_>,
) -> Result<(), TrainError> {
    let logits = infer_all(model, &packed(groups), execution)?;
    let rewards = traces(groups).zip(&logits).map(|(trace, logits)| {
        let ends = trace.completion.step_ends();
        let granularity = settings.granularity;
        granularity.rewards(logits, &ends, &settings.transform)
    });
    let rewards: TokenScalars = rewards.collect();
    check_finite("the token reward", &rewards).map_err(|error| {
        let batch = UpdateBatch {
            part: FailedPart::TokenRewards,
            update: 0,
            groups,
        };
        let computed = Computed {
            scalars: logits.clone(),
            ..Computed::default()
        };
        batch.explain(error, &computed)
    })?;
    let all = groups.iter_mut().flat_map(|group| &mut group.traces);
    for (trace, rewards) in all.zip(rewards) {
        trace.rewards = rewards;
    }
    Ok(())
}

/// Sets all token rewards to zero, for a run whose advantages come from the verifier alone.
pub fn fill_zero_rewards(groups: &mut [PromptGroup]) {
    for trace in groups.iter_mut().flat_map(|group| &mut group.traces) {
        trace.rewards = vec![0.0; trace.len()];
    }
}

/// A trace with the inputs of the objective.
struct PolicyRow<'g> {
    trace: &'g Trace,
    advantage: TraceAdvantage,
    /// log-probabilities of the reference policy.
    reference: Option<Vec<f32>>,
    /// log-probabilities before the first update.
    old: Option<Vec<f32>>,
}

/// Updates the policy on traces with token rewards.
///
/// # Errors
/// A reward, loss, gradient or weight that is not finite, a parameter without gradient, or a
/// failing operation.
pub fn update_policy(
    policy: &PolicyModel,
    adamw: &mut AdamW,
    groups: &[PromptGroup],
    plan: &PolicyPlan<'_>,
) -> Result<PolicyReport, TrainError> {
    let settings = plan.settings;
    let output = group_advantages(groups, &settings.advantage)?;
    let mut report = PolicyReport {
        advantages: output.statistics,
        ..PolicyReport::default()
    };
    let mut rows: Vec<PolicyRow<'_>> = traces(groups)
        .zip(output.traces)
        .map(|(trace, advantage)| PolicyRow {
            trace,
            advantage,
            reference: None,
            old: None,
        })
        .collect();
    if settings.objective.kl_weight > 0.0 {
        let reference = reference_logprobs(policy, groups, plan.execution)?;
        for (row, logprobs) in rows.iter_mut().zip(reference) {
            row.reference = Some(logprobs);
        }
    }
    for index in 0..settings.updates_per_iteration {
        let update = PlayerUpdate {
            player: policy,
            batch: UpdateBatch {
                part: FailedPart::Policy,
                update: index,
                groups,
            },
            execution: plan.execution,
            reach: Reach::Completion,
            optimiser: plan.optimiser,
            schedule: plan.schedule,
        };
        let updated = update.apply(adamw, |logprobs, part| {
            let views = rows.iter().zip(logprobs).enumerate();
            let views = views.map(|(index, (row, now))| row.view(now, part.contains(&index)));
            let views: Vec<PolicyTrace<'_>> = views.collect();
            let output = objective(&views, &settings.objective)?;
            Ok(LossValue {
                loss: output.loss,
                report: output.statistics,
                gradients: output.grads,
            })
        })?;
        for (row, scalars) in rows.iter_mut().zip(updated.scalars) {
            row.old.get_or_insert(scalars);
        }
        report.optimiser = updated.optimiser;
        report.objective = updated.report;
    }
    Ok(report)
}

impl<'g> PolicyRow<'g> {
    /// The input of the objective. A log-probability that is not computed yet is taken as
    /// unchanged; 0 would be far from its value.
    fn view<'v>(&'v self, now: &'v [f32], is_computed: bool) -> PolicyTrace<'v> {
        let before = self.old.as_deref().unwrap_or(now);
        let sampling = self.trace.sampling.as_deref();
        PolicyTrace {
            role: self.trace.role,
            logprobs: if is_computed { now } else { before },
            old: before,
            reference: self.reference.as_deref(),
            sampling: sampling.map(|record| record.sampling_logprobs.as_slice()),
            advantages: &self.advantage.values,
            multiplicity: self.advantage.multiplicity,
            ending: if self.trace.is_truncated() {
                Ending::Truncated
            } else {
                Ending::Stopped
            },
        }
    }
}

fn group_advantages(
    groups: &[PromptGroup],
    settings: &AdvantageSettings,
) -> Result<AdvantageOutput, TrainError> {
    let asks_verifier = settings.outcome_weight > 0.0;
    let rewarded: Vec<Vec<RewardedTrace<'_>>> = groups
        .iter()
        .map(|group| {
            let members = group.traces.iter().map(|trace| RewardedTrace {
                role: trace.role,
                rewards: &trace.rewards,
                outcome: outcome(trace).filter(|_| asks_verifier),
            });
            members.collect()
        })
        .collect();
    advantages(&rewarded, settings)
}

/// 1 for a right answer and for the demonstration, 0 for a wrong one.
fn outcome(trace: &Trace) -> Option<f32> {
    match trace.role {
        TraceRole::Expert => Some(1.0),
        TraceRole::Policy | TraceRole::Perturbed => trace
            .verdict
            .correct
            .map(|correct| f32::from(u8::from(correct))),
    }
}

fn reference_logprobs(
    policy: &PolicyModel,
    groups: &[PromptGroup],
    execution: Execution<'_>,
) -> Result<TokenScalars, TrainError> {
    in_micro_batches(&packed(groups), execution, |batch| {
        Ok(logprobs_and_entropies(&policy.transformer, None, batch)?.0)
    })
}

#[cfg(test)]
mod tests {
    use assay_critic::encode::EncodedCompletion;
    use assay_tasks::problem::Problem;

    use super::*;

    fn trace(role: TraceRole, id: u32) -> Trace {
        let completion = EncodedCompletion {
            ids: vec![id],
            ..EncodedCompletion::default()
        };
        Trace::new(role, completion)
    }

    #[test]
    fn samples_precede_the_demonstration() {
        let all = PromptGroup::new(0, Problem::default(), vec![7]).with_traces(vec![
            trace(TraceRole::Expert, 9),
            trace(TraceRole::Policy, 1),
            trace(TraceRole::Policy, 2),
        ]);
        let ids = |expert| {
            let groups = policy_groups(std::slice::from_ref(&all), expert);
            packed(&groups)[0].completions.concat()
        };
        assert_eq!(ids(ExpertInGroup::Off), [1, 2]);
        assert_eq!(ids(ExpertInGroup::Single), [1, 2, 9]);
    }
}
