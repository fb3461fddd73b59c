//! The built-in tasks: their problems, and the vocabulary of a model for this task alone.

use assay_tasks::TasksError;
use assay_tasks::arithmetic::{self, ArithmeticSettings, Split};
use assay_tasks::deduction::{self, DeductionSettings};
use assay_tasks::problem::Problem;

use crate::args::Task;

impl Task {
    /// The first problems of a split.
    pub(super) fn problems(
        self,
        problems: usize,
        split: Split,
        seed: u64,
    ) -> Result<Vec<Problem>, TasksError> {
        match self {
            Task::Arithmetic => {
                let settings = ArithmeticSettings {
                    problems,
                    ..ArithmeticSettings::default()
                };
                arithmetic::generate(&settings, split, seed)
            }
            Task::Deduction => {
                let settings = DeductionSettings {
                    problems,
                    ..DeductionSettings::default()
                };
                deduction::generate(&settings, split, seed)
            }
        }
    }

    /// The texts of all tokens that questions and completions consist of.
    pub(super) fn vocabulary(self) -> Vec<&'static str> {
        match self {
            Task::Arithmetic => arithmetic::vocabulary().to_vec(),
            Task::Deduction => deduction::vocabulary(),
        }
    }

    /// Base of the rotary angles. Deduction looks rules up, so its heads must distinguish
    /// neighbouring positions; a small base does that.
    pub(super) fn rope_theta(self) -> f64 {
        match self {
            Task::Arithmetic => 10_000.0,
            Task::Deduction => 100.0,
        }
    }

    /// Characters that perturbed text may use; `None` allows all.
    pub(super) fn alphabet(self) -> Option<String> {
        match self {
            Task::Arithmetic => Some(arithmetic::alphabet(&ArithmeticSettings::default())),
            Task::Deduction => None,
        }
    }
}
