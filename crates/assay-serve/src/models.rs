//! The served models: rewards by name, and a policy of this process or an upstream server.

use std::collections::HashSet;
use std::sync::Arc;

use assay_critic::Critic;
use assay_critic::policy_model::PolicyModel;
use assay_critic::reward_model::RewardModel;
use assay_evals::calibration::Calibration;
use assay_evals::scores::TraceScore;
use assay_evals::selection::SelectorConstants;
use assay_lm::LanguageModel;
use assay_tasks::trace::ScoredTrace;

use crate::error::ServeError;
use crate::refusal::Refusal;
use crate::upstream::Upstream;

/// The name under which the policy of this process is served.
pub const POLICY: &str = "policy";

/// A reward with its base model.
pub struct ServedReward {
    /// Its name in requests.
    pub name: String,
    /// Its base model; rewards with the same base share it.
    pub model: Arc<LanguageModel>,
    /// The reward.
    pub reward: RewardModel,
    /// P(correct) from its scores, if its directory has a calibration.
    pub calibration: Option<Calibration>,
}

/// A policy with the model it samples from.
pub struct ServedPolicy {
    /// Tokenizer, chat template and base.
    pub model: Arc<LanguageModel>,
    /// The base with its adapter.
    pub policy: PolicyModel,
}

/// The source of sampled answers.
pub enum Generator {
    /// The policy of this process.
    Local(ServedPolicy),
    /// Another server that speaks OpenAI's API.
    Upstream(Upstream),
}

/// All served models.
pub struct Models {
    pub(crate) rewards: Vec<ServedReward>,
    pub(crate) generator: Option<Generator>,
    /// Trace score of a text if the request names none; `None` for that of the calibration.
    score: Option<TraceScore>,
}

impl Models {
    /// Checks that there is a reward and that all names are different.
    ///
    /// `score` is the trace score of requests that name none. Its default is the score of the
    /// reward's calibration, else the mean.
    ///
    /// # Errors
    /// [`ServeError::NoReward`], [`ServeError::DuplicateName`].
    pub fn new(
        rewards: Vec<ServedReward>,
        generator: Option<Generator>,
        score: Option<TraceScore>,
    ) -> Result<Self, ServeError> {
        if rewards.is_empty() {
            return Err(ServeError::NoReward);
        }
        let mut names = HashSet::from([POLICY]);
        for reward in &rewards {
            if !names.insert(&reward.name) {
                let name = reward.name.clone();
                return Err(ServeError::DuplicateName { name });
            }
        }
        drop(names);
        Ok(Self {
            rewards,
            generator,
            score,
        })
    }

    /// Index of the reward of a request: the one it names, else the first.
    pub(crate) fn reward(&self, param: &str, name: Option<&str>) -> Result<usize, Refusal> {
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Ok(0);
        };
        let place = self.rewards.iter().position(|reward| reward.name == name);
        place.ok_or_else(|| Refusal::unknown_model(param, name, &self.reward_names()))
    }

    /// A critic over a reward, for batches of `token_budget` rows.
    pub(crate) fn critic(&self, reward: usize, token_budget: usize) -> Critic<'_> {
        let served = &self.rewards[reward];
        Critic::new(&served.reward, &served.model, token_budget)
    }

    /// P(correct) of a scored trace; `None` for a reward without a calibration.
    pub(crate) fn probability(&self, reward: usize, trace: &ScoredTrace) -> Option<f64> {
        let scored = !trace.scores.is_empty();
        let calibration = self.rewards[reward].calibration.as_ref();
        calibration.filter(|_| scored)?.probability(trace)
    }

    /// The trace score of requests that name none.
    pub(crate) fn score(&self, reward: usize) -> TraceScore {
        let calibration = self.rewards[reward].calibration.as_ref();
        let fitted = calibration.map(Calibration::score);
        self.score.or(fitted).unwrap_or(TraceScore::Mean)
    }

    /// The constants of selectors, fitted on validation problems if the reward has a calibration.
    pub(crate) fn constants(&self, reward: usize) -> SelectorConstants {
        let calibration = self.rewards[reward].calibration.as_ref();
        calibration.map_or_else(SelectorConstants::default, |c| c.fitted.selectors)
    }

    pub(crate) fn reward_names(&self) -> Vec<String> {
        self.rewards.iter().map(|r| r.name.clone()).collect()
    }

    /// Positions of a reward's model.
    pub(crate) fn positions(&self, reward: usize) -> usize {
        let model = &self.rewards[reward].model;
        model.transformer.config().max_positions
    }
}
