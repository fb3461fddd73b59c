//! The `critic.*` entries: the trace score against correctness and against length.

use std::collections::{BTreeMap, BTreeSet};

use super::pictures::{correlation_map, format_histogram, histogram};
use super::{Evaluation, Evaluator, Fitted, Row};
use crate::classification::{
    PlattScaling, RankedTraces, auroc_by_group, ece_weighted, reliability,
};
use crate::scores::TraceScore;
use crate::statistics::{Estimate, PairMoments, average_ranks, mean, residuals, welch_t};

/// Parallel columns of the judged traces that have a score.
pub(super) struct Columns {
    pub(super) scores: Vec<f64>,
    pub(super) correct: Vec<bool>,
    /// Problem of each trace: the bootstrap unit, counted from 0 without gaps.
    pub(super) units: Vec<usize>,
    /// Group of each trace: problem and generator.
    pub(super) groups: Vec<usize>,
    generators: Vec<usize>,
    lengths: Vec<f64>,
    /// 1 where an answer could be read.
    /// 1 where the answer stands in a form that was asked for.
    marked: Vec<f64>,
    /// Index into the evaluator's problems.
    pub(super) problems: Vec<usize>,
}

/// Adds everything under `critic`, the reliability bins and the histogram.
pub(super) fn add(evaluator: &Evaluator, folds: &[Option<Fitted>], result: &mut Evaluation) {
    let columns = Columns::of(evaluator, evaluator.score(), &|_| true);
    if columns.scores.is_empty() {
        return;
    }
    add_ranking(evaluator, &columns, "critic", result);
    add_calibration(evaluator, &columns, folds, result);
    add_correlations(evaluator, &columns, result);
    add_by_generator(evaluator, &columns, result);
}

/// Adds `critic.by_score.<score>` of every trace score, and what the report draws.
pub(super) fn add_by_score(evaluator: &Evaluator, result: &mut Evaluation) {
    let columns = Columns::of(evaluator, evaluator.score(), &|_| true);
    if columns.scores.is_empty() {
        return;
    }
    result.histogram = histogram(&columns);
    result.histogram_by_format = format_histogram(evaluator);
    result.correlations = correlation_map(evaluator);
    for score in TraceScore::ALL {
        let columns = Columns::of(evaluator, score, &|_| true);
        let prefix = format!("critic.by_score.{}", score.name());
        add_ranking(evaluator, &columns, &prefix, result);
    }
}

/// `auroc` (pooled), `auroc_within` (mean over groups of one problem and generator) and `auroc_within_generator`.
fn add_ranking(evaluator: &Evaluator, columns: &Columns, prefix: &str, result: &mut Evaluation) {
    let ranked = RankedTraces::new(&columns.scores, &columns.correct, &columns.units);
    let pooled = evaluator
        .resampler
        .estimate(columns.unit_count(), |weights| ranked.auroc(weights));
    result
        .summary
        .insert_some(&format!("{prefix}.auroc"), pooled);
    result.summary.insert_some(
        &format!("{prefix}.auroc_within"),
        within(evaluator, columns),
    );
    let generators: Vec<RankedTraces> = (0..evaluator.generators.len())
        .map(|generator| columns.ranked_of(generator))
        .collect();
    let of_generators = if generators.len() == 1 {
        pooled
    } else {
        evaluator
            .resampler
            .estimate(columns.unit_count(), |weights| {
                mean(
                    &generators
                        .iter()
                        .filter_map(|ranked| ranked.auroc(weights))
                        .collect::<Vec<_>>(),
                )
            })
    };
    result
        .summary
        .insert_some(&format!("{prefix}.auroc_within_generator"), of_generators);
}

/// Mean AUROC over groups of one problem and generator; the interval resamples problems, n counts those that hold both classes.
fn within(evaluator: &Evaluator, columns: &Columns) -> Option<Estimate> {
    let groups = auroc_by_group(&columns.scores, &columns.correct, &columns.groups);
    let unit_of: BTreeMap<usize, usize> = columns
        .groups
        .iter()
        .copied()
        .zip(columns.units.iter().copied())
        .collect();
    let units: Vec<usize> = groups.iter().map(|(group, _)| unit_of[group]).collect();
    let values = groups.iter().map(|&(_, value)| value);
    let means = UnitMeans::new(values, &units, columns.unit_count());
    let n = units.iter().collect::<BTreeSet<_>>().len();
    let estimate = evaluator
        .resampler
        .estimate(columns.unit_count(), |weights| means.mean(weights))?;
    Some(Estimate { n, ..estimate })
}

