//! Malformed, truncated and contradictory model files: the message names the file and the thing, and nothing panics.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use assay_lm::{
    ChatTemplate, GenerationPrompt, GgufFile, LmError, ModelConfig, ModelSource, Tokenizer, Weights,
};
use assay_tasks::message::Message;
use serde_json::{Value, json};
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// The message of an error with its causes.
fn message<T>(result: Result<T, LmError>) -> String {
    let Err(error) = result else {
        return "no error".to_owned();
    };
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

#[track_caller]
fn names<T>(result: Result<T, LmError>, parts: &[&str]) {
    let text = message(result);
    for part in parts {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
}

fn config_json() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 16, "hidden_size": 8,
        "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "eos_token_id": 2
    })
}

fn directory(config: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

/// A safetensors file: header text, then data.
fn safetensors(header: &Value, data: usize) -> Vec<u8> {
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn f32_entry(shape: &[usize], start: usize) -> Value {
    let end = start + 4 * shape.iter().product::<usize>();
    json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]})
}

#[test]
fn paths_that_are_no_model() {
    names(
        ModelSource::open(Path::new("no/such/model")),
        &["no/such/model", "no such file or directory"],
    );
    let dir = tempfile::tempdir().unwrap();
    names(
        ModelSource::open(dir.path()),
        &["neither config.json nor a .gguf"],
    );
    let file = dir.path().join("model.bin");
    fs::write(&file, "x").unwrap();
    names(ModelSource::open(&file), &["model.bin", ".gguf"]);
    for name in ["a.gguf", "b.gguf"] {
        fs::copy(golden("blocks.gguf"), dir.path().join(name)).unwrap();
    }
    names(ModelSource::open(dir.path()), &["several .gguf files"]);
    fs::remove_file(dir.path().join("b.gguf")).unwrap();
    assert!(
        ModelSource::open(dir.path())
            .unwrap()
            .path()
            .ends_with("a.gguf")
    );
}

#[test]
fn configurations_that_are_refused() {
    let cases = [
        (
            json!({"model_type": "mistral", "architectures": ["MistralForCausalLM"]}),
            "MistralForCausalLM",
        ),
        (json!({"model_type": "gpt2"}), "supported are llama"),
        (json!({"num_attention_heads": 0}), "num_attention_heads"),
        (
            json!({"num_attention_heads": 3}),
            "3 heads do not divide hidden_size = 8",
        ),
        (json!({"num_key_value_heads": 0}), "num_key_value_heads"),
        (json!({"num_key_value_heads": 3}), "3 does not divide"),
        (json!({"head_dim": 5}), "head_dim: must be even"),
        (
            json!({"num_hidden_layers": 4_000_000_000_u64}),
            "num_hidden_layers",
        ),
        (json!({"vocab_size": u64::MAX}), "vocab_size"),
        (json!({"vocab_size": -4}), "model configuration"),
        (json!({"hidden_size": "big"}), "model configuration"),
        (json!({"hidden_act": "gelu"}), "hidden_act"),
        (json!({"attention_bias": true}), "attention_bias"),
        (json!({"mlp_bias": true}), "mlp_bias"),
        (
            json!({"partial_rotary_factor": 0.5}),
            "partial_rotary_factor",
        ),
        (
            json!({"quantization_config": {"quant_method": "awq"}}),
            "quantised with awq",
        ),
        (
            json!({"use_sliding_window": true, "sliding_window": 32, "max_window_layers": 0}),
            "sliding_window",
        ),
        (
            json!({"layer_types": ["sliding_attention"]}),
            "sliding_window",
        ),
        (
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
            "\"yarn\" is not supported",
        ),
        (
            json!({"rope_scaling": {"type": "linear"}}),
            "factor is missing",
        ),
        (
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}),
            "low_freq_factor",
        ),
        (json!({"rope_theta": -1.0}), "rope_theta"),
        (json!({"rms_norm_eps": 0.0}), "rms_norm_eps"),
        (
            json!({"eos_token_id": [2, 99]}),
            "99 is outside the vocabulary",
        ),
    ];
    for (change, expected) in cases {
        let mut config = config_json();
        for (key, value) in change.as_object().unwrap() {
            config[key] = value.clone();
        }
        let dir = directory(&config);
        names(ModelConfig::read(dir.path()), &["config.json", expected]);
    }
    let dir = directory(&config_json());
    assert_eq!(ModelConfig::read(dir.path()).unwrap().eos_token_ids, [2]);
    fs::write(
        dir.path().join("generation_config.json"),
        r#"{"eos_token_id": [2, 5]}"#,
    )
    .unwrap();
    assert_eq!(ModelConfig::read(dir.path()).unwrap().eos_token_ids, [2, 5]);
    fs::write(dir.path().join("generation_config.json"), "{").unwrap();
    names(
        ModelConfig::read(dir.path()),
        &["generation_config.json", "generation configuration"],
    );
    fs::write(dir.path().join("config.json"), "{\"vocab_size\": 16").unwrap();
    names(ModelConfig::read(dir.path()), &["config.json", "EOF"]);
}

