//! A demonstration held together with its corruptions.

use std::collections::BTreeMap;

use super::{PerturbOutcome, Perturbation, Perturbed, Registry};
use crate::problem::Problem;
use crate::prompts::PromptSettings;
use crate::random::{Stream, text_key};

/// A demonstration with its corruptions: the only way to hold them together, so they stay under their own question.
///
/// The parts cannot be exchanged from outside; there is no constructor but [`group_demonstrations`].
#[derive(Clone, Debug)]
pub struct DemonstrationGroup<'a> {
    problem: &'a Problem,
    demonstration: String,
    outcome: PerturbOutcome,
}

impl<'a> DemonstrationGroup<'a> {
    /// Corrupts a problem's own rendered demonstration `count` times.
    pub fn corrupt(
        (problem, demonstration): (&'a Problem, &str),
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

/// Names the streams of perturbations apart from all other randomness of a run.
const STREAM: u64 = 0x7065_7274_7572_6264; // "perturbd"

/// Renders each problem's demonstration and corrupts it `count` times; problems without a demonstration are left out.
///
/// A problem's corruptions depend on `seed`, its identifier and its text, not on its place in the list.
pub fn group_demonstrations<'a>(
    problems: &'a [Problem],
    prompts: &PromptSettings,
    registry: &Registry,
    count: usize,
    seed: u64,
) -> Vec<DemonstrationGroup<'a>> {
    let group = |problem: &'a Problem| {
        let demonstration = prompts.demonstration(problem)?;
        let mut stream = Stream::new(seed, &[STREAM, text_key(&problem.id)]);
        let outcome = registry.perturb_all(&demonstration, count, &mut stream);
        Some(DemonstrationGroup {
            problem,
            demonstration,
            outcome,
        })
    };
    problems.iter().filter_map(group).collect()
}