/// `critic.by_generator.NAME.auroc` where several generators wrote the traces.
fn add_by_generator(evaluator: &Evaluator, columns: &Columns, result: &mut Evaluation) {
    if evaluator.generators.len() < 2 {
        return;
    }
    for generator in 0..evaluator.generators.len() {
        let own = (0..columns.units.len()).filter(|&i| columns.generators[i] == generator);
        let problems: BTreeSet<usize> = own.map(|i| columns.units[i]).collect();
        let ranked = columns.ranked_of(generator);
        let auroc = evaluator
            .resampler
            .estimate(columns.unit_count(), |weights| ranked.auroc(weights))
            .map(|estimate| Estimate {
                n: problems.len(),
                ..estimate
            });
        let name = evaluator.generator_segment(generator);
        let name = format!("critic.by_generator.{name}.auroc");
        result.summary.insert_some(&name, auroc);
    }
}

/// `ece`, `brier` of the calibrated score; `ece_isotonic`, `brier_isotonic` under the isotonic map; `ece_raw`,
/// `brier_raw` of the score itself as a logit.
fn add_calibration(
    evaluator: &Evaluator,
    columns: &Columns,
    folds: &[Option<Fitted>],
    result: &mut Evaluation,
) {
    let through = |map: &dyn Fn(Option<&Fitted>, f64) -> f64| -> Vec<f64> {
        let fold_of = |problem: usize| folds[evaluator.fold(problem)].as_ref();
        let rows = columns.scores.iter().zip(&columns.problems);
        rows.map(|(&score, &problem)| map(fold_of(problem), score))
            .collect()
    };
    let raw = through(&|_, score| PlattScaling::IDENTITY.probability(score));
    let platt = through(&|fitted, score| {
        let scaling = fitted.map_or(PlattScaling::IDENTITY, |f| f.platt);
        scaling.probability(score)
    });
    let isotonic = through(&|fitted, score| match fitted {
        Some(fitted) => fitted.isotonic.probability(score),
        None => PlattScaling::IDENTITY.probability(score),
    });
    let (correct, units) = (&columns.correct, &columns.units);
    for (suffix, probabilities) in [("", &platt), ("_isotonic", &isotonic), ("_raw", &raw)] {
        let errors = probabilities.iter().zip(correct);
        let squares = UnitMeans::new(
            errors.map(|(p, &c)| (p - f64::from(u8::from(c))).powi(2)),
            units,
            columns.unit_count(),
        );
        let ece = evaluator.resampler.estimate(columns.unit_count(), |w| {
            ece_weighted(probabilities, correct, |i| w[units[i]])
        });
        result
            .summary
            .insert_some(&format!("critic.ece{suffix}"), ece);
        let brier = evaluator
            .resampler
            .estimate(columns.unit_count(), |w| squares.mean(w));
        result
            .summary
            .insert_some(&format!("critic.brier{suffix}"), brier);
    }
    result.reliability = reliability(&platt, correct);
    result.reliability_isotonic = reliability(&isotonic, correct);
    result.reliability_raw = reliability(&raw, correct);
}

