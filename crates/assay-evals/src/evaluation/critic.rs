//! The `critic.*` entries: the trace score against correctness and against length.

use std::collections::{BTreeMap, BTreeSet};

use super::{Evaluation, Evaluator, Fitted, Row, ScoreHistogram};
use crate::classification::{
    Calibration, RankedTraces, auroc_by_group, auroc_within, brier_weighted, ece_weighted,
    fit_calibration, reliability,
};
use crate::scores::TraceScore;
use crate::selection::fit_constants;
use crate::statistics::{Estimate, average_ranks, mean, pearson_weighted, residuals, welch_t};
use crate::summary::segment;

const HISTOGRAM_BINS: usize = 40;

/// Parallel columns of the judged traces that have a score.
struct Columns {
    scores: Vec<f64>,
    correct: Vec<bool>,
    /// Problem of each trace: the bootstrap unit, counted from 0 without gaps.
    units: Vec<usize>,
    /// Group of each trace: problem and generator.
    groups: Vec<usize>,
    generators: Vec<usize>,
    lengths: Vec<f64>,
    /// 1 where an answer could be read.
    answered: Vec<f64>,
    /// Index into the evaluator's problems.
    problems: Vec<usize>,
}

/// The reward score with the highest AUROC within problem, or pooled where no problem has both classes.
pub(super) fn best_score(evaluator: &Evaluator) -> Option<TraceScore> {
    let quality = |score: TraceScore| {
        let columns = Columns::of(evaluator, score, &|_| true);
        let within = auroc_within(&columns.scores, &columns.correct, &columns.groups);
        within.or_else(|| crate::classification::auroc(&columns.scores, &columns.correct))
    };
    let rated = TraceScore::OF_REWARDS
        .into_iter()
        .filter_map(|score| Some((quality(score)?, score)));
    let best = rated.reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map(|(_, score)| score)
}

