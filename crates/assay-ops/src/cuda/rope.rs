//! The GPU side of [`crate::rope()`].

use std::sync::Arc;

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::attach::attach1;
use super::launch::{Fresh, Launch};
use super::memo::Memo;
use super::{recording, upload};

/// Cosines and sines of a rotation table on the device, and the positions that were copied there
/// last.
pub(crate) struct Angles {
    cos: Tensor,
    sin: Tensor,
    half: usize,
    positions: Memo<Arc<[u32]>, Tensor>,
}

impl Angles {
    /// `cos` and `sin` are `[max_positions, half]`, row by row.
    pub(crate) fn new(
        cos: &[f32],
        sin: &[f32],
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
