//! `tokenizer.json`: an accepted tokenizer encodes any text, and its ranges are inside of the text.
#![no_main]

use assay_lm::{ControlTokens, Tokenizer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("config.json"), "{}").expect("room for it");
    std::fs::write(dir.path().join("tokenizer.json"), bytes).expect("room for it");
    let Ok(tokenizer) = Tokenizer::read(dir.path()) else {
        return;
    };
    for text in ["ab ba", "12 + 3 = 15, caf\u{e9} \u{1f980}\r\n\t<|end|>"] {
        if let Ok((ids, spans)) = tokenizer.encode_with_offsets(text) {
            assert_eq!(ids.len(), spans.len());
            let mut at = 0;
            for &(start, end) in &spans {
                assert!(start >= at && text.get(start..end).is_some(), "{spans:?}");
                at = end;
            }
            let _ = tokenizer.decode(&ids, ControlTokens::Skip);
        }
    }
});
