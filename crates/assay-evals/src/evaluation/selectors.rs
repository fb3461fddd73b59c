//! The `select.*` entries: accuracy of each selector at each N, and its gain over random and
//! majority.

use std::collections::BTreeMap;

use super::result::{Evaluation, SelectionCurve, SelectionPoint};
use super::traces::{LabelledTraces, ProblemValue};
use crate::calibration::FittedConstants;
use crate::pass_at_k::success_at_k;
use crate::selection::{Candidate, Selector, SelectorConstants, StopRule, Stopped};
use crate::statistics::mean;

/// The candidates of one problem.
struct CandidateGroup {
    problem: usize,
    candidates: Vec<Candidate>,
}

/// Adds `select.<selector>.at_<N>`, `select_gain.<selector>.at_<N>` (minus random),
/// `select_gain_over_majority.*` of the selectors that use the reward, `budget.*`, and
/// `success_at_k.<k>` by the trace score over whole groups.
pub(super) fn add(
    traces: &LabelledTraces,
    folds: &[Option<FittedConstants>],
    result: &mut Evaluation,
) {
    let groups = traces.groups().into_iter().map(|group| CandidateGroup {
        problem: group.problem,
        candidates: group
            .rows
            .into_iter()
            .map(|row| traces.candidate(row))
            .collect(),
    });
    let groups: Vec<CandidateGroup> = groups.collect();
    let candidates = groups.iter().flat_map(|group| &group.candidates);
    let answered = candidates
        .into_iter()
        .any(|candidate| candidate.answer.is_some());
    let usable = |selector: &Selector| answered || !votes(*selector);
    for selector in Selector::ALL.into_iter().filter(usable) {
        add_selector(traces, selector, &groups, folds, result);
    }
    add_gains(traces, result);
    if answered {
        add_budget(traces, &groups, result);
    }
    for &k in &traces.settings.pass_ks {
        let values = by_problem(&groups, |group| success(&group.candidates, k));
        result.add_mean(traces, &format!("success_at_k.{k}"), &values);
    }
}

/// Adds the accuracy of one selector at each N.
fn add_selector(
    traces: &LabelledTraces,
    selector: Selector,
    groups: &[CandidateGroup],
    folds: &[Option<FittedConstants>],
    result: &mut Evaluation,
) {
    let mut points = Vec::new();
    for &n in &traces.settings.sample_counts {
        let values = by_problem(groups, |group| {
            let constants = folds[traces.fold(group.problem)]
                .as_ref()
                .map_or_else(SelectorConstants::default, |fitted| fitted.selectors);
            selector.expected_accuracy(group.candidates.get(..n)?, &constants)
        });
        let name = format!("select.{}.at_{n}", selector.name());
        let accuracy = result.add_mean(traces, &name, &values);
        points.extend(accuracy.map(|accuracy| SelectionPoint {
            samples: n,
            accuracy,
        }));
    }
    if !points.is_empty() {
        result.curves.push(SelectionCurve {
            selector: selector.name().to_owned(),
            points,
        });
    }
}

/// success@k by the trace score; `None` without scores.
fn success(candidates: &[Candidate], k: usize) -> Option<f64> {
    let scores: Vec<Option<f64>> = candidates.iter().map(|c| c.score).collect();
    let correct: Vec<bool> = candidates.iter().map(|c| c.correct).collect();
    scores.iter().any(Option::is_some).then_some(())?;
    success_at_k(&scores, &correct, k)
}

/// `budget.<rule>.{accuracy, samples, tokens_saved}` of stopping early among the largest N, and
/// `budget.<rule>.accuracy_lost`: the accuracy of the majority vote over all N minus that of the
/// stopped one, paired.
fn add_budget(traces: &LabelledTraces, groups: &[CandidateGroup], result: &mut Evaluation) {
    let Some(&n) = traces.settings.sample_counts.iter().max() else {
        return;
    };
    let majority = |candidates: &[Candidate]| {
        Selector::Majority.expected_accuracy(candidates, &SelectorConstants::default())
    };
    for (name, rule) in StopRule::NAMED {
        let mut add = |entry: &str, value: &dyn Fn(&Stopped, &[Candidate]) -> Option<f64>| {
            let values = by_problem(groups, |group| {
                let first = group.candidates.get(..n)?;
                value(&rule.stop(first)?, first)
            });
            result.add_mean(traces, &format!("budget.{name}.{entry}"), &values);
        };
        add("accuracy", &|stopped, _| Some(stopped.accuracy));
        add("samples", &|stopped, _| Some(stopped.samples as f64));
        add("tokens_saved", &|stopped, _| Some(stopped.tokens_saved));
        add("accuracy_lost", &|stopped, first| {
            Some(majority(first)? - stopped.accuracy)
        });
    }
}

/// Adds the paired differences to random of all selectors, and to majority of those that use
/// rewards.
fn add_gains(traces: &LabelledTraces, result: &mut Evaluation) {
    let bases = [
        ("select_gain", Selector::Random),
        ("select_gain_over_majority", Selector::Majority),
    ];
    for &n in &traces.settings.sample_counts {
        for (family, base) in bases {
            let compared = |selector: &Selector| {
                *selector != base && (base == Selector::Random || uses_reward(*selector))
            };
            for selector in Selector::ALL.into_iter().filter(compared) {
                let entry = |selector: Selector| {
                    let name = format!("select.{}.at_{n}", selector.name());
                    result.per_problem.get(&name)
                };
                let (Some(own), Some(base)) = (entry(selector), entry(base)) else {
                    continue;
                };
                let differences: Vec<f64> = own
                    .iter()
                    .filter_map(|(id, value)| Some(value - base.get(id)?))
                    .collect();
                let gain = traces.resampler.mean(&differences);
                result
                    .summary
                    .insert_some(&format!("{family}.{}.at_{n}", selector.name()), gain);
            }
        }
    }
}

/// The mean over the groups of each problem whose value is defined.
fn by_problem(
    groups: &[CandidateGroup],
    value: impl Fn(&CandidateGroup) -> Option<f64>,
) -> Vec<ProblemValue> {
    let mut values: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for group in groups {
        if let Some(value) = value(group) {
            values.entry(group.problem).or_default().push(value);
        }
    }
    values
        .into_iter()
        .filter_map(|(problem, values)| {
            let value = mean(&values)?;
            Some(ProblemValue { problem, value })
        })
        .collect()
}

fn votes(selector: Selector) -> bool {
    matches!(
        selector,
        Selector::Majority | Selector::WeightedVote | Selector::MajorityRewardTiebreak
    )
}

fn uses_reward(selector: Selector) -> bool {
    matches!(
        selector,
        Selector::BestOfN
            | Selector::WeightedVote
            | Selector::MajorityRewardTiebreak
            | Selector::Combined
    )
}
