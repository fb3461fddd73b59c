//! Tokenizers and chat templates.

use std::fs;
use std::path::Path;

use assay_lm::{ChatTemplate, GenerationPrompt, ModelSource, Tokenizer};
use assay_tasks::message::Message;
use serde_json::{Value, json};

use crate::{config_json, directory, names};

#[test]
fn tokenizers_that_are_refused() {
    let dir = directory(&config_json());
    let file = dir.path().join("tokenizer.json");
    let read = || Tokenizer::read(dir.path());
    names(read(), &["tokenizer.json"]);
    for text in ["", "{", "[]", "{\"version\": \"1.0\"}"] {
        fs::write(&file, text).unwrap();
        names(read(), &["tokenizer.json", "reading the tokenizer"]);
    }
    Tokenizer::from_vocabulary(&["a", "b"])
        .unwrap()
        .save(dir.path())
        .unwrap();
    let mut good: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    good["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    fs::write(&file, good.to_string()).unwrap();
    names(
        read(),
        &["tokenizer.json", "not supported, only byte-level"],
    );
    // Half of a surrogate pair, found by fuzzing: the parser of `tokenizers` panics on it.
    good["decoder"] = json!({"type": "HALF"});
    let half = good.to_string().replace("HALF", "\\ud800");
    fs::write(&file, half).unwrap();
    names(read(), &["tokenizer.json", "reading the tokenizer"]);
    good["decoder"] = json!({"type": "Fuse"});
    good["model"]["vocab"]["b"] = json!(4_000_000_000_u32);
    fs::write(&file, good.to_string()).unwrap();
    names(read(), &["tokenizer.json", "far beyond"]);
}

/// A file's own truncation and padding would change every text.
#[test]
fn truncation_and_padding_of_a_file_are_ignored() {
    let dir = directory(&config_json());
    let file = dir.path().join("tokenizer.json");
    Tokenizer::from_vocabulary(&["a", "b", "<|pad|>"])
        .unwrap()
        .save(dir.path())
        .unwrap();
    let mut saved: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    saved["truncation"] =
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    saved["padding"] = json!({"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 2, "pad_type_id": 0, "pad_token": "<|pad|>"});
    fs::write(&file, saved.to_string()).unwrap();
    let tokenizer = Tokenizer::read(dir.path()).unwrap();
    assert_eq!(tokenizer.encode("abab").unwrap(), [0, 1, 0, 1]);
}

#[test]
fn templates_that_are_refused() {
    let tokenizer = Tokenizer::from_vocabulary(&["a", "<|end|>"]).unwrap();
    let origin = Path::new("dir/chat_template.jinja");
    let new = |source: &str| ChatTemplate::new(source, &tokenizer, origin);
    names(
        new("{% for m in messages %}"),
        &["chat_template.jinja", "parsing"],
    );
    let render = |source: &str| {
        new(source)
            .unwrap()
            .render(&[Message::user("a")], GenerationPrompt::Add)
    };
    let raising = "{{ raise_exception('roles must alternate') }}";
    names(
        render(raising),
        &["chat_template.jinja", "rendering", "roles must alternate"],
    );
    let endless =
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}";
    names(render(endless), &["chat_template.jinja", "ran out of fuel"]);
    names(
        render("{% include 'x' %}"),
        &["chat_template.jinja", "rendering"],
    );
    names(new(&"x".repeat(2 << 20)), &["longer than"]);
    let endless_turn = Tokenizer::from_vocabulary(&["a"]).unwrap();
    names(
        ChatTemplate::new("a", &endless_turn, origin),
        &["names a token that ends a turn"],
    );
}

#[test]
fn a_directory_names_its_template() {
    let dir = directory(&config_json());
    let tokenizer = Tokenizer::from_vocabulary(&["a", "<|end|>"]).unwrap();
    let source = ModelSource::open(dir.path()).unwrap();
    names(
        source.template(&tokenizer),
        &["no chat template", "choose the plain template"],
    );
    let settings = dir.path().join("tokenizer_config.json");
    let render = || {
        let template = source.template(&tokenizer).unwrap();
        template
            .render(&[Message::user("a")], GenerationPrompt::Add)
            .unwrap()
    };
    fs::write(
        &settings,
        r#"{"chat_template": "one {{ messages[0].content }}"}"#,
    )
    .unwrap();
    assert_eq!(render(), "one a");
    let list = r#"{"chat_template": [{"name": "rag", "template": "x"}, {"name": "default", "template": "two"}]}"#;
    fs::write(&settings, list).unwrap();
    assert_eq!(render(), "two");
    fs::write(
        dir.path().join("chat_template.jinja"),
        "three{{ eos_token }}",
    )
    .unwrap();
    assert_eq!(render(), "three<|end|>");
}
