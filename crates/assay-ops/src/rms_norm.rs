//! Root-mean-square normalisation.

use candle_core::Tensor;

use crate::values::{expect_f32, matrix_dims};
use crate::{OpsError, cpu, cuda};

const NAME: &str = "rms_norm";

/// Returns y = x / sqrt(mean(x^2) + eps) * weight, row by row.
///
/// # Shapes
/// x `[T, d]`, weight `[d]`, result `[T, d]`; f32, on a GPU x and the result also bf16.
///
/// Gradients reach x and weight, each only if tracked.
///
/// # Errors
/// Shapes or element types that do not fit.
///
/// Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, OpsError> {
    let (_, width) = matrix_dims(NAME, "x", x)?;
    expect_f32(NAME, "weight", weight, &[width])?;
    let (x, weight, eps) = (x.contiguous()?, weight.contiguous()?, eps as f32);
    match cuda::takes(&x) {
        true => Ok(cuda::rms_norm::rms_norm(&x, &weight, eps)?),
        false => cpu::rms_norm::rms_norm(&x, &weight, eps),
    }
}
