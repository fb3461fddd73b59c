//! Checks that the players compute finite numbers after the last update, since no later pass would.

use assay_lm::LmError;
use assay_lm::packed::PackedBatch;

use super::players::Players;
use crate::TrainError;
use crate::trace::PromptGroup;

/// Runs every player on one demonstration, after `done` iterations.
///
/// # Errors
/// [`TrainError::NotFinite`] names the player and the token whose scalar is not finite.
pub(super) fn check(
    players: &Players,
    demonstration: &PromptGroup,
    done: usize,
) -> Result<(), TrainError> {
    let batch = PackedBatch::new(&[demonstration.packed()])?;
    for (name, player) in players.named() {
        let scalars = player.infer(&batch)?.concat();
        if let Some(token) = scalars.iter().position(|scalar| !scalar.is_finite()) {
            return Err(diverged(&format!(
                "the {name} after iteration {}, at token {token} of demonstration {}",
                done - 1,
                demonstration.problem.id
            )));
        }
    }
    Ok(())
}

/// The error of a failed evaluation: if the policy's logits are not finite, it names the update
/// before.
pub(super) fn in_evaluation(error: TrainError, iteration: usize) -> TrainError {
    match error {
        TrainError::Model(LmError::NonFiniteLogits) => {
            diverged(&format!("the policy's logits after iteration {iteration}"))
        }
        other => other,
    }
}

fn diverged(place: &str) -> TrainError {
    TrainError::NotFinite {
        what: format!(
            "{place} (the last update diverged: use a smaller learning rate, and --resume from the checkpoint before)"
        ),
    }
}
