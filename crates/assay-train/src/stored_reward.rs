//! Opens a stored reward: finds its directory and its base model.
//!
//! The caller opens the model, because it knows how to show downloads and on which device to place
//! the model. `note` receives messages for the user: the directory used, and warnings.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use assay_critic::reward_model::{HEAD_FILE, RewardModel};
use assay_lm::{LanguageModel, LmError, peft};

use crate::TrainError;
use crate::checkpoint;

/// A reward and its base model.
pub struct StoredReward {
    /// The reward's own directory.
    pub dir: PathBuf,
    /// Its base model.
    pub model: LanguageModel,
    /// The reward.
    pub reward: RewardModel,
}

/// Opens the reward of a reward directory, a checkpoint or a run, on `base` or on the base model
/// that it names.
///
/// # Errors
/// [`TrainError::RewardIsPolicy`], [`TrainError::NoBaseModel`], [`TrainError::BaseModel`],
/// [`TrainError::OtherWeights`]; a file that cannot be read.
pub fn open(
    dir: &Path,
    base: Option<&Path>,
    open_model: impl FnOnce(&Path) -> Result<LanguageModel, LmError>,
    note: &mut dyn FnMut(&str),
) -> Result<StoredReward, TrainError> {
    let dir = directory(dir.to_owned(), note)?;
    let path = match base {
        Some(path) => path.to_owned(),
        None => base_model(&dir, note)?,
    };
    if path.as_os_str().is_empty() {
        return Err(TrainError::NoBaseModel { path: dir });
    }
    let model = open_model(&path).map_err(|source| TrainError::BaseModel {
        path: dir.clone(),
        model: path,
        source: Box::new(source),
    })?;
    let reward = on_model(&model, &dir, base, note)?;
    Ok(StoredReward { dir, model, reward })
}

/// The reward directory of a path: the path itself, the reward of a checkpoint, or that of a run's
/// newest checkpoint.
///
/// # Errors
/// [`TrainError::RewardIsPolicy`] for a policy next to its reward. A run cannot be read.
pub fn directory(dir: PathBuf, note: &mut dyn FnMut(&str)) -> Result<PathBuf, TrainError> {
    if dir.join(peft::CONFIG_FILE).exists() {
        let reward = dir.with_file_name("reward");
        let is_policy = dir.ends_with("policy") && !dir.join(HEAD_FILE).exists();
        return match is_policy && reward.exists() {
            true => Err(TrainError::RewardIsPolicy { path: dir, reward }),
            false => Ok(dir),
        };
    }
    let newest = checkpoint::list(&dir)?
        .pop()
        .map(|(_, checkpoint)| checkpoint);
    let held = [Some(dir.clone()), newest].into_iter().flatten();
    let mut held = held.map(|checkpoint| checkpoint.join("reward"));
    let found = held.find(|reward| reward.join(peft::CONFIG_FILE).exists());
    if let Some(reward) = &found {
        note(&format!(
            "the reward of {} is {}",
            dir.display(),
            reward.display()
        ));
    }
    Ok(found.unwrap_or(dir))
}

/// Opens a reward on its base model. Fails if the weights differ from those that it was trained on,
/// unless `base` names the model.
///
/// # Errors
/// [`TrainError::OtherWeights`]; a reward that cannot be read.
pub fn on_model(
    model: &LanguageModel,
    dir: &Path,
    base: Option<&Path>,
    note: &mut dyn FnMut(&str),
) -> Result<RewardModel, TrainError> {
    let reward = RewardModel::load(dir, Arc::clone(&model.transformer))?;
    if reward.is_on_other_weights() {
        let other = TrainError::OtherWeights {
            path: dir.to_owned(),
            model: model.name.clone(),
        };
        if base.is_none() {
            return Err(other);
        }
        note(&format!(
            "warning: {} was trained on other weights than those that {} holds now",
            dir.display(),
            model.name
        ));
    }
    Ok(reward)
}

/// The base model that an adapter in `dir` names. A relative path that does not exist is also tried
/// from the directories above the adapter, since the run may have been started there.
fn base_model(dir: &Path, note: &mut dyn FnMut(&str)) -> Result<PathBuf, TrainError> {
    let named = PathBuf::from(peft::base_model(dir)?);
    if named.as_os_str().is_empty() || named.exists() || named.is_absolute() {
        return Ok(named);
    }
    let absolute =
        std::path::absolute(dir).map_err(|source| TrainError::io("finding", dir, source))?;
    let mut above = absolute.ancestors().map(|above| above.join(&named));
    let Some(found) = above.find(|path| path.exists()) else {
        return Ok(named);
    };
    note(&format!(
        "the base model of {} is {}",
        dir.display(),
        found.display()
    ));
    Ok(found)
}
