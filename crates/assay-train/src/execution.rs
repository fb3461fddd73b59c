//! How forward and backward passes are executed: rows per pass, stored activations, ranks, memory
//! back-off.

use assay_critic::player::{Player, TokenScalars};
use assay_lm::packed::{Group, PackedBatch, micro_batches, rows};
use assay_lm::transformer::Transformer;

use crate::TrainError;
use crate::backoff::{BoundedWork, MemoryBackoff};
use crate::memory::{Residence, training_rows};
use crate::ranks::{self, Collective, SingleProcess};
use crate::settings::PassBudget;

/// How the passes over an update are executed. This affects time and memory, not the result.
#[derive(Clone, Copy)]
pub struct Execution<'c> {
    /// Rows and activation bytes of one pass.
    pub budget: PassBudget,
    /// The processes that share the micro-batches.
    pub ranks: &'c dyn Collective,
    /// Recovery from failed allocations; `None` returns the error.
    pub backoff: Option<&'c MemoryBackoff>,
}

impl Execution<'_> {
    /// Rows of a micro-batch of an update, see [`training_rows`].
    pub fn training_rows(&self, body: &Transformer) -> usize {
        training_rows(body.config(), Residence::of(&body.placement()), self.budget)
    }

    /// Runs `passes` over at most `rows` rows at a time. After a failed allocation, runs them once
    /// more with half the rows and half the activations, see [`MemoryBackoff::attempt`].
    ///
    /// # Errors
    /// As [`MemoryBackoff::attempt`].
    pub(crate) fn attempt<T>(
        self,
        rows: usize,
        mut passes: impl FnMut(Self) -> Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        let Some(backoff) = self.backoff else {
            return passes(self);
        };
        backoff.attempt(BoundedWork::Tokens, rows.max(1), |at_once| {
            passes(match backoff.limit(BoundedWork::Tokens) {
                None => self,
                Some(_) => Self {
                    budget: PassBudget {
                        tokens: at_once.min(self.budget.tokens),
                        kept_bytes: self.budget.kept_bytes / 2,
                    },
                    ..self
                },
            })
        })
    }
}

impl Execution<'static> {
    /// All passes in this process; the backward pass recomputes every layer.
    pub fn single_process(tokens: usize) -> Self {
        Self {
            budget: PassBudget {
                tokens,
                kept_bytes: 0,
            },
            ranks: &SingleProcess,
            backoff: None,
        }
    }
}

/// Scalars of every completion of an update, in order, within the token budget.
///
/// # Errors
/// As [`Player::infer`].
pub fn infer_all(
    player: &dyn Player,
    groups: &[Group],
    execution: Execution<'_>,
) -> Result<TokenScalars, TrainError> {
    in_micro_batches(groups, execution, |batch| Ok(player.infer(batch)?))
}

/// Scalars of every completion, in order, from a `pass` over each micro-batch.
///
/// # Errors
/// An error of `pass`.
pub(crate) fn in_micro_batches(
    groups: &[Group],
    execution: Execution<'_>,
    mut pass: impl FnMut(&PackedBatch) -> Result<TokenScalars, TrainError>,
) -> Result<TokenScalars, TrainError> {
    execution.attempt(rows(groups).min(execution.budget.tokens), |execution| {
        let parts = micro_batches(groups, execution.budget.tokens);
        ranks::scalars(execution.ranks, &parts, |part| {
            pass(&PackedBatch::new(&part.groups)?)
        })
    })
}
