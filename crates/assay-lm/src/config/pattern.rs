//! Differences between the layers of a model: sliding windows, layers without rotation, local bases
//! of the rotation.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::hugging_face::ConfigFile;
use super::invalid;
use crate::LmError;
use crate::family::{Architecture, WindowRule};

/// Layers that differ from causal attention over the whole sequence with one rotary embedding.
///
/// Attention with a sliding window equals full attention if the sequence is not longer than the
/// window. Longer sequences are not supported: [`super::ModelConfig::max_positions`] is at most the
/// window.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LayerPattern {
    /// Size of the sliding window in tokens, including the current one; `None` if no sequence is
    /// longer.
    pub window: Option<usize>,
    /// Layers that rotate by `local_theta` instead of the rotary embedding of the model.
    pub local: Vec<usize>,
    /// Base of the rotary embedding of local layers.
    pub local_theta: Option<f64>,
    /// Layers without rotary embedding.
    pub unrotated: Vec<usize>,
    /// Factor of queries in addition to 1/sqrt(head_dim).
    pub query_factor: Option<f64>,
}

/// Base of the rotary embedding of Gemma 3's local layers if a file names none.
pub(super) const LOCAL_THETA: f64 = 10_000.0;
/// Default periods: of global layers (Gemma 3), and of layers without rotary embedding (SmolLM 3).
pub(super) const GLOBAL_EVERY: usize = 6;
pub(super) const UNROTATED_EVERY: usize = 4;

impl LayerPattern {
    /// Sets the window if sequences may be longer than it.
    pub(super) fn limit(&mut self, window: Option<usize>, max_positions: &mut usize) {
        self.window = window.filter(|window| *window <= *max_positions);
        *max_positions = self.window.unwrap_or(*max_positions);
    }

    pub(super) fn validate(&self, path: &Path, layers: usize) -> Result<(), LmError> {
        let named = self.local.iter().chain(&self.unrotated);
        if let Some(layer) = named.max().filter(|layer| **layer >= layers) {
            let reason = format!("layer {layer} of {layers}");
            return invalid(path, "layer_types, no_rope_layers", reason);
        }
        let positive = |value: Option<f64>| value.is_none_or(|v| v.is_finite() && v > 0.0);
        if !positive(self.local_theta) || !positive(self.query_factor) {
            let reason = "must be positive";
            return invalid(path, "rope_local_base_freq, query_pre_attn_scalar", reason);
        }
        Ok(())
    }
}

/// All layers but every `step`-th.
pub(super) fn all_but_every(step: usize, layers: usize) -> Vec<usize> {
    let is_other = |layer: &usize| step == 0 || !(layer + 1).is_multiple_of(step);
    (0..layers).filter(is_other).collect()
}

/// Every `step`-th layer.
pub(super) fn every(step: usize, layers: usize) -> Vec<usize> {
    let is_one = |layer: &usize| step > 0 && (layer + 1).is_multiple_of(step);
    (0..layers).filter(is_one).collect()
}

impl ConfigFile {
    /// The pattern that `config.json` describes, and the longest sequence.
    pub(super) fn pattern(
        &self,
        architecture: Architecture,
        head_dim: usize,
        path: &Path,
    ) -> Result<(LayerPattern, usize), LmError> {
        let rule = architecture.family().window;
        let mut pattern = LayerPattern::default();
        let sliding = self.sliding_layers(rule, path)?;
        let mut max_positions = self.max_position_embeddings;
        if !sliding.is_empty() {
            let Some(window) = self.sliding_window.width() else {
                let reason = "layers have a sliding window, but its width is missing";
                return invalid(path, "sliding_window", reason);
            };
            if window == 0 {
                return invalid(path, "sliding_window", "must be at least 1, or null");
            }
            pattern.limit(Some(window), &mut max_positions);
        }
        if rule == WindowRule::Local {
            pattern.local = sliding;
            pattern.local_theta = Some(self.local_theta(path)?);
            let scalar = self.query_pre_attn_scalar.unwrap_or(256.0);
            let factor = (head_dim as f64 / scalar).sqrt();
            pattern.query_factor = Some(factor).filter(|factor| *factor != 1.0);
        }
        if architecture == Architecture::SmolLm3 {
            pattern.unrotated = match &self.no_rope_layers {
                Some(rotates) => (0..rotates.len()).filter(|&l| rotates[l] == 0).collect(),
                None => every(
                    self.no_rope_layer_interval.unwrap_or(UNROTATED_EVERY),
                    self.num_hidden_layers,
                ),
            };
        }
        Ok((pattern, max_positions))
    }

    /// Layers with a sliding window.
    fn sliding_layers(&self, rule: WindowRule, path: &Path) -> Result<Vec<usize>, LmError> {
        let layers = self.num_hidden_layers;
        if let Some(kinds) = &self.layer_types {
            let known = ["full_attention", "sliding_attention"];
            if let Some(kind) = kinds.iter().find(|kind| !known.contains(&kind.as_str())) {
                let reason = format!("{kind:?} is not supported, only {}", known.join(" and "));
                return invalid(path, "layer_types", reason);
            }
            let is_sliding = |layer: &usize| kinds[*layer] == "sliding_attention";
            return Ok((0..kinds.len()).filter(is_sliding).collect());
        }
        Ok(match rule {
            WindowRule::Never => Vec::new(),
            WindowRule::Always => match self.sliding_window.width() {
                Some(_) => (0..layers).collect(),
                None => Vec::new(),
            },
            WindowRule::ByFlag => {
                let is_on =
                    self.use_sliding_window == Some(true) && self.sliding_window.width().is_some();
                let first = match is_on {
                    true => self.max_window_layers.unwrap_or(0),
                    false => layers,
                };
                (first..layers).collect()
            }
            WindowRule::Local => {
                let step = self.sliding_window_pattern.unwrap_or(GLOBAL_EVERY);
                all_but_every(step, layers)
            }
        })
    }

    /// Base of the rotary embedding of local layers.
    fn local_theta(&self, path: &Path) -> Result<f64, LmError> {
        let local = self.rope_parameters.as_ref();
        let local = local.and_then(|map| map.get("sliding_attention"));
        let kind = local.and_then(|map| map.get("rope_type")?.as_str());
        if let Some(kind) = kind.filter(|kind| *kind != "default") {
            let reason = format!("type {kind:?} of sliding_attention is not supported");
            return invalid(path, "rope_parameters", reason);
        }
        let theta = local.and_then(|map| map.get("rope_theta").and_then(Value::as_f64));
        Ok(theta.or(self.rope_local_base_freq).unwrap_or(LOCAL_THETA))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nth_layer_by_hand() {
        assert_eq!(all_but_every(3, 7), [0, 1, 3, 4, 6]);
        assert_eq!(every(3, 7), [2, 5]);
        assert_eq!(every(0, 3), [0_usize; 0]);
    }

    #[test]
    fn a_window_bounds_positions() {
        let mut pattern = LayerPattern::default();
        let mut positions = 100;
        pattern.limit(Some(200), &mut positions);
        assert_eq!((pattern.window, positions), (None, 100));
        pattern.limit(Some(64), &mut positions);
        assert_eq!((pattern.window, positions), (Some(64), 64));
    }
}
