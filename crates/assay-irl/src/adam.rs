//! AdamW over a player's parameters, with gradient-norm clipping and state that checkpoints exactly.
//!
//! The arithmetic is torch.optim.AdamW's, in `assay_ops::adamw`; the learning-rate schedule is in [`crate::optimiser`].

use std::collections::HashMap;
use std::path::Path;

use assay_lm::gradients::Gradients;
use assay_ops::{AdamWSettings, adamw};
use candle_core::{Device, Tensor, Var};

use crate::IrlError;
use crate::optimiser::{clip_coefficient, global_norm};

/// Moments of one parameter.
struct Moments {
    name: String,
    first: Vec<f32>,
    second: Vec<f32>,
    /// Multiplies the learning rate.
    factor: f64,
}

/// AdamW with its state.
pub struct AdamW {
    moments: Vec<Moments>,
    iterations: u64,
}

/// What an optimiser step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Norm of all gradients together, before clipping.
    pub gradient_norm: f64,
    /// Factor that clipping applied, at most 1.
    pub clip: f64,
}

impl AdamW {
    /// Zero moments for every parameter.
    pub fn new(parameters: &[(String, Var)]) -> Self {
        Self::with_factors(parameters, |_| 1.0)
    }

    /// Zero moments; the parameter called `name` learns at `factor(name)` times the learning rate.
    pub fn with_factors(parameters: &[(String, Var)], factor: impl Fn(&str) -> f64) -> Self {
        let moments = parameters.iter().map(|(name, var)| {
            let n = var.elem_count();
            Moments {
                name: name.clone(),
                first: vec![0.0; n],
                second: vec![0.0; n],
                factor: factor(name),
            }
        });
        Self {
            moments: moments.collect(),
            iterations: 0,
        }
    }

    /// Number of steps taken.
    pub fn iterations(&self) -> u64 {
        self.iterations
    }

    /// One step: clips the gradients to `max_norm` together and updates every parameter.
    ///
    /// # Errors
    /// [`IrlError::MissingGradient`] and [`IrlError::NotFinite`] name the parameter. After a gradient's error nothing has
    /// changed; after a weight's, parameters and moments are to be restored from a checkpoint.
    pub fn step(
        &mut self,
        parameters: &[(String, Var)],
        gradients: &Gradients,
        settings: &AdamWSettings,
        max_norm: f64,
    ) -> Result<StepReport, IrlError> {
        let mut grads = Vec::with_capacity(parameters.len());
        for (name, var) in parameters {
            let missing = || IrlError::MissingGradient {
                parameter: name.clone(),
            };
            let gradient = gradients
                .get(var)
                .ok_or_else(missing)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            if !gradient.iter().all(|g| g.is_finite()) {
                return Err(IrlError::NotFinite {
                    what: format!("the gradient of {name}"),
                });
            }
            grads.push(gradient);
        }
        let norm = global_norm(grads.iter().map(Vec::as_slice));
        let clip = clip_coefficient(norm, max_norm);
        self.iterations += 1;
        for (((name, var), gradient), moments) in
            parameters.iter().zip(&grads).zip(&mut self.moments)
        {
            let mut values = var.flatten_all()?.to_vec1::<f32>()?;
            let state = (moments.first.as_mut_slice(), moments.second.as_mut_slice());
            let settings = AdamWSettings {
                lr: settings.lr * moments.factor,
                ..*settings
            };
            adamw(
                &mut values,
                gradient,
                state,
                self.iterations,
                (&settings, clip as f32),
            );
            if !values.iter().all(|v| v.is_finite()) {
                return Err(IrlError::NotFinite {
                    what: format!("the weight {name}"),
                });
            }
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
        }
        Ok(StepReport {
            gradient_norm: norm,
            clip,
        })
    }

