//! The AdamW update over a flat buffer.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::cpu::routines::dispatched;
use crate::values::expect_f32;
use crate::{OpsError, cuda};

/// Values of one parallel task.
const VALUES: usize = 1 << 14;

/// Constants of AdamW, as torch.optim.AdamW names them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// One AdamW step in place, with g = clip_scale * grad:
/// p *= 1 - lr * weight_decay; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
/// p -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps).
///
/// `step` counts from 1. `moments` are m and v; `update` the settings and `clip_scale`, 1 when the gradient is not clipped.
/// All slices have one length; values beyond the shortest are left alone.
///
/// Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019; the order of operations is torch.optim.AdamW's.
pub fn adamw(
    param: &mut [f32],
    grad: &[f32],
    moments: (&mut [f32], &mut [f32]),
    step: u64,
    update: (&AdamWSettings, f32),
) {
    let constants = Constants::new(update, step);
    let parameters = param.par_chunks_mut(VALUES).zip(grad.par_chunks(VALUES));
    let moments = moments
        .0
        .par_chunks_mut(VALUES)
        .zip(moments.1.par_chunks_mut(VALUES));
    parameters
        .zip(moments)
        .for_each(|((param, grad), (m, v))| step_values(param, grad, m, v, constants));
}

/// [`adamw`] on tensors of a device, in place; `finite` (u32 `[1]`) becomes zero when a new value is not finite.
///
/// # Shapes
/// param, grad and both moments alike, f32.
///
/// # Errors
/// Other element types, tensors of the CPU, a device that fails.
pub fn adamw_on_device(
    [param, grad, first, second]: [&Tensor; 4],
    finite: &Tensor,
    step: u64,
    update: (&AdamWSettings, f32),
) -> Result<(), OpsError> {
    for (argument, tensor) in [("grad", grad), ("first", first), ("second", second)] {
        expect_f32("adamw", argument, tensor, param.dims())?;
    }
    let constants = Constants::new(update, step);
    let grad = grad.contiguous()?;
    Ok(cuda::adamw::adamw(
        [param, &grad, first, second],
        finite,
        constants,
    )?)
}

/// Partial sums of squares of an f32 tensor of a device, f64 `[parts]`; one is not finite where a value is not.
///
/// # Errors
/// Other element types, a tensor of the CPU, a device that fails.
pub fn squares_on_device(values: &Tensor) -> Result<Tensor, OpsError> {
    Ok(cuda::adamw::squares(&values.contiguous()?)?)
}

impl Constants {
    fn new((settings, clip_scale): (&AdamWSettings, f32), step: u64) -> Self {
        let exponent = step.min(i32::MAX as u64) as i32;
        let correction1 = 1.0 - settings.beta1.powi(exponent);
        let correction2 = 1.0 - settings.beta2.powi(exponent);
        Self {
            clip_scale,
            decay: (1.0 - settings.lr * settings.weight_decay) as f32,
            one_minus_beta1: (1.0 - settings.beta1) as f32,
            beta2: settings.beta2 as f32,
            one_minus_beta2: (1.0 - settings.beta2) as f32,
            root_correction2: correction2.sqrt() as f32,
            eps: settings.eps as f32,
            step_size: (settings.lr / correction1) as f32,
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Constants {
    pub(crate) clip_scale: f32,
    pub(crate) decay: f32,
    pub(crate) one_minus_beta1: f32,
    pub(crate) beta2: f32,
    pub(crate) one_minus_beta2: f32,
    pub(crate) root_correction2: f32,
    pub(crate) eps: f32,
    pub(crate) step_size: f32,
}

dispatched! {
    fn step_values(param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], c: Constants) {
        for (((p, &g), m), v) in param.iter_mut().zip(grad).zip(m.iter_mut()).zip(v.iter_mut()) {
            let g = g * c.clip_scale;
            *p *= c.decay;
            *m = (g - *m).mul_add(c.one_minus_beta1, *m);
            *v = (g * g).mul_add(c.one_minus_beta2, *v * c.beta2);
            let denominator = v.sqrt() / c.root_correction2 + c.eps;
            *p -= c.step_size * (*m / denominator);
        }
    }
}
