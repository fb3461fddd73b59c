//! The CPU side of [`crate::reward_head()`].

use candle_core::{CpuStorage, CustomOp3, Layout, Result as CandleResult, Shape, Tensor};
use rayon::prelude::*;

use crate::OpsError;
use crate::cpu::routines::{dispatched, reduce};
use crate::values::{Values, slice, zeros};

/// Rows of one parallel task; also the unit in which the weight's gradient is summed, so it fixes
/// that sum's order.
const ROWS: usize = 64;

/// hidden `[T, d]`, weight `[d]` and bias `[1]`: f32, contiguous.
pub(crate) fn reward_head(
    hidden: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
) -> Result<Tensor, OpsError> {
    Ok(hidden.apply_op3(weight, bias, RewardHead)?)
}

struct RewardHead;

impl CustomOp3 for RewardHead {
    fn name(&self) -> &'static str {
        "reward_head"
    }

    fn cpu_fwd(
        &self,
        hidden: &CpuStorage,
        hidden_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (hidden, weight) = (slice(hidden, hidden_layout)?, slice(weight, weight_layout)?);
        let bias = slice(bias, bias_layout)?.first().copied().unwrap_or(0.0);
        let rows = hidden_layout.dims()[0];
        let mut logits = vec![bias; rows];
        if !weight.is_empty() {
            let tasks = logits
                .par_chunks_mut(ROWS)
                .zip(hidden.par_chunks(ROWS * weight.len()));
            tasks.for_each(|(logits, hidden)| forward_rows(hidden, weight, bias, logits));
        }
        Ok((CpuStorage::F32(logits), Shape::from(rows)))
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _logits: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (h, w, g) = (Values::of(hidden)?, Values::of(weight)?, Values::of(&grad)?);
        let (h, w, g): (&[f32], &[f32], &[f32]) = (&h, &w, &g);
        let dhidden = if hidden.track_op() {
            let mut dh = zeros(h.len())?;
            let rows = dh.par_chunks_mut(w.len().max(1)).zip(g.par_iter());
            rows.for_each(|(dh, &g)| dh.iter_mut().zip(w.iter()).for_each(|(dh, &w)| *dh = g * w));
            Some(Tensor::from_vec(dh, hidden.shape(), hidden.device())?)
        } else {
            None
        };
        let dweight = if weight.track_op() {
            let tasks = h.par_chunks(ROWS * w.len().max(1)).zip(g.par_chunks(ROWS));
            let parts: Vec<Vec<f32>> = tasks.map(|(h, g)| weight_gradient(h, g, w.len())).collect();
            let mut sum = vec![0f32; w.len()];
            for part in &parts {
                sum.iter_mut()
                    .zip(part)
                    .for_each(|(sum, &value)| *sum += value);
            }
            Some(Tensor::from_vec(sum, weight.shape(), weight.device())?)
        } else {
            None
        };
        let dbias = match bias.track_op() {
            true => Some(Tensor::from_vec(vec![reduce::sum(g)], 1, bias.device())?),
            false => None,
        };
        Ok((dhidden, dweight, dbias))
    }
}

dispatched! {
    fn forward_rows(hidden: &[f32], weight: &[f32], bias: f32, logits: &mut [f32]) {
        for (logit, hidden) in logits.iter_mut().zip(hidden.chunks_exact(weight.len())) {
            *logit = reduce::dot(hidden, weight) + bias;
        }
    }
}

dispatched! {
    fn weight_gradient(hidden: &[f32], grad: &[f32], width: usize) -> Vec<f32> {
        let mut sum = vec![0f32; width];
        for (hidden, &g) in hidden.chunks_exact(width).zip(grad) {
            for (sum, &h) in sum.iter_mut().zip(hidden) {
                *sum = g.mul_add(h, *sum);
            }
        }
        sum
    }
}
