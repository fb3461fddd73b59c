//! What the example's loop stands on: a tiny random model, drawing, counting right answers.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use assay_irl::IrlError;
use assay_irl::encode::Encoder;
use assay_irl::policy_model::PolicyModel;
use assay_irl::trainer::rollout::{RolloutGroup, RolloutPlan, rollout};
use assay_lm::draw::SamplingSettings;
use assay_lm::sampling::SamplingLimits;
use assay_lm::transformer::Transformer;
use assay_lm::{
    Architecture, ChatTemplate, LanguageModel, ModelConfig, RopeScaling, RopeSettings, Tokenizer,
};
use assay_tasks::arithmetic::vocabulary;
use assay_tasks::problem::Problem;
use candle_core::Var;

use crate::{LIMITS, SEED};

const TEMPLATE: &str = "{% for message in messages %}{{ message['content'] }}\
{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}";

/// Trainable tensors by name.
pub(crate) type Parameters = Vec<(String, Var)>;

/// A random model over the task's vocabulary, and its parameters.
pub(crate) fn model(seed: u64) -> Result<(LanguageModel, Parameters), Box<dyn Error>> {
    let entries: Vec<&str> = std::iter::once("<|end|>")
        .chain(vocabulary().iter().copied())
        .collect();
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
        max_positions: 128,
        pattern: assay_lm::LayerPattern::default(),
        qkv_bias: false,
        tie_word_embeddings: false,
        bos_token_id: None,
        eos_token_ids: vec![template.end_of_turn()],
    };
    let (transformer, parameters) = Transformer::random(&config, seed)?;
    let model = LanguageModel {
        transformer: Arc::new(transformer),
        tokenizer,
        template,
        name: "toy".to_owned(),
    };
    Ok((model, parameters))
}

/// Share of right answers, four samples a problem.
pub(crate) fn accuracy(
    policy: &PolicyModel,
    encoder: &Encoder<'_>,
    problems: &[Problem],
) -> Result<f64, IrlError> {
    let mut prompts = Vec::new();
    for (index, problem) in problems.iter().enumerate() {
        prompts.push((index, problem, encoder.prompt(&problem.question)?));
    }
    let groups = draw(policy, encoder, &prompts, (4, u64::MAX))?;
    let samples = groups.iter().flat_map(|group| &group.samples);
    let right = samples
        .filter(|sample| sample.correct == Some(true))
        .count();
    Ok(right as f64 / (4 * problems.len()) as f64)
}

/// Samples of problems, each on a random stream of its own.
pub(crate) fn draw(
    policy: &PolicyModel,
    encoder: &Encoder<'_>,
    problems: &[(usize, &Problem, Vec<u32>)],
    (samples, key): (usize, u64),
) -> Result<Vec<RolloutGroup>, IrlError> {
    let plan = RolloutPlan {
        sampling: &SamplingSettings {
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
        stream_path: &[0x5a, key],
        seed: SEED,
    };
    rollout(policy, encoder, problems, &plan, |_| ())
}
