//! The `policy.*` entries: how well each generator solves the problems.

use std::collections::BTreeMap;

use super::result::Evaluation;
use super::traces::{LabelledTraces, ProblemValue, Row};
use crate::pass_at_k::pass_at_k;
use crate::scores::TraceScore;

/// Whether a row counts as right.
type Verdict = fn(&Row) -> bool;

/// A number of a row.
type Measure = fn(&Row) -> f64;

/// The rows of one generator, by problem.
type RowsByProblem<'a> = BTreeMap<usize, Vec<&'a Row>>;

/// Adds `policy.<generator>.{pass_at_k, pass_at_k_strict}.<k>` and the shares of answered and
/// truncated traces and the mean length.
pub(super) fn add(traces: &LabelledTraces, result: &mut Evaluation) {
    for generator in 0..traces.generator_count() {
        let mut rows = RowsByProblem::new();
        for row in traces.rows.iter().filter(|row| row.generator == generator) {
            rows.entry(row.problem).or_default().push(row);
        }
        let prefix = format!("policy.{}", traces.generator_segment(generator));
        add_pass_at_k(traces, &prefix, &rows, result);
        add_means(traces, &prefix, &rows, result);
    }
}

fn add_pass_at_k(
    traces: &LabelledTraces,
    prefix: &str,
    rows: &RowsByProblem<'_>,
    result: &mut Evaluation,
) {
    let verdicts: [(&str, Verdict); 2] = [
        ("pass_at_k", |row| row.correct),
        ("pass_at_k_strict", |row| row.correct && row.marked),
    ];
    for (name, is_right) in verdicts {
        for &k in &traces.settings.pass_ks {
            let values = rows.iter().filter_map(|(&problem, rows)| {
                let right = rows.iter().filter(|row| is_right(row)).count();
                let value = pass_at_k(rows.len(), right, k)?;
                Some(ProblemValue { problem, value })
            });
            let values: Vec<ProblemValue> = values.collect();
            result.add_mean(traces, &format!("{prefix}.{name}.{k}"), &values);
        }
    }
}

fn add_means(
    traces: &LabelledTraces,
    prefix: &str,
    rows: &RowsByProblem<'_>,
    result: &mut Evaluation,
) {
    let measures: [(&str, Measure); 3] = [
        ("answered", |row| f64::from(u8::from(row.answer.is_some()))),
        ("truncated", |row| f64::from(u8::from(row.truncated))),
        ("length", |row| row.score(TraceScore::Length).unwrap_or(0.0)),
    ];
    for (name, measure) in measures {
        let values = rows.iter().map(|(&problem, rows)| ProblemValue {
            problem,
            value: rows.iter().map(|row| measure(row)).sum::<f64>() / rows.len() as f64,
        });
        let values: Vec<ProblemValue> = values.collect();
        result.add_mean(traces, &format!("{prefix}.{name}"), &values);
    }
}
