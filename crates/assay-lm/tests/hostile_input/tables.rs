//! Valid files with one change each, and the expected errors.

use std::fs;

use assay_lm::{ModelConfig, Tokenizer, peft};
use serde_json::{Value, json};

use crate::{config_json, directory, message, names, tried};

/// A copy with the value at a JSON pointer replaced.
fn with(good: &Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let mut copy = good.clone();
    copy.pointer_mut(parent).unwrap()[key] = value;
    copy
}

#[test]
fn configurations() {
    let huge = json!(u64::MAX);
    let cases = [
        (
            "/vocab_size",
            json!(0),
            "vocab_size: must lie in 1..=4194304",
        ),
        ("/vocab_size", json!(1.5), "model configuration"),
        ("/vocab_size", json!(null), "model configuration"),
        ("/vocab_size", json!("16"), "model configuration"),
        ("/hidden_size", json!(0), "hidden_size"),
        ("/hidden_size", huge.clone(), "hidden_size"),
        ("/hidden_size", json!(1e30), "model configuration"),
        ("/intermediate_size", json!(0), "intermediate_size"),
        ("/intermediate_size", huge.clone(), "intermediate_size"),
        ("/num_hidden_layers", json!(0), "num_hidden_layers"),
        ("/num_hidden_layers", json!(-1), "model configuration"),
        ("/num_attention_heads", huge.clone(), "num_attention_heads"),
        ("/num_attention_heads", json!([2]), "model configuration"),
        ("/num_key_value_heads", huge.clone(), "num_key_value_heads"),
        ("/head_dim", json!(0), "head_dim"),
        ("/head_dim", huge.clone(), "head_dim"),
        (
            "/max_position_embeddings",
            json!(0),
            "max_position_embeddings",
        ),
        (
            "/max_position_embeddings",
            huge.clone(),
            "max_position_embeddings",
        ),
        ("/rms_norm_eps", json!(-1.0), "rms_norm_eps"),
        ("/rms_norm_eps", json!(2.0), "rms_norm_eps"),
        ("/rms_norm_eps", json!("1e-5"), "model configuration"),
        ("/rope_theta", json!(0), "rope_theta"),
        ("/rope_theta", json!({}), "model configuration"),
        ("/rope_scaling", json!("linear"), "model configuration"),
        (
            "/rope_scaling",
            json!({"type": "linear", "factor": 0}),
            "factor must be positive",
        ),
        (
            "/rope_scaling",
            json!({"type": "linear", "factor": "4"}),
            "factor is missing or no number",
        ),
        (
            "/rope_scaling",
            json!({"type": "dynamic", "factor": 4}),
            "\"dynamic\" is not supported",
        ),
        (
            "/rope_scaling",
            json!({"rope_type": "longrope", "short_factor": [1], "long_factor": [2]}),
            "longrope",
        ),
        (
            "/rope_scaling",
            json!({"rope_type": "longrope", "short_factor": [1], "long_factor": [1], "attention_factor": 1.0}),
            "1 divisors for 2 frequencies",
        ),
        (
            "/rope_scaling",
            json!({"rope_type": "longrope", "short_factor": [0, 1], "long_factor": [0, 1], "attention_factor": 1.0}),
            "every divisor must be positive",
        ),
        (
            "/rope_scaling",
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0, "original_max_position_embeddings": 64}),
            "high_freq_factor above low_freq_factor",
        ),
        (
            "/rope_scaling",
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": -1e300}),
            "positive original length",
        ),
        ("/model_type", json!(null), "LlamaForCausalLM"),
        ("/model_type", json!("../llama"), "is not supported"),
        ("/eos_token_id", json!(-1), "model configuration"),
        ("/eos_token_id", json!([[2]]), "model configuration"),
        (
            "/eos_token_id",
            json!(16),
            "16 is outside the vocabulary of 16",
        ),
        (
            "/bos_token_id",
            json!(4_294_967_295_u32),
            "outside the vocabulary",
        ),
        ("/tie_word_embeddings", json!("yes"), "model configuration"),
        (
            "/layer_types",
            json!("full_attention"),
            "model configuration",
        ),
        (
            "/quantization_config",
            json!("gptq"),
            "quantised with unknown",
        ),
    ];
    tried(cases.len());
    for (pointer, value, expected) in cases {
        let file = with(&config_json(), pointer, value.clone());
        let dir = directory(&file);
        if expected == "LlamaForCausalLM" {
            assert!(ModelConfig::read(dir.path()).is_ok(), "{pointer} {value}");
            continue;
        }
        names(ModelConfig::read(dir.path()), &["config.json", expected]);
    }
    let dir = directory(&config_json());
    let path = dir.path().join("config.json");
    let nested = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let long = " ".repeat((1 << 24) + 1);
    let texts = [
        ("", "EOF"),
        ("null", "is not supported"),
        ("[]", "is not supported"),
        ("{}", "is not supported"),
        ("{\"model_type\":\"llama\"}", "missing field"),
        ("\u{0}", "model configuration"),
        ("{\"vocab_size\":NaN}", "model configuration"),
        ("{\"vocab_size\":1e999}", "out of range"),
        (nested.as_str(), "recursion limit"),
        (long.as_str(), "larger than the 16777216 bytes"),
    ];
    tried(texts.len());
    for (text, expected) in texts {
        fs::write(&path, text).unwrap();
        names(ModelConfig::read(dir.path()), &["config.json", expected]);
    }
}

