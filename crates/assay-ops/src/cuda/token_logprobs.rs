//! The GPU side of [`crate::token_logprobs()`]: f32 logits of some rows at a time.
//!
//! With a frozen output matrix, the forward pass also computes the gradient at the hidden states.
//! With a tracked one, the backward pass recomputes the logits.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Result as CandleResult, Tensor};

use super::attach::{Gradients, attach1, attach2};
use super::launch::{Fresh, Launch, ROW_THREADS};
use super::product::{Factors, Operand, product, product_into};
use super::quantised::dense;
use super::upload;
use crate::{Matrix, TokenLogprobs};

const NAME: &str = "token_logprobs";
/// Number of logits in memory at a time: 256 MiB of f32.
const LOGITS: usize = 1 << 26;

/// Values that the backward pass needs in addition to the inputs.
#[derive(Clone)]
struct Saved {
    output: Matrix,
    /// u32 `[N]`.
    targets: Tensor,
    /// f32 `[N]`.
    normalisers: Tensor,
}

/// [`crate::token_logprobs()`] for hidden states and output matrix f32 or bf16; results are f32.
pub(crate) fn token_logprobs(
    hidden: &Tensor,
    output: &Matrix,
    targets: &Arc<[u32]>,
) -> CandleResult<TokenLogprobs> {
    let (rows, device) = (targets.len(), hidden.device());
    let weight = dense(output, hidden.dtype())?;
    let targets = upload(targets, device)?;
    let fresh = || Fresh::new(device, DType::F32, rows);
    let (logprobs, normalisers, entropies) = (fresh()?, fresh()?.tensor(), fresh()?.tensor());
    let tracked = matches!(output, Matrix::Dense(table) if table.track_op());
    let prepared = match hidden.track_op() && !tracked {
        true => Some((
            Fresh::like(hidden)?.tensor(),
            Tensor::ones(rows, DType::F32, device)?,
        )),
        false => None,
    };
    for chunk in chunks(rows, weight.dims()[0]) {
        let logits = logits(hidden, &weight, &chunk)?;
        let part = |tensor: &Tensor| tensor.narrow(0, chunk.start, chunk.len());
        Launch::new(NAME, DType::F32, [chunk.len(), 1, 1], ROW_THREADS)?
            .tensor(&logits, DType::F32)?
            .tensor(&part(&targets)?, DType::U32)?
            .fills_from(&logprobs, chunk.start)?
            .tensor(&part(&normalisers)?, DType::F32)?
            .tensor(&part(&entropies)?, DType::F32)?
            .number(weight.dims()[0])?
            .run(device)?;
        if let Some((prepared, ones)) = &prepared {
            let rows = [part(&targets)?, part(&normalisers)?, part(ones)?];
            let g = gradient(&logits, &rows, hidden.dtype())?;
            let here = Operand::of(prepared)?.rows(chunk.clone());
            product_into(
                device,
                Factors::new(Operand::of(&g)?, Operand::of(&weight)?),
                here,
                0.0,
            )?;
        }
    }
    let saved = Saved {
        output: output.clone(),
        targets,
        normalisers,
    };
    let logprobs = match (output, prepared) {
        (Matrix::Dense(table), _) if tracked => attach2(
            NAME,
            [hidden, table],
            logprobs,
            move |[hidden, _], _, grad| saved.backward(hidden, grad),
        )?,
        (_, Some((prepared, _))) => attach1(NAME, hidden, logprobs, move |_, _, grad| {
            let grad = grad.unsqueeze(1)?.to_dtype(prepared.dtype())?;
            Ok([Some(prepared.broadcast_mul(&grad)?)])
        })?,
        _ => logprobs.tensor(),
    };
    Ok(TokenLogprobs {
        logprobs,
        entropies,
    })
}

impl Saved {
    /// With G = grad (onehot - softmax): dhidden = G W, dW = G^T hidden.
    fn backward(&self, hidden: &Tensor, grad: &Tensor) -> Gradients<2> {
        let (device, dtype) = (hidden.device(), hidden.dtype());
        let weight = dense(&self.output, dtype)?;
        let (rows, words) = (hidden.dims2()?.0, weight.dims2()?.0);
        let (dhidden, dweight) = (Fresh::like(hidden)?.tensor(), weight.zeros_like()?);
        for chunk in chunks(rows, words) {
            let part = |tensor: &Tensor| tensor.narrow(0, chunk.start, chunk.len());
            let rows = [part(&self.targets)?, part(&self.normalisers)?, part(grad)?];
            let dlogits = gradient(&logits(hidden, &weight, &chunk)?, &rows, dtype)?;
            let g = Operand::of(&dlogits)?;
            let here = Operand::of(&dhidden)?.rows(chunk.clone());
            product_into(device, Factors::new(g, Operand::of(&weight)?), here, 0.0)?;
            let factors = Factors::new(g.t(), Operand::of(hidden)?.rows(chunk.clone()));
            product_into(device, factors, Operand::of(&dweight)?, 1.0)?;
        }
        Ok([Some(dhidden), Some(dweight)])
    }
}

/// grad (onehot - softmax) of some rows of logits, from their targets, log normalisers and
/// gradients.
fn gradient(
    logits: &Tensor,
    [targets, normalisers, grad]: &[Tensor; 3],
    dtype: DType,
) -> CandleResult<Tensor> {
    let (rows, words) = logits.dims2()?;
    let dlogits = Fresh::new(logits.device(), dtype, (rows, words))?;
    Launch::rows("token_logprobs_grad", dtype, rows)?
        .tensor(logits, DType::F32)?
        .tensor(targets, DType::U32)?
        .tensor(normalisers, DType::F32)?
        .tensor(grad, DType::F32)?
        .fills(&dlogits)?
        .number(words)?
        .run(logits.device())?;
    Ok(dlogits.tensor())
}

/// f32 logits of some rows.
fn logits(hidden: &Tensor, weight: &Tensor, rows: &Range<usize>) -> CandleResult<Tensor> {
    let factors = Factors::new(
        Operand::of(hidden)?.rows(rows.clone()),
        Operand::of(weight)?.t(),
    );
    Ok(product(hidden.device(), factors, 1.0, DType::F32)?.tensor())
}

pub(super) fn chunks(rows: usize, words: usize) -> impl Iterator<Item = Range<usize>> {
    let size = (LOGITS / words.max(1)).max(1);
    (0..rows)
        .step_by(size)
        .map(move |start| start..rows.min(start + size))
}