/// Fits calibration and selector constants for a score on the problems that `included` admits.
///
/// `None` if they hold one class only.
pub(super) fn fit(
    evaluator: &Evaluator,
    score: TraceScore,
    included: &dyn Fn(usize) -> bool,
) -> Option<Fitted> {
    let columns = Columns::of(evaluator, score, included);
    let calibration = fit_calibration(&columns.scores, &columns.correct)?;
    let candidate = |row: usize| crate::selection::Candidate {
        score: evaluator.rows[row].score(score),
        ..evaluator.candidate(row)
    };
    let groups = evaluator
        .groups()
        .into_iter()
        .filter(|(problem, _)| included(*problem));
    let groups: Vec<Vec<_>> = groups
        .map(|(_, rows)| rows.into_iter().map(candidate).collect())
        .collect();
    Some(Fitted {
        score,
        selectors: fit_constants(&groups),
        calibration,
    })
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
    result.histogram = histogram(&columns);
    add_by_generator(evaluator, &columns, result);
    for score in TraceScore::ALL {
        let columns = Columns::of(evaluator, score, &|_| true);
        add_ranking(
            evaluator,
            &columns,
            &format!("critic.by_score.{}", score.name()),
            result,
        );
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
    let within: Vec<f64> = auroc_by_group(&columns.scores, &columns.correct, &columns.groups)
        .into_iter()
        .map(|(_, value)| value)
        .collect();
    result.summary.insert_some(
        &format!("{prefix}.auroc_within"),
        evaluator.resampler.mean(&within),
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

/// `critic.by_generator.NAME.auroc` where several generators wrote the traces.
fn add_by_generator(evaluator: &Evaluator, columns: &Columns, result: &mut Evaluation) {
    if evaluator.generators.len() < 2 {
        return;
    }
    for (generator, name) in evaluator.generators.iter().enumerate() {
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
        let name = format!("critic.by_generator.{}.auroc", segment(name));
        result.summary.insert_some(&name, auroc);
    }
}

/// `ece`, `brier` of the calibrated score; `ece_raw`, `brier_raw` of the score itself as a logit.
fn add_calibration(
    evaluator: &Evaluator,
    columns: &Columns,
    folds: &[Option<Fitted>],
    result: &mut Evaluation,
) {
    let calibrated: Vec<f64> = columns
        .scores
        .iter()
        .zip(&columns.problems)
        .map(|(&score, &problem)| {
            folds[evaluator.fold(problem)]
                .map_or(Calibration::IDENTITY, |f| f.calibration)
                .probability(score)
        })
        .collect();
    let raw: Vec<f64> = columns
        .scores
        .iter()
        .map(|&score| Calibration::IDENTITY.probability(score))
        .collect();
    let (correct, units) = (&columns.correct, &columns.units);
    for (suffix, probabilities) in [("", &calibrated), ("_raw", &raw)] {
        let ece = evaluator.resampler.estimate(columns.unit_count(), |w| {
            ece_weighted(probabilities, correct, |i| w[units[i]])
        });
        result
            .summary
            .insert_some(&format!("critic.ece{suffix}"), ece);
        let brier = evaluator.resampler.estimate(columns.unit_count(), |w| {
            brier_weighted(probabilities, correct, |i| w[units[i]])
        });
        result
            .summary
            .insert_some(&format!("critic.brier{suffix}"), brier);
    }
    result.reliability = reliability(&calibrated, correct);
    result.reliability_raw = reliability(&raw, correct);
}

/// `pearson`, `spearman` and `partial_spearman` (given length and format) with correctness, `length_spearman` with
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
    let controls: [&[f64]; 2] = [&length_ranks, &columns.answered];
    let empty = Vec::new;
    let partial = residuals(&ranks, &controls).zip(residuals(&right, &controls));
    let (ranks_left, right_left) = partial.unwrap_or_else(|| (empty(), empty()));
    let pairs: [(&str, &[f64], &[f64]); 4] = [
        ("pearson", &columns.scores, &right),
        ("spearman", &ranks, &right),
        ("partial_spearman", &ranks_left, &right_left),
        ("length_spearman", &ranks, &length_ranks),
    ];
    let mut per_trace = vec![0.0; columns.units.len()];
    for (name, x, y) in pairs {
        let correlation = evaluator
            .resampler
            .estimate(columns.unit_count(), |weights| {
                per_trace
                    .iter_mut()
                    .zip(&columns.units)
                    .for_each(|(slot, &unit)| *slot = weights[unit]);
                pearson_weighted(x, y, &per_trace)
            });
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

fn histogram(columns: &Columns) -> ScoreHistogram {
    let low = columns.scores.iter().copied().fold(f64::INFINITY, f64::min);
    let high = columns
        .scores
        .iter()
        .copied()
        .fold(f64::NEG_INFINITY, f64::max);
    let mut bins = [vec![0; HISTOGRAM_BINS], vec![0; HISTOGRAM_BINS]];
    for (score, &correct) in columns.scores.iter().zip(&columns.correct) {
        let place = if high > low {
            (score - low) / (high - low)
        } else {
            0.0
        };
        let bin = ((place * HISTOGRAM_BINS as f64) as usize).min(HISTOGRAM_BINS - 1);
        bins[usize::from(correct)][bin] += 1;
    }
    let [wrong, correct] = bins;
    ScoreHistogram {
        low,
        high,
        correct,
        wrong,
    }
}

impl Columns {
    fn of(evaluator: &Evaluator, score: TraceScore, included: &dyn Fn(usize) -> bool) -> Self {
        let mut columns = Self {
            scores: Vec::new(),
            correct: Vec::new(),
            units: Vec::new(),
            groups: Vec::new(),
            generators: Vec::new(),
            lengths: Vec::new(),
            answered: Vec::new(),
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
        self.answered
            .push(f64::from(u8::from(row.answer.is_some())));
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
