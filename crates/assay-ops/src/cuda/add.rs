//! The GPU side of [`crate::add()`].

use candle_core::{Result as CandleResult, Tensor};

use super::attach::attach2;
use super::launch::{Fresh, Launch};

/// [`crate::add()`] for f32 or bf16.
pub(crate) fn add(x: &Tensor, branch: &Tensor) -> CandleResult<Tensor> {
    let (dtype, count) = (x.dtype(), x.elem_count());
    let y = Fresh::like(x)?;
    Launch::values("add", dtype, count)?
        .tensor(x, dtype)?
        .tensor(branch, dtype)?
        .fills(&y)?
        .number(count)?
        .run(x.device())?;
    attach2("add", [x, branch], y, |_, _, grad| {
        Ok([Some(grad.clone()), Some(grad.clone())])
    })
}
