//! What a checkpoint holds beside weights, and how a run directory is opened, checked and filled.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::discriminator::PastSample;
use crate::reward::schedule::{ReplayBuffer, StyleAdvantage};
use crate::settings::Settings;
use crate::{IrlError, checkpoint};

/// Names inside a checkpoint.
pub(super) const STATE: &str = "state.json";
pub(super) const POLICY: &str = "policy";
pub(super) const REWARD: &str = "reward";
pub(super) const POLICY_OPTIMISER: &str = "policy_optimiser.safetensors";
pub(super) const REWARD_OPTIMISER: &str = "reward_optimiser.safetensors";
const SETTINGS: &str = "settings.toml";

/// Everything that is neither weight nor moment. Random streams and data order are functions of `iterations`.
#[derive(Serialize, Deserialize)]
pub(super) struct RunState {
    /// Iterations done, over all phases.
    pub(super) iterations: usize,
    /// The discriminator's running style advantage.
    pub(super) style: StyleAdvantage,
    /// Past policy samples.
    pub(super) replay: Option<ReplayBuffer<PastSample>>,
}

impl RunState {
    pub(super) fn read(dir: &Path) -> Result<Self, IrlError> {
        let path = dir.join(STATE);
        let text =
            fs::read_to_string(&path).map_err(|source| IrlError::io("reading", &path, source))?;
        serde_json::from_str(&text).map_err(|source| IrlError::Malformed {
            path,
            reason: source.to_string(),
        })
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), IrlError> {
        let path = dir.join(STATE);
        let text = serde_json::to_string(self).unwrap_or_default();
        fs::write(&path, text).map_err(|source| IrlError::io("writing", &path, source))
    }
}

/// Whether a run begins or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunMode {
    /// In a directory without a run.
    Fresh,
    /// From the newest checkpoint, or from the start where there is none yet.
    Resume,
}

/// Prepares the run directory and writes `settings.toml`.
///
/// # Errors
/// [`IrlError::RunExists`] for a fresh run in a used directory; [`IrlError::OtherSettings`] with the lines that differ.
pub(super) fn open_directory(
    dir: &Path,
    settings: &Settings,
    mode: RunMode,
) -> Result<(), IrlError> {
    fs::create_dir_all(dir).map_err(|source| IrlError::io("creating", dir, source))?;
    let path = dir.join(SETTINGS);
    let text = settings.resolved_toml()?;
    if path.exists() {
        if mode == RunMode::Fresh {
            return Err(IrlError::RunExists {
                path: dir.to_owned(),
            });
        }
        let before =
            fs::read_to_string(&path).map_err(|source| IrlError::io("reading", &path, source))?;
        if before != text {
            return Err(IrlError::OtherSettings {
                path,
                difference: difference(&before, &text),
            });
        }
    }
    checkpoint::write_file(&path, text.as_bytes())
}

/// The first differing lines, old and new.
fn difference(before: &str, now: &str) -> String {
    let pairs = before
        .lines()
        .zip(now.lines())
        .filter(|(old, new)| old != new)
        .take(3);
    let shown: Vec<String> = pairs
        .map(|(old, new)| format!("`{old}` then, `{new}` now"))
        .collect();
    if shown.is_empty() {
        "the number of settings differs".to_owned()
    } else {
        shown.join("; ")
    }
}
