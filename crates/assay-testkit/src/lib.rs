//! A tiny random model and a reward on it, for the tests of several crates. Not part of the
//! program.

#![allow(
    clippy::unwrap_used,
    reason = "whatever fails here fails the test that asked for it"
)]

use std::path::Path;
use std::sync::Arc;

use assay_critic::HeadSettings;
use assay_critic::player::Player;
use assay_critic::reward_model::{RewardModel, ScoringSettings};
use assay_lm::adapter::{Adapter, LoraSettings, Projection};
use assay_lm::transformer::Transformer;
use assay_lm::{
    Architecture, ChatTemplate, LanguageModel, ModelConfig, RopeScaling, RopeSettings, Tokenizer,
};
use assay_tasks::arithmetic::vocabulary;
use assay_tasks::prompts::{PromptSettings, PromptStyle};

const TEMPLATE: &str = "{% for message in messages %}{{ message['content'] }}\
{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}";

/// A fixed Llama with two layers of width 16 and the vocabulary of the arithmetic task. The tokens
/// of `extra` come first.
pub fn tiny_model(extra: &[&str], max_positions: usize) -> LanguageModel {
    let entries: Vec<&str> = extra
        .iter()
        .copied()
        .chain(["<|end|>"])
        .chain(vocabulary().iter().copied())
        .collect();
    let tokenizer = Tokenizer::from_vocabulary(&entries).unwrap();
    let template = ChatTemplate::new(TEMPLATE, &tokenizer, Path::new("test template")).unwrap();
    let config = ModelConfig {
        architecture: Architecture::Llama,
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 16,
        intermediate_size: 24,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope: RopeSettings {
            theta: 10_000.0,
            scaling: RopeScaling::None,
        },
        max_positions,
        pattern: assay_lm::LayerPattern::default(),
        qkv_bias: false,
        tie_word_embeddings: false,
        bos_token_id: None,
        eos_token_ids: vec![template.end_of_turn()],
    };
    let (transformer, _) = Transformer::random(&config, 1).unwrap();
    LanguageModel {
        transformer: Arc::new(transformer.detached()),
        tokenizer,
        template,
        name: "tiny".to_owned(),
    }
}

/// A linear reward whose weights are a fixed wave times `factor`, so that every token has a
/// different reward.
pub fn wave_reward(model: &LanguageModel, factor: f64) -> RewardModel {
    let lora = LoraSettings {
        rank: 2,
        alpha: 4.0,
        targets: vec![Projection::Query, Projection::Down],
    };
    let adapter = Adapter::new(model.transformer.config(), &lora, 3).unwrap();
    let backbone = Arc::clone(&model.transformer);
    let mut reward = RewardModel::new(backbone, adapter, HeadSettings::Linear).unwrap();
    for (_, var) in reward.parameters() {
        let ones = (var.as_tensor().ones_like().unwrap() * factor).unwrap();
        let wave = ones.flatten_all().unwrap().cumsum(0).unwrap().sin();
        var.set(&wave.unwrap().reshape(var.as_tensor().shape()).unwrap())
            .unwrap();
    }
    reward.scoring = ScoringSettings {
        prompt: PromptSettings {
            style: PromptStyle::Plain,
            ..PromptSettings::default()
        },
        ..ScoringSettings::default()
    };
    reward
}
