//! Moments of one parameter, on the parameter's device: slices on the CPU, tensors elsewhere.

use assay_lm::gradients::Gradients;
use assay_ops::{
    AdamWSettings, AdamWTensors, AdamWUpdate, MomentSlices, adamw, adamw_on_device, has_kernels,
    squares_on_device,
};
use candle_core::{DType, Device, Tensor, Var};

use crate::TrainError;

/// First and second moment of every value.
pub(super) enum Moments {
    Host { first: Vec<f32>, second: Vec<f32> },
    Device { first: Tensor, second: Tensor },
}

impl Moments {
    /// Zero moments on the device of a parameter.
    pub(super) fn zeros(var: &Var) -> Result<Self, TrainError> {
        let n = var.elem_count();
        if !has_kernels(var.device()) {
            let (first, second) = (vec![0.0; n], vec![0.0; n]);
            return Ok(Self::Host { first, second });
        }
        let zeros = || Tensor::zeros(n, DType::F32, var.device());
        let (first, second) = (zeros()?, zeros()?);
        Ok(Self::Device { first, second })
    }

    /// First and second moment as tensors `[n]` f32.
    pub(super) fn tensors(&self) -> Result<[Tensor; 2], TrainError> {
        Ok(match self {
            Self::Host { first, second } => [
                Tensor::from_slice(first, first.len(), &Device::Cpu)?,
                Tensor::from_slice(second, second.len(), &Device::Cpu)?,
            ],
            Self::Device { first, second } => [first.clone(), second.clone()],
        })
    }

    /// Number of values in a moment.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Host { first, .. } => first.len(),
            Self::Device { first, .. } => first.elem_count(),
        }
    }

    /// Copies the values of a checkpoint's tensors, `[n]` f32 on the CPU.
    pub(super) fn set(&mut self, [first, second]: [Tensor; 2]) -> Result<(), TrainError> {
        *self = match self {
            Self::Host { .. } => Self::Host {
                first: first.to_vec1()?,
                second: second.to_vec1()?,
            },
            Self::Device { first: before, .. } => Self::Device {
                first: first.to_device(before.device())?,
                second: second.to_device(before.device())?,
            },
        };
        Ok(())
    }
}

/// Gradients of all parameters, in the form that the parameters' device needs.
pub(super) enum Found {
    Host(Vec<Vec<f32>>),
    Device(Vec<Tensor>),
}

impl Found {
    /// Collects the gradients and the sum of squares of each. A gradient that is not finite is an
    /// error that names its parameter.
    pub(super) fn collect(
        parameters: &[(String, Var)],
        gradients: &Gradients,
    ) -> Result<(Self, f64), TrainError> {
        let mut found = Vec::with_capacity(parameters.len());
        for (name, var) in parameters {
            let gradient = gradients
                .get(var)
                .ok_or_else(|| TrainError::MissingGradient {
                    parameter: name.clone(),
                })?;
            found.push(gradient.flatten_all()?);
        }
        let on_device = parameters.iter().any(|(_, var)| has_kernels(var.device()));
        match on_device {
            true => Self::on_device(parameters, found),
            false => Self::on_host(parameters, &found),
        }
    }

    fn on_host(parameters: &[(String, Var)], found: &[Tensor]) -> Result<(Self, f64), TrainError> {
        let mut grads = Vec::with_capacity(found.len());
        for ((name, _), gradient) in parameters.iter().zip(found) {
            let gradient = gradient.to_vec1::<f32>()?;
            if !gradient.iter().all(|g| g.is_finite()) {
                return Err(not_finite("gradient of", name));
            }
            grads.push(gradient);
        }
        let norm = crate::optimiser::global_norm(grads.iter().map(Vec::as_slice));
        Ok((Self::Host(grads), norm))
    }

    /// Transfers the partial sums of squares of all parameters at once.
    fn on_device(
        parameters: &[(String, Var)],
        found: Vec<Tensor>,
    ) -> Result<(Self, f64), TrainError> {
        let parts: Vec<Tensor> = found
            .iter()
            .map(squares_on_device)
            .collect::<Result<_, _>>()?;
        let all = Tensor::cat(&parts, 0)?.to_vec1::<f64>()?;
        let mut rest = all.as_slice();
        let mut squares = 0.0;
        for ((name, _), part) in parameters.iter().zip(&parts) {
            let (own, later) = rest.split_at(part.elem_count());
            rest = later;
            let own: f64 = own.iter().sum();
            if !own.is_finite() {
                return Err(not_finite("gradient of", name));
            }
            squares += own;
        }
        Ok((Self::Device(found), squares.sqrt()))
    }
}

/// The number of steps including this one, and the factor that clipping applies to gradients.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepScale {
    pub(super) step: u64,
    pub(super) clip: f32,
}

/// One optimiser step of every parameter with the settings `settings(index)`.
pub(super) fn step_all<'m>(
    parameters: &[(String, Var)],
    found: &Found,
    moments: impl Iterator<Item = &'m mut Moments>,
    scale: StepScale,
    settings: impl Fn(usize) -> AdamWSettings,
) -> Result<(), TrainError> {
    match found {
        Found::Host(grads) => {
            for (index, (((name, var), grad), moments)) in
                parameters.iter().zip(grads).zip(moments).enumerate()
            {
                step_on_host(name, var, grad, moments, scale, &settings(index))?;
            }
            Ok(())
        }
        Found::Device(grads) => {
            let Some((_, var)) = parameters.first() else {
                return Ok(());
            };
            let finite = Tensor::ones(parameters.len(), DType::U32, var.device())?;
            for (index, (((_, var), grad), moments)) in
                parameters.iter().zip(grads).zip(moments).enumerate()
            {
                let Moments::Device { first, second } = moments else {
                    continue;
                };
                let param = var.flatten_all()?;
                let state = AdamWTensors {
                    param: &param,
                    grad,
                    first,
                    second,
                };
                let own = finite.narrow(0, index, 1)?;
                let update = AdamWUpdate {
                    settings: &settings(index),
                    number: scale.step,
                    clip_scale: scale.clip,
                };
                adamw_on_device(state, &own, update)?;
            }
            let finite = finite.to_vec1::<u32>()?;
            match finite.iter().position(|&flag| flag == 0) {
                Some(index) => Err(not_finite("weight", &parameters[index].0)),
                None => Ok(()),
            }
        }
    }
}

fn step_on_host(
    name: &str,
    var: &Var,
    grad: &[f32],
    moments: &mut Moments,
    scale: StepScale,
    settings: &AdamWSettings,
) -> Result<(), TrainError> {
    let Moments::Host { first, second } = moments else {
        return Ok(());
    };
    let mut values = var.flatten_all()?.to_vec1::<f32>()?;
    let update = AdamWUpdate {
        settings,
        number: scale.step,
        clip_scale: scale.clip,
    };
    adamw(&mut values, grad, MomentSlices { first, second }, update);
    if !values.iter().all(|v| v.is_finite()) {
        return Err(not_finite("weight", name));
    }
    Ok(var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?)
}

fn not_finite(what: &str, name: &str) -> TrainError {
    TrainError::NotFinite {
        what: format!("the {what} {name}"),
    }
}
