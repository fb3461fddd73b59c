//! The start of a backward pass from a gradient that is already known.

use candle_core::{Result as CandleResult, Tensor};

use super::attach::attach1;
use super::launch::Fresh;

/// [`crate::seed_gradient()`]. The scalar's own gradient is multiplied on the device, because
/// reading it would wait for all work.
pub(crate) fn seed_gradient(y: &Tensor, gradient: &Tensor) -> CandleResult<Tensor> {
    let zero = Fresh::zeros(y.device(), y.dtype(), ())?;
    let gradient = gradient.detach();
    attach1("seed_gradient", y, zero, move |_, _, grad| {
        Ok([Some(gradient.broadcast_mul(grad)?)])
    })
}
