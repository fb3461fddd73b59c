//! Histograms of the trace score, and rank correlations of scores, correctness, length and format.

use serde::Serialize;

use super::columns::Columns;
use super::traces::{LabelledTraces, Row};
use crate::scores::TraceScore;
use crate::statistics::{average_ranks, pearson};

const HISTOGRAM_BINS: usize = 40;

/// Counts of trace scores over bins of equal width, for each class of traces.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ScoreHistogram {
    /// Lower edge of the first bin.
    pub low: f64,
    /// Upper edge of the last bin.
    pub high: f64,
    /// The classes, all over the same bins.
    pub classes: Vec<HistogramClass>,
}

/// Counts of one class.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HistogramClass {
    /// Its name.
    pub name: &'static str,
    /// Number of traces in each bin.
    pub counts: Vec<usize>,
}

/// Rank correlations of every pair of variables.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CorrelationMap {
    /// Names of the variables.
    pub names: Vec<&'static str>,
    /// Spearman's rho, row by row; `None` if a variable is constant.
    pub rho: Vec<Vec<Option<f64>>>,
}

/// Scores of correct and of wrong traces.
pub(super) fn histogram(columns: &Columns) -> ScoreHistogram {
    let side = |class: bool| -> Vec<f64> {
        let members = columns.scores.iter().zip(&columns.correct);
        members
            .filter(|(_, c)| **c == class)
            .map(|(score, _)| *score)
            .collect()
    };
    binned(&[
        ClassScores {
            name: "correct",
            scores: side(true),
        },
        ClassScores {
            name: "wrong",
            scores: side(false),
        },
    ])
}

/// Scores of answered, unanswered and truncated traces; truncated ones count as truncated only.
pub(super) fn format_histogram(traces: &LabelledTraces) -> ScoreHistogram {
    let score = traces.score();
    let of = |member: &dyn Fn(&Row) -> bool| -> Vec<f64> {
        let rows = traces.rows.iter().filter(|row| member(row));
        rows.filter_map(|row| row.score(score)).collect()
    };
    let mut classes = vec![
        ClassScores {
            name: "answered",
            scores: of(&|row| row.answer.is_some() && !row.truncated),
        },
        ClassScores {
            name: "no answer",
            scores: of(&|row| row.answer.is_none() && !row.truncated),
        },
        ClassScores {
            name: "truncated",
            scores: of(&|row| row.truncated),
        },
    ];
    classes.retain(|class| !class.scores.is_empty());
    binned(&classes)
}

/// The trace scores of one class.
struct ClassScores {
    name: &'static str,
    scores: Vec<f64>,
}

fn binned(classes: &[ClassScores]) -> ScoreHistogram {
    let all = || classes.iter().flat_map(|class| &class.scores).copied();
    let (low, high) = (
        all().fold(f64::INFINITY, f64::min),
        all().fold(f64::NEG_INFINITY, f64::max),
    );
    if low > high {
        return ScoreHistogram::default();
    }
    let bin = |score: &f64| {
        let place = if high > low {
            (score - low) / (high - low)
        } else {
            0.0
        };
        ((place * HISTOGRAM_BINS as f64) as usize).min(HISTOGRAM_BINS - 1)
    };
    let count = |class: &ClassScores| {
        let mut counts = vec![0; HISTOGRAM_BINS];
        let scores = class.scores.iter();
        scores.for_each(|score| counts[bin(score)] += 1);
        HistogramClass {
            name: class.name,
            counts,
        }
    };
    ScoreHistogram {
        low,
        high,
        classes: classes.iter().map(count).collect(),
    }
}

/// Correlations of correctness, format and every trace score that all traces have.
pub(super) fn correlation_map(traces: &LabelledTraces) -> CorrelationMap {
    let rows = &traces.rows;
    let flag = |of: &dyn Fn(&Row) -> bool| -> Vec<f64> {
        rows.iter()
            .map(|row| f64::from(u8::from(of(row))))
            .collect()
    };
    let mut columns = vec![("correct", flag(&|row| row.correct))];
    for score in TraceScore::ALL {
        let values: Option<Vec<f64>> = rows.iter().map(|row| row.score(score)).collect();
        columns.extend(values.map(|values| (score.name(), values)));
    }
    columns.push(("answered", flag(&|row| row.answer.is_some())));
    columns.push(("truncated", flag(&|row| row.truncated)));
    let constant = |values: &[f64]| values.iter().all(|value| *value == values[0]);
    columns.retain(|(_, values)| !values.is_empty() && !constant(values));
    let ranks: Vec<Vec<f64>> = columns
        .iter()
        .map(|(_, values)| average_ranks(values))
        .collect();
    let row = |own: &Vec<f64>| ranks.iter().map(|other| pearson(own, other)).collect();
    CorrelationMap {
        names: columns.iter().map(|(name, _)| *name).collect(),
        rho: ranks.iter().map(row).collect(),
    }
}
