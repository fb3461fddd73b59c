//! The `critic.probe.*` entries: the style probe on the traces of an evaluation.

use assay_tasks::random::text_key;

use super::probe::{PROBE_FOLDS, TokenBag, probe};
use super::result::Evaluation;
use super::traces::{LabelledTraces, Row};
use crate::statistics::Estimate;

/// Adds `critic.probe.{correct_auroc, reward_r2, residual_auroc}`. Their intervals are the values.
pub(super) fn add(traces: &LabelledTraces, result: &mut Evaluation) {
    let score = traces.score();
    let kept = traces
        .bags
        .iter()
        .map(|(bag, row)| (bag, &traces.rows[row]));
    let mut kept: Vec<(&TokenBag, &Row)> =
        kept.filter(|(_, row)| row.score(score).is_some()).collect();
    kept.sort_by_key(|(bag, row)| (bag.key(), row.problem, row.generator));
    let bags: Vec<&TokenBag> = kept.iter().map(|(bag, _)| *bag).collect();
    let scores = kept.iter().filter_map(|(_, row)| row.score(score));
    let scores: Vec<f64> = scores.collect();
    let correct: Vec<bool> = kept.iter().map(|(_, row)| row.correct).collect();
    let fold = |row: &Row| {
        let key = text_key(traces.problem_id(row.problem));
        (key.rotate_left(32) % PROBE_FOLDS as u64) as usize
    };
    let folds: Vec<usize> = kept.iter().map(|(_, row)| fold(row)).collect();
    let found = probe(&bags, &scores, &correct, &folds);
    let values = [
        ("correct_auroc", found.correct_auroc),
        ("reward_r2", found.reward_r2),
        ("residual_auroc", found.residual_auroc),
    ];
    for (name, value) in values {
        let estimate = value.map(|value| Estimate {
            n: found.traces,
            ..Estimate::exact(value)
        });
        result
            .summary
            .insert_some(&format!("critic.probe.{name}"), estimate);
    }
}
