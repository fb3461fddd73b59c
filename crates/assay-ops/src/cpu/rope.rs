//! The CPU side of [`crate::rope()`].

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor};
use rayon::prelude::*;

use crate::cpu::routines::dispatched;
use crate::values::{Values, slice, zeros};
use crate::{OpsError, RopeTable};

/// Rows of one parallel task.
const ROWS: usize = 32;

/// x `[T, heads * head_dim]` f32, contiguous; `positions` are in the table.
pub(crate) fn rope(
    x: &Tensor,
    positions: &Arc<[u32]>,
    table: &RopeTable,
) -> Result<Tensor, OpsError> {
    Ok(x.apply_op1(Rope {
        positions: positions.clone(),
        table: table.clone(),
    })?)
}

struct Rope {
    positions: Arc<[u32]>,
    table: RopeTable,
}

impl Rope {
    /// Rotates every row by `sign` times its angle.
    fn rotate(&self, x: &[f32], sign: f32) -> Result<Vec<f32>, OpsError> {
        let mut y = zeros(x.len())?;
        if self.positions.is_empty() || x.is_empty() {
            return Ok(y);
        }
        let width = x.len() / self.positions.len();
        let tasks = y
            .par_chunks_mut(ROWS * width)
            .zip(x.par_chunks(ROWS * width))
            .zip(self.positions.par_chunks(ROWS));
        tasks.for_each(|((y, x), positions)| {
            for ((y, x), &position) in y
                .chunks_exact_mut(width)
                .zip(x.chunks_exact(width))
                .zip(positions)
            {
                let (position, half) = (position as usize, self.table.half);
                let angles = position * half..(position + 1) * half;
                let (cos, sin) = (&self.table.cos[angles.clone()], &self.table.sin[angles]);
                rotate_row(x, cos, sin, sign, y);
            }
        });
        Ok(y)
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        Ok((
            CpuStorage::F32(self.rotate(slice(x, layout)?, 1.0)?),
            layout.shape().clone(),
        ))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> CandleResult<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let dx = self.rotate(&Values::of(&grad)?, -1.0)?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

dispatched! {
    fn rotate_row(x: &[f32], cos: &[f32], sin: &[f32], sign: f32, y: &mut [f32]) {
        let half = cos.len();
        for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
            let (x_first, x_second) = x.split_at(half);
            let (y_first, y_second) = y.split_at_mut(half);
            for i in 0..half {
                let (c, s) = (cos[i], sin[i] * sign);
                y_first[i] = x_first[i] * c - x_second[i] * s;
                y_second[i] = x_second[i] * c + x_first[i] * s;
            }
        }
    }
}