    /// Writes the moments and the step count as one safetensors file.
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), IrlError> {
        let mut tensors = HashMap::new();
        for moments in &self.moments {
            let n = moments.first.len();
            tensors.insert(
                format!("first.{}", moments.name),
                Tensor::from_slice(&moments.first, n, &Device::Cpu)?,
            );
            tensors.insert(
                format!("second.{}", moments.name),
                Tensor::from_slice(&moments.second, n, &Device::Cpu)?,
            );
        }
        tensors.insert(
            "iterations".to_owned(),
            Tensor::new(&[self.iterations as i64], &Device::Cpu)?,
        );
        Ok(assay_lm::save_tensors(&tensors, path)?)
    }

    /// Restores what [`AdamW::save`] wrote.
    ///
    /// # Errors
    /// Names the file and the tensor that is missing or has another size.
    pub fn restore(&mut self, path: &Path) -> Result<(), IrlError> {
        let malformed = |reason: String| IrlError::Malformed {
            path: path.to_owned(),
            reason,
        };
        let tensors = candle_core::safetensors::load(path, &Device::Cpu)
            .map_err(|source| malformed(source.to_string()))?;
        let get = |name: String, n: usize| -> Result<Vec<f32>, IrlError> {
            let tensor = tensors
                .get(&name)
                .ok_or_else(|| malformed(format!("{name} is missing")))?;
            if tensor.elem_count() != n {
                return Err(malformed(format!(
                    "{name} has {} values, not {n}",
                    tensor.elem_count()
                )));
            }
            Ok(tensor.flatten_all()?.to_vec1::<f32>()?)
        };
        for moments in &mut self.moments {
            let n = moments.first.len();
            moments.first = get(format!("first.{}", moments.name), n)?;
            moments.second = get(format!("second.{}", moments.name), n)?;
        }
        let count = tensors
            .get("iterations")
            .ok_or_else(|| malformed("iterations is missing".to_owned()))?;
        self.iterations = count
            .to_vec1::<i64>()?
            .first()
            .copied()
            .unwrap_or(0)
            .unsigned_abs();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(name: &str, values: &[f32]) -> (String, Var) {
        let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
        (name.to_owned(), Var::from_tensor(&tensor).unwrap())
    }

    fn gradients(of: &[((String, Var), &[f32])]) -> Gradients {
        let mut gradients = Gradients::default();
        for ((_, var), values) in of {
            let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
            gradients.add(var.as_tensor().id(), tensor).unwrap();
        }
        gradients
    }

    fn settings(lr: f64) -> AdamWSettings {
        AdamWSettings {
            lr,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.0,
        }
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_named_and_nothing_changes() {
        let (a, b) = (parameter("a", &[1.0, 2.0]), parameter("b", &[3.0]));
        let parameters = [a.clone(), b.clone()];
        let mut adamw = AdamW::new(&parameters);
        for bad in [f32::NAN, f32::INFINITY] {
            let gradients = gradients(&[(a.clone(), &[0.1, 0.2]), (b.clone(), &[bad])]);
            let error = adamw.step(&parameters, &gradients, &settings(0.1), 1.0);
            assert_eq!(
                error.unwrap_err().to_string(),
                "the gradient of b is not finite"
            );
        }
        assert_eq!(adamw.iterations(), 0);
        assert_eq!(a.1.to_vec1::<f32>().unwrap(), [1.0, 2.0]);
        let missing = gradients(&[(a.clone(), &[0.1, 0.2])]);
        let error = adamw.step(&parameters, &missing, &settings(0.1), 1.0);
        assert!(error.unwrap_err().to_string().ends_with("parameter b"));
    }

    #[test]
    fn a_weight_that_overflows_is_named() {
        let a = parameter("a", &[-3e38]);
        let mut adamw = AdamW::new(std::slice::from_ref(&a));
        let gradients = gradients(&[(a.clone(), &[1.0])]);
        let error = adamw.step(std::slice::from_ref(&a), &gradients, &settings(3e38), 1.0);
        assert_eq!(error.unwrap_err().to_string(), "the weight a is not finite");
    }

    #[test]
    fn gradients_of_zero_and_a_rate_of_zero_move_nothing() {
        let a = parameter("a", &[1.5, -2.0]);
        let one = std::slice::from_ref(&a);
        let mut adamw = AdamW::new(one);
        let still = gradients(&[(a.clone(), &[0.0, 0.0])]);
        let report = adamw.step(one, &still, &settings(0.1), 1.0).unwrap();
        assert_eq!((report.gradient_norm, report.clip), (0.0, 1.0));
        let moving = gradients(&[(a.clone(), &[5.0, 1.0])]);
        adamw.step(one, &moving, &settings(0.0), 1.0).unwrap();
        assert_eq!(a.1.to_vec1::<f32>().unwrap(), [1.5, -2.0]);
    }
}
