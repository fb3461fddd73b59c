//! Evaluation of the policy on validation problems during a run.

use super::Run;
use super::evaluate::{EvaluationPlan, sample_problems};
use super::observer::Observer;
use super::report::ValidationReport;
use crate::{TrainError, ranks};

impl Run<'_> {
    /// Whether the policy is evaluated after an iteration.
    pub(super) fn is_measured(&self, iteration: usize) -> bool {
        let every = self.settings.run.eval_every;
        let last = iteration + 1 == self.total();
        every > 0 && (last || (iteration + 1).is_multiple_of(every))
    }

    /// Evaluates the policy on validation problems; `None` if there are none.
    pub(super) fn validate(
        &self,
        observer: &mut dyn Observer,
    ) -> Result<Option<ValidationReport>, TrainError> {
        let run = &self.settings.run;
        let count = run.eval_problems.min(self.inputs.validation.len());
        if count == 0 {
            return Ok(None);
        }
        let ranks = self.inputs.ranks;
        let own = ranks::share(ranks, count);
        let traces = self.with_sequences(own.len() * run.eval_samples, |limits| {
            let plan = EvaluationPlan {
                draw: &self.draw,
                limits,
                samples: run.eval_samples,
                seed: self.settings.seed,
                first_problem: own.start,
                generator: "policy",
            };
            let problems = &self.inputs.validation[own.clone()];
            let policy = &self.players.policy;
            sample_problems(policy, &self.encoder, problems, &plan, |count| {
                observer.tokens(count);
            })
        });
        let verdicts = traces.map(|traces| {
            let right = traces.iter().map(|trace| trace.correct == Some(true));
            right.map(u8::from).collect()
        });
        let verdicts = ranks::exchange(ranks, verdicts)?.concat();
        Ok(Some(ValidationReport {
            right: verdicts.iter().filter(|&&right| right == 1).count(),
            traces: verdicts.len(),
        }))
    }
}
