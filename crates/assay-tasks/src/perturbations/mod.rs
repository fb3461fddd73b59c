//! Perturbed demonstrations: right reasoning with one known error.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::TasksError;
use crate::problem::Problem;
use crate::random::Stream;

/// A named way to corrupt a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Perturbation {
    /// Another operator in one arithmetic step, its right-hand side kept.
    FlipOperator,
    /// The nearest number of the same format as the answer; yes and no flip.
    CorruptAnswer,
    /// Another number of the reasoning as the answer.
    AnswerFromReasoning,
    /// Other digits in one number of the reasoning.
    CorruptNumbers,
    /// Two numbers of the reasoning exchanged.
    SwapNumbers,
    /// A step left out.
    DropStep,
    /// Two steps exchanged.
    SwapSteps,
    /// A wrong result that later steps use.
    CarryError,
    /// A number of the reasoning times ten or a tenth.
    WrongUnitScale,
    /// A number of the reasoning plus or minus one.
    OffByOne,
}

/// A corrupted text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Perturbed {
    /// The corrupted text.
    pub text: String,
    /// Byte range in `text` of the first corruption.
    pub span: Range<usize>,
    /// What was done.
    pub kind: Perturbation,
}

impl Perturbation {
    /// The name in settings and reports.
    pub fn name(self) -> &'static str {
        ""
    }

    /// Corrupts `text`, or `None` where this is impossible.
    pub fn apply(self, _text: &str, _stream: &mut Stream) -> Option<Perturbed> {
        None
    }
}

/// The perturbations a run draws from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    kinds: Vec<Perturbation>,
}

/// What perturbing one text gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerturbOutcome {
    /// The corrupted texts, all different.
    pub perturbed: Vec<Perturbed>,
    /// Attempts that were impossible, by kind.
    pub skipped: BTreeMap<Perturbation, usize>,
}

/// A demonstration with its corruptions: the only way to hold them together, so they stay under their own question.
#[derive(Clone, Debug)]
pub struct DemonstrationGroup<'a> {
    problem: &'a Problem,
    demonstration: String,
    outcome: PerturbOutcome,
}

impl<'a> DemonstrationGroup<'a> {
    /// The problem all texts belong to.
    pub fn problem(&self) -> &'a Problem {
        self.problem
    }

    /// The rendered demonstration.
    pub fn demonstration(&self) -> &str {
        &self.demonstration
    }

    /// Its corruptions.
    pub fn perturbed(&self) -> &[Perturbed] {
        &self.outcome.perturbed
    }

    /// Attempts that were impossible, by kind.
    pub fn skipped(&self) -> &BTreeMap<Perturbation, usize> {
        &self.outcome.skipped
    }
}

impl Registry {
    /// The perturbations of method section 4, used in training.
    pub fn training() -> Self {
        Self { kinds: Vec::new() }
    }

    /// Kinds kept out of training, to test whether localisation generalises.
    pub fn held_out() -> Self {
        Self { kinds: Vec::new() }
    }

    /// The perturbations with these names.
    ///
    /// # Errors
    /// [`TasksError::UnknownPerturbation`] naming the nearest known name; [`TasksError::NoPerturbation`] for no names.
    pub fn named(_names: &[String]) -> Result<Self, TasksError> {
        Err(TasksError::NoPerturbation)
    }

    /// The perturbations in order.
    pub fn kinds(&self) -> &[Perturbation] {
        &self.kinds
    }

    /// `count` different corruptions of `text`.
    pub fn perturb_all(&self, _text: &str, _count: usize, _stream: &mut Stream) -> PerturbOutcome {
        PerturbOutcome::default()
    }
}
