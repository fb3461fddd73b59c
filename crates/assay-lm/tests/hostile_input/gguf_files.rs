//! GGUF files.

use std::fs;

use assay_lm::{GgufFile, LmError, ModelConfig, Tokenizer, Weights};

use crate::{golden, names, tried};

/// A builder of GGUF files.
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
            "48 is not a power of two",
        ),
        (
            Gguf::new(0, 1)
                .text("general.alignment")
                .u32(4)
                .u32(0)
                .clone(),
            "0 is not a power of two",
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
            "t: tensor type IQ1_S is not read; take",
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
    tried(cases.len());
    for (file, expected) in cases {
        names(open_gguf(&file.0), &["hostile.gguf", expected]);
    }
    let mut bad_text = Gguf::new(0, 1);
    bad_text.text("k").u32(8).u64(2).0.extend([0xff, 0xfe]);
    names(open_gguf(&bad_text.0), &["k: no valid UTF-8"]);
    assert!(open_gguf(&Gguf::new(1, 0).tensor("t", &[8], 0, 0).data(32).0).is_ok());
}

/// A valid header truncated at any length is an error, never a panic.
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
            .text("t5")
            .0,
    )
    .unwrap();
    names(
        Tokenizer::read(&path),
        &["m.gguf", "\"t5\" is not supported"],
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
