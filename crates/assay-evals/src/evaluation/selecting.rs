//! The `select.*` entries: accuracy of each selector at each N, and its paired gain over random and over majority.

use std::collections::BTreeMap;

use super::{Evaluation, Evaluator, Fitted, SelectionCurve};
use crate::pass_at_k::success_at_k;
use crate::selection::{Candidate, Selector, SelectorConstants, StopRule, Stopped};
use crate::statistics::mean;

/// Groups of candidates with their problem.
type Groups = Vec<(usize, Vec<Candidate>)>;

/// Adds `select.<selector>.at_<N>`, `select_gain.<selector>.at_<N>` (minus random), `select_gain_over_majority.*` of
/// the selectors that use the reward, and `success_at_k.<k>` by the trace score over whole groups.
pub(super) fn add(evaluator: &Evaluator, folds: &[Option<Fitted>], result: &mut Evaluation) {
    let candidates = |rows: Vec<usize>| {
        rows.into_iter()
            .map(|row| evaluator.candidate(row))
            .collect()
    };
    let groups: Groups = evaluator
        .groups()
        .into_iter()
        .map(|(problem, rows)| (problem, candidates(rows)))
        .collect();
    let answered = groups
        .iter()
        .flat_map(|(_, group)| group)
        .any(|candidate| candidate.answer.is_some());
    let usable = |selector: &Selector| answered || !votes(*selector);
    for selector in Selector::ALL.into_iter().filter(usable) {
        let mut points = Vec::new();
        for &n in &evaluator.settings.sample_counts {
            let accuracy = |problem: usize, group: &[Candidate]| {
                let constants = folds[evaluator.fold(problem)]
                    .as_ref()
                    .map_or_else(SelectorConstants::default, |f| f.selectors);
                selector.expected_accuracy(group.get(..n)?, &constants)
            };
            let values = by_problem(&groups, accuracy);
            let name = format!("select.{}.at_{n}", selector.name());
            points.extend(
                evaluator
                    .add_mean(&name, values, result)
                    .map(|estimate| (n, estimate)),
            );
        }
        if !points.is_empty() {
            result.curves.push(SelectionCurve {
                selector: selector.name().to_owned(),
                points,
            });
        }
    }
    add_gains(evaluator, result);
    if answered {
        add_budget(evaluator, &groups, result);
    }
    for &k in &evaluator.settings.pass_ks {
        let success = |_, group: &[Candidate]| {
            group
                .iter()
                .any(|candidate| candidate.score.is_some())
                .then_some(())?;
            let scores: Vec<Option<f64>> = group.iter().map(|candidate| candidate.score).collect();
            let correct: Vec<bool> = group.iter().map(|candidate| candidate.correct).collect();
            success_at_k(&scores, &correct, k)
        };
        evaluator.add_mean(
            &format!("success_at_k.{k}"),
            by_problem(&groups, success),
            result,
        );
    }
}

/// `budget.<rule>.{accuracy, samples, tokens_saved}` of stopping early among the largest N, and
/// `budget.<rule>.accuracy_lost`, the paired difference of the majority vote over all N and of the stopped one.
fn add_budget(evaluator: &Evaluator, groups: &Groups, result: &mut Evaluation) {
    let Some(&n) = evaluator.settings.sample_counts.iter().max() else {
        return;
    };
    let majority = |group: &[Candidate]| {
        Selector::Majority.expected_accuracy(group, &SelectorConstants::default())
    };
    for (name, rule) in StopRule::NAMED {
        let mut add = |entry: &str, of: &dyn Fn(&Stopped, &[Candidate]) -> Option<f64>| {
            let value = |_, group: &[Candidate]| {
                let first = group.get(..n)?;
                of(&rule.stop(first)?, first)
            };
            let name = format!("budget.{name}.{entry}");
            evaluator.add_mean(&name, by_problem(groups, value), result);
        };
        add("accuracy", &|stopped, _| Some(stopped.accuracy));
        add("samples", &|stopped, _| Some(stopped.samples as f64));
        add("tokens_saved", &|stopped, _| Some(stopped.tokens_saved));
        add("accuracy_lost", &|stopped, first| {
            Some(majority(first)? - stopped.accuracy)
        });
    }
}

fn add_gains(evaluator: &Evaluator, result: &mut Evaluation) {
    for &n in &evaluator.settings.sample_counts {
        for (family, base) in [
            ("select_gain", Selector::Random),
            ("select_gain_over_majority", Selector::Majority),
        ] {
            let others = Selector::ALL
                .into_iter()
                .filter(|&selector| selector != base);
            for selector in
                others.filter(|&selector| base == Selector::Random || uses_reward(selector))
            {
                let entry = |selector: Selector| {
                    result
                        .per_problem
                        .get(&format!("select.{}.at_{n}", selector.name()))
                };
                let (Some(own), Some(base)) = (entry(selector), entry(base)) else {
                    continue;
                };
                let differences: Vec<f64> = own
                    .iter()
                    .filter_map(|(id, value)| Some(value - base.get(id)?))
                    .collect();
                let gain = evaluator.resampler.mean(&differences);
                result
                    .summary
                    .insert_some(&format!("{family}.{}.at_{n}", selector.name()), gain);
            }
        }
    }
}

/// Mean over the groups of each problem, where defined.
fn by_problem(
    groups: &Groups,
    value: impl Fn(usize, &[Candidate]) -> Option<f64>,
) -> Vec<(usize, f64)> {
    let mut values: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for (problem, group) in groups {
        if let Some(value) = value(*problem, group) {
            values.entry(*problem).or_default().push(value);
        }
    }
    values
        .into_iter()
        .filter_map(|(problem, values)| Some((problem, mean(&values)?)))
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
