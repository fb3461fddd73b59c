//! What is fitted on validation traces: which trace score, its calibration, the constants of the selectors.

use serde::{Deserialize, Serialize};

use super::Evaluator;
use super::critic::Columns;
use crate::calibration::{Calibration, CalibrationError, CalibrationMethod};
use crate::classification::{
    Isotonic, PlattScaling, auroc, auroc_within, brier, ece, fit_isotonic, fit_platt,
};
use crate::scores::TraceScore;
use crate::selection::{Candidate, SelectorConstants, fit_constants};

/// What is fitted on validation traces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fitted {
    /// The trace score with the highest AUROC (within problem if defined, else pooled).
    pub score: TraceScore,
    /// Constants of the selectors.
    pub selectors: SelectorConstants,
    /// Temperature and bias of the score.
    pub platt: PlattScaling,
    /// The non-decreasing map from score to probability.
    pub isotonic: Isotonic,
}

impl Evaluator {
    /// Fits on everything seen so far: chooses the trace score, then the constants for it.
    ///
    /// `None` if nothing seen has both a score of rewards and both classes.
    pub fn fit(&self) -> Option<Fitted> {
        fit(self, best_score(self)?, &|_| true)
    }

    /// The calibration to store with the reward, fitted on everything seen so far; `data` names it.
    ///
    /// `None` as [`Evaluator::fit`]. The method is that with the lower Brier score when each trace is judged by a fit to
    /// the other fold's problems.
    pub fn calibrate(&self, data: &str) -> Option<Calibration> {
        let fitted = self.fit()?;
        let error = cross_fitted_error(self, fitted.score);
        let better = |e: &CalibrationError| e.brier_isotonic < e.brier_platt;
        Some(Calibration {
            fitted,
            scores: self.settings.scores,
            method: match error.as_ref().is_some_and(better) {
                true => CalibrationMethod::Isotonic,
                false => CalibrationMethod::Platt,
            },
            data: data.to_owned(),
            traces: self.rows.len(),
            problems: self.problems.len(),
            error,
        })
    }
}

/// The reward score with the highest AUROC within problem, or pooled where no problem has both classes.
fn best_score(evaluator: &Evaluator) -> Option<TraceScore> {
    let quality = |score: TraceScore| {
        let columns = Columns::of(evaluator, score, &|_| true);
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
/// `None` if they hold one class only.
pub(super) fn fit(
    evaluator: &Evaluator,
    score: TraceScore,
    included: &dyn Fn(usize) -> bool,
) -> Option<Fitted> {
    let columns = Columns::of(evaluator, score, included);
    let platt = fit_platt(&columns.scores, &columns.correct)?;
    let candidate = |row: usize| Candidate {
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
        platt,
        isotonic: fit_isotonic(&columns.scores, &columns.correct),
    })
}

/// Errors of both maps where each trace is judged by a fit to the problems of the other folds.
fn cross_fitted_error(evaluator: &Evaluator, score: TraceScore) -> Option<CalibrationError> {
    let folds = evaluator.settings.folds.max(2);
    let (mut raw, mut platt, mut isotonic, mut correct) = (vec![], vec![], vec![], vec![]);
    for fold in 0..folds {
        let others = Columns::of(evaluator, score, &|problem| evaluator.fold(problem) != fold);
        let own = Columns::of(evaluator, score, &|problem| evaluator.fold(problem) == fold);
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
