//! Saves the players to checkpoints and restores them.

use std::fs;
use std::path::{Path, PathBuf};

use assay_critic::player::Player;
use assay_critic::{PolicyModel, RewardModel, Trainable};
use assay_lm::peft;
use assay_lm::transformer::Transformer;
use candle_core::Device;
use sha2::{Digest, Sha256};

use super::directory::{Best, RunDirectory};
use super::discriminator::Discriminator;
use super::inputs::TrainInputs;
use super::observer::Observer;
use super::players::Players;
use super::start::save_policy;
use super::state::{BaseWeights, POLICY, POLICY_OPTIMISER, REWARD, REWARD_OPTIMISER, RunState};
use crate::adam::AdamW;
use crate::trace::PromptGroup;
use crate::{TrainError, checkpoint};

/// The data that all checkpoints of a run share.
pub(super) struct Checkpoints<'i> {
    pub(super) inputs: &'i TrainInputs<'i>,
    /// Digest of the demonstrations.
    pub(super) data: String,
}

/// Where a restored run continues.
pub(super) struct Restored {
    /// Iterations done.
    pub(super) iterations: usize,
    /// The best checkpoint so far.
    pub(super) best: Option<Best>,
}

impl Checkpoints<'_> {
    /// Writes a checkpoint and removes those that are no longer kept.
    pub(super) fn write(
        &self,
        directory: &RunDirectory,
        players: &Players,
        now: &Restored,
    ) -> Result<(), TrainError> {
        let path = directory.path();
        checkpoint::write(path, now.iterations, |target| {
            self.save(players, now, target)
        })?;
        self.tidy(directory, now.best.as_ref())
    }

    /// Writes `best.json` and removes checkpoints that are no longer kept. Also called when
    /// resuming, in case the process was killed between the two.
    pub(super) fn tidy(
        &self,
        directory: &RunDirectory,
        best: Option<&Best>,
    ) -> Result<(), TrainError> {
        if let Some(best) = best {
            directory.record_best(best)?;
        }
        let keep = self.inputs.settings.run.keep_last;
        if keep == 0 {
            return Ok(());
        }
        let best = best.map(|best| best.iterations);
        checkpoint::prune(directory.path(), keep, best)
    }

    fn save(&self, players: &Players, now: &Restored, dir: &Path) -> Result<(), TrainError> {
        let make = |name: &str| -> Result<PathBuf, TrainError> {
            let path = dir.join(name);
            fs::create_dir(&path).map_err(|source| TrainError::io("creating", &path, source))?;
            Ok(path)
        };
        save_policy(&players.policy, self.inputs.model, &make(POLICY)?)?;
        players.policy_optimiser.save(&dir.join(POLICY_OPTIMISER))?;
        let mut state = RunState {
            iterations: now.iterations,
            trainer: self.inputs.kind,
            data: self.data.clone(),
            base: self.base(),
            best: now.best,
            style: Default::default(),
            replay: None,
        };
        if let Some(discriminator) = &players.discriminator {
            let base = self
                .inputs
                .settings
                .reward_model_path()
                .display()
                .to_string();
            discriminator.model.save(&make(REWARD)?, &base)?;
            discriminator.optimiser.save(&dir.join(REWARD_OPTIMISER))?;
            state.style = discriminator.style;
            state.replay = Some(discriminator.replay.clone());
        }
        state.write(dir)
    }

    /// Restores weights, moments and state from a checkpoint.
    pub(super) fn restore(
        &self,
        players: &mut Players,
        dir: &Path,
    ) -> Result<Restored, TrainError> {
        let state = RunState::read(dir)?;
        self.check_origin(&state, dir, players.discriminator.is_some())?;
        restore_policy(&mut players.policy, &dir.join(POLICY))?;
        players.policy_optimiser = AdamW::new(&players.policy.parameters())?;
        players
            .policy_optimiser
            .restore(&dir.join(POLICY_OPTIMISER))?;
        if let Some(discriminator) = &mut players.discriminator {
            let backbone = self.inputs.reward_backbone.clone();
            let model = RewardModel::load(&dir.join(REWARD), backbone)?;
            *discriminator = Discriminator::new(model, &self.inputs.settings.reward)?;
            let moments = dir.join(REWARD_OPTIMISER);
            discriminator.optimiser.restore(&moments)?;
            discriminator.style = state.style;
            if let Some(replay) = state.replay {
                discriminator.replay = replay;
            }
        }
        Ok(Restored {
            iterations: state.iterations,
            best: state.best,
        })
    }

    /// The frozen weights in use.
    fn base(&self) -> BaseWeights {
        let of = |model: &Transformer| model.fingerprint().map(str::to_owned);
        BaseWeights {
            policy: of(&self.inputs.model.transformer),
            reward: of(&self.inputs.reward_backbone),
        }
    }

    fn check_origin(
        &self,
        state: &RunState,
        dir: &Path,
        has_discriminator: bool,
    ) -> Result<(), TrainError> {
        let path = dir.to_owned();
        if state.trainer != self.inputs.kind {
            return Err(TrainError::OtherTrainer {
                path,
                before: state.trainer.to_string(),
                now: self.inputs.kind.to_string(),
            });
        }
        let (before, now) = (&state.base, self.base());
        let differ = |before: &Option<String>, now: &Option<String>| {
            before.is_some() && now.is_some() && before != now
        };
        let model = if differ(&before.policy, &now.policy) {
            Some(self.inputs.model.name.clone())
        } else if has_discriminator && differ(&before.reward, &now.reward) {
            let path = self.inputs.settings.reward_model_path();
            Some(path.display().to_string())
        } else {
            None
        };
        if let Some(model) = model {
            return Err(TrainError::OtherBase { path, model });
        }
        if state.data != self.data {
            return Err(TrainError::OtherData { path });
        }
        Ok(())
    }
}

