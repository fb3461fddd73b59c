//! Creates the players before their first update, and writes a policy.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use assay_critic::{PolicyModel, RewardModel, ScoringSettings, Trainable};
use assay_lm::adapter::{Adapter, AdapterCard};
use assay_lm::directory::WeightType;
use assay_lm::transformer::Transformer;
use assay_lm::{LanguageModel, peft};
use assay_tasks::random::StreamKey;
use candle_core::{DType, Tensor};

use super::discriminator::Discriminator;
use super::inputs::TrainInputs;
use crate::TrainError;
use crate::settings::{PolicyStart, RewardStart, TrainedParameters};

/// Writes a policy: a PEFT adapter, or a whole Hugging Face directory.
pub(super) fn save_policy(
    policy: &PolicyModel,
    model: &LanguageModel,
    dir: &Path,
) -> Result<(), TrainError> {
    match &policy.trainable {
        Trainable::Adapter(adapter) => {
            let card = AdapterCard {
                base_model: model.name.clone(),
                task_type: "CAUSAL_LM",
                modules_to_save: Vec::new(),
                trained_on: model.transformer.fingerprint().map(str::to_owned),
                weights: WeightType::F32,
            };
            Ok(adapter.save(dir, &card, &[])?)
        }
        Trainable::Whole(_) => {
            let whole = LanguageModel {
                transformer: policy.transformer.clone(),
                tokenizer: model.tokenizer.clone(),
                template: model.template.clone(),
                name: model.name.clone(),
            };
            Ok(whole.save(dir)?)
        }
    }
}

/// The policy before its first update.
pub(super) fn start_policy(inputs: &TrainInputs<'_>) -> Result<PolicyModel, TrainError> {
    let settings = inputs.settings;
    let base = &inputs.model.transformer;
    if settings.policy.trained == TrainedParameters::Whole {
        let dtype = base.placement().dtype;
        if dtype != DType::F32 {
            return Err(TrainError::WholeInLowPrecision { dtype });
        }
        let tensors: HashMap<String, Tensor> = base.named_tensors()?.into_iter().collect();
        let (transformer, parameters) =
            Transformer::trainable(base.config(), |name, _| Ok(tensors[name].detach()))?;
        return Ok(PolicyModel {
            transformer: Arc::new(transformer),
            trainable: Trainable::Whole(parameters),
        });
    }
    let adapter = match &settings.policy.start {
        PolicyStart::Adapter { path } => peft::load(path, base.config())?.adapter,
        PolicyStart::Base | PolicyStart::Sft => Adapter::new(
            base.config(),
            &settings.lora.policy(),
            StreamKey::PolicyAdapter.seed(settings.seed),
        )?,
    };
    Ok(PolicyModel {
        transformer: base.clone(),
        trainable: Trainable::Adapter(adapter.to_device(&base.placement().device)?),
    })
}

/// The discriminator before its first update.
pub(super) fn start_discriminator(inputs: &TrainInputs<'_>) -> Result<Discriminator, TrainError> {
    let settings = inputs.settings;
    let backbone = inputs.reward_backbone.clone();
    let mut model = match &settings.reward.start {
        RewardStart::Adapter { path } => RewardModel::load(path, backbone)?,
        RewardStart::Fresh => {
            let seed = StreamKey::RewardAdapter.seed(settings.seed);
            let adapter = Adapter::new(backbone.config(), &settings.lora.reward(), seed)?;
            RewardModel::new(backbone, adapter, settings.reward.head)?
        }
    };
    model.scoring = ScoringSettings {
        prompt: settings.prompt.clone(),
        granularity: settings.reward.granularity,
        transform: settings.reward.transform,
    };
    Discriminator::new(model, &settings.reward)
}