#[test]
fn an_inactive_sliding_window_is_accepted() {
    let mut config = config_json();
    config["model_type"] = json!("qwen2");
    config["use_sliding_window"] = json!(false);
    config["sliding_window"] = json!(32);
    let read = ModelConfig::read(directory(&config).path()).unwrap();
    assert!(read.qkv_bias);
    assert_eq!(read.head_dim, 4);
}

#[test]
fn safetensors_that_are_refused() {
    let dir = directory(&config_json());
    let file = dir.path().join("model.safetensors");
    let open = || Weights::open(dir.path());
    names(
        open(),
        &["neither model.safetensors nor model.safetensors.index.json"],
    );
    let name = "model.norm.weight";
    let good = safetensors(&json!({name: f32_entry(&[8], 0)}), 32);
    let mut oversized = good.clone();
    oversized[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut long_header = good.clone();
    long_header[..8].copy_from_slice(&90_000_000_u64.to_le_bytes());
    let overlap = json!({name: f32_entry(&[8], 0), "b": f32_entry(&[8], 16)});
    let cases = [
        Vec::new(),
        vec![1, 2, 3],
        oversized,
        long_header,
        good[..good.len() - 1].to_vec(),
        good[..20].to_vec(),
        safetensors(&overlap, 48),
        safetensors(
            &json!({name: {"dtype": "F32", "shape": [usize::MAX, 8], "data_offsets": [0, 32]}}),
            32,
        ),
        safetensors(
            &json!({name: {"dtype": "F32", "shape": [7], "data_offsets": [0, 32]}}),
            32,
        ),
        safetensors(
            &json!({name: {"dtype": "F99", "shape": [8], "data_offsets": [0, 32]}}),
            32,
        ),
    ];
    for bytes in cases {
        fs::write(&file, &bytes).unwrap();
        names(open(), &["model.safetensors"]);
        assert!(open().is_err());
    }
    fs::write(&file, &good).unwrap();
    let weights = open().unwrap();
    assert_eq!(weights.names(), [name]);
    assert_eq!(
        weights.vector(name, 8).unwrap().to_vec1::<f32>().unwrap(),
        [0.0; 8]
    );
    names(
        weights.vector(name, 9),
        &["model.safetensors", name, "[8]", "[9]"],
    );
    names(
        weights.vector("lm_head.weight", 9),
        &["no tensor lm_head.weight"],
    );
    let wrong_type = json!({name: {"dtype": "I64", "shape": [4], "data_offsets": [0, 32]}});
    fs::write(&file, safetensors(&wrong_type, 32)).unwrap();
    names(open().unwrap().vector(name, 4), &[name, "I64 is not read"]);
}

#[test]
fn half_precision_is_widened_exactly() {
    let dir = directory(&config_json());
    let header = json!({
        "a": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]},
        "b": {"dtype": "F16", "shape": [1, 3], "data_offsets": [6, 12]},
    });
    let mut bytes = safetensors(&header, 0);
    for half in [0x3f80_u16, 0xc0a0, 0x0001, 0x3c00, 0xc500, 0x0001] {
        bytes.extend(half.to_le_bytes());
    }
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    assert_eq!(
        weights.vector("a", 3).unwrap().to_vec1::<f32>().unwrap(),
        [1.0, -5.0, f32::from_bits(0x0001_0000)]
    );
    let assay_ops::Matrix::Dense(b) = weights.matrix("b", [1, 3]).unwrap() else {
        unreachable!("dense")
    };
    assert_eq!(
        b.to_vec2::<f32>().unwrap(),
        [[1.0, -5.0, 2.0_f32.powi(-24)]]
    );
}

