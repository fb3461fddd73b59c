//! The CPU side of [`crate::adamw()`].

use rayon::prelude::*;

use crate::adamw::{Constants, MomentSlices};
use crate::cpu::routines::dispatched;

/// Values of one parallel task.
const VALUES: usize = 1 << 14;

/// Updates the values that all four slices have.
pub(crate) fn adamw(
    param: &mut [f32],
    grad: &[f32],
    moments: MomentSlices<'_>,
    constants: Constants,
) {
    let parameters = param.par_chunks_mut(VALUES).zip(grad.par_chunks(VALUES));
    let moments = moments
        .first
        .par_chunks_mut(VALUES)
        .zip(moments.second.par_chunks_mut(VALUES));
    parameters
        .zip(moments)
        .for_each(|((param, grad), (m, v))| update_values(param, grad, m, v, constants));
}

dispatched! {
    fn update_values(param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], c: Constants) {
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
