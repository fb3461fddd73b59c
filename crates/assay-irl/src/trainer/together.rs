//! What the ranks of a run tell each other beside scalars and gradients: the samples, and that they agree.

use assay_lm::transformer::Transformer;
use sha2::{Digest, Sha256};

use super::rollout::RolloutGroup;
use super::run::Run;
use super::saving::fingerprint;
use crate::IrlError;
use crate::checkpoint::hex_digest;
use crate::parallel::{self, Collective};
use crate::player::Player;

/// The samples of all ranks, in rank order, which is the order of the problems.
///
/// # Errors
/// A rank could not sample.
pub(super) fn gather_rollouts(
    ranks: &dyn Collective,
    own: Result<Vec<RolloutGroup>, IrlError>,
) -> Result<Vec<RolloutGroup>, IrlError> {
    if ranks.size() == 1 {
        return own;
    }
    let unreadable = |error: serde_json::Error| IrlError::Collective {
        doing: "gathering samples",
        reason: error.to_string(),
    };
    let own = own.and_then(|own| serde_json::to_vec(&own).map_err(unreadable));
    let mut all = Vec::new();
    for bytes in parallel::exchange(ranks, own)? {
        let groups: Vec<RolloutGroup> = serde_json::from_slice(&bytes).map_err(unreadable)?;
        all.extend(groups);
    }
    Ok(all)
}

impl Run<'_> {
    /// Makes sure that all ranks were started with the same settings, demonstrations and base weights.
    ///
    /// # Errors
    /// [`IrlError::RanksDiffer`].
    pub(super) fn compare_inputs(&self) -> Result<(), IrlError> {
        let inputs = self.inputs;
        if inputs.ranks.size() == 1 {
            return Ok(());
        }
        let of = |model: &Transformer| model.fingerprint().unwrap_or_default().to_owned();
        let weights = of(&inputs.model.transformer) + &of(&inputs.reward_backbone);
        let settings = format!("{}\n{}", inputs.kind, inputs.settings.resolved_toml()?);
        parallel::same(inputs.ranks, "settings", &settings)?;
        parallel::same(
            inputs.ranks,
            "demonstrations",
            &fingerprint(&self.demonstrations),
        )?;
        parallel::same(inputs.ranks, "base weights", &weights)
    }

    /// Makes sure that all ranks hold the same trained weights.
    ///
    /// # Errors
    /// [`IrlError::RanksDiffer`].
    pub(super) fn compare_weights(&self) -> Result<(), IrlError> {
        let ranks = self.inputs.ranks;
        if ranks.size() == 1 {
            return Ok(());
        }
        let mut parameters = self.policy.parameters();
        if let Some(discriminator) = &self.discriminator {
            parameters.extend(discriminator.model.parameters());
        }
        let mut hasher = Sha256::new();
        for (_, var) in parameters {
            for value in var.flatten_all()?.to_vec1::<f32>()? {
                hasher.update(value.to_le_bytes());
            }
        }
        parallel::same(ranks, "trained weights", &hex_digest(hasher))
    }
}
