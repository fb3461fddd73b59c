//! Attention of packed batches, forward and backward.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Result as CandleResult, Shape, Tensor};

use super::{AttentionLayout, HeadShape, check_inputs};
use crate::OpsError;
use crate::kernels::exponential::exp;
use crate::values::{Values, slice};

const NAME: &str = "grouped_attention";

/// softmax(q k^T / sqrt(head_dim)) v within the spans of `layout`, head by head.
///
/// # Shapes
/// q and the result `[T, heads * head_dim]`, k and v `[T, kv_heads * head_dim]`, f32, keys and queries already rotated.
///
/// Gradients reach q, k and v.
///
/// # Errors
/// Shapes that do not fit the layout or the heads.
pub fn grouped_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &Arc<AttentionLayout>,
    shape: HeadShape,
) -> Result<Tensor, OpsError> {
    check_inputs(NAME, [q, k, v], [layout.rows(), layout.rows()], shape)?;
    let operation = GroupedAttention { layout: layout.clone(), shape, log_normalisers: OnceLock::new() };
    Ok(q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, operation)?)
}

struct GroupedAttention {
    layout: Arc<AttentionLayout>,
    shape: HeadShape,
    log_normalisers: OnceLock<Vec<f32>>,
}

impl GroupedAttention {
    /// Calls `visit(row, keys)` for every row.
    fn each_row(&self, mut visit: impl FnMut(usize, [Range<usize>; 2])) {
        for group in self.layout.groups() {
            for row in group.prompt.clone() {
                visit(row, [group.prompt.start..row + 1, 0..0]);
            }
            for completion in &group.completions {
                for row in completion.clone() {
                    visit(row, [group.prompt.clone(), completion.start..row + 1]);
                }
            }
        }
    }
}

impl CustomOp3 for GroupedAttention {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (q, k, v) = (slice(q, q_layout)?, slice(k, k_layout)?, slice(v, v_layout)?);
        let (s, dim) = (self.shape, self.shape.head_dim);
        let mut out = vec![0f32; q.len()];
        let mut normalisers = vec![0f32; self.layout.rows() * s.heads];
        self.each_row(|row, spans| {
            for head in 0..s.heads {
                let at = row * s.query_width() + head * dim;
                let kv = head / s.sharing() * dim;
                let keys = || spans.iter().cloned().flatten();
                let score = |key: usize| -> f32 {
                    (0..dim).map(|d| q[at + d] * k[key * s.kv_width() + kv + d]).sum::<f32>() * s.score_scale()
                };
                let most = keys().map(score).fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = keys().map(|key| exp(score(key) - most)).sum();
                let normaliser = most + sum.ln();
                normalisers[row * s.heads + head] = normaliser;
                for key in keys() {
                    let p = exp(score(key) - normaliser);
                    for d in 0..dim {
                        out[at + d] += p * v[key * s.kv_width() + kv + d];
                    }
                }
            }
        });
        let _ = self.log_normalisers.set(normalisers);
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let Some(normalisers) = self.log_normalisers.get() else { candle_core::bail!("{NAME}: backward before forward") };
        let (qv, kv_, vv, ov, gv) = (Values::of(q)?, Values::of(k)?, Values::of(v)?, Values::of(out)?, Values::of(&grad)?);
        let (s, dim) = (self.shape, self.shape.head_dim);
        let (mut dq, mut dk, mut dv) = (vec![0f32; qv.len()], vec![0f32; kv_.len()], vec![0f32; vv.len()]);
        self.each_row(|row, spans| {
            for head in 0..s.heads {
                let at = row * s.query_width() + head * dim;
                let kv = head / s.sharing() * dim;
                let delta: f32 = (0..dim).map(|d| ov[at + d] * gv[at + d]).sum();
                for key in spans.iter().cloned().flatten() {
                    let key_at = key * s.kv_width() + kv;
                    let score = (0..dim).map(|d| qv[at + d] * kv_[key_at + d]).sum::<f32>() * s.score_scale();
                    let p = exp(score - normalisers[row * s.heads + head]);
                    let dp: f32 = (0..dim).map(|d| gv[at + d] * vv[key_at + d]).sum();
                    let ds = p * (dp - delta) * s.score_scale();
                    for d in 0..dim {
                        dv[key_at + d] += p * gv[at + d];
                        dq[at + d] += ds * kv_[key_at + d];
                        dk[key_at + d] += ds * qv[at + d];
                    }
                }
            }
        });
        let of = |values: Vec<f32>, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok((Some(of(dq, q)?), Some(of(dk, k)?), Some(of(dv, v)?)))
    }
}