/// Renames damaged checkpoints and returns the iterations done by the newest intact one.
pub(super) fn choose(
    directory: &RunDirectory,
    observer: &mut dyn Observer,
) -> Result<Option<usize>, TrainError> {
    checkpoint::remove_leftovers(directory.path())?;
    let newest = checkpoint::newest_whole(directory.path())?;
    for damage in newest.damaged {
        let aside = checkpoint::set_aside(&damage.path)?;
        observer.note(&format!(
            "skipped a damaged checkpoint, now {}: {}",
            aside.display(),
            damage.reason
        ));
    }
    Ok(newest.whole.map(|(number, _)| number))
}

/// The directory of the newest checkpoint's policy and reward.
///
/// # Errors
/// The directory cannot be read, or holds no checkpoint.
pub fn newest_checkpoint(dir: &Path) -> Result<PathBuf, TrainError> {
    match checkpoint::list(dir)?.pop() {
        Some((_, path)) => Ok(path),
        None => Err(TrainError::malformed(dir, "it holds no checkpoint")),
    }
}

/// Restores a policy's weights from a checkpoint's policy directory.
pub(super) fn restore_policy(policy: &mut PolicyModel, dir: &Path) -> Result<(), TrainError> {
    match &mut policy.trainable {
        Trainable::Adapter(adapter) => {
            let device = policy.transformer.placement().device;
            let loaded = peft::load(dir, policy.transformer.config())?.adapter;
            *adapter = loaded.to_device(&device)?;
        }
        Trainable::Whole(parameters) => {
            let path = dir.join("model.safetensors");
            let malformed = |reason: String| TrainError::malformed(path.clone(), reason);
            let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
                .map_err(|source| malformed(source.to_string()))?;
            for (name, var) in parameters {
                let missing = || malformed(format!("{name} is missing"));
                let saved = tensors.get(name.as_str()).ok_or_else(missing)?;
                var.set(&saved.to_device(var.device())?)?;
            }
        }
    }
    Ok(())
}

/// SHA-256 over problem, prompt tokens and demonstration tokens of every group, each preceded by
/// its length.
pub(super) fn fingerprint(demonstrations: &[PromptGroup]) -> String {
    let mut hasher = Sha256::new();
    for group in demonstrations {
        hasher.update((group.problem.id.len() as u64).to_le_bytes());
        hasher.update(group.problem.id.as_bytes());
        let completion = group
            .demonstration()
            .map(|trace| trace.completion.ids.as_slice());
        for ids in [&group.prompt, completion.unwrap_or_default()] {
            hasher.update((ids.len() as u64).to_le_bytes());
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            hasher.update(bytes);
        }
    }
    checkpoint::hex_digest(hasher)
}
