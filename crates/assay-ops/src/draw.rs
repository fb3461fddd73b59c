//! Computes logits of the next token, and draws tokens from them on their device.

use candle_core::Tensor;

use crate::cuda;
use crate::values::{expect_f32, matrix_dims};
use crate::{Matrix, OpsError, linear};

/// The restrictions of [`draw_on_device`], applied in this order: temperature, top k, then the
/// smallest set of most likely tokens whose mass reaches top p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceDrawSettings {
    /// Divides the logits; 0 selects the most likely token.
    pub temperature: f64,
    /// Mass of the most likely tokens kept; 1 keeps all.
    pub top_p: f64,
    /// Number of most likely tokens kept; 0 keeps all.
    pub top_k: usize,
}

/// Tokens drawn from rows of logits, one entry per row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DrawnTokens {
    /// Token ids; `u32::MAX` for a row without a finite maximum.
    pub tokens: Vec<u32>,
    /// Log-probabilities under the sampling distribution.
    pub sampling_logprobs: Vec<f32>,
    /// log-probability under softmax(logits).
    pub policy_logprobs: Vec<f32>,
}

/// Returns the logits hidden W^T. They are always f32: rounding them to bf16 would change every
/// log-probability.
///
/// # Shapes
/// hidden `[S, d]`, output `[V, d]`, f32, on a GPU also bf16; result `[S, V]` f32. No gradients.
///
/// # Errors
/// Shapes or element types that do not fit.
pub fn output_logits(hidden: &Tensor, output: &Matrix) -> Result<Tensor, OpsError> {
    let hidden = hidden.detach();
    if !cuda::takes(&hidden) {
        return linear(&hidden, output, None, None);
    }
    let (_, width) = matrix_dims("output_logits", "hidden", &hidden)?;
    let (_, input) = output.dims()?;
    if width != input {
        return Err(OpsError::Shape {
            operation: "output_logits",
            argument: "hidden",
            expected: format!("[rows, {input}]"),
            found: hidden.dims().to_vec(),
        });
    }
    Ok(cuda::linear::output_logits(&hidden.contiguous()?, output)?)
}

/// Drawn tokens on their device: ids u32, and both log-probabilities, `[S]` each.
pub struct DeviceDraw([Tensor; 3]);

impl DeviceDraw {
    /// Copies them to main memory.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn read(&self) -> Result<DrawnTokens, OpsError> {
        let [tokens, sampling, policy] = &self.0;
        Ok(DrawnTokens {
            tokens: tokens.to_vec1()?,
            sampling_logprobs: sampling.to_vec1()?,
            policy_logprobs: policy.to_vec1()?,
        })
    }
}

/// Draws one token per row of logits on their device, by inversion over the token ids, with one
/// uniform number in [0, 1) per row.
///
/// # Shapes
/// logits `[S, V]` f32 on a device, uniforms `[S]`.
///
/// # Errors
/// Shapes that do not fit, logits on the CPU.
pub fn draw_on_device(
    logits: &Tensor,
    uniforms: &[f64],
    settings: DeviceDrawSettings,
) -> Result<DeviceDraw, OpsError> {
    const NAME: &str = "draw";
    let (_, words) = matrix_dims(NAME, "logits", logits)?;
    expect_f32(NAME, "logits", logits, &[uniforms.len(), words])?;
    let drawn = cuda::draw::draw_tokens(&logits.contiguous()?, uniforms, settings)?;
    Ok(DeviceDraw(drawn))
}
