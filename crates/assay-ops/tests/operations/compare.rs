//! Runs a fused f32 operation and its composed f64 form on the same numbers and compares values and
//! gradients.

use candle_core::{DType, Device, Tensor, Var};

/// Fixed pseudo-random numbers in (-1, 1).
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
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

pub(crate) fn tensor(dims: &[usize], seed: u64) -> Tensor {
    Tensor::from_vec(numbers(dims.iter().product(), seed), dims, &Device::Cpu).unwrap()
}

/// A result and the gradients of `sum(result * cotangent)` with respect to each input, in f64.
pub(crate) fn pull(
    inputs: &[Tensor],
    dtype: DType,
    f: &dyn Fn(&[Tensor]) -> Tensor,
) -> (Tensor, Vec<Tensor>) {
    let vars: Vec<Var> = inputs
        .iter()
        .map(|t| Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap())
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors);
    let cotangent = tensor(y.dims(), 99).to_dtype(dtype).unwrap();
    let store = y
        .mul(&cotangent)
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    let gradients = vars.iter().enumerate().map(|(i, v)| {
        let gradient = store
            .get(v.as_tensor())
            .unwrap_or_else(|| panic!("input {i} received no gradient"));
        gradient.to_dtype(DType::F64).unwrap()
    });
    (y.to_dtype(DType::F64).unwrap(), gradients.collect())
}

/// Largest difference relative to the largest expected magnitude.
pub(crate) fn relative(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let found = found.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let expected = expected.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let most = expected.iter().fold(1e-12f64, |m, v| m.max(v.abs()));
    found
        .iter()
        .zip(&expected)
        .fold(0f64, |m, (a, b)| m.max((a - b).abs()))
        / most
}

/// Asserts that values and every gradient agree to 1e-5.
pub(crate) fn assert_agree(
    inputs: &[Tensor],
    fused: &dyn Fn(&[Tensor]) -> Tensor,
    composed: &dyn Fn(&[Tensor]) -> Tensor,
) {
    let (y, gradients) = pull(inputs, DType::F32, fused);
    let (y_expected, gradients_expected) = pull(inputs, DType::F64, composed);
    assert!(
        relative(&y, &y_expected) < 1e-5,
        "values differ by {}",
        relative(&y, &y_expected)
    );
    for (i, (found, expected)) in gradients.iter().zip(&gradients_expected).enumerate() {
        assert!(
            relative(found, expected) < 1e-5,
            "gradients of input {i} differ by {}",
            relative(found, expected)
        );
    }
}

/// The bits of a tensor's values.
pub(crate) fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap()
        .iter()
        .map(|v| v.to_bits())
        .collect()
}
