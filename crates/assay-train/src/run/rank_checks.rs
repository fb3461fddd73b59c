//! Exchanges of ranks other than scalars and gradients: samples, and checks that all ranks agree.

use assay_lm::transformer::Transformer;
use sha2::{Digest, Sha256};

use super::inputs::TrainInputs;
use super::players::Players;
use crate::TrainError;
use crate::checkpoint::hex_digest;
use crate::ranks::{self, Collective};
use crate::trace::{PromptGroup, Trace};

/// The samples of every prompt: those of all ranks in rank order, which is the order of the
/// prompts.
///
/// # Errors
/// A rank could not sample.
pub(super) fn gather_samples(
    ranks: &dyn Collective,
    own: Result<Vec<PromptGroup>, TrainError>,
) -> Result<Vec<Vec<Trace>>, TrainError> {
    let samples = |group: &PromptGroup| group.samples().cloned().collect();
    gather_traces(ranks, own.map(|own| own.iter().map(samples).collect()))
}

/// The traces of all ranks, in rank order, one list per group.
///
/// # Errors
/// A rank failed.
pub(super) fn gather_traces(
    ranks: &dyn Collective,
    own: Result<Vec<Vec<Trace>>, TrainError>,
) -> Result<Vec<Vec<Trace>>, TrainError> {
    if ranks.size() == 1 {
        return own;
    }
    let unreadable = |error: serde_json::Error| TrainError::Collective {
        doing: "gathering samples",
        reason: error.to_string(),
    };
    let own = own.and_then(|own| serde_json::to_vec(&own).map_err(unreadable));
    let mut all = Vec::new();
    for bytes in ranks::exchange(ranks, own)? {
        let traces: Vec<Vec<Trace>> = serde_json::from_slice(&bytes).map_err(unreadable)?;
        all.extend(traces);
    }
    Ok(all)
}

/// Checks that all ranks were started with the same settings, demonstrations and base weights;
/// `data` is the digest of the demonstrations.
///
/// # Errors
/// [`TrainError::RanksDiffer`].
pub(super) fn compare_inputs(inputs: &TrainInputs<'_>, data: &str) -> Result<(), TrainError> {
    if inputs.ranks.size() == 1 {
        return Ok(());
    }
    let of = |model: &Transformer| model.fingerprint().unwrap_or_default().to_owned();
    let weights = of(&inputs.model.transformer) + &of(&inputs.reward_backbone);
    let settings = format!("{}\n{}", inputs.kind, inputs.settings.resolved_toml()?);
    ranks::same(inputs.ranks, "settings", &settings)?;
    ranks::same(inputs.ranks, "demonstrations", data)?;
    ranks::same(inputs.ranks, "base weights", &weights)
}

/// Checks that all ranks hold the same trained weights.
///
/// # Errors
/// [`TrainError::RanksDiffer`].
pub(super) fn compare_weights(ranks: &dyn Collective, players: &Players) -> Result<(), TrainError> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let mut hasher = Sha256::new();
    for (_, var) in players.parameters() {
        for value in var.flatten_all()?.to_vec1::<f32>()? {
            hasher.update(value.to_le_bytes());
        }
    }
    ranks::same(ranks, "trained weights", &hex_digest(hasher))
}
