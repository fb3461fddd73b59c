//! The GPU side of [`crate::swiglu()`].

use candle_core::{Result as CandleResult, Tensor};

use super::attach::attach2;
use super::launch::{Fresh, Launch};

/// [`crate::swiglu()`] for f32 or bf16.
pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> CandleResult<Tensor> {
    let (dtype, count) = (gate.dtype(), gate.elem_count());
    let y = Fresh::like(gate)?;
    Launch::values("swiglu", dtype, count)?
        .tensor(gate, dtype)?
        .tensor(up, dtype)?
        .fills(&y)?
        .number(count)?
        .run(gate.device())?;
    attach2("swiglu", [gate, up], y, move |[gate, up], _, grad| {
        let (dgate, dup) = (Fresh::like(gate)?, Fresh::like(up)?);
        Launch::values("swiglu_grad", dtype, count)?
            .tensor(gate, dtype)?
            .tensor(up, dtype)?
            .tensor(grad, dtype)?
            .fills(&dgate)?
            .fills(&dup)?
            .number(count)?
            .run(gate.device())?;
        Ok([Some(dgate.tensor()), Some(dup.tensor())])
    })
}
