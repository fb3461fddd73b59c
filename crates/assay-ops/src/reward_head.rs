//! The linear reward head.

use candle_core::Tensor;

use crate::values::{expect_f32, matrix_dims};
use crate::{OpsError, cpu, cuda};

const NAME: &str = "reward_head";

/// Returns one logit per row: z_t = weight . hidden_t + bias.
///
/// # Shapes
/// hidden `[T, d]`, weight `[d]`, bias `[1]`, result `[T]`; f32, on a GPU hidden also bf16.
///
/// Gradients reach hidden, weight and bias, each only if tracked.
///
/// # Errors
/// Shapes or element types that do not fit.
pub fn reward_head(hidden: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor, OpsError> {
    let (_, width) = matrix_dims(NAME, "hidden", hidden)?;
    expect_f32(NAME, "weight", weight, &[width])?;
    expect_f32(NAME, "bias", bias, &[1])?;
    let (hidden, weight, bias) = (
        hidden.contiguous()?,
        weight.contiguous()?,
        bias.contiguous()?,
    );
    match cuda::takes(&hidden) {
        true => Ok(cuda::reward_head::reward_head(&hidden, &weight, &bias)?),
        false => cpu::reward_head::reward_head(&hidden, &weight, &bias),
    }
}
