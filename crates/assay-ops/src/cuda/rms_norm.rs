//! The GPU side of [`crate::rms_norm()`].

use candle_core::{DType, Result as CandleResult, Tensor};

use super::attach::attach2;
use super::column_sums::column_sums;
use super::launch::{Fresh, Launch};

/// [`crate::rms_norm()`] for x f32 or bf16 and an f32 weight.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> CandleResult<Tensor> {
    let (rows, width) = x.dims2()?;
    let y = Fresh::like(x)?;
    Launch::rows("rms_norm", x.dtype(), rows)?
        .tensor(x, x.dtype())?
        .tensor(weight, DType::F32)?
        .fills(&y)?
        .number(width)?
        .float(eps)
        .run(x.device())?;
    attach2("rms_norm", [x, weight], y, move |[x, weight], _, grad| {
        let (dx, scales) = (Fresh::like(x)?, Fresh::new(x.device(), DType::F32, rows)?);
        Launch::rows("rms_norm_grad", x.dtype(), rows)?
            .tensor(x, x.dtype())?
            .tensor(weight, DType::F32)?
            .tensor(grad, x.dtype())?
            .fills(&dx)?
            .fills(&scales)?
            .number(width)?
            .float(eps)
            .run(x.device())?;
        let dweight = match weight.track_op() {
            true => Some(column_sums(grad, Some(x), Some(&scales.tensor()))?),
            false => None,
        };
        Ok([Some(dx.tensor()), dweight])
    })
}
