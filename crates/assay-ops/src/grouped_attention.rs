//! Attention within packed batches of groups that share a prompt.

use std::sync::Arc;

use candle_core::Tensor;

use crate::heads::check_inputs;
use crate::{AttentionLayout, HeadShape, OpsError, cpu, cuda};

const NAME: &str = "grouped_attention";

/// Returns softmax(q k^T / sqrt(head_dim)) v within the spans of `layout`, head by head.
///
/// Time is proportional to the number of pairs of rows that attend to each other. Only the scores
/// of one block of pairs are in memory at a time, forward and backward.
///
/// # Shapes
/// q and the result `[T, heads * head_dim]`, k and v `[T, kv_heads * head_dim]`; f32, on a GPU also
/// bf16. Queries and keys are already rotated.
///
/// Gradients reach q, k and v.
///
/// # Errors
/// Shapes that do not fit the layout or the heads.
///
/// Dao et al., "FlashAttention", 2022; Ainslie et al., "GQA", 2023.
pub fn grouped_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &Arc<AttentionLayout>,
    shape: HeadShape,
) -> Result<Tensor, OpsError> {
    check_inputs(NAME, [q, k, v], [layout.rows(), layout.rows()], shape)?;
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    match cuda::takes(&q) {
        true => Ok(cuda::grouped_attention::grouped_attention(
            [&q, &k, &v],
            layout,
            shape,
        )?),
        false => cpu::grouped_attention::grouped_attention(&q, &k, &v, layout, shape),
    }
}
