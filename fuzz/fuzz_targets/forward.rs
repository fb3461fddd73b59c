//! A tiny model's passes over any packed batch, which runs the kernels with `unsafe` under the
//! sanitizer: training and sampling compute the same hidden states, and gradients are finite.
#![no_main]

use std::sync::LazyLock;

use assay_lm::adapter::{Adapter, LoraSettings};
use assay_lm::gradients::Gradients;
use assay_lm::packed::Group;
use assay_lm::transformer::Transformer;
use assay_lm::{Architecture, ModelConfig, PackedBatch, RopeScaling, RopeSettings};
use libfuzzer_sys::fuzz_target;

const VOCABULARY: u32 = 11;

/// Sizes that are no multiples of a vector's width.
static MODEL: LazyLock<(Transformer, Adapter)> = LazyLock::new(|| {
    let config = ModelConfig {
        architecture: Architecture::Qwen2,
        vocab_size: VOCABULARY as usize,
        hidden_size: 20,
        intermediate_size: 13,
        layers: 1,
        heads: 3,
        kv_heads: 1,
        head_dim: 6,
        rms_norm_eps: 1e-5,
        rope: RopeSettings {
            theta: 1e4,
            scaling: RopeScaling::None,
        },
        pattern: assay_lm::LayerPattern::default(),
        max_positions: 1024,
        qkv_bias: true,
        tie_word_embeddings: true,
        bos_token_id: None,
        eos_token_ids: vec![2],
    };
    let (model, _) = Transformer::random(&config, 1).expect("a small model");
    let adapter =
        Adapter::new(&config, &LoraSettings::with_rank(3), 2).expect("a small adapter");
    (model, adapter)
});

fuzz_target!(|input: Vec<(Vec<u8>, Vec<Vec<u8>>)>| {
    let ids = |bytes: &[u8]| -> Vec<u32> {
        let tokens = bytes.iter().map(|&byte| u32::from(byte) % VOCABULARY);
        tokens.collect()
    };
    let groups: Vec<Group> = input
        .iter()
        .map(|(prompt, completions)| Group {
            prompt: ids(prompt),
            completions: completions.iter().map(|bytes| ids(bytes)).collect(),
        })
        .collect();
    let Ok(batch) = PackedBatch::new(&groups) else {
        return;
    };
    if batch.len() == 0 || batch.len() > 512 {
        return;
    }
    let (model, adapter) = &*MODEL;
    let Ok(hidden) = model.hidden(&batch, Some(adapter)) else {
        return;
    };
    let bits = |tensor: &candle_core::Tensor| -> Vec<u32> {
        let flat = tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>());
        flat.expect("numbers").into_iter().map(f32::to_bits).collect()
    };
    let passes = |kept_bytes: u64| {
        let (recorded, tape) = model
            .forward_recorded(&batch, Some(adapter), kept_bytes)
            .expect("what passes without a tape passes with one");
        assert_eq!(bits(&hidden), bits(&recorded));
        let mut gradients = Gradients::default();
        model
            .backward(&batch, Some(adapter), tape, recorded, &mut gradients)
            .expect("a backward pass");
        gradients
    };
    let (gradients, kept) = (passes(0), passes(u64::MAX));
    for (name, var) in adapter.parameters() {
        let gradient = bits(gradients.get(var).expect("every parameter has a gradient"));
        assert!(gradient.iter().all(|&b| f32::from_bits(b).is_finite()), "{name}");
        assert_eq!(gradient, bits(kept.get(var).expect("kept or not")), "{name}");
    }
});
