//! The AdamW update.

use candle_core::Tensor;

use crate::values::expect_f32;
use crate::{OpsError, cpu, cuda};

const NAME: &str = "adamw";

/// Constants of AdamW, with the names of torch.optim.AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Learning rate of this update.
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

/// One update: the settings, its number and the factor that clips its gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWUpdate<'a> {
    /// Constants of the optimiser.
    pub settings: &'a AdamWSettings,
    /// Number of the update, counted from 1.
    pub number: u64,
    /// Factor of the gradient; 1 when it is not clipped.
    pub clip_scale: f32,
}

/// First and second moment of a flat buffer of parameters.
#[derive(Debug)]
pub struct MomentSlices<'a> {
    /// m, the running mean of the gradient.
    pub first: &'a mut [f32],
    /// v, the running mean of the squared gradient.
    pub second: &'a mut [f32],
}

/// Parameters, their gradient and both moments on a device, all of one shape, f32.
#[derive(Clone, Copy, Debug)]
pub struct AdamWTensors<'a> {
    /// p, updated in place.
    pub param: &'a Tensor,
    /// g.
    pub grad: &'a Tensor,
    /// m, updated in place.
    pub first: &'a Tensor,
    /// v, updated in place.
    pub second: &'a Tensor,
}

/// Makes one AdamW update in place, with g = clip_scale * grad and t the number of the update:
/// p *= 1 - lr * weight_decay; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
/// p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps).
///
/// All slices should have the same length; values beyond the shortest slice do not change.
///
/// Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019; the order of operations is
/// that of torch.optim.AdamW.
pub fn adamw(param: &mut [f32], grad: &[f32], moments: MomentSlices<'_>, update: AdamWUpdate<'_>) {
    cpu::adamw::adamw(param, grad, moments, Constants::new(update));
}

/// Makes the update of [`adamw`] on a device, in place. `finite` (u32 `[1]`) becomes 0 if a new
/// value is not finite.
///
/// # Errors
/// Other shapes or element types, tensors on the CPU, a failure of the device.
pub fn adamw_on_device(
    state: AdamWTensors<'_>,
    finite: &Tensor,
    update: AdamWUpdate<'_>,
) -> Result<(), OpsError> {
    let dims = state.param.dims();
    expect_f32(NAME, "grad", state.grad, dims)?;
    expect_f32(NAME, "first", state.first, dims)?;
    expect_f32(NAME, "second", state.second, dims)?;
    let grad = &state.grad.contiguous()?;
    let state = AdamWTensors { grad, ..state };
    Ok(cuda::adamw::adamw(state, finite, Constants::new(update))?)
}

/// Returns partial sums of squares of an f32 tensor on a device, f64 `[parts]`. The sum of a part
/// with a value that is not finite is not finite.
///
/// # Errors
/// Other element types, a tensor on the CPU, a failure of the device.
pub fn squares_on_device(values: &Tensor) -> Result<Tensor, OpsError> {
    Ok(cuda::adamw::squares(&values.contiguous()?)?)
}

impl Constants {
    fn new(update: AdamWUpdate<'_>) -> Self {
        let AdamWUpdate {
            settings,
            number,
            clip_scale,
        } = update;
        let exponent = number.min(i32::MAX as u64) as i32;
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
