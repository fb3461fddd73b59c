//! Helpers of the example's loop: a tiny model, fine-tuning, sampling, counting right answers.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use assay_critic::encode::Encoder;
use assay_critic::player::Player;
use assay_critic::{PolicyModel, Trainable};
use assay_lm::adapter::Adapter;
use assay_lm::draw::DrawSettings;
use assay_lm::sampling::SamplingLimits;
use assay_lm::transformer::Transformer;
use assay_lm::{
    Architecture, ChatTemplate, LanguageModel, ModelConfig, RopeScaling, RopeSettings, Tokenizer,
};
use assay_tasks::arithmetic::vocabulary;
use assay_tasks::problem::Problem;
use assay_tasks::prompts::{PromptSettings, PromptStyle};
use assay_tasks::random::StreamKey;
use assay_train::TrainError;
use assay_train::adam::AdamW;
use assay_train::execution::Execution;
use assay_train::optimiser::OptimiserSettings;
use assay_train::run::order;
use assay_train::run::rollout::{RolloutPlan, rollout};
use assay_train::sft::token_mean_nll;
use assay_train::trace::{PromptGroup, traces};
use assay_train::update::{LossGradients, Reach, UpdatePasses, update};
use candle_core::Var;

use crate::{LIMITS, SAMPLES, SEED, TOKEN_BUDGET};

const TEMPLATE: &str = "{% for message in messages %}{{ message['content'] }}\
{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}";
/// Updates of supervised fine-tuning.
const SFT_UPDATES: usize = 900;
/// Demonstrations per update of supervised fine-tuning.
const SFT_BATCH: usize = 32;
/// Samples per problem when accuracy is measured.
const TEST_SAMPLES: usize = 4;

/// Plain questions and solutions, without a system message.
pub(crate) fn prompt_style() -> PromptSettings {
    PromptSettings {
        style: PromptStyle::Plain,
        ..PromptSettings::default()
    }
}

/// A policy that trains an adapter.
pub(crate) fn policy(base: &LanguageModel, adapter: Adapter) -> PolicyModel {
    PolicyModel {
        transformer: Arc::clone(&base.transformer),
        trainable: Trainable::Adapter(adapter),
    }
}

/// An optimiser with its defaults at a learning rate.
pub(crate) fn optimiser_settings(learning_rate: f64) -> OptimiserSettings {
    OptimiserSettings {
        learning_rate,
        ..OptimiserSettings::default()
    }
}

/// A new optimiser of a policy.
pub(crate) fn optimiser(policy: &PolicyModel) -> Result<AdamW, TrainError> {
    AdamW::new(&policy.parameters())
}

/// A random model after supervised fine-tuning of every weight.
pub(crate) fn fine_tuned(
    problems: &[Problem],
    style: &PromptSettings,
) -> Result<LanguageModel, Box<dyn Error>> {
    let (mut model, parameters) = random_model()?;
    let policy = PolicyModel {
        transformer: Arc::clone(&model.transformer),
        trainable: Trainable::Whole(parameters),
    };
    let (demonstrations, _) = Encoder::new(&model, style, LIMITS).demonstrations(problems)?;
    let groups = demonstrations.into_iter();
    let groups: Vec<_> = groups
        .map(|own| PromptGroup::of_demonstration(0, own).packed())
        .collect();
    let mut adamw = optimiser(&policy)?;
    let settings = optimiser_settings(3e-3);
    let schedule = settings.schedule(SFT_UPDATES);
    let passes = UpdatePasses {
        execution: Execution::single_process(TOKEN_BUDGET),
        reach: Reach::Completion,
    };
    for iteration in 0..SFT_UPDATES {
        let picked = order::batch(SEED, groups.len(), SFT_BATCH, iteration);
        let batch: Vec<_> = picked.iter().map(|&i| groups[i].clone()).collect();
        let (_, gradients) = update(&policy, &batch, passes, |logprobs, _| {
            let output = token_mean_nll(logprobs);
            Ok(LossGradients {
                report: output.loss,
                gradients: output.grads,
            })
        })?;
        let settings = settings.adamw(schedule.learning_rate(iteration));
        adamw.step(&policy.parameters(), &gradients, &settings, 1.0)?;
    }
    model.transformer = Arc::new(policy.transformer.detached());
    Ok(model)
}

/// Trainable tensors by name.
type Parameters = Vec<(String, Var)>;

/// A random model over the task's vocabulary, and its parameters.
fn random_model() -> Result<(LanguageModel, Parameters), Box<dyn Error>> {
    let words = vocabulary().iter().copied();
    let entries: Vec<&str> = std::iter::once("<|end|>").chain(words).collect();
    let tokenizer = Tokenizer::from_vocabulary(&entries)?;
    let template = ChatTemplate::new(TEMPLATE, &tokenizer, Path::new("the toy's template"))?;
    let config = ModelConfig {
        architecture: Architecture::Llama,
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 64,
        intermediate_size: 128,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        rms_norm_eps: 1e-5,
        rope: RopeSettings {
            theta: 10_000.0,
            scaling: RopeScaling::None,
        },
        pattern: assay_lm::LayerPattern::default(),
        max_positions: 128,
        qkv_bias: false,
        tie_word_embeddings: false,
        bos_token_id: None,
        eos_token_ids: vec![template.end_of_turn()],
    };
    let (transformer, parameters) = Transformer::random(&config, SEED)?;
    let model = LanguageModel {
        transformer: Arc::new(transformer),
        tokenizer,
        template,
        name: "toy".to_owned(),
    };
    Ok((model, parameters))
}

/// Share of right answers.
pub(crate) fn accuracy(
    policy: &PolicyModel,
    encoder: &Encoder<'_>,
    problems: &[Problem],
) -> Result<f64, TrainError> {
    let mut groups = Vec::new();
    for (index, problem) in problems.iter().enumerate() {
        let prompt = encoder.prompt(&problem.question)?;
        groups.push(PromptGroup::new(index, problem.clone(), prompt));
    }
    draw(policy, encoder, &mut groups, TEST_SAMPLES, u64::MAX)?;
    let right = traces(&groups).filter(|trace| trace.verdict.correct == Some(true));
    Ok(right.count() as f64 / traces(&groups).count() as f64)
}

/// Adds an iteration's samples to the groups.
pub(crate) fn sample(
    policy: &PolicyModel,
    encoder: &Encoder<'_>,
    groups: &mut [PromptGroup],
    iteration: u64,
) -> Result<(), TrainError> {
    draw(policy, encoder, groups, SAMPLES, iteration)
}

/// Adds samples to the groups, each with its own random stream.
fn draw(
    policy: &PolicyModel,
    encoder: &Encoder<'_>,
    groups: &mut [PromptGroup],
    samples: usize,
    key: u64,
) -> Result<(), TrainError> {
    let plan = RolloutPlan {
        sampling: &DrawSettings {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
        },
        limits: &SamplingLimits {
            max_new_tokens: LIMITS.completion,
            stop_tokens: policy.transformer.config().eos_token_ids.clone(),
            max_sequences: 256,
        },
        samples,
        key: StreamKey::Rollout,
        stream_path: &[key],
        seed: SEED,
    };
    rollout(policy, encoder, groups, &plan, |_| ())
}
