//! The gated activation of Llama and Qwen feed-forward layers.

use candle_core::Tensor;

use crate::values::{expect, matrix_dims};
use crate::{OpsError, cpu, cuda};

const NAME: &str = "swiglu";

/// Returns silu(gate) * up with silu(g) = g / (1 + e^-g), value by value.
///
/// # Shapes
/// gate, up and the result `[T, n]`; f32, on a GPU also bf16.
///
/// Gradients reach gate and up.
///
/// # Errors
/// Different shapes or other element types.
///
/// Shazeer, "GLU Variants Improve Transformer", 2020.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor, OpsError> {
    matrix_dims(NAME, "gate", gate)?;
    expect(NAME, "up", up, gate.dims())?;
    let (gate, up) = (gate.contiguous()?, up.contiguous()?);
    match cuda::takes(&gate) {
        true => Ok(cuda::swiglu::swiglu(&gate, &up)?),
        false => cpu::swiglu::swiglu(&gate, &up),
    }
}
