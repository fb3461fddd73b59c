//! Where the players start from, and how a policy is written.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use assay_lm::adapter::{Adapter, AdapterCard};
use assay_lm::transformer::Transformer;
use assay_lm::{LanguageModel, peft};
use assay_tasks::perturbations::DemonstrationGroup;
use assay_tasks::random::Stream;
use candle_core::{DType, Tensor};

use super::discriminator::Discriminator;
use super::run::TrainInputs;
use crate::IrlError;
use crate::encode::{Demonstration, Encoder};
use crate::policy_model::{PolicyModel, Trainable};
use crate::reward_model::{RewardModel, ScoringSettings};
use crate::settings::{PolicyStart, RewardStart, Settings, TrainedParameters};

/// Seeds of fresh adapters and of wrong demonstrations, apart from each other.
const POLICY_ADAPTER: u64 = 1;
const REWARD_ADAPTER: u64 = 2;
const WRONG: u64 = 0x3d;

/// Writes a policy: a PEFT adapter, or a whole Hugging Face directory.
pub(super) fn save_policy(
    policy: &PolicyModel,
    model: &LanguageModel,
    dir: &Path,
) -> Result<(), IrlError> {
    match &policy.trainable {
        Trainable::Adapter(adapter) => {
            let card = AdapterCard {
                base_model: model.name.clone(),
                task_type: "CAUSAL_LM",
                modules_to_save: Vec::new(),
                trained_on: model.transformer.fingerprint().map(str::to_owned),
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
pub(super) fn start_policy(inputs: &TrainInputs<'_>) -> Result<PolicyModel, IrlError> {
    let settings = inputs.settings;
    let base = &inputs.model.transformer;
    if settings.policy.trained == TrainedParameters::Whole {
        let dtype = base.placement().dtype;
        if dtype != DType::F32 {
            return Err(IrlError::WholeInLowPrecision { dtype });
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
            &settings.lora.policy,
            settings.seed ^ POLICY_ADAPTER,
        )?,
    };
    Ok(PolicyModel {
        transformer: base.clone(),
        trainable: Trainable::Adapter(adapter.to_device(&base.placement().device)?),
    })
}

/// The discriminator before its first update.
pub(super) fn start_discriminator(inputs: &TrainInputs<'_>) -> Result<Discriminator, IrlError> {
    let settings = inputs.settings;
    let backbone = inputs.reward_backbone.clone();
    let mut model = match &settings.reward.start {
        RewardStart::Adapter { path } => RewardModel::load(path, backbone)?,
        RewardStart::Fresh => {
            let seed = settings.seed ^ REWARD_ADAPTER;
            let adapter = Adapter::new(backbone.config(), &settings.lora.reward, seed)?;
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

/// Replaces a share of the demonstrations by perturbed ones, for robustness studies; returns how many.
pub(super) fn corrupt_share(
    demonstrations: &mut [Demonstration],
    encoder: &Encoder<'_>,
    settings: &Settings,
) -> Result<usize, IrlError> {
    let share = settings.data.wrong_demonstrations;
    let mut replaced = 0;
    if share <= 0.0 {
        return Ok(0);
    }
    let registry = settings.reward.perturbations.registry();
    for (index, demonstration) in demonstrations.iter_mut().enumerate() {
        let mut stream = Stream::new(settings.seed, &[WRONG, index as u64]);
        if stream.uniform_f64() >= share {
            continue;
        }
        let text = demonstration.completion.text.clone();
        let group =
            DemonstrationGroup::corrupt((&demonstration.problem, &text), &registry, 1, &mut stream);
        let Some(wrong) = group.perturbed().first() else {
            continue;
        };
        if let Some(completion) = encoder.completion(&wrong.text)? {
            demonstration.completion = completion;
            replaced += 1;
        }
    }
    Ok(replaced)
}
