//! The `critic.*` entries: the trace score against correctness and against length.

use std::collections::{BTreeMap, BTreeSet};

use super::columns::Columns;
use super::distributions::{correlation_map, format_histogram, histogram};
use super::result::Evaluation;
use super::traces::LabelledTraces;
use crate::calibration::FittedConstants;
use crate::classification::{
    PlattScaling, RankedTraces, auroc_by_group, ece_weighted, reliability,
};
use crate::scores::TraceScore;
use crate::statistics::{Estimate, PairMoments, average_ranks, mean, residuals, welch_t};

/// Adds the entries under `critic` and the reliability bins.
pub(super) fn add(
    traces: &LabelledTraces,
    folds: &[Option<FittedConstants>],
    result: &mut Evaluation,
) {
    let columns = Columns::new(traces, traces.score(), |_| true);
    if columns.scores.is_empty() {
        return;
    }
    add_ranking(traces, &columns, "critic", result);
    add_calibration(traces, &columns, folds, result);
    add_correlations(traces, &columns, result);
    add_by_generator(traces, &columns, result);
}

/// Adds `critic.by_score.<score>` for every trace score, the histograms and the correlations.
pub(super) fn add_by_score(traces: &LabelledTraces, result: &mut Evaluation) {
    let columns = Columns::new(traces, traces.score(), |_| true);
    if columns.scores.is_empty() {
        return;
    }
    result.histogram = histogram(&columns);
    result.histogram_by_format = format_histogram(traces);
    result.correlations = correlation_map(traces);
    for score in TraceScore::ALL {
        let columns = Columns::new(traces, score, |_| true);
        let prefix = format!("critic.by_score.{}", score.name());
        add_ranking(traces, &columns, &prefix, result);
    }
}

/// `auroc` (pooled), `auroc_within` (mean over groups of one problem and generator) and
/// `auroc_within_generator`.
fn add_ranking(traces: &LabelledTraces, columns: &Columns, prefix: &str, result: &mut Evaluation) {
    let ranked = RankedTraces::new(&columns.scores, &columns.correct, &columns.units);
    let pooled = traces
        .resampler
        .estimate(columns.unit_count(), |weights| ranked.auroc(weights));
    result
        .summary
        .insert_some(&format!("{prefix}.auroc"), pooled);
    result
        .summary
        .insert_some(&format!("{prefix}.auroc_within"), within(traces, columns));
    let generators: Vec<RankedTraces> = (0..traces.generator_count())
        .map(|generator| columns.ranked_of(generator))
        .collect();
    let of_generators = if generators.len() == 1 {
        pooled
    } else {
        traces.resampler.estimate(columns.unit_count(), |weights| {
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

/// Mean AUROC over groups of one problem and generator. The interval resamples problems; n counts
/// the problems with correct and wrong traces.
fn within(traces: &LabelledTraces, columns: &Columns) -> Option<Estimate> {
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
    let estimate = traces
        .resampler
        .estimate(columns.unit_count(), |weights| means.mean(weights))?;
    Some(Estimate { n, ..estimate })
}

/// `critic.by_generator.NAME.auroc` if the traces have several generators.
fn add_by_generator(traces: &LabelledTraces, columns: &Columns, result: &mut Evaluation) {
    if traces.generator_count() < 2 {
        return;
    }
    for generator in 0..traces.generator_count() {
        let own = (0..columns.units.len()).filter(|&i| columns.generators[i] == generator);
        let problems: BTreeSet<usize> = own.map(|i| columns.units[i]).collect();
        let ranked = columns.ranked_of(generator);
        let auroc = traces
            .resampler
            .estimate(columns.unit_count(), |weights| ranked.auroc(weights))
            .map(|estimate| Estimate {
                n: problems.len(),
                ..estimate
            });
        let name = traces.generator_segment(generator);
        let name = format!("critic.by_generator.{name}.auroc");
        result.summary.insert_some(&name, auroc);
    }
}

/// `ece` and `brier` of the calibrated score, `ece_isotonic` and `brier_isotonic` with the isotonic
/// map, `ece_raw` and `brier_raw` of the score read as a logit.
fn add_calibration(
    traces: &LabelledTraces,
    columns: &Columns,
    folds: &[Option<FittedConstants>],
    result: &mut Evaluation,
) {
    let through = |map: &dyn Fn(Option<&FittedConstants>, f64) -> f64| -> Vec<f64> {
        let fold_of = |problem: usize| folds[traces.fold(problem)].as_ref();
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
        let ece = traces.resampler.estimate(columns.unit_count(), |w| {
            ece_weighted(probabilities, correct, |i| w[units[i]])
        });
        result
            .summary
            .insert_some(&format!("critic.ece{suffix}"), ece);
        let brier = traces
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

/// `pearson`, `spearman` and `partial_spearman` (given length and answer form) with correctness,
/// `length_spearman` with length, and `welch_t` and `welch_p` of correct against wrong traces.
///
/// Ranks and residuals are those of the whole sample; the bootstrap reweights them.
fn add_correlations(traces: &LabelledTraces, columns: &Columns, result: &mut Evaluation) {
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
        let moments = PairMoments::new(x, y, &columns.units, columns.unit_count());
        let correlation = traces
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

/// Sums and counts of the values of each unit: the mean of a resample is linear in the units.
struct UnitMeans {
    units: Vec<UnitSum>,
}

#[derive(Clone, Copy, Default)]
struct UnitSum {
    sum: f64,
    count: f64,
}

impl UnitMeans {
    fn new(values: impl Iterator<Item = f64>, units: &[usize], count: usize) -> Self {
        let mut sums = vec![UnitSum::default(); count];
        for (value, &unit) in values.zip(units) {
            sums[unit].sum += value;
            sums[unit].count += 1.0;
        }
        Self { units: sums }
    }

    fn mean(&self, weights: &[f64]) -> Option<f64> {
        let (mut total, mut count) = (0.0, 0.0);
        for (unit, weight) in self.units.iter().zip(weights) {
            total += weight * unit.sum;
            count += weight * unit.count;
        }
        (count > 0.0).then(|| total / count)
    }
}
