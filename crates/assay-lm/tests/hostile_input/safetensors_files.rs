//! Safetensors files and shard indices.

use std::fs;

use assay_lm::{ModelConfig, Tokenizer, Weights};
use serde_json::{Value, json};

use crate::{config_json, directory, message, names, tried};

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
    let entry = |dtype: &str, shape: Value, offsets: [usize; 2]| {
        let header = json!({name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}});
        safetensors(&header, 32)
    };
    let header = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let deep = format!("{}{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    let cases = [
        (Vec::new(), "the file is empty"),
        (vec![1, 2, 3], "header too small"),
        (vec![0; 8], "invalid"),
        (oversized, "header too large"),
        (long_header, "invalid header length"),
        (good[..good.len() - 1].to_vec(), "incomplete metadata"),
        ([&good[..], &[0]].concat(), "incomplete metadata"),
        (good[..20].to_vec(), "invalid header length"),
        (safetensors(&overlap, 48), "invalid offset"),
        (entry("F32", json!([usize::MAX, 8]), [0, 32]), "overflow"),
        (
            entry("F32", json!([7]), [0, 32]),
            "invalid shape, data type, or offset",
        ),
        (entry("F32", json!([8]), [32, 0]), "invalid"),
        (entry("F32", json!([8]), [4, 36]), "invalid offset"),
        (entry("F32", json!([-8]), [0, 32]), "invalid JSON"),
        (entry("F32", json!(8), [0, 32]), "invalid JSON"),
        (entry("F99", json!([8]), [0, 32]), "invalid JSON"),
        (header("[]"), "invalid"),
        (header("{"), "invalid"),
        (header("\u{0}{}"), "invalid"),
        (header(&deep), "invalid"),
        ([&2_u64.to_le_bytes()[..], b"\xff\xfe"].concat(), "UTF-8"),
    ];
    tried(cases.len());
    let mut wrong = Vec::new();
    for (bytes, expected) in cases {
        fs::write(&file, &bytes).unwrap();
        let told = message(open());
        if !(told.contains("model.safetensors") && told.contains(expected)) {
            wrong.push(format!("{told:.200} lacks {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(
        elsewhere.path().join("x.safetensors"),
        safetensors(&json!({"a": f32_entry(&[1], 0)}), 4),
    )
    .unwrap();
    let escape = format!(
        "../{}/x.safetensors",
        elsewhere.path().file_name().unwrap().to_str().unwrap()
    );
    let absolute = elsewhere.path().join("x.safetensors").display().to_string();
    let dir = directory(&config_json());
    let index = dir.path().join("model.safetensors.index.json");
    let write = |map: Value| fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
    let open = || Weights::open(dir.path());
    let outside = [&*escape, &absolute, "..", ".", "", "a/../b", "C:\\x"];
    tried(outside.len());
    for name in outside {
        write(json!({"a": name}));
        names(
            open(),
            &["model.safetensors.index.json", "not a plain file name"],
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

#[test]
fn files_that_hold_no_safetensors_are_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    fs::write(dir.path().join("pytorch_model.bin"), "pickle").unwrap();
    names(
        Weights::open(dir.path()),
        &[
            "pytorch_model.bin holds Python pickles",
            "safe_serialization=True",
        ],
    );
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    for name in [
        "model.safetensors",
        "model.gguf",
        "tokenizer.json",
        "config.json",
    ] {
        fs::write(dir.path().join(name), pointer).unwrap();
    }
    let expected = ["is a Git LFS pointer", "git lfs pull"];
    names(Weights::open(dir.path()), &expected);
    names(Weights::open(&dir.path().join("model.gguf")), &expected);
    names(ModelConfig::read(dir.path()), &expected);
    names(Tokenizer::read(dir.path()), &expected);
}