#[test]
fn shard_indices_that_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(
        outside.path().join("x.safetensors"),
        safetensors(&json!({"a": f32_entry(&[1], 0)}), 4),
    )
    .unwrap();
    let escape = format!(
        "../{}/x.safetensors",
        outside.path().file_name().unwrap().to_str().unwrap()
    );
    let absolute = outside.path().join("x.safetensors").display().to_string();
    let dir = directory(&config_json());
    let index = dir.path().join("model.safetensors.index.json");
    let write = |map: Value| fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
    let open = || Weights::open(dir.path());
    for name in [
        escape.as_str(),
        absolute.as_str(),
        "..",
        ".",
        "",
        "a/../b",
        "C:\\x",
    ] {
        write(json!({"a": name}));
        names(
            open(),
            &["model.safetensors.index.json", "no plain file name"],
        );
    }
    write(json!({"a": "1.safetensors"}));
    names(open(), &["1.safetensors"]);
    let shard = |name: &str, tensors: Value| {
        fs::write(dir.path().join(name), safetensors(&tensors, 4)).unwrap()
    };
    shard("1.safetensors", json!({"a": f32_entry(&[1], 0)}));
    shard("2.safetensors", json!({"b": f32_entry(&[1], 0)}));
    write(json!({"a": "1.safetensors", "b": "2.safetensors"}));
    assert_eq!(open().unwrap().names(), ["a", "b"]);
    write(json!({"a": "1.safetensors", "c": "2.safetensors"}));
    names(open(), &["2.safetensors", "no tensor c"]);
    shard("2.safetensors", json!({"a": f32_entry(&[1], 0)}));
    write(json!({"a": "1.safetensors", "b": "2.safetensors"}));
    names(open(), &["2.safetensors", "another shard"]);
    fs::write(&index, "[]").unwrap();
    names(
        open(),
        &["model.safetensors.index.json", "safetensors index"],
    );
}

/// A GGUF file by hand.
#[derive(Clone)]
struct Gguf(Vec<u8>);

impl Gguf {
    fn new(tensors: u64, values: u64) -> Self {
        let mut file = Self(b"GGUF".to_vec());
        file.u32(3).u64(tensors).u64(values);
        file
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.u64(text.len() as u64);
        self.0.extend(text.as_bytes());
        self
    }

    fn tensor(&mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> &mut Self {
        self.text(name).u32(dims.len() as u32);
        dims.iter().for_each(|&n| {
            self.u64(n);
        });
        self.u32(kind).u64(offset)
    }

    /// Pads the header and appends zeroes.
    fn data(&mut self, length: usize) -> &mut Self {
        self.0.resize(self.0.len().next_multiple_of(32) + length, 0);
        self
    }
}

fn open_gguf(bytes: &[u8]) -> Result<GgufFile, LmError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostile.gguf");
    fs::write(&path, bytes).unwrap();
    GgufFile::open(&path)
}

#[test]
fn gguf_headers_that_are_refused() {
    let huge = u64::MAX / 2;
    let cases: Vec<(Gguf, &str)> = vec![
        (Gguf(b"GGML\0\0\0\0".to_vec()), "does not start with GGUF"),
        (Gguf(Vec::new()), "empty"),
        (Gguf(b"GGUF".to_vec()), "ends in the middle"),
        (Gguf(b"GGUF\x01\0\0\0".to_vec()), "version: 1"),
        (Gguf(b"GGUF\0\0\0\x03".to_vec()), "little-endian"),
        (Gguf::new(huge, 0), "tensor count"),
        (Gguf::new(0, huge), "metadata count"),
        (Gguf::new(0, 1), "ends in the middle"),
        (Gguf::new(0, 1).u64(huge).clone(), "metadata key: a text of"),
        (
            Gguf::new(0, 1).text("k").u32(8).u64(huge).clone(),
            "k: a text of",
        ),
        (
            Gguf::new(0, 1).text("k").u32(99).clone(),
            "k: value type 99",
        ),
        (
            Gguf::new(0, 1).text("k").u32(9).u32(4).u64(huge).clone(),
            "k: a list of",
        ),
        (
            Gguf::new(0, 1).text("k").u32(9).u32(8).u64(1 << 40).clone(),
            "k: a list of",
        ),
        (
            Gguf::new(0, 1).text("k").u32(9).u32(9).u64(1).clone(),
            "k: lists of value type 9",
        ),
        (
            Gguf::new(0, 2)
                .text("k")
                .u32(4)
                .u32(1)
                .text("k")
                .u32(4)
                .u32(1)
                .clone(),
            "k: the key appears twice",
        ),
        (
            Gguf::new(0, 1)
                .text("general.alignment")
                .u32(4)
                .u32(48)
                .clone(),
            "48 is no power of two",
        ),
        (
            Gguf::new(0, 1)
                .text("general.alignment")
                .u32(4)
                .u32(0)
                .clone(),
            "0 is no power of two",
        ),
        (
            Gguf::new(1, 0).tensor("t", &[], 0, 0).clone(),
            "t: 0 dimensions",
        ),
        (
            Gguf::new(1, 0).tensor("t", &[1; 9], 0, 0).clone(),
            "t: 9 dimensions",
        ),
        (
            Gguf::new(1, 0).tensor("t", &[huge, huge], 0, 0).clone(),
            "t: a tensor of dimensions",
        ),
        (
            Gguf::new(1, 0)
                .tensor("t", &[1 << 31, 1 << 31, 4], 0, 0)
                .clone(),
            "t: a tensor of dimensions",
        ),
        (
            Gguf::new(1, 0).tensor("t", &[0], 0, 0).clone(),
            "t: rows of 0",
        ),
        (
            Gguf::new(1, 0).tensor("t", &[33], 8, 0).clone(),
            "t: rows of 33 values are not whole blocks of 32",
        ),
        (
            Gguf::new(1, 0).tensor("t", &[8], 19, 0).clone(),
            "t: tensor type 19",
        ),
        (
            Gguf::new(1, 0)
                .tensor("t", &[8], 0, u64::MAX)
                .data(32)
                .clone(),
            "t: a tensor of dimensions",
        ),
        (
            Gguf::new(1, 0).tensor("t", &[8], 0, 32).data(63).clone(),
            "t: needs bytes",
        ),
        (
            Gguf::new(2, 0)
                .tensor("t", &[8], 0, 0)
                .tensor("u", &[8], 0, 16)
                .data(64)
                .clone(),
            "u: overlaps t",
        ),
        (
            Gguf::new(2, 0)
                .tensor("t", &[8], 0, 0)
                .tensor("t", &[8], 0, 32)
                .data(64)
                .clone(),
            "t: the tensor appears",
        ),
    ];
    for (file, expected) in cases {
        names(open_gguf(&file.0), &["hostile.gguf", expected]);
    }
    let mut bad_text = Gguf::new(0, 1);
    bad_text.text("k").u32(8).u64(2).0.extend([0xff, 0xfe]);
    names(open_gguf(&bad_text.0), &["k: no valid UTF-8"]);
    assert!(open_gguf(&Gguf::new(1, 0).tensor("t", &[8], 0, 0).data(32).0).is_ok());
}

