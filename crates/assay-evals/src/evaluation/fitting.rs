//! Fits on validation traces: the trace score, its calibration and the selectors' constants.

use super::columns::Columns;
use super::traces::LabelledTraces;
use crate::calibration::{Calibration, CalibrationError, CalibrationMethod, FittedConstants};
use crate::classification::{
    PlattScaling, auroc, auroc_within, brier, ece, fit_isotonic, fit_platt,
};
use crate::scores::TraceScore;
use crate::selection::{Candidate, fit_constants};

/// The reward score with the highest AUROC within problem, or pooled if no problem has both
/// classes.
pub(super) fn best_score(traces: &LabelledTraces) -> Option<TraceScore> {
    let quality = |score: TraceScore| {
        let columns = Columns::new(traces, score, |_| true);
        let within = auroc_within(&columns.scores, &columns.correct, &columns.groups);
        within.or_else(|| auroc(&columns.scores, &columns.correct))
    };
    let rated = TraceScore::OF_REWARDS
        .into_iter()
        .filter_map(|score| Some((quality(score)?, score)));
    let best = rated.reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map(|(_, score)| score)
}

/// Fits calibration and selector constants for a score on the problems that `included` admits.
///
/// `None` if their traces are all correct or all wrong.
pub(super) fn fit(
    traces: &LabelledTraces,
    score: TraceScore,
    included: impl Fn(usize) -> bool,
) -> Option<FittedConstants> {
    let columns = Columns::new(traces, score, &included);
    let platt = fit_platt(&columns.scores, &columns.correct)?;
    let candidate = |row: usize| Candidate {
        score: traces.rows[row].score(score),
        ..traces.candidate(row)
    };
    let groups: Vec<Vec<Candidate>> = traces
        .groups()
        .into_iter()
        .filter(|group| included(group.problem))
        .map(|group| group.rows.into_iter().map(candidate).collect())
        .collect();
    Some(FittedConstants {
        score,
        selectors: fit_constants(&groups),
        platt,
        isotonic: fit_isotonic(&columns.scores, &columns.correct),
    })
}

/// The constants for the problems of each fold: the given ones, else a fit to the other folds.
pub(super) fn fit_folds(traces: &LabelledTraces) -> Vec<Option<FittedConstants>> {
    let given = traces.settings.fitted.as_ref();
    let fit_without = |fold| {
        fit(traces, traces.settings.score, |problem| {
            traces.fold(problem) != fold
        })
    };
    (0..traces.folds())
        .map(|fold| given.cloned().or_else(|| fit_without(fold)))
        .collect()
}

/// The calibration with the better of both methods.
pub(super) fn calibrate(
    traces: &LabelledTraces,
    fitted: FittedConstants,
    data: &str,
) -> Calibration {
    let error = cross_fitted_error(traces, fitted.score);
    let is_isotonic_better = error
        .as_ref()
        .is_some_and(|error| error.brier_isotonic < error.brier_platt);
    Calibration {
        fitted,
        scores: traces.settings.scores,
        method: match is_isotonic_better {
            true => CalibrationMethod::Isotonic,
            false => CalibrationMethod::Platt,
        },
        data: data.to_owned(),
        traces: traces.rows.len(),
        problems: traces.problem_count(),
        error,
    }
}

/// Errors of both methods if each trace is evaluated with a fit to the problems of the other folds.
fn cross_fitted_error(traces: &LabelledTraces, score: TraceScore) -> Option<CalibrationError> {
    let (mut raw, mut platt, mut isotonic, mut correct) = (vec![], vec![], vec![], vec![]);
    for fold in 0..traces.folds() {
        let others = Columns::new(traces, score, |problem| traces.fold(problem) != fold);
        let own = Columns::new(traces, score, |problem| traces.fold(problem) == fold);
        let scaling = fit_platt(&others.scores, &others.correct)?;
        let map = fit_isotonic(&others.scores, &others.correct);
        for &score in &own.scores {
            raw.push(PlattScaling::IDENTITY.probability(score));
            platt.push(scaling.probability(score));
            isotonic.push(map.probability(score));
        }
        correct.extend(own.correct);
    }
    Some(CalibrationError {
        ece_before: ece(&raw, &correct)?,
        ece_platt: ece(&platt, &correct)?,
        ece_isotonic: ece(&isotonic, &correct)?,
        brier_before: brier(&raw, &correct)?,
        brier_platt: brier(&platt, &correct)?,
        brier_isotonic: brier(&isotonic, &correct)?,
    })
}
