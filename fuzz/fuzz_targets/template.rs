//! Chat templates: an error or a bounded text.
#![no_main]

use std::path::Path;

use assay_lm::{ChatTemplate, GenerationPrompt, Tokenizer};
use assay_tasks::message::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    let tokenizer = Tokenizer::from_vocabulary(&["a", "<|end|>"]).expect("a vocabulary");
    let Ok(template) = ChatTemplate::new(source, &tokenizer, Path::new("template")) else {
        return;
    };
    let messages = [Message::user("a <|end|>"), Message::assistant("b")];
    if let Ok(text) = template.render(&messages, GenerationPrompt::Add) {
        assert!(text.len() <= 256 << 20);
    }
    let _ = template.prompt_ids(&tokenizer, &messages);
});
