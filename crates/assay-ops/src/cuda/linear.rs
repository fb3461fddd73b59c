//! The GPU side of [`crate::linear()`]: matrix products of the base and the adapter.

use candle_core::{DType, Result as CandleResult, Tensor};

use super::attach::{attach1, attach2, attach3};
use super::column_sums::column_sums;
use super::launch::{Fresh, Launch};
use super::product::{Factors, Operand, add_product, product};
use super::quantised::dense;
use crate::{Lora, Matrix};

const NAME: &str = "linear";

/// [`crate::linear()`]: x and weight f32 or bf16, bias and adapter f32.
pub(crate) fn linear(
    x: &Tensor,
    weight: &Matrix,
    bias: Option<&Tensor>,
    lora: Option<Lora<'_>>,
) -> CandleResult<Tensor> {
    let y = match (weight, lora) {
        (Matrix::Dense(tracked), lora) if tracked.track_op() => {
            let y = trained(x, tracked)?;
            match lora {
                Some(lora) => (y + adapted(x, None, lora)?)?,
                None => y,
            }
        }
        (frozen, Some(lora)) => adapted(x, Some(frozen), lora)?,
        (frozen, None) => plain(x, frozen)?,
    };
    match bias {
        Some(bias) => add_bias(&y, bias),
        None => Ok(y),
    }
}

/// y = x W^T, W frozen.
fn plain(x: &Tensor, weight: &Matrix) -> CandleResult<Tensor> {
    let (device, dtype) = (x.device(), x.dtype());
    let w = dense(weight, dtype)?;
    let y = product(
        device,
        Factors::new(Operand::of(x)?, Operand::of(&w)?.t()),
        1.0,
        dtype,
    )?;
    let weight = weight.clone();
    attach1(NAME, x, y, move |[x], _, grad| {
        let w = dense(&weight, dtype)?;
        let factors = Factors::new(Operand::of(grad)?, Operand::of(&w)?);
        Ok([Some(product(x.device(), factors, 1.0, dtype)?.tensor())])
    })
}

/// y = x W^T, W trained.
fn trained(x: &Tensor, weight: &Tensor) -> CandleResult<Tensor> {
    let (device, dtype) = (x.device(), x.dtype());
    let factors = Factors::new(Operand::of(x)?, Operand::of(weight)?.t());
    let y = product(device, factors, 1.0, dtype)?;
    attach2(NAME, [x, weight], y, move |[x, weight], _, grad| {
        let (device, g) = (x.device(), Operand::of(grad)?);
        let dx = match x.track_op() {
            true => {
                let factors = Factors::new(g, Operand::of(weight)?);
                Some(product(device, factors, 1.0, dtype)?.tensor())
            }
            false => None,
        };
        let dw = product(device, Factors::new(g.t(), Operand::of(x)?), 1.0, dtype)?;
        Ok([dx, Some(dw.tensor())])
    })
}

/// y = x W^T + scale * (x A^T) B^T, W frozen or left out. A and B enter the products in the type of
/// x; their gradients are summed and kept in f32.
fn adapted(x: &Tensor, weight: Option<&Matrix>, lora: Lora<'_>) -> CandleResult<Tensor> {
    let (device, dtype, scale) = (x.device(), x.dtype(), lora.scale as f32);
    let (a, b) = (lora.a.contiguous()?, lora.b.contiguous()?);
    let (a_typed, b_typed) = (a.detach().to_dtype(dtype)?, b.detach().to_dtype(dtype)?);
    let down = scaled_down(x, &a_typed, scale)?;
    let up = Factors::new(Operand::of(&down)?, Operand::of(&b_typed)?.t());
    let y = match weight {
        Some(weight) => {
            let w = dense(weight, dtype)?;
            let y = product(
                device,
                Factors::new(Operand::of(x)?, Operand::of(&w)?.t()),
                1.0,
                dtype,
            )?;
            add_product(device, up, &y, dtype)?;
            y
        }
        None => product(device, up, 1.0, dtype)?,
    };
    let weight = weight.cloned();
    attach3(NAME, [x, &a, &b], y, move |[x, a, b], _, grad| {
        let (device, g) = (x.device(), Operand::of(grad)?);
        // Gradient at x A^T: scale * g B.
        let ddown = product(
            device,
            Factors::new(g, Operand::of(&b_typed)?),
            scale,
            dtype,
        )?
        .tensor();
        let back = Factors::new(Operand::of(&ddown)?, Operand::of(&a_typed)?);
        let dx = match (x.track_op(), &weight) {
            (false, _) => None,
            (true, Some(weight)) => {
                let w = dense(weight, dtype)?;
                let dx = product(device, Factors::new(g, Operand::of(&w)?), 1.0, dtype)?;
                add_product(device, back, &dx, dtype)?;
                Some(dx.tensor())
            }
            (true, None) => Some(product(device, back, 1.0, dtype)?.tensor()),
        };
        let da = match a.track_op() {
            true => {
                let factors = Factors::new(Operand::of(&ddown)?.t(), Operand::of(x)?);
                Some(product(device, factors, 1.0, DType::F32)?.tensor())
            }
            false => None,
        };
        let db = match b.track_op() {
            true => {
                let down = scaled_down(x, &a_typed, scale)?;
                let factors = Factors::new(g.t(), Operand::of(&down)?);
                Some(product(device, factors, 1.0, DType::F32)?.tensor())
            }
            false => None,
        };
        Ok([dx, da, db])
    })
}

/// x `[T, n]` f32 or bf16 plus an f32 bias `[n]`; gradients reach x and a tracked bias.
pub(crate) fn add_bias(x: &Tensor, bias: &Tensor) -> CandleResult<Tensor> {
    let (_, width) = x.dims2()?;
    let y = Fresh::like(x)?;
    Launch::values("add_bias", x.dtype(), x.elem_count())?
        .tensor(x, x.dtype())?
        .tensor(bias, DType::F32)?
        .fills(&y)?
        .number(x.elem_count())?
        .number(width)?
        .run(x.device())?;
    attach2("add_bias", [x, bias], y, |[_, bias], _, grad| {
        let dbias = match bias.track_op() {
            true => Some(column_sums(grad, None, None)?),
            false => None,
        };
        Ok([Some(grad.clone()), dbias])
    })
}

/// f32 logits of hidden states. No gradients.
pub(crate) fn output_logits(hidden: &Tensor, output: &Matrix) -> CandleResult<Tensor> {
    let w = dense(output, hidden.dtype())?;
    let factors = Factors::new(Operand::of(hidden)?, Operand::of(&w)?.t());
    Ok(product(hidden.device(), factors, 1.0, DType::F32)?.tensor())
}

/// scale * x A^T.
fn scaled_down(x: &Tensor, a: &Tensor, scale: f32) -> CandleResult<Tensor> {
    let factors = Factors::new(Operand::of(x)?, Operand::of(a)?.t());
    Ok(product(x.device(), factors, scale, x.dtype())?.tensor())
}