/// A real header cut at every length is an error, never a panic.
#[test]
fn truncated_gguf_files_are_errors() {
    let bytes = fs::read(golden("blocks.gguf")).unwrap();
    for length in (0..bytes.len() - 1).step_by(37) {
        assert!(open_gguf(&bytes[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn gguf_files_that_do_not_match_their_configuration() {
    let weights = Weights::open(&golden("blocks.gguf")).unwrap();
    let name = "model.layers.0.mlp.up_proj.weight";
    names(
        weights.matrix(name, [3, 256]),
        &["blocks.gguf", name, "[2, 256]", "[3, 256]"],
    );
    names(
        weights.matrix("model.layers.0.mlp.down_proj.weight", [2, 256]),
        &["no tensor model.layers.0.mlp.down_proj"],
    );
    names(
        weights.vector("model.layers.3.mlp.up_proj.weight", 2),
        &["up_proj"],
    );
    names(
        ModelConfig::read(&golden("blocks.gguf")),
        &["blocks.gguf", "embedding_length"],
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(
        &path,
        &Gguf::new(0, 1)
            .text("general.architecture")
            .u32(8)
            .text("gpt-j")
            .0,
    )
    .unwrap();
    names(
        ModelConfig::read(&path),
        &["m.gguf", "gpt-j", "supported are llama"],
    );
    fs::write(&path, &Gguf::new(0, 0).0).unwrap();
    names(
        ModelConfig::read(&path),
        &["m.gguf", "general.architecture"],
    );
    fs::write(
        &path,
        &Gguf::new(0, 1)
            .text("tokenizer.ggml.model")
            .u32(8)
            .text("llama")
            .0,
    )
    .unwrap();
    names(
        Tokenizer::read(&path),
        &["m.gguf", "\"llama\" is not supported"],
    );
    let mut odd = Gguf::new(0, 2);
    odd.text("tokenizer.ggml.model")
        .u32(8)
        .text("gpt2")
        .text("tokenizer.ggml.pre")
        .u32(8)
        .text("tekken");
    fs::write(&path, &odd.0).unwrap();
    names(
        Tokenizer::read(&path),
        &["m.gguf", "\"tekken\" is not supported"],
    );
}

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
    good["decoder"] =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    fs::write(&file, good.to_string()).unwrap();
    names(
        read(),
        &["tokenizer.json", "not supported, only byte-level"],
    );
    good["decoder"] = json!({"type": "Fuse"});
    good["model"]["vocab"]["b"] = json!(4_000_000_000_u32);
    fs::write(&file, good.to_string()).unwrap();
    names(read(), &["tokenizer.json", "far beyond"]);
}

/// A file's own truncation and padding would cut or fill every text.
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
        &["no chat template", "plain template explicitly"],
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
