//! Checks of all settings, made before anything is loaded.

use assay_lm::adapter::{LoraSettings, Projection};

use super::{EngineSettings, Handover, RewardSource, Settings, TrainedParameters};
use crate::TrainError;
use crate::policy::advantage::ExpertInGroup;

impl Settings {
    /// Checks all values. The error names the key and the allowed values.
    ///
    /// # Errors
    /// [`TrainError::InvalidSetting`] for the first one found.
    pub fn validate(&self) -> Result<(), TrainError> {
        if i64::try_from(self.seed).is_err() {
            return Err(TrainError::setting(
                "seed",
                format!("must be at most 2^63 - 1, not {}", self.seed),
            ));
        }
        lora("lora.policy", &self.lora.policy())?;
        lora("lora.reward", &self.lora.reward())?;
        self.validate_counts()?;
        self.validate_early_stop()?;
        self.validate_sampling()?;
        self.validate_reward()?;
        self.policy
            .advantage
            .validate("policy.advantage", self.sampling.samples)?;
        self.policy.objective.validate("policy.objective")?;
        self.optimiser.validate("optimiser")
    }

    /// Refuses to wait for evaluations that no run makes.
    fn validate_early_stop(&self) -> Result<(), TrainError> {
        if self.run.early_stop.evaluations > 0 && self.run.eval_every == 0 {
            let reason = "needs evaluations: set `run.eval_every` above 0";
            return Err(TrainError::setting("run.early_stop.evaluations", reason));
        }
        Ok(())
    }

    fn validate_counts(&self) -> Result<(), TrainError> {
        let counts = [
            ("sampling.samples", self.sampling.samples),
            (
                "sampling.max_prompt_tokens",
                self.sampling.max_prompt_tokens,
            ),
            (
                "sampling.max_completion_tokens",
                self.sampling.max_completion_tokens,
            ),
            ("sampling.max_sequences", self.sampling.max_sequences),
            ("sft.epochs", self.sft.epochs),
            (
                "sft.demonstrations_per_update",
                self.sft.demonstrations_per_update,
            ),
            (
                "policy.updates_per_iteration",
                self.policy.updates_per_iteration,
            ),
            ("run.iterations", self.run.iterations),
            ("run.prompts_per_iteration", self.run.prompts_per_iteration),
            ("run.token_budget", self.run.token_budget),
            ("run.eval_problems", self.run.eval_problems),
            ("run.eval_samples", self.run.eval_samples),
        ];
        match counts.iter().find(|(_, count)| *count == 0) {
            Some((key, _)) => Err(TrainError::setting(*key, "must be at least 1, not 0")),
            None => Ok(()),
        }
    }

    fn validate_sampling(&self) -> Result<(), TrainError> {
        let sampling = &self.sampling;
        if !(sampling.temperature.is_finite() && sampling.temperature > 0.0) {
            let reason = format!(
                "must be above 0, not {}: greedy samples of a prompt are all alike",
                sampling.temperature
            );
            return Err(TrainError::setting("sampling.temperature", reason));
        }
        if !(0.0..=1.0).contains(&self.data.wrong_demonstrations) {
            let reason = format!("must lie in [0, 1], not {}", self.data.wrong_demonstrations);
            return Err(TrainError::setting("data.wrong_demonstrations", reason));
        }
        let whole = self.policy.trained == TrainedParameters::Whole;
        if whole
            && matches!(
                sampling.engine,
                EngineSettings::Openai {
                    handover: Handover::Vllm,
                    ..
                }
            )
        {
            let reason = "hands over adapters, and the whole policy is trained: use `policy.trained = \"adapter\"`";
            return Err(TrainError::setting("sampling.engine.handover", reason));
        }
        let trains_policy = self.reward.schedule.warmup_iterations < self.run.iterations;
        if trains_policy && matches!(sampling.engine, EngineSettings::File { .. }) {
            let reason = "samples drawn before cannot train a policy: set \
                          `reward.schedule.warmup_iterations` to `run.iterations`";
            return Err(TrainError::setting("sampling.engine.kind", reason));
        }
        sampling.engine.validate("sampling.engine")
    }

    fn validate_reward(&self) -> Result<(), TrainError> {
        let reward = &self.reward;
        reward.head.validate("reward.head")?;
        let factor = reward.head_learning_rate_factor;
        if !(factor.is_finite() && factor > 0.0) {
            let reason = format!("must be above 0, not {factor}");
            return Err(TrainError::setting(
                "reward.head_learning_rate_factor",
                reason,
            ));
        }
        self.validate_judge()?;
        let perturbations = &reward.perturbations;
        if perturbations.per_demonstration > 0 && perturbations.kinds.is_empty() {
            let reason =
                "must name at least one kind; set `per_demonstration = 0` to train without";
            return Err(TrainError::setting("reward.perturbations.kinds", reason));
        }
        if let Some(kind) = perturbations
            .held_out
            .iter()
            .find(|kind| perturbations.kinds.contains(kind))
        {
            let reason = format!("{kind:?} is trained on and cannot be held out");
            return Err(TrainError::setting("reward.perturbations.held_out", reason));
        }
        reward.branches.validate("reward.branches")?;
        reward.granularity.validate("reward.granularity")?;
        reward.transform.validate("reward.transform")?;
        reward.loss.validate("reward.loss")?;
        reward.schedule.validate("reward.schedule")
    }
}

impl Settings {
    fn validate_judge(&self) -> Result<(), TrainError> {
        if self.reward.source == RewardSource::SelfDistilled
            && self.policy.trained == TrainedParameters::Whole
        {
            let reason = "must be \"adapter\" with `reward.source = \"self_distilled\"`";
            return Err(TrainError::setting("policy.trained", reason));
        }
        let has_expert = self.policy.advantage.expert_in_group != ExpertInGroup::Off;
        if has_expert && self.reward.source != RewardSource::Learned {
            let key = "policy.advantage.expert_in_group";
            let reason =
                "must be \"off\" with this `reward.source`: the judge has read the demonstration";
            return Err(TrainError::setting(key, reason));
        }
        Ok(())
    }
}

fn lora(key: &str, settings: &LoraSettings) -> Result<(), TrainError> {
    if settings.rank == 0 {
        return Err(TrainError::setting(
            format!("{key}.rank"),
            "must be at least 1, not 0",
        ));
    }
    if !(settings.alpha.is_finite() && settings.alpha > 0.0) {
        let reason = format!("must be above 0, not {}", settings.alpha);
        return Err(TrainError::setting(format!("{key}.alpha"), reason));
    }
    let twice = |p: &&Projection| settings.targets.iter().filter(|q| q == p).count() > 1;
    if settings.targets.is_empty() || settings.targets.iter().any(|p| twice(&p)) {
        let reason = "must name at least one projection, and each once".to_owned();
        return Err(TrainError::setting("lora.targets", reason));
    }
    Ok(())
}
