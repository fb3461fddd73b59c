//! The start of a backward pass from a gradient that is already known.

use candle_core::Tensor;

use crate::values::expect;
use crate::{OpsError, cpu, cuda};

const NAME: &str = "seed_gradient";

/// Returns a scalar whose backward pass passes exactly `gradient` to `y`.
///
/// The gradients are those of `(y * gradient).sum_all()`, without computing the product and the
/// sum. The scalar's value is zero.
///
/// # Shapes
/// y and gradient of one shape, f32, on a GPU also bf16; result `[]`.
///
/// The gradient reaches y.
///
/// # Errors
/// Different shapes or other element types.
pub fn seed_gradient(y: &Tensor, gradient: &Tensor) -> Result<Tensor, OpsError> {
    expect(NAME, "y", y, y.dims())?;
    expect(NAME, "gradient", gradient, y.dims())?;
    match cuda::takes(y) {
        true => Ok(cuda::seed_gradient::seed_gradient(y, gradient)?),
        false => cpu::seed_gradient::seed_gradient(y, gradient),
    }
}
