//! Operations on rows: normalisation, rotation, gating, bias, embedding, the linear reward head.

use std::sync::Arc;

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::attach::{attach1, attach2, attach3};
use super::launch::{Fresh, Launch, ROW_THREADS};
use super::memo::Memo;
use super::{recording, upload};

/// Rows of which one thread makes one sum, as in the kernel `column_sums`.
const SUM_ROWS: usize = 64;

/// [`crate::rms_norm`] for x f32 or bf16 and an f32 weight.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> CandleResult<Tensor> {
    let (rows, width) = x.dims2()?;
    let y = Fresh::like(x)?;
    Launch::rows("rms_norm", x.dtype(), rows)?
        .tensor(x, x.dtype())?
        .tensor(weight, DType::F32)?
        .fills(&y)?
        .number(width)?
        .float(eps)
        .run(x.device())?;
    attach2("rms_norm", [x, weight], y, move |[x, weight], _, grad| {
        let (dx, scales) = (Fresh::like(x)?, Fresh::new(x.device(), DType::F32, rows)?);
        Launch::rows("rms_norm_grad", x.dtype(), rows)?
            .tensor(x, x.dtype())?
            .tensor(weight, DType::F32)?
            .tensor(grad, x.dtype())?
            .fills(&dx)?
            .fills(&scales)?
            .number(width)?
            .float(eps)
            .run(x.device())?;
        let dweight = match weight.track_op() {
            true => Some(column_sums(grad, Some(x), Some(&scales.tensor()))?),
            false => None,
        };
        Ok([Some(dx.tensor()), dweight])
    })
}

/// Cosines and sines of a rotation table on the device, and the positions that were brought there last.
pub(crate) struct Angles {
    cos: Tensor,
    sin: Tensor,
    half: usize,
    positions: Memo<Arc<[u32]>, Tensor>,
}

impl Angles {
    /// `cos` and `sin` are `[max_positions, half]`, row by row.
    pub(crate) fn new(
        (cos, sin): (&[f32], &[f32]),
        half: usize,
        device: &Device,
    ) -> CandleResult<Self> {
        Ok(Self {
            cos: Tensor::from_slice(cos, cos.len(), device)?,
            sin: Tensor::from_slice(sin, sin.len(), device)?,
            half,
            positions: Memo::default(),
        })
    }
}

/// [`crate::rope()`] for x f32 or bf16.
pub(crate) fn rope(
    x: &Tensor,
    positions: &Arc<[u32]>,
    angles: &Arc<Angles>,
) -> CandleResult<Tensor> {
    let on_device = match recording::active() {
        true => upload(positions, x.device())?,
        false => angles
            .positions
            .get(Arc::clone(positions), || upload(positions, x.device()))?,
    };
    let y = rotated(x, &on_device, angles, 1.0)?;
    let angles = Arc::clone(angles);
    attach1("rope", x, y, move |_, _, grad| {
        Ok([Some(rotated(grad, &on_device, &angles, -1.0)?.tensor())])
    })
}

fn rotated(x: &Tensor, positions: &Tensor, angles: &Angles, sign: f32) -> CandleResult<Fresh> {
    let (_, width) = x.dims2()?;
    let (y, pairs) = (Fresh::like(x)?, x.elem_count() / 2);
    Launch::values("rope", x.dtype(), pairs)?
        .tensor(x, x.dtype())?
        .tensor(positions, DType::U32)?
        .tensor(&angles.cos, DType::F32)?
        .tensor(&angles.sin, DType::F32)?
        .fills(&y)?
        .number(pairs)?
        .number(width)?
        .number(angles.half)?
        .float(sign)
        .run(x.device())?;
    Ok(y)
}

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

/// [`crate::add()`] for f32 or bf16.
pub(crate) fn add(x: &Tensor, branch: &Tensor) -> CandleResult<Tensor> {
    let (dtype, count) = (x.dtype(), x.elem_count());
    let y = Fresh::like(x)?;
    Launch::values("add", dtype, count)?
        .tensor(x, dtype)?
        .tensor(branch, dtype)?
        .fills(&y)?
        .number(count)?
        .run(x.device())?;
    attach2("add", [x, branch], y, |_, _, grad| {
        Ok([Some(grad.clone()), Some(grad.clone())])
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

/// [`crate::embedding()`] of a dense table, f32 or bf16.
pub(crate) fn embedding(table: &Tensor, ids: &Arc<[u32]>) -> CandleResult<Tensor> {
    let (_, width) = table.dims2()?;
    let (dtype, device) = (table.dtype(), table.device());
    let rows = Fresh::new(device, dtype, (ids.len(), width))?;
    Launch::rows("gather", dtype, ids.len())?
        .tensor(table, dtype)?
        .tensor(&upload(ids, device)?, DType::U32)?
        .fills(&rows)?
        .number(width)?
        .run(device)?;
    let ids = Arc::clone(ids);
    attach1("embedding", table, rows, move |[table], _, grad| {
        Ok([Some(scattered(table, &ids, grad)?)])
    })
}

/// The gradient at a table of whose rows `ids` were taken: the sum over equal ids, in row order.
fn scattered(table: &Tensor, ids: &Arc<[u32]>, grad: &Tensor) -> CandleResult<Tensor> {
    let (dtype, device) = (table.dtype(), table.device());
    let sums = table.zeros_like()?;
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    order.sort_by_key(|&row| ids[row as usize]);
    let (mut distinct, mut starts) = (Vec::new(), Vec::new());
    for (at, &row) in order.iter().enumerate() {
        if distinct.last() != Some(&ids[row as usize]) {
            distinct.push(ids[row as usize]);
            starts.push(at as u32);
        }
    }
    starts.push(order.len() as u32);
    let list = |values: &[u32]| Tensor::from_slice(values, values.len(), device);
    if !distinct.is_empty() {
        Launch::rows("gather_grad", dtype, distinct.len())?
            .tensor(grad, dtype)?
            .tensor(&list(&distinct)?, DType::U32)?
            .tensor(&list(&starts)?, DType::U32)?
            .tensor(&list(&order)?, DType::U32)?
            .tensor(&sums, dtype)?
            .number(table.dims2()?.1)?
            .run(device)?;
    }
    Ok(sums)
}

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
    let pull = move |[hidden, weight, bias]: [&Tensor; 3], _: &Tensor, grad: &Tensor| {
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
    attach3("reward_head", [hidden, weight, bias], logits, pull)
}

/// factors weight^T, typed and shaped as `like`.
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

/// sum over rows i of factors_i a_ij b_ij, f32 `[width]`; what is left out counts as one.
fn column_sums(a: &Tensor, b: Option<&Tensor>, factors: Option<&Tensor>) -> CandleResult<Tensor> {
    let (rows, width) = a.dims2()?;
    let (dtype, device, parts) = (a.dtype(), a.device(), rows.div_ceil(SUM_ROWS));
    let sums = Fresh::new(device, DType::F32, width)?;
    let partial = Fresh::new(device, DType::F32, (parts, width))?;
    let grid = [width.div_ceil(ROW_THREADS), parts, 1];
    Launch::new("column_sums", dtype, grid, ROW_THREADS)?
        .tensor(a, dtype)?
        .maybe(b, dtype)?
        .maybe(factors, DType::F32)?
        .fills(&partial)?
        .number(rows)?
        .number(width)?
        .run(device)?;
    Launch::values("sum_parts", DType::F32, width)?
        .fills(&partial)?
        .fills(&sums)?
        .number(parts)?
        .number(width)?
        .run(device)?;
    Ok(sums.tensor())
}
