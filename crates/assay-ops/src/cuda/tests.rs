//! Compares every operation of this folder with the CPU's, forward and backward, in f32 and bf16:
//! in the emulator, which runs the kernels' sources on the CPU, and on a GPU if the feature `cuda`
//! is on and there is one.

mod attention;
mod decoding;
mod matrices;
mod recording;
mod rows;

use std::io::Write;
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor, Var};

use super::executor::emulated;

/// Where a case runs.
#[derive(Clone, Debug)]
struct Place {
    device: Device,
    /// Whether a block's threads run from the last to the first; on the emulator only.
    descending: bool,
}

/// The emulator in both orders of threads, and a GPU if there is one.
fn places() -> Vec<Place> {
    let mut places = Vec::new();
    match emulated::library() {
        Ok(_) => {
            for descending in [false, true] {
                let device = Device::Cpu;
                places.push(Place { device, descending });
            }
        }
        Err(reason) => {
            // If there is a compiler but it cannot compile the kernels, the kernels are wrong.
            assert!(!reason.contains("cannot compile"), "{reason}");
            writeln!(std::io::stderr(), "the kernels were not emulated: {reason}").unwrap();
        }
    }
    if let Some(device) = gpu() {
        let descending = false;
        places.push(Place { device, descending });
    }
    places
}

/// The GPU. The tests fail if they are built for one and find none.
fn gpu() -> Option<Device> {
    static GPU: OnceLock<Device> = OnceLock::new();
    match cfg!(feature = "cuda") {
        true => Some(GPU.get_or_init(|| crate::open_gpu(0).unwrap()).clone()),
        false => None,
    }
}

/// Fixed pseudo-random numbers in (-1, 1).
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mix = |i: u64| {
        let mut z =
            (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed.wrapping_mul(0xD1B5_4A32_D192_ED03);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    (0..count as u64)
        .map(|i| (mix(i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
        .collect()
}

fn tensor(dims: &[usize], seed: u64) -> Tensor {
    Tensor::from_vec(numbers(dims.iter().product(), seed), dims, &Device::Cpu).unwrap()
}

/// An input of an operation. Those marked stay f32 whatever the type of activations.
type Input = (Tensor, Kind);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Activation,
    Vector,
}

/// Result and gradients of `sum(result * cotangent)`, as f32 on the CPU.
fn backward(inputs: &[Tensor], f: &dyn Fn(&[Tensor]) -> Tensor) -> Vec<Vec<f32>> {
    let vars: Vec<Var> = inputs
        .iter()
        .map(|t| Var::from_tensor(t).unwrap())
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors);
    let cotangent = tensor(y.dims(), 99).to_device(y.device()).unwrap();
    let cotangent = cotangent.to_dtype(y.dtype()).unwrap();
    let loss = super::seed_gradient::seed_gradient(&y, &cotangent).unwrap();
    let store = loss.backward().unwrap();
    let mut all = vec![y.detach()];
    for (i, var) in vars.iter().enumerate() {
        let gradient = store.get(var.as_tensor());
        all.push(
            gradient
                .unwrap_or_else(|| panic!("input {i} received no gradient"))
                .clone(),
        );
    }
    all.iter().map(values).collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor
        .flatten_all()
        .unwrap()
        .to_device(&Device::Cpu)
        .unwrap();
    flat.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

/// Largest difference over the largest expected magnitude; NaN counts as infinite.
fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let most = expected
        .iter()
        .fold(1e-2f64, |m, &v| m.max(f64::from(v).abs()));
    let pairs = found.iter().zip(expected);
    pairs.fold(0f64, |m, (&a, &b)| {
        let difference = (f64::from(a) - f64::from(b)).abs() / most;
        m.max(if difference.is_nan() {
            f64::INFINITY
        } else {
            difference
        })
    })
}

/// Largest relative difference of bf16 from f32 on the same rounded inputs: the result and one or
/// two intermediate values are rounded.
const BF16: f64 = 1.5e-2;
const F32: f64 = 1e-5;

/// Asserts that `kernels` agree with `reference` (the CPU's operation on f32) everywhere, and that
/// on the emulator the order of threads does not change a bit.
fn assert_agree(
    name: &str,
    inputs: &[Input],
    kernels: &dyn Fn(&[Tensor]) -> Tensor,
    reference: &dyn Fn(&[Tensor]) -> Tensor,
) {
    for dtype in [DType::F32, DType::BF16] {
        // The reference uses numbers that bf16 represents exactly.
        let rounded: Vec<Tensor> = inputs
            .iter()
            .map(|(t, kind)| match kind {
                Kind::Activation => t.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap(),
                Kind::Vector => t.clone(),
            })
            .collect();
        let expected = backward(&rounded, reference);
        let tolerance = if dtype == DType::F32 { F32 } else { BF16 };
        let mut ascending: Option<Vec<Vec<f32>>> = None;
        for place in places() {
            emulated::DESCENDING.set(place.descending);
            let typed: Vec<Tensor> = rounded
                .iter()
                .zip(inputs)
                .map(|(t, (_, kind))| {
                    let dtype = if *kind == Kind::Activation {
                        dtype
                    } else {
                        DType::F32
                    };
                    t.to_device(&place.device).unwrap().to_dtype(dtype).unwrap()
                })
                .collect();
            let found = backward(&typed, kernels);
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let off = relative(found, expected);
                let what = if i == 0 {
                    "value".to_owned()
                } else {
                    format!("gradient {}", i - 1)
                };
                assert!(
                    off < tolerance,
                    "{name} {dtype:?} {place:?}: {what} is off by {off:e}"
                );
            }
            match &ascending {
                Some(before) if place.descending => {
                    assert_eq!(before, &found, "{name}: the order of threads changes bits");
                }
                _ => ascending = Some(found),
            }
        }
    }
}
