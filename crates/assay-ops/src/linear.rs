//! Linear maps with a low-rank adapter.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::values::{expect_f32, matrix_dims};
use crate::{Matrix, OpsError, PanelMatrix, cpu, cuda};

const NAME: &str = "linear";

/// A low-rank adapter of one linear map. It adds scale * (x A^T) B^T.
#[derive(Clone, Copy, Debug)]
pub struct Lora<'a> {
    /// Down map A `[r, in]`.
    pub a: &'a Tensor,
    /// Up map B `[out, r]`.
    pub b: &'a Tensor,
    /// alpha / r; multiplies the adapter's output only, never the base output.
    pub scale: f64,
    /// A and B in the layout of the product, for adapters that do not change between calls. The
    /// result has the same bits. Only the CPU reads it.
    pub laid_out: Option<&'a LaidOut>,
}

/// A and B in the layout of the product.
#[derive(Clone, Debug)]
pub struct LaidOut {
    pub(crate) a: Arc<PanelMatrix>,
    pub(crate) b: Arc<PanelMatrix>,
}

impl LaidOut {
    /// Copies A `[r, in]` and B `[out, r]`, f32 on the CPU, for products with a matrix whose
    /// [`Matrix::factors`] is `dtype`.
    ///
    /// # Errors
    /// [`OpsError::OutOfMemory`]; another type.
    pub fn new(a: &Tensor, b: &Tensor, dtype: DType) -> Result<Self, OpsError> {
        Ok(Self {
            a: Arc::new(PanelMatrix::new(a, dtype)?),
            b: Arc::new(PanelMatrix::new(b, dtype)?),
        })
    }
}

/// Returns y = x W^T + bias + scale * (x A^T) B^T.
///
/// # Shapes
/// x `[T, in]`, weight `[out, in]`, bias `[out]`, A `[r, in]`, B `[out, r]`, result `[T, out]`; all
/// f32. A quantised weight returns the same bits as its dequantised copy. On a GPU x, a dense
/// weight and the result may be bf16; bias, A and B stay f32.
///
/// A weight in bf16 panels rounds the factors of all products, forward and backward, to bf16: x, A,
/// B, scale * x A^T and the gradient. Sums, results and gradients are f32.
///
/// Gradients reach x, A, B, a tracked dense weight and a tracked bias. The gradient of a frozen
/// weight is never computed.
///
/// # Errors
/// Shapes or element types that do not fit.
///
/// Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
pub fn linear(
    x: &Tensor,
    weight: &Matrix,
    bias: Option<&Tensor>,
    lora: Option<Lora<'_>>,
) -> Result<Tensor, OpsError> {
    let (_, input) = matrix_dims(NAME, "x", x)?;
    let (out, weight_input) = weight.dims()?;
    if input != weight_input {
        let expected = format!("[rows, {weight_input}]");
        return Err(OpsError::Shape {
            operation: NAME,
            argument: "x",
            expected,
            found: x.dims().to_vec(),
        });
    }
    if let Some(bias) = bias {
        expect_f32(NAME, "bias", bias, &[out])?;
    }
    if let Some(lora) = lora {
        check_lora(lora, input, out)?;
    }
    let x = x.contiguous()?;
    match cuda::takes(&x) {
        true => Ok(cuda::linear::linear(&x, weight, bias, lora)?),
        false => cpu::linear::linear(&x, weight, bias, lora),
    }
}

fn check_lora(lora: Lora<'_>, input: usize, out: usize) -> Result<(), OpsError> {
    let (rank, _) = matrix_dims(NAME, "A", lora.a)?;
    expect_f32(NAME, "A", lora.a, &[rank, input])?;
    expect_f32(NAME, "B", lora.b, &[out, rank])
}
