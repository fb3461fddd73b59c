//! Token log-probabilities from hidden states without the matrix of all logits.

use std::sync::Arc;

use candle_core::Tensor;

use crate::values::matrix_dims;
use crate::{Matrix, OpsError, cpu, cuda};

const NAME: &str = "token_logprobs";

/// Log-probabilities of chosen tokens and entropies of the whole distributions.
#[derive(Clone, Debug)]
pub struct TokenLogprobs {
    /// `log softmax(hidden_i W^T)[target_i]`, `[N]` f32, nats; gradients flow.
    pub logprobs: Tensor,
    /// Entropy of softmax(hidden_i W^T), `[N]` f32, nats; no gradient.
    pub entropies: Tensor,
}

/// Returns the log-probabilities of `targets` under softmax(hidden W^T), and the entropies.
///
/// The `[N, V]` matrix of logits never exists as a whole, forward or backward. The logits of a few
/// rows and words are computed at a time and added to running sums. With a frozen output matrix and
/// tracked hidden states, the same pass computes the gradient at each hidden state,
/// `W[target] - softmax(hidden W^T) W`, and the backward pass only scales it. With a tracked output
/// matrix, the backward pass computes the logits again. Memory does not grow with V, except for the
/// gradient of a tracked output matrix.
///
/// # Shapes
/// hidden `[N, d]`, output `[V, d]`, targets `[N]`, results `[N]`; f32, logits max-subtracted; on a
/// GPU hidden and output may be bf16, logits and results stay f32.
///
/// Gradients reach hidden and a tracked dense output matrix.
///
/// # Errors
/// Shapes that do not fit, a target outside the vocabulary.
pub fn token_logprobs(
    hidden: &Tensor,
    output: &Matrix,
    targets: &Arc<[u32]>,
) -> Result<TokenLogprobs, OpsError> {
    let (rows, width) = matrix_dims(NAME, "hidden", hidden)?;
    let (limit, input) = output.dims()?;
    if width != input {
        let expected = format!("[rows, {input}]");
        return Err(OpsError::Shape {
            operation: NAME,
            argument: "hidden",
            expected,
            found: hidden.dims().to_vec(),
        });
    }
    if targets.len() != rows {
        let found = targets.len();
        return Err(OpsError::Length {
            operation: NAME,
            argument: "targets",
            expected: rows,
            found,
        });
    }
    if let Some(row) = targets.iter().position(|&t| t as usize >= limit) {
        let index = targets[row] as usize;
        return Err(OpsError::Index {
            operation: NAME,
            index_of: "target",
            row,
            index,
            limit,
        });
    }
    let hidden = hidden.contiguous()?;
    match cuda::takes(&hidden) {
        true => Ok(cuda::token_logprobs::token_logprobs(
            &hidden, output, targets,
        )?),
        false => cpu::token_logprobs::token_logprobs(&hidden, output, targets),
    }
}
