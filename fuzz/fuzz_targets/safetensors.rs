//! `model.safetensors` and its index.
#![no_main]

use assay_lm::Weights;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str| std::fs::write(dir.path().join(name), bytes).expect("room for it");
    write("config.json");
    write("model.safetensors.index.json");
    let _ = Weights::open(dir.path());
    write("model.safetensors");
    if let Ok(weights) = Weights::open(dir.path()) {
        for name in weights.names() {
            for size in [1, 2, 3, 8, 32] {
                let _ = weights.vector(&name, size);
                let _ = weights.matrix(&name, [2, size]);
            }
        }
    }
});
