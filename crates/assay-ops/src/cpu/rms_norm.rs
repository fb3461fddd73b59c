//! The CPU side of [`crate::rms_norm()`].

use candle_core::{CpuStorage, CustomOp2, Layout, Result as CandleResult, Shape, Tensor};
use rayon::prelude::*;

use crate::OpsError;
use crate::cpu::routines::{dispatched, reduce};
use crate::values::{Values, slice, zeros};

/// Rows of one parallel task; also the unit in which the weight's gradient is summed, so it fixes
/// that sum's order.
const ROWS: usize = 32;

/// x `[T, d]` and weight `[d]`: f32, contiguous.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor, OpsError> {
    Ok(x.apply_op2(weight, RmsNorm { eps })?)
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (x, weight) = (slice(x, x_layout)?, slice(weight, weight_layout)?);
        let mut y = zeros(x.len())?;
        let width = weight.len();
        if width > 0 {
            let tasks = y
                .par_chunks_mut(ROWS * width)
                .zip(x.par_chunks(ROWS * width));
            tasks.for_each(|(y, x)| forward_rows(x, weight, self.eps, y));
        }
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (x_values, w, g) = (Values::of(x)?, Values::of(weight)?, Values::of(&grad)?);
        let (w, width, weight_tracked): (&[f32], _, _) = (&w, w.len(), weight.track_op());
        let mut dx = zeros(x_values.len())?;
        let tasks = dx
            .par_chunks_mut(ROWS * width.max(1))
            .zip(x_values.par_chunks(ROWS * width.max(1)));
        let tasks = tasks.zip(g.par_chunks(ROWS * width.max(1)));
        let partial: Vec<Vec<f32>> = tasks
            .map(|((dx, x), g)| {
                let mut dw = if weight_tracked {
                    vec![0f32; width]
                } else {
                    Vec::new()
                };
                backward_rows(x, g, w, self.eps, dx, &mut dw);
                dw
            })
            .collect();
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        if !weight_tracked {
            return Ok((Some(dx), None));
        }
        let mut dw = vec![0f32; width];
        for part in &partial {
            for (sum, value) in dw.iter_mut().zip(part) {
                *sum += value;
            }
        }
        Ok((
            Some(dx),
            Some(Tensor::from_vec(dw, weight.shape(), weight.device())?),
        ))
    }
}

dispatched! {
    fn forward_rows(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
        let width = weight.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let scale = inverse_root(x, eps);
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * w;
            }
        }
    }
}

dispatched! {
    /// With s = 1 / sqrt(mean(x^2) + eps): dx = s (g w) - x s^3 mean(g w x); dw += g x s. An empty
    /// `dw` is left out.
    fn backward_rows(x: &[f32], grad: &[f32], weight: &[f32], eps: f32, dx: &mut [f32], dw: &mut [f32]) {
        let width = weight.len();
        let rows = x.chunks_exact(width).zip(grad.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for ((x, grad), dx) in rows {
            let scale = inverse_root(x, eps);
            for ((dx, &g), &w) in dx.iter_mut().zip(grad).zip(weight) {
                *dx = g * w;
            }
            let projection = reduce::dot(dx, x) * scale * scale / width as f32;
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = (*dx - x * projection) * scale;
            }
            for ((dw, &g), &x) in dw.iter_mut().zip(grad).zip(x) {
                *dw = (g * scale).mul_add(x, *dw);
            }
        }
    }
}

#[inline(always)]
fn inverse_root(x: &[f32], eps: f32) -> f32 {
    1.0 / (reduce::dot(x, x) / x.len() as f32 + eps).sqrt()
}
