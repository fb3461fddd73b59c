//! `config.json` and `generation_config.json`: an accepted configuration passes validation.
#![no_main]

use assay_lm::ModelConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for name in ["config.json", "generation_config.json"] {
        std::fs::write(dir.path().join(name), bytes).expect("room for it");
        if let Ok(config) = ModelConfig::read(dir.path()) {
            config
                .validate(dir.path())
                .expect("an accepted configuration");
            let angles = config.rope.inverse_frequencies(config.head_dim);
            assert_eq!(angles.len(), config.head_dim / 2);
        }
    }
});
