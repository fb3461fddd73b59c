//! The GPU side of [`crate::reward_head()`].

use candle_core::{DType, Result as CandleResult, Tensor};

use super::attach::attach3;
use super::column_sums::column_sums;
use super::launch::{Fresh, Launch};

/// [`crate::reward_head()`] for hidden states f32 or bf16; weight, bias and logits are f32.
pub(crate) fn reward_head(hidden: &Tensor, weight: &Tensor, bias: &Tensor) -> CandleResult<Tensor> {
    let (rows, width) = hidden.dims2()?;
    let logits = Fresh::new(hidden.device(), DType::F32, rows)?;
    Launch::rows("reward_head", hidden.dtype(), rows)?
        .tensor(hidden, hidden.dtype())?
        .tensor(weight, DType::F32)?
        .tensor(bias, DType::F32)?
        .fills(&logits)?
        .number(width)?
        .run(hidden.device())?;
    let gradients = move |[hidden, weight, bias]: [&Tensor; 3], _: &Tensor, grad: &Tensor| {
        let dhidden = match hidden.track_op() {
            true => Some(outer(grad, weight, hidden)?),
            false => None,
        };
        let dweight = match weight.track_op() {
            true => Some(column_sums(hidden, None, Some(grad))?),
            false => None,
        };
        let dbias = match bias.track_op() {
            true => Some(column_sums(&grad.reshape((rows, 1))?, None, None)?),
            false => None,
        };
        Ok([dhidden, dweight, dbias])
    };
    attach3("reward_head", [hidden, weight, bias], logits, gradients)
}

/// factors weight^T, with the type and shape of `like`.
fn outer(factors: &Tensor, weight: &Tensor, like: &Tensor) -> CandleResult<Tensor> {
    let (out, count) = (Fresh::like(like)?, like.elem_count());
    Launch::values("outer", like.dtype(), count)?
        .tensor(factors, DType::F32)?
        .tensor(weight, DType::F32)?
        .fills(&out)?
        .number(count)?
        .number(weight.elem_count())?
        .run(like.device())?;
    Ok(out.tensor())
}
