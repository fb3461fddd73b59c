//! `calibration.json`: the map from a trace's rewards to the probability that it is correct.
//!
//! All constants are fitted on validation traces. [`crate::Evaluator::calibrate`] makes a
//! calibration; it is stored in the reward's directory with the weights.

use std::io::{Read, Write};
use std::path::Path;

use assay_tasks::trace::ScoredTrace;
use serde::{Deserialize, Serialize};

use crate::classification::{Isotonic, PlattScaling};
use crate::error::EvalError;
use crate::evaluation::EvalSettings;
use crate::scores::{ScoreSettings, TraceScore};
use crate::selection::SelectorConstants;

/// Name of the file in a reward's directory.
pub const CALIBRATION_FILE: &str = "calibration.json";
/// Name of the probability among a trace's `scores`.
pub const PROBABILITY: &str = "p_correct";
/// Maximum size of the file, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// The trace score and the constants that are fitted on validation traces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedConstants {
    /// The trace score with the highest AUROC (within problem if defined, else pooled).
    pub score: TraceScore,
    /// Constants of the selectors.
    pub selectors: SelectorConstants,
    /// Temperature and bias of the score.
    pub platt: PlattScaling,
    /// The non-decreasing map from score to probability.
    pub isotonic: Isotonic,
}

/// Which of the two fits gives the probability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CalibrationMethod {
    /// Temperature and bias.
    Platt,
    /// The isotonic map.
    Isotonic,
}

/// Errors of the probabilities on the validation traces, each trace with a fit to other problems.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationError {
    /// Expected calibration error of `sigmoid(score)`, before any fit.
    pub ece_before: f64,
    /// Expected calibration error with temperature and bias.
    pub ece_platt: f64,
    /// Expected calibration error with the isotonic map.
    pub ece_isotonic: f64,
    /// Brier score of `sigmoid(score)`.
    pub brier_before: f64,
    /// Brier score with temperature and bias.
    pub brier_platt: f64,
    /// Brier score with the isotonic map.
    pub brier_isotonic: f64,
}

/// The contents of `calibration.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The trace score, both maps and the constants of the selectors.
    pub fitted: FittedConstants,
    /// Constants of the trace scores.
    pub scores: ScoreSettings,
    /// The map in use: the one with the lower cross-fitted Brier score, Platt if they are equal or
    /// unknown.
    pub method: CalibrationMethod,
    /// Name of the validation data.
    pub data: String,
    /// Number of traces behind the fit.
    pub traces: usize,
    /// Number of problems behind the fit.
    pub problems: usize,
    /// Cross-fitted errors; absent if a fold of the problems has one class only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<CalibrationError>,
}

impl Calibration {
    /// Reads the calibration of a reward directory; `None` if there is none.
    ///
    /// # Errors
    /// [`EvalError::File`], [`EvalError::Json`]; [`EvalError::Calibration`] for invalid numbers.
    pub fn read(dir: &Path) -> Result<Option<Self>, EvalError> {
        let path = dir.join(CALIBRATION_FILE);
        let failed = |source| EvalError::File {
            action: "read",
            path: path.clone(),
            source,
        };
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        let mut text = String::new();
        file.take(MAX_FILE)
            .read_to_string(&mut text)
            .map_err(failed)?;
        let calibration: Self = serde_json::from_str(&text).map_err(|source| EvalError::Json {
            file: path.display().to_string(),
            line: source.line(),
            source,
        })?;
        calibration
            .check()
            .map_err(|problem| EvalError::Calibration {
                path: path.clone(),
                problem,
            })?;
        Ok(Some(calibration))
    }

