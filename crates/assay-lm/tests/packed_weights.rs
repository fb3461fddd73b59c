//! Packed matrices of safetensors files against the values that bitsandbytes, AutoGPTQ and AutoAWQ
//! read from them (`tools/golden/packed_weights.py`).
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use assay_lm::{ModelSource, Placement, Transformer, Weights};
use assay_ops::Matrix;
use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/packed")
        .join(name)
}

fn expected(name: &str) -> HashMap<String, Tensor> {
    let file = golden("expected").join(format!("{name}.safetensors"));
    candle_core::safetensors::load(file, &Device::Cpu).unwrap()
}

fn values(weights: &Weights, name: &str, like: &Tensor) -> Vec<f32> {
    let (rows, columns) = like.dims2().unwrap();
    match weights.matrix(name, [rows, columns]).unwrap() {
        Matrix::Dense(tensor) => tensor.flatten_all().unwrap().to_vec1().unwrap(),
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn packed_matrices_have_the_writers_values() {
    for (name, matrices) in [
        ("nf4", 7),
        ("fp4", 1),
        ("gptq-4", 1),
        ("gptq-8", 1),
        ("gptq-v2", 1),
        ("awq", 1),
    ] {
        let weights = Weights::open(&golden(name)).unwrap();
        let expected = expected(name);
        assert_eq!(expected.len(), matrices, "{name}");
        for (matrix, reference) in &expected {
            let own = values(&weights, matrix, reference);
            let reference: Vec<f32> = reference.flatten_all().unwrap().to_vec1().unwrap();
            let differing = own.iter().zip(&reference).filter(|(a, b)| a != b).count();
            assert_eq!(
                (own.len(), differing),
                (reference.len(), 0),
                "{name}: {matrix}"
            );
        }
    }
}

#[test]
fn a_four_bit_model_is_a_frozen_base() {
    let source = ModelSource::open(&golden("nf4")).unwrap();
    let (config, weights) = (source.config().unwrap(), source.weights().unwrap());
    let model = Transformer::load(&config, &weights, &Placement::cpu()).unwrap();
    assert_eq!(model.config().hidden_size, 64);
}

/// A tensor of a file, as type, shape and bytes.
struct Part {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Part {
    fn zeros(dtype: Dtype, width: usize, shape: &[usize]) -> Self {
        let count: usize = shape.iter().product();
        Self {
            dtype,
            shape: shape.to_vec(),
            bytes: vec![0; count * width],
        }
    }

    fn view(&self) -> TensorView<'_> {
        TensorView::new(self.dtype, self.shape.clone(), &self.bytes).unwrap()
    }
}

/// A copy of a golden directory with one tensor replaced, or removed.
fn damaged(name: &str, tensor: &str, by: Option<&Part>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = "config.json";
    fs::copy(golden(name).join(config), dir.path().join(config)).unwrap();
    let bytes = fs::read(golden(name).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert!(file.names().contains(&tensor), "{tensor}");
    let mut tensors: HashMap<String, TensorView<'_>> = HashMap::from_iter(file.tensors());
    tensors.remove(tensor);
    if let Some(by) = by {
        tensors.insert(tensor.to_owned(), by.view());
    }
    serialize_to_file(&tensors, None, &dir.path().join("model.safetensors")).unwrap();
    dir
}

#[test]
fn damaged_parts_are_named() {
    let layer = "model.layers.0.mlp.up_proj";
    let bytes = |count: usize| Part::zeros(Dtype::U8, 1, &[count]);
    let floats = |shape: &[usize]| Part::zeros(Dtype::F32, 4, shape);
    let groups = Part {
        dtype: Dtype::I32,
        shape: vec![64],
        bytes: [7, 0, 0, 0].repeat(64),
    };
    for (name, part, by, message) in [
        ("fp4", "weight", Some(bytes(9)), "has 9 bytes, where 3072"),
        ("fp4", "weight.absmax", None, "weight.absmax"),
        (
            "fp4",
            "weight.quant_map",
            Some(floats(&[15])),
            "has 15 values",
        ),
        (
            "fp4",
            "weight.quant_state.bitsandbytes__fp4",
            Some(bytes(3)),
            "is no description",
        ),
        (
            "gptq-4",
            "qweight",
            Some(floats(&[8])),
            "has not two dimensions",
        ),
        ("gptq-4", "qzeros", None, "qzeros"),
        ("gptq-4", "g_idx", Some(groups), "names group 7 of 2"),
        ("awq", "scales", Some(floats(&[1, 96])), "qzeros"),
        ("awq", "scales", Some(floats(&[3, 96])), "has 3 groups"),
    ] {
        let dir = damaged(name, &format!("{layer}.{part}"), by.as_ref());
        let weights = Weights::open(dir.path()).unwrap();
        let loaded = weights.matrix(&format!("{layer}.weight"), [96, 64]);
        let error = loaded.unwrap_err().to_string();
        assert!(
            error.contains(message) && error.contains(layer),
            "{name} {part}: {error}"
        );
    }
}