/// `pearson`, `spearman` and `partial_spearman` (given length and whether the answer is marked) with correctness, `length_spearman` with
/// length, `welch_t` and `welch_p` of correct against wrong traces.
///
/// Ranks and residuals are those of the whole sample; the bootstrap reweights them.
fn add_correlations(evaluator: &Evaluator, columns: &Columns, result: &mut Evaluation) {
    let right: Vec<f64> = columns
        .correct
        .iter()
        .map(|&c| f64::from(u8::from(c)))
        .collect();
    let (ranks, length_ranks) = (
        average_ranks(&columns.scores),
        average_ranks(&columns.lengths),
    );
    let controls: [&[f64]; 2] = [&length_ranks, &columns.marked];
    let empty = Vec::new;
    let partial = residuals(&ranks, &controls).zip(residuals(&right, &controls));
    let (ranks_left, right_left) = partial.unwrap_or_else(|| (empty(), empty()));
    let pairs: [(&str, &[f64], &[f64]); 4] = [
        ("pearson", &columns.scores, &right),
        ("spearman", &ranks, &right),
        ("partial_spearman", &ranks_left, &right_left),
        ("length_spearman", &ranks, &length_ranks),
    ];
    for (name, x, y) in pairs {
        let moments = PairMoments::new((x, y), &columns.units, columns.unit_count());
        let correlation = evaluator
            .resampler
            .estimate(columns.unit_count(), |weights| moments.pearson(weights));
        result
            .summary
            .insert_some(&format!("critic.{name}"), correlation);
    }
    let (correct, wrong): (Vec<_>, Vec<_>) = columns
        .scores
        .iter()
        .zip(&columns.correct)
        .partition(|(_, c)| **c);
    let plain = |side: Vec<(&f64, &bool)>| {
        side.into_iter()
            .map(|(score, _)| *score)
            .collect::<Vec<f64>>()
    };
    if let Some(test) = welch_t(&plain(correct), &plain(wrong)) {
        let exact = |value| Estimate {
            n: columns.scores.len(),
            ..Estimate::exact(value)
        };
        result.summary.insert("critic.welch_t", exact(test.t));
        result.summary.insert("critic.welch_p", exact(test.p));
    }
}

/// Sums and counts by unit, so that a resample's mean costs one step a unit.
struct UnitMeans {
    sums: Vec<(f64, f64)>,
}

impl UnitMeans {
    fn new(values: impl Iterator<Item = f64>, units: &[usize], count: usize) -> Self {
        let mut sums = vec![(0.0, 0.0); count];
        for (value, &unit) in values.zip(units) {
            sums[unit].0 += value;
            sums[unit].1 += 1.0;
        }
        Self { sums }
    }

    fn mean(&self, weights: &[f64]) -> Option<f64> {
        let (mut total, mut count) = (0.0, 0.0);
        for ((sum, n), weight) in self.sums.iter().zip(weights) {
            total += weight * sum;
            count += weight * n;
        }
        (count > 0.0).then(|| total / count)
    }
}

impl Columns {
    pub(super) fn of(
        evaluator: &Evaluator,
        score: TraceScore,
        included: &dyn Fn(usize) -> bool,
    ) -> Self {
        let mut columns = Self {
            scores: Vec::new(),
            correct: Vec::new(),
            units: Vec::new(),
            groups: Vec::new(),
            generators: Vec::new(),
            lengths: Vec::new(),
            marked: Vec::new(),
            problems: Vec::new(),
        };
        let mut unit_of_problem = BTreeMap::new();
        for row in evaluator.rows.iter().filter(|row| included(row.problem)) {
            if let Some(value) = row.score(score) {
                let next = unit_of_problem.len();
                let unit = *unit_of_problem.entry(row.problem).or_insert(next);
                columns.push(row, value, unit, evaluator.generators.len());
            }
        }
        columns
    }

    fn push(&mut self, row: &Row, score: f64, unit: usize, generators: usize) {
        self.scores.push(score);
        self.correct.push(row.correct);
        self.units.push(unit);
        self.groups.push(row.problem * generators + row.generator);
        self.generators.push(row.generator);
        self.lengths
            .push(row.score(TraceScore::Length).unwrap_or(0.0));
        self.marked.push(f64::from(u8::from(row.marked)));
        self.problems.push(row.problem);
    }

    fn unit_count(&self) -> usize {
        self.units.iter().max().map_or(0, |last| last + 1)
    }

    fn ranked_of(&self, generator: usize) -> RankedTraces {
        let own: Vec<usize> = (0..self.scores.len())
            .filter(|&i| self.generators[i] == generator)
            .collect();
        let scores: Vec<f64> = own.iter().map(|&i| self.scores[i]).collect();
        let correct: Vec<bool> = own.iter().map(|&i| self.correct[i]).collect();
        let units: Vec<usize> = own.iter().map(|&i| self.units[i]).collect();
        RankedTraces::new(&scores, &correct, &units)
    }
}