    /// Writes the file into an existing directory. An old file is replaced atomically.
    ///
    /// # Errors
    /// [`EvalError::File`].
    pub fn write(&self, dir: &Path) -> Result<(), EvalError> {
        let path = dir.join(CALIBRATION_FILE);
        let failed = |source| EvalError::File {
            action: "write",
            path: path.clone(),
            source,
        };
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(error.into()))? + "\n";
        let temporary = path.with_extension("json.partial");
        let mut file = std::fs::File::create(&temporary).map_err(failed)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        std::fs::rename(&temporary, &path).map_err(failed)
    }

    /// Probability that a trace is correct; `None` if its trace score is not defined.
    pub fn probability(&self, trace: &ScoredTrace) -> Option<f64> {
        Some(self.probability_of(self.fitted.score.of(trace, &self.scores)?))
    }

    /// Probability that a trace with this score is correct.
    pub fn probability_of(&self, score: f64) -> f64 {
        match self.method {
            CalibrationMethod::Platt => self.fitted.platt.probability(score),
            CalibrationMethod::Isotonic => self.fitted.isotonic.probability(score),
        }
    }

    /// Settings of an evaluation by this trace score with the fitted constants.
    pub fn settings(self) -> EvalSettings {
        EvalSettings {
            score: self.score(),
            scores: self.scores,
            fitted: Some(self.fitted),
            ..EvalSettings::default()
        }
    }

    /// The trace score that the probability is computed from.
    pub fn score(&self) -> TraceScore {
        self.fitted.score
    }

    fn check(&self) -> Result<(), &'static str> {
        let FittedConstants {
            platt,
            isotonic,
            selectors,
            ..
        } = &self.fitted;
        let finite = [
            platt.scale,
            platt.bias,
            selectors.vote_temperature,
            selectors.combination_weight,
            self.scores.soft_min_temperature,
            self.scores.discount,
        ];
        if !finite.iter().all(|value| value.is_finite()) {
            return Err("contains a number that is not finite");
        }
        if !isotonic.is_valid() {
            return Err("contains an isotonic map that is not ascending within [0, 1]");
        }
        if selectors.vote_temperature <= 0.0 || self.scores.soft_min_temperature <= 0.0 {
            return Err("contains a temperature that is not above 0");
        }
        if !TraceScore::OF_REWARDS.contains(&self.fitted.score) {
            return Err("names a score that is not computed from rewards");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(method: CalibrationMethod) -> Calibration {
        Calibration {
            fitted: FittedConstants {
                score: TraceScore::Last,
                selectors: SelectorConstants::default(),
                platt: PlattScaling {
                    scale: 2.0,
                    bias: -1.0,
                },
                isotonic: Isotonic {
                    scores: vec![0.0, 2.0],
                    probabilities: vec![0.25, 0.75],
                },
            },
            scores: ScoreSettings::default(),
            method,
            data: "validation.jsonl".into(),
            traces: 12,
            problems: 3,
            error: None,
        }
    }

    #[test]
    fn the_chosen_map_gives_the_probability() {
        let trace = |token_rewards: &[Option<f32>]| ScoredTrace {
            token_rewards: token_rewards.to_vec(),
            ..ScoredTrace::default()
        };
        let scored = trace(&[None, Some(9.0), Some(1.0)]);
        let platt = example(CalibrationMethod::Platt);
        let expected = 1.0 / (1.0 + (-1f64).exp());
        assert!((platt.probability(&scored).unwrap() - expected).abs() < 1e-15);
        let isotonic = example(CalibrationMethod::Isotonic);
        assert_eq!(isotonic.probability(&scored), Some(0.5));
        assert_eq!(isotonic.probability(&trace(&[None])), None);
    }

    #[test]
    fn files_read_back_and_absent_ones_are_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Calibration::read(dir.path()).unwrap(), None);
        let calibration = example(CalibrationMethod::Isotonic);
        calibration.write(dir.path()).unwrap();
        assert_eq!(Calibration::read(dir.path()).unwrap(), Some(calibration));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn files_without_meaning_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CALIBRATION_FILE);
        let refused = |change: &dyn Fn(&mut Calibration)| {
            let mut calibration = example(CalibrationMethod::Platt);
            change(&mut calibration);
            calibration.write(dir.path()).unwrap();
            Calibration::read(dir.path()).unwrap_err().to_string()
        };
        let falling = refused(&|c| c.fitted.isotonic.probabilities = vec![0.9, 0.1]);
        assert!(
            falling.contains("calibration.json") && falling.contains("ascending"),
            "{falling}"
        );
        let cold = refused(&|c| c.fitted.selectors.vote_temperature = 0.0);
        assert!(cold.contains("temperature"), "{cold}");
        let length = refused(&|c| c.fitted.score = TraceScore::Length);
        assert!(length.contains("computed from rewards"), "{length}");
        std::fs::write(&path, "{\"fitted\": 3}").unwrap();
        assert!(
            Calibration::read(dir.path())
                .unwrap_err()
                .to_string()
                .contains("line 1")
        );
    }
}
