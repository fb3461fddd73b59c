//! A `.gguf` file: its header, configuration, tokenizer and tensors.
#![no_main]

use assay_lm::{ModelConfig, ModelSource, Tokenizer, Weights};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).expect("room for it");
    let _ = ModelConfig::read(&path);
    if let Ok(tokenizer) = Tokenizer::read(&path) {
        let text = "12 + 3 = 15, caf\u{e9} \u{1f980}";
        let (_, spans) = tokenizer.encode_with_offsets(text).expect("any text");
        assert!(
            spans
                .iter()
                .all(|&(start, end)| text.get(start..end).is_some())
        );
        if let Ok(source) = ModelSource::open(&path) {
            let _ = source.template(&tokenizer);
        }
    }
    if let Ok(weights) = Weights::open(&path) {
        for name in weights.names() {
            for size in [1, 2, 3, 8, 32, 256] {
                let _ = weights.vector(&name, size);
                let _ = weights.matrix(&name, [2, size]);
            }
        }
    }
});
