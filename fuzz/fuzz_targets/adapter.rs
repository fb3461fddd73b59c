//! PEFT adapters: `adapter_config.json`, then its tensors, split at the first zero byte.
#![no_main]

use assay_lm::{Architecture, ModelConfig, RopeScaling, RopeSettings, peft};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let config = ModelConfig {
        architecture: Architecture::Llama,
        vocab_size: 16,
        hidden_size: 8,
        intermediate_size: 12,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        rms_norm_eps: 1e-5,
        rope: RopeSettings {
            theta: 1e4,
            scaling: RopeScaling::None,
        },
        pattern: assay_lm::LayerPattern::default(),
        max_positions: 64,
        qkv_bias: false,
        tie_word_embeddings: true,
        bos_token_id: None,
        eos_token_ids: vec![2],
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let at = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    let (card, weights) = (&bytes[..at], bytes.get(at + 1..).unwrap_or(&[]));
    std::fs::write(dir.path().join(peft::CONFIG_FILE), card).expect("room for it");
    std::fs::write(dir.path().join(peft::WEIGHTS_FILE), weights).expect("room for it");
    let _ = peft::base_model(dir.path());
    let _ = peft::load(dir.path(), &config);
});
