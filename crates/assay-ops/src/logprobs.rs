//! Token log-probabilities from hidden states without the matrix of all logits.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp2, Layout, Result as CandleResult, Shape, Tensor};

use crate::kernels::exponential::exp;
use crate::kernels::product::{View, Write, multiply};
use crate::values::{Values, matrix_dims, slice};
use crate::{Matrix, OpsError};

const NAME: &str = "token_logprobs";
/// Rows whose logits exist at one time.
const ROWS: usize = 64;

/// Log-probabilities of chosen tokens and entropies of the whole distributions.
#[derive(Clone, Debug)]
pub struct TokenLogprobs {
    /// log softmax(hidden_i W^T)[target_i], `[N]` f32, nats; gradients flow.
    pub logprobs: Tensor,
    /// Entropy of softmax(hidden_i W^T), `[N]` f32, nats; no gradient.
    pub entropies: Tensor,
}

/// Log-probabilities of `targets` under softmax(hidden W^T), and entropies.
///
/// The `[N, V]` matrix of logits never exists as a whole, forward or backward: logits of a few rows at a time are computed,
/// reduced and, in the backward pass, computed again.
///
/// # Shapes
/// hidden `[N, d]`, output `[V, d]`, targets `[N]`, results `[N]`; f32, logits max-subtracted.
///
/// Gradients reach hidden and a tracked dense output matrix.
///
/// # Errors
/// Shapes that do not fit, a target outside the vocabulary.
pub fn token_logprobs(hidden: &Tensor, output: &Matrix, targets: &Arc<[u32]>) -> Result<TokenLogprobs, OpsError> {
    let (rows, width) = matrix_dims(NAME, "hidden", hidden)?;
    let (limit, input) = output.dims()?;
    if width != input {
        let expected = format!("[rows, {input}]");
        return Err(OpsError::Shape { operation: NAME, argument: "hidden", expected, found: hidden.dims().to_vec() });
    }
    if targets.len() != rows {
        let found = targets.len();
        return Err(OpsError::Length { operation: NAME, argument: "targets", expected: rows, found });
    }
    if let Some(row) = targets.iter().position(|&t| t as usize >= limit) {
        let index = targets[row] as usize;
        return Err(OpsError::Index { operation: NAME, what: "target", row, index, limit });
    }
    let saved = Arc::new(OnceLock::new());
    let operation = Logprobs { targets: targets.clone(), saved: saved.clone() };
    let dense = output.to_dense()?.contiguous()?;
    let logprobs = hidden.contiguous()?.apply_op2(&dense, operation)?;
    let entropies = saved.get().map(|saved: &Saved| saved.entropies.clone()).unwrap_or_default();
    Ok(TokenLogprobs { logprobs, entropies: Tensor::from_vec(entropies, rows, hidden.device())? })
}

struct Saved {
    log_normalisers: Vec<f32>,
    entropies: Vec<f32>,
}

struct Logprobs {
    targets: Arc<[u32]>,
    saved: Arc<OnceLock<Saved>>,
}

impl CustomOp2 for Logprobs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        hidden: &CpuStorage,
        hidden_layout: &Layout,
        output: &CpuStorage,
        output_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (rows, width) = hidden_layout.shape().dims2()?;
        let (vocab, _) = output_layout.shape().dims2()?;
        let (hidden, output) = (slice(hidden, hidden_layout)?, slice(output, output_layout)?);
        let mut saved = Saved { log_normalisers: Vec::with_capacity(rows), entropies: Vec::with_capacity(rows) };
        let mut logprobs = Vec::with_capacity(rows);
        for start in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - start);
            let mut logits = vec![0f32; count * vocab];
            multiply([count, width, vocab], View::rows(&hidden[start * width..], width), View::rows(output, width).transposed(), &mut logits, Write::Set);
            for (row, logits) in logits.chunks_exact(vocab).enumerate() {
                let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let (mut sum, mut weighted) = (0f32, 0f32);
                for &l in logits {
                    let e = exp(l - most);
                    sum += e;
                    weighted += e * (l - most);
                }
                let log_normaliser = most + sum.ln();
                logprobs.push(logits[self.targets[start + row] as usize] - log_normaliser);
                saved.log_normalisers.push(log_normaliser);
                saved.entropies.push(sum.ln() - weighted / sum);
            }
        }
        let _ = self.saved.set(saved);
        Ok((CpuStorage::F32(logprobs), Shape::from(rows)))
    }

    fn bwd(&self, hidden: &Tensor, output: &Tensor, _l: &Tensor, grad: &Tensor) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let Some(saved) = self.saved.get() else { candle_core::bail!("{NAME}: backward before forward") };
        let ((rows, width), vocab) = (hidden.dims2()?, output.dims()[0]);
        let (h, w, g) = (Values::of(hidden)?, Values::of(output)?, Values::of(&grad)?);
        let mut dh = vec![0f32; rows * width];
        let mut dw = if output.track_op() { vec![0f32; vocab * width] } else { Vec::new() };
        for start in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - start);
            let mut logits = vec![0f32; count * vocab];
            multiply([count, width, vocab], View::rows(&h[start * width..], width), View::rows(&w, width).transposed(), &mut logits, Write::Set);
            for (row, logits) in logits.chunks_exact_mut(vocab).enumerate() {
                let (g, z) = (g[start + row], saved.log_normalisers[start + row]);
                logits.iter_mut().for_each(|l| *l = -g * exp(*l - z));
                logits[self.targets[start + row] as usize] += g;
            }
            multiply([count, vocab, width], View::rows(&logits, vocab), View::rows(&w, width), &mut dh[start * width..(start + count) * width], Write::Set);
            if !dw.is_empty() {
                multiply([vocab, count, width], View::rows(&logits, vocab).transposed(), View::rows(&h[start * width..], width), &mut dw, Write::Add);
            }
        }
        let dh = Tensor::from_vec(dh, hidden.shape(), hidden.device())?;
        let dw = match dw.is_empty() {
            true => None,
            false => Some(Tensor::from_vec(dw, output.shape(), output.device())?),
        };
        Ok((Some(dh), dw))
    }
}
