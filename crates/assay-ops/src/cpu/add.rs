//! The CPU side of [`crate::add()`].

use candle_core::{CpuStorage, CustomOp2, Layout, Result as CandleResult, Shape, Tensor};
use rayon::prelude::*;

use crate::OpsError;
use crate::values::{slice, zeros};

/// Values of one parallel task.
const VALUES: usize = 1 << 14;

/// x and branch: f32 of one shape, contiguous.
pub(crate) fn add(x: &Tensor, branch: &Tensor) -> Result<Tensor, OpsError> {
    Ok(x.apply_op2(branch, Add)?)
}

struct Add;

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        branch: &CpuStorage,
        branch_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (x, branch) = (slice(x, x_layout)?, slice(branch, branch_layout)?);
        let mut y = zeros(x.len())?;
        let tasks = y
            .par_chunks_mut(VALUES)
            .zip(x.par_chunks(VALUES))
            .zip(branch.par_chunks(VALUES));
        tasks.for_each(|((y, x), branch)| {
            for ((y, x), branch) in y.iter_mut().zip(x).zip(branch) {
                *y = x + branch;
            }
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        _x: &Tensor,
        _branch: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), Some(grad.clone())))
    }
}
