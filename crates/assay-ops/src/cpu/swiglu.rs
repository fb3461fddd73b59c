//! The CPU side of [`crate::swiglu()`].

use candle_core::{CpuStorage, CustomOp2, Layout, Result as CandleResult, Shape, Tensor};
use rayon::prelude::*;

use crate::OpsError;
use crate::cpu::routines::dispatched;
use crate::cpu::routines::exponential::sigmoid;
use crate::values::{Values, slice, zeros};

/// Values of one parallel task.
const VALUES: usize = 1 << 14;

/// gate and up: f32 of one shape, contiguous.
pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor, OpsError> {
    Ok(gate.apply_op2(up, SwiGlu)?)
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (gate, up) = (slice(gate, gate_layout)?, slice(up, up_layout)?);
        let mut y = zeros(gate.len())?;
        let tasks = y
            .par_chunks_mut(VALUES)
            .zip(gate.par_chunks(VALUES))
            .zip(up.par_chunks(VALUES));
        tasks.for_each(|((y, gate), up)| forward(gate, up, y));
        Ok((CpuStorage::F32(y), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (gate_values, up_values, g) = (Values::of(gate)?, Values::of(up)?, Values::of(&grad)?);
        let mut dgate = zeros(g.len())?;
        let mut dup = zeros(g.len())?;
        let outputs = dgate.par_chunks_mut(VALUES).zip(dup.par_chunks_mut(VALUES));
        let inputs = gate_values
            .par_chunks(VALUES)
            .zip(up_values.par_chunks(VALUES))
            .zip(g.par_chunks(VALUES));
        outputs
            .zip(inputs)
            .for_each(|((dgate, dup), ((gate, up), g))| backward(gate, up, g, dgate, dup));
        let dgate = Tensor::from_vec(dgate, gate.shape(), gate.device())?;
        Ok((
            Some(dgate),
            Some(Tensor::from_vec(dup, up.shape(), up.device())?),
        ))
    }
}

dispatched! {
    fn forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate * sigmoid(gate) * up;
        }
    }
}

dispatched! {
    /// With s = sigmoid(gate): d up = g gate s; d gate = g up s (1 + gate (1 - s)).
    fn backward(gate: &[f32], up: &[f32], grad: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        let inputs = gate.iter().zip(up).zip(grad);
        for ((dgate, dup), ((&gate, &up), &g)) in dgate.iter_mut().zip(dup.iter_mut()).zip(inputs) {
            let s = sigmoid(gate);
            *dup = g * (gate * s);
            *dgate = g * up * (s * (1.0 - s)).mul_add(gate, s);
        }
    }
}
