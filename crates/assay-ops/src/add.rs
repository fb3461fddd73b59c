//! The sum at the end of a residual branch.

use candle_core::Tensor;

use crate::values::{expect, matrix_dims};
use crate::{OpsError, cpu, cuda};

const NAME: &str = "add";

/// Returns x + branch, value by value.
///
/// # Shapes
/// x, branch and the result `[T, n]`; f32, on a GPU also bf16.
///
/// Gradients reach both inputs unchanged.
///
/// # Errors
/// Different shapes or other element types.
pub fn add(x: &Tensor, branch: &Tensor) -> Result<Tensor, OpsError> {
    matrix_dims(NAME, "x", x)?;
    expect(NAME, "branch", branch, x.dims())?;
    let (x, branch) = (x.contiguous()?, branch.contiguous()?);
    match cuda::takes(&x) {
        true => Ok(cuda::add::add(&x, &branch)?),
        false => cpu::add::add(&x, &branch),
    }
}
