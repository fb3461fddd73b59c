//! Whether what a run leaves behind still computes: the last update is followed by no pass that would tell.

use assay_lm::LmError;
use assay_lm::packed::{Group, PackedBatch};

use super::run::Run;
use crate::IrlError;
use crate::player::Player;

/// Reads one demonstration with both players.
///
/// # Errors
/// [`IrlError::NotFinite`] names the player and the token whose scalar is not finite.
pub(super) fn check(run: &Run<'_>, done: usize) -> Result<(), IrlError> {
    let Some(demonstration) = run.demonstrations.first() else {
        return Ok(());
    };
    let batch = PackedBatch::new(&[Group {
        prompt: demonstration.prompt.clone(),
        completions: vec![demonstration.completion.ids.clone()],
    }])?;
    let reward = run.discriminator.as_ref().map(|d| &d.model as &dyn Player);
    let policy: (&str, &dyn Player) = ("policy", &run.policy);
    let players = std::iter::once(policy).chain(reward.map(|reward| ("reward", reward)));
    for (name, player) in players {
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

/// What a failed evaluation says of the policy: where its logits are not finite, which update it followed.
pub(super) fn in_evaluation(error: IrlError, iteration: usize) -> IrlError {
    match error {
        IrlError::Model(LmError::NonFiniteLogits) => {
            diverged(&format!("the policy's logits after iteration {iteration}"))
        }
        other => other,
    }
}

fn diverged(what: &str) -> IrlError {
    IrlError::NotFinite {
        what: format!(
            "{what} (the last update diverged: a smaller learning rate, and --resume from the checkpoint before)"
        ),
    }
}
