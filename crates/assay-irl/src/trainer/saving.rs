//! From a run to a checkpoint and back.

use std::fs;
use std::path::{Path, PathBuf};

use assay_lm::peft;
use assay_lm::transformer::Transformer;
use candle_core::Device;
use sha2::{Digest, Sha256};

use super::Observer;
use super::directory::RunDirectory;
use super::discriminator::Discriminator;
use super::run::Run;
use super::start::save_policy;
use super::state::{BaseWeights, POLICY, POLICY_OPTIMISER, REWARD, REWARD_OPTIMISER, RunState};
use crate::adam::AdamW;
use crate::encode::Demonstration;
use crate::parallel;
use crate::player::Player;
use crate::policy_model::{PolicyModel, Trainable};
use crate::reward_model::RewardModel;
use crate::{IrlError, checkpoint};

impl Run<'_> {
    /// Continues from the newest whole checkpoint, which the rank that holds the run directory `dir` chooses and all
    /// read; returns the iterations done.
    pub(super) fn resume(
        &mut self,
        dir: &Path,
        directory: Option<&RunDirectory>,
        observer: &mut dyn Observer,
    ) -> Result<usize, IrlError> {
        let ranks = self.inputs.ranks;
        let chosen = directory.map_or(Ok(None), |own| choose(own, observer));
        let Some(number) = parallel::from_first(ranks, chosen)? else {
            return Ok(0);
        };
        let restored = self.restore(&checkpoint::path(dir, number));
        let done = parallel::agree(ranks, restored)?;
        if let Some(directory) = directory {
            self.tidy(directory)?;
        }
        observer.note(&format!(
            "resuming after iteration {done} of {}",
            self.total()
        ));
        Ok(done)
    }

    /// Writes a checkpoint and removes those that are no longer kept.
    pub(super) fn keep(&self, directory: &RunDirectory, done: usize) -> Result<(), IrlError> {
        checkpoint::write(directory.path(), done, |target| self.save(target, done))?;
        self.tidy(directory)
    }

    /// Names the best checkpoint and removes those that are no longer kept: also what a kill right after a checkpoint
    /// left undone.
    fn tidy(&self, directory: &RunDirectory) -> Result<(), IrlError> {
        if let Some(best) = &self.best {
            directory.record_best(best)?;
        }
        let keep = self.inputs.settings.run.keep_last;
        if keep == 0 {
            return Ok(());
        }
        let best = self.best.map(|best| best.iterations);
        checkpoint::prune(directory.path(), keep, best)
    }

    fn save(&self, dir: &Path, iterations: usize) -> Result<(), IrlError> {
        let make = |name: &str| -> Result<PathBuf, IrlError> {
            let path = dir.join(name);
            fs::create_dir(&path).map_err(|source| IrlError::io("creating", &path, source))?;
            Ok(path)
        };
        save_policy(&self.policy, self.inputs.model, &make(POLICY)?)?;
        self.policy_optimiser.save(&dir.join(POLICY_OPTIMISER))?;
        let mut state = RunState {
            iterations,
            trainer: self.inputs.kind,
            data: fingerprint(&self.demonstrations),
            base: self.base(),
            best: self.best,
            style: Default::default(),
            replay: None,
        };
        if let Some(discriminator) = &self.discriminator {
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

    /// Takes weights, moments and state from a checkpoint; returns the iterations done.
    pub(super) fn restore(&mut self, dir: &Path) -> Result<usize, IrlError> {
        let state = RunState::read(dir)?;
        self.check_origin(&state, dir)?;
        restore_policy(&mut self.policy, &dir.join(POLICY))?;
        self.policy_optimiser = AdamW::new(&self.policy.parameters())?;
        self.policy_optimiser.restore(&dir.join(POLICY_OPTIMISER))?;
        if let Some(discriminator) = &mut self.discriminator {
            let model = RewardModel::load(&dir.join(REWARD), self.inputs.reward_backbone.clone())?;
            *discriminator = Discriminator::new(model, &self.inputs.settings.reward)?;
            discriminator
                .optimiser
                .restore(&dir.join(REWARD_OPTIMISER))?;
            discriminator.style = state.style;
            if let Some(replay) = state.replay {
                discriminator.replay = replay;
            }
        }
        self.best = state.best;
        Ok(state.iterations)
    }

    /// The frozen weights in use.
    fn base(&self) -> BaseWeights {
        let of = |model: &Transformer| model.fingerprint().map(str::to_owned);
        BaseWeights {
            policy: of(&self.inputs.model.transformer),
            reward: of(&self.inputs.reward_backbone),
        }
    }

    fn check_origin(&self, state: &RunState, dir: &Path) -> Result<(), IrlError> {
        if state.trainer != self.inputs.kind {
            return Err(IrlError::OtherTrainer {
                path: dir.to_owned(),
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
        } else if self.discriminator.is_some() && differ(&before.reward, &now.reward) {
            let path = self.inputs.settings.reward_model_path();
            Some(path.display().to_string())
        } else {
            None
        };
        if let Some(model) = model {
            return Err(IrlError::OtherBase {
                path: dir.to_owned(),
                model,
            });
        }
        if state.data != fingerprint(&self.demonstrations) {
            return Err(IrlError::OtherData {
                path: dir.to_owned(),
            });
        }
        Ok(())
    }
}

/// Sets damaged checkpoints aside; the iterations done by the newest whole one.
fn choose(
    directory: &RunDirectory,
    observer: &mut dyn Observer,
) -> Result<Option<usize>, IrlError> {
    checkpoint::remove_leftovers(directory.path())?;
    let newest = checkpoint::newest_whole(directory.path())?;
    for damage in newest.damaged {
        let aside = checkpoint::set_aside(&damage.path)?;
        observer.note(&format!(
            "a damaged checkpoint is passed over, now {}: {}",
            aside.display(),
            damage.reason
        ));
    }
    Ok(newest.whole.map(|(number, _)| number))
}

/// Takes a policy's weights from a checkpoint's policy directory.
pub(super) fn restore_policy(policy: &mut PolicyModel, dir: &Path) -> Result<(), IrlError> {
    match &mut policy.trainable {
        Trainable::Adapter(adapter) => {
            let device = policy.transformer.placement().device;
            let loaded = peft::load(dir, policy.transformer.config())?.adapter;
            *adapter = loaded.to_device(&device)?;
        }
        Trainable::Whole(parameters) => {
            let path = dir.join("model.safetensors");
            let malformed = |reason: String| IrlError::Malformed {
                path: path.clone(),
                reason,
            };
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

/// SHA-256 over problem, prompt tokens and completion tokens of every demonstration, each with its length before it.
pub(super) fn fingerprint(demonstrations: &[Demonstration]) -> String {
    let mut hasher = Sha256::new();
    for demonstration in demonstrations {
        hasher.update((demonstration.problem.id.len() as u64).to_le_bytes());
        hasher.update(demonstration.problem.id.as_bytes());
        for ids in [&demonstration.prompt, &demonstration.completion.ids] {
            hasher.update((ids.len() as u64).to_le_bytes());
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            hasher.update(bytes);
        }
    }
    checkpoint::hex_digest(hasher)
}
