//! The GPU side of [`crate::adamw()`]: parameters, gradients and moments stay on the device.

use candle_core::{DType, Result as CandleResult, Tensor};

use super::launch::{Fresh, Launch};
use crate::adamw::{AdamWTensors, Constants};

/// Values that one block sums, as in the kernel `squares`.
const PART: usize = 4096;

/// Partial sums of squares of an f32 tensor, f64; not finite if a value of the part is not.
pub(crate) fn squares(values: &Tensor) -> CandleResult<Tensor> {
    let (count, device) = (values.elem_count(), values.device());
    let parts = Fresh::new(device, DType::F64, count.div_ceil(PART))?;
    Launch::rows("squares", DType::F32, count.div_ceil(PART))?
        .tensor(values, DType::F32)?
        .fills(&parts)?
        .number(count)?
        .run(device)?;
    Ok(parts.tensor())
}

/// One update in place; `finite` (u32 `[1]`) becomes 0 if a new value is not finite.
pub(crate) fn adamw(state: AdamWTensors<'_>, finite: &Tensor, c: Constants) -> CandleResult<()> {
    let param = state.param;
    let count = param.elem_count();
    let mut launch = Launch::values("adamw", DType::F32, count)?;
    for tensor in [param, state.grad, state.first, state.second] {
        launch.tensor(tensor, DType::F32)?;
    }
    launch.tensor(finite, DType::U32)?.number(count)?;
    launch
        .float(c.clip_scale)
        .float(c.decay)
        .float(c.one_minus_beta1)
        .float(c.beta2)
        .float(c.one_minus_beta2)
        .float(c.root_correction2)
        .float(c.eps)
        .float(c.step_size)
        .run(param.device())
}
