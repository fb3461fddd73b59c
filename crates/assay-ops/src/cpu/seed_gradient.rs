//! The CPU side of [`crate::seed_gradient()`].

use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor};

use crate::OpsError;
use crate::values::slice;

/// y and gradient: f32 of one shape.
pub(crate) fn seed_gradient(y: &Tensor, gradient: &Tensor) -> Result<Tensor, OpsError> {
    Ok(y.contiguous()?.apply_op1(SeedGradient {
        gradient: gradient.detach(),
    })?)
}

struct SeedGradient {
    gradient: Tensor,
}

impl CustomOp1 for SeedGradient {
    fn name(&self) -> &'static str {
        "seed_gradient"
    }

    fn cpu_fwd(&self, y: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        slice(y, layout)?;
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn bwd(&self, _y: &Tensor, _zero: &Tensor, grad: &Tensor) -> CandleResult<Option<Tensor>> {
        // The gradient of the root is 1. For a sum or a multiple of seeds it is the factor of this
        // seed.
        match grad.to_scalar::<f32>()? {
            1.0 => Ok(Some(self.gradient.clone())),
            factor => Ok(Some((&self.gradient * f64::from(factor))?)),
        }
    }
}
