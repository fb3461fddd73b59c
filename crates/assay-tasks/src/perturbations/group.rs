//! A demonstration with its corruptions.

use std::collections::BTreeMap;

use super::{PerturbOutcome, Perturbation, Perturbed, Registry};
use crate::problem::Problem;
use crate::random::Stream;

/// A demonstration with its corruptions, which all belong to the same question.
///
/// The only constructor is [`DemonstrationGroup::corrupt`], and the parts cannot be replaced, so
/// corruptions of different questions are never mixed.
#[derive(Clone, Debug)]
pub struct DemonstrationGroup<'a> {
    problem: &'a Problem,
    demonstration: String,
    outcome: PerturbOutcome,
}

impl<'a> DemonstrationGroup<'a> {
    /// Corrupts a problem's own rendered demonstration `count` times.
    pub fn corrupt(
        problem: &'a Problem,
        demonstration: &str,
        registry: &Registry,
        count: usize,
        stream: &mut Stream,
    ) -> Self {
        let outcome = registry.perturb_all(demonstration, count, stream);
        Self {
            problem,
            demonstration: demonstration.to_owned(),
            outcome,
        }
    }

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
