//! The start of a backward pass from a gradient that is already known.

use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor};

use crate::values::{expect, slice};
use crate::{OpsError, cuda};

const NAME: &str = "seed_gradient";

/// A scalar whose backward pass gives `y` exactly `gradient`: like `(y * gradient).sum_all()`, without the product, the sum and
/// the gradients of both. The scalar's value is zero.
///
/// # Shapes
/// y and gradient alike, any shape, f32; result `[]`.
///
/// The gradient reaches y.
///
/// # Errors
/// Different shapes or other element types.
pub fn seed_gradient(y: &Tensor, gradient: &Tensor) -> Result<Tensor, OpsError> {
    expect(NAME, "y", y, y.dims())?;
    expect(NAME, "gradient", gradient, y.dims())?;
    if cuda::takes(y) {
        return Ok(cuda::seed_gradient::seed_gradient(y, gradient)?);
    }
    Ok(y.contiguous()?.apply_op1(SeedGradient {
        gradient: gradient.detach(),
    })?)
}

struct SeedGradient {
    gradient: Tensor,
}

impl CustomOp1 for SeedGradient {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, y: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        slice(y, layout)?;
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn bwd(&self, _y: &Tensor, _zero: &Tensor, grad: &Tensor) -> CandleResult<Option<Tensor>> {
        // The root of a backward pass has gradient one; a sum or a multiple of seeds scales what it passes on.
        match grad.to_scalar::<f32>()? {
            1.0 => Ok(Some(self.gradient.clone())),
            factor => Ok(Some((&self.gradient * f64::from(factor))?)),
        }
    }
}