#[test]
fn tokenizers() {
    let dir = directory(&config_json());
    let file = dir.path().join("tokenizer.json");
    let vocabulary = ["a", "b", "<|end|>"];
    Tokenizer::from_vocabulary(&vocabulary)
        .unwrap()
        .save(dir.path())
        .unwrap();
    let good: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let template = |listed: Value| {
        json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": listed})
    };
    let sequence = |part: &str, inner: Value| json!({"type": "Sequence", part: [inner]});
    let precompiled = json!({"type": "Precompiled", "precompiled_charsmap": "////////"});
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let cases = [
        (
            "/normalizer",
            precompiled.clone(),
            "normalizer \"Precompiled\" is not supported",
        ),
        (
            "/normalizer",
            sequence("normalizers", precompiled),
            "normalizer \"Precompiled\" is not supported",
        ),
        (
            "/normalizer",
            json!({"type": "Prepend", "prepend": "x"}),
            "normalizer \"Prepend\"",
        ),
        (
            "/normalizer",
            json!({"type": "Replace", "pattern": {"String": "a"}, "content": "b"}),
            "normalizer \"Replace\"",
        ),
        (
            "/normalizer",
            json!({"type": "Lowercase"}),
            "normalizer \"Lowercase\"",
        ),
        ("/normalizer", json!({}), "normalizer \"\" is not supported"),
        (
            "/normalizer",
            json!("NFC"),
            "normalizer \"\" is not supported",
        ),
        (
            "/normalizer",
            json!({"type": 7}),
            "normalizer \"\" is not supported",
        ),
        (
            "/normalizer",
            json!({"type": "Sequence"}),
            "reading the tokenizer",
        ),
        (
            "/pre_tokenizer",
            json!({"type": "Metaspace", "replacement": "_"}),
            "pre_tokenizer \"Metaspace\"",
        ),
        (
            "/pre_tokenizer",
            json!({"type": "FixedLength", "length": 0}),
            "pre_tokenizer \"FixedLength\"",
        ),
        (
            "/pre_tokenizer",
            sequence("pretokenizers", json!({"type": "BertPreTokenizer"})),
            "pre_tokenizer \"BertPreTokenizer\"",
        ),
        ("/pre_tokenizer", split("("), "reading the tokenizer"),
        (
            "/pre_tokenizer",
            split(&"(".repeat(60_000)),
            "reading the tokenizer",
        ),
        (
            "/pre_tokenizer",
            split(&"a".repeat(70_000)),
            "a pattern of 70000 bytes",
        ),
        (
            "/pre_tokenizer",
            split("(?:(?:(?:a{1000}){1000}){1000})"),
            "reading the tokenizer",
        ),
        (
            "/post_processor",
            template(json!({})),
            "names \"<s>\", which special_tokens lacks",
        ),
        (
            "/post_processor",
            template(json!(null)),
            "names \"<s>\", which special_tokens lacks",
        ),
        (
            "/post_processor",
            sequence("processors", template(json!({}))),
            "names \"<s>\"",
        ),
        (
            "/post_processor",
            template(json!({"<s>": {"id": "<s>", "ids": [], "tokens": []}})),
            "special_tokens gives \"<s>\" no id",
        ),
        (
            "/post_processor",
            json!({"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}),
            "post_processor \"BertProcessing\"",
        ),
        (
            "/decoder",
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            "not supported, only byte-level",
        ),
        ("/decoder", json!(null), "not supported, only byte-level"),
        (
            "/model/type",
            json!("Unigram"),
            "model \"Unigram\" is not supported",
        ),
        (
            "/model/type",
            json!("WordPiece"),
            "model \"WordPiece\" is not supported",
        ),
        (
            "/model/dropout",
            json!(0.5),
            "random merges are not supported",
        ),
        ("/model/vocab", json!([]), "reading the tokenizer"),
        ("/model/vocab", json!({"a": -1}), "reading the tokenizer"),
        ("/model/vocab", json!({"a": 1.5}), "reading the tokenizer"),
        (
            "/model/vocab",
            json!({"a": 4_294_967_296_u64}),
            "reading the tokenizer",
        ),
        ("/model/vocab/b", json!(0), "two tokens have the id 0"),
        ("/model/vocab/b", json!(4_000_000_000_u32), "far beyond"),
        ("/model", json!(null), "reading the tokenizer"),
        (
            "/model",
            json!({"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "z"]]}),
            "reading the tokenizer",
        ),
        (
            "/model",
            json!({"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}),
            "reading the tokenizer",
        ),
        ("/added_tokens", json!([{"id": 0}]), "reading the tokenizer"),
        ("/added_tokens", json!("x"), "reading the tokenizer"),
        (
            "/padding",
            json!({"strategy": {"Fixed": -1}}),
            "reading the tokenizer",
        ),
    ];
    tried(cases.len());
    let mut wrong = Vec::new();
    for (pointer, value, expected) in cases {
        let text = with(&good, pointer, value.clone()).to_string();
        fs::write(&file, text).unwrap();
        let told = message(Tokenizer::read(dir.path()));
        if !(told.contains("tokenizer.json") && told.contains(expected)) {
            wrong.push(format!(
                "{pointer} {value:.80} {told:.200} lacks {expected}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (key, value) in [
        (
            "padding",
            json!({"strategy": {"Fixed": 1_u64 << 60}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}),
        ),
        (
            "truncation",
            json!({"direction": "Left", "max_length": 0, "strategy": "LongestFirst", "stride": 0}),
        ),
    ] {
        fs::write(&file, with(&good, &format!("/{key}"), value).to_string()).unwrap();
        assert_eq!(
            Tokenizer::read(dir.path()).unwrap().encode("ab").unwrap(),
            [0, 1],
            "{key}"
        );
    }
}

#[test]
fn adapters() {
    let dir = directory(&config_json());
    let config = ModelConfig::read(dir.path()).unwrap();
    let adapter = tempfile::tempdir().unwrap();
    let good = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"});
    let weights = adapter.path().join("adapter_model.safetensors");
    let prefix = "base_model.model.model.layers.0.self_attn.q_proj.lora";
    let tensor = |shape: [usize; 2], start: usize| json!({"dtype": "F32", "shape": shape, "data_offsets": [start, start + 4 * shape[0] * shape[1]]});
    let file = |header: Value| {
        let text = header.to_string();
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        let used = header.as_object().unwrap().values();
        let used = used
            .filter_map(|t| t["data_offsets"][1].as_u64())
            .max()
            .unwrap_or(0);
        bytes.resize(bytes.len() + used as usize, 0);
        bytes
    };
    let (a, b) = (format!("{prefix}_A.weight"), format!("{prefix}_B.weight"));
    let stranger = a.replace("layers.0", "layers.9");
    let whole = file(json!({&a: tensor([2, 8], 0), &b: tensor([8, 2], 64)}));
    fs::write(&weights, &whole).unwrap();
    let cases = [
        ("/r", json!(0), "r must be at least 1"),
        (
            "/r",
            json!(-1),
            "invalid value: integer `-1`, expected usize",
        ),
        (
            "/r",
            json!(u64::MAX),
            "the configuration needs [18446744073709551615, 8]",
        ),
        ("/r", json!(1.5), "invalid type: floating point `1.5`"),
        ("/r", json!(null), "invalid type: null, expected usize"),
        (
            "/lora_alpha",
            json!("4"),
            "invalid type: string \"4\", expected f64",
        ),
        (
            "/lora_alpha",
            json!(null),
            "invalid type: null, expected f64",
        ),
        (
            "/peft_type",
            json!("IA3"),
            "peft_type IA3 is not read, only LORA",
        ),
        (
            "/use_dora",
            json!(true),
            "self_attn.q_proj.lora_magnitude_vector",
        ),
        (
            "/use_rslora",
            json!("yes"),
            "invalid type: string \"yes\", expected a boolean",
        ),
        (
            "/bias",
            json!("all"),
            "bias \"all\": trained biases are not read",
        ),
        (
            "/bias",
            json!(7),
            "invalid type: integer `7`, expected a string",
        ),
        ("/rank_pattern", json!({"q_proj": 4}), "needs [4, "),
        (
            "/alpha_pattern",
            json!({"q_proj": "4"}),
            "alpha_pattern: \"q_proj\"",
        ),
        (
            "/layers_to_transform",
            json!([7]),
            "layers.0.self_attn.q_proj.lora_A.weight, which is neither",
        ),
        (
            "/modules_to_save",
            json!(["lm_head"]),
            "has no tensor base_model.model.lm_head",
        ),
        (
            "/init_lora_weights",
            json!("pissa"),
            "init_lora_weights \"pissa\" changes the base model",
        ),
        (
            "/target_modules",
            json!(["../../x"]),
            "lora_A.weight, which is neither",
        ),
        (
            "/target_modules",
            json!([""]),
            "lora_A.weight, which is neither",
        ),
        (
            "/target_modules",
            json!([1]),
            "a list of module names or one pattern",
        ),
        (
            "/target_modules",
            json!({}),
            "a list of module names or one pattern",
        ),
        (
            "/target_modules",
            json!([]),
            "at least one projection must be named",
        ),
        (
            "/target_modules",
            json!(["q_proj", "k_proj"]),
            "has no tensor base_model.model.model.layers.0.self_attn.k_proj.lora_A",
        ),
        (
            "/base_model_name_or_path",
            json!(3),
            "invalid type: integer `3`, expected a string",
        ),
    ];
    tried(cases.len());
    for (pointer, value, expected) in cases {
        let text = with(&good, pointer, value).to_string();
        fs::write(adapter.path().join("adapter_config.json"), text).unwrap();
        names(peft::load(adapter.path(), &config), &["adapter", expected]);
    }
    fs::write(adapter.path().join("adapter_config.json"), good.to_string()).unwrap();
    let cases = [
        (Vec::new(), "adapter_model.safetensors: header too small"),
        (vec![0xff; 64], "header too large"),
        (file(json!({})), "no tensor base_model"),
        (file(json!({&a: tensor([2, 8], 0)})), "lora_B"),
        (
            file(json!({&a: tensor([8, 2], 0), &b: tensor([8, 2], 64)})),
            "[2, 8]",
        ),
        (
            file(json!({&a: tensor([3, 8], 0), &b: tensor([8, 3], 96)})),
            "[3, 8]",
        ),
        (
            file(json!({&a: tensor([2, 8], 0), &b: tensor([8, 2], 32)})),
            "invalid offset",
        ),
        (
            file(
                json!({&a: tensor([2, 8], 0), &b: tensor([8, 2], 64), &stranger: tensor([2, 8], 128)}),
            ),
            "neither a pair of a projection that the base model and target_modules have",
        ),
    ];
    tried(cases.len());
    for (bytes, expected) in cases {
        fs::write(&weights, bytes).unwrap();
        names(peft::load(adapter.path(), &config), &[expected]);
    }
    fs::write(&weights, &whole).unwrap();
    assert!(peft::load(adapter.path(), &config).is_ok());
}
