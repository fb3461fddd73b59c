//! AdamW over a player's parameters, with gradient-norm clipping. Its state is restored exactly.
//!
//! The arithmetic, in `assay_ops::adamw`, is that of torch.optim.AdamW. The learning-rate schedule
//! is in [`crate::optimiser`].

mod moments;

use std::collections::HashMap;
use std::path::Path;

use assay_lm::gradients::Gradients;
use assay_ops::AdamWSettings;
use candle_core::{Device, Tensor, Var};

use self::moments::{Found, Moments, StepScale, step_all};
use crate::TrainError;
use crate::optimiser::clip_coefficient;

/// The state of one parameter.
struct State {
    name: String,
    moments: Moments,
    /// Multiplies the learning rate.
    factor: f64,
}

/// AdamW with its state.
pub struct AdamW {
    moments: Vec<State>,
    iterations: u64,
}

/// Statistics of an optimiser step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Norm of all gradients together, before clipping.
    pub gradient_norm: f64,
    /// Factor that clipping applied, at most 1.
    pub clip: f64,
}

impl AdamW {
    /// Zero moments for every parameter.
    ///
    /// # Errors
    /// A device has no memory for them.
    pub fn new(parameters: &[(String, Var)]) -> Result<Self, TrainError> {
        Self::with_factors(parameters, |_| 1.0)
    }

    /// Zero moments; the learning rate of the parameter `name` is multiplied by `factor(name)`.
    ///
    /// # Errors
    /// As [`AdamW::new`].
    pub fn with_factors(
        parameters: &[(String, Var)],
        factor: impl Fn(&str) -> f64,
    ) -> Result<Self, TrainError> {
        let state = |(name, var): &(String, Var)| -> Result<State, TrainError> {
            Ok(State {
                name: name.clone(),
                moments: Moments::zeros(var)?,
                factor: factor(name),
            })
        };
        Ok(Self {
            moments: parameters.iter().map(state).collect::<Result<_, _>>()?,
            iterations: 0,
        })
    }

    /// Number of steps taken.
    pub fn iterations(&self) -> u64 {
        self.iterations
    }

    /// One step: clips the gradients to `max_norm` together and updates every parameter.
    ///
    /// # Errors
    /// [`TrainError::MissingGradient`] and [`TrainError::NotFinite`] name the parameter. After an
    /// error about a gradient nothing has changed. After an error about a weight, parameters and
    /// moments must be restored from a checkpoint.
    pub fn step(
        &mut self,
        parameters: &[(String, Var)],
        gradients: &Gradients,
        settings: &AdamWSettings,
        max_norm: f64,
    ) -> Result<StepReport, TrainError> {
        let (found, norm) = Found::collect(parameters, gradients)?;
        let clip = clip_coefficient(norm, max_norm);
        self.iterations += 1;
        let factors: Vec<f64> = self.moments.iter().map(|own| own.factor).collect();
        let moments = self.moments.iter_mut().map(|own| &mut own.moments);
        let scale = StepScale {
            step: self.iterations,
            clip: clip as f32,
        };
        step_all(parameters, &found, moments, scale, |index| AdamWSettings {
            lr: settings.lr * factors[index],
            ..*settings
        })?;
        Ok(StepReport {
            gradient_norm: norm,
            clip,
        })
    }

    /// Writes the moments and the step count as one safetensors file.
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        let mut tensors = HashMap::new();
        for own in &self.moments {
            let [first, second] = own.moments.tensors()?;
            tensors.insert(format!("first.{}", own.name), first);
            tensors.insert(format!("second.{}", own.name), second);
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
    pub fn restore(&mut self, path: &Path) -> Result<(), TrainError> {
        let malformed = |reason: String| TrainError::malformed(path, reason);
        let tensors = candle_core::safetensors::load(path, &Device::Cpu)
            .map_err(|source| malformed(source.to_string()))?;
        let get = |name: String, n: usize| -> Result<Tensor, TrainError> {
            let tensor = tensors
                .get(&name)
                .ok_or_else(|| malformed(format!("{name} is missing")))?;
            if tensor.elem_count() != n {
                return Err(malformed(format!(
                    "{name} has {} values, not {n}",
                    tensor.elem_count()
                )));
            }
            Ok(tensor.flatten_all()?)
        };
        for own in &mut self.moments {
            let n = own.moments.len();
            let first = get(format!("first.{}", own.name), n)?;
            let second = get(format!("second.{}", own.name), n)?;
            own.moments.set([first, second])?;
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
    fn a_non_finite_gradient_changes_nothing() {
        let (a, b) = (parameter("a", &[1.0, 2.0]), parameter("b", &[3.0]));
        let parameters = [a.clone(), b.clone()];
        let mut adamw = AdamW::new(&parameters).unwrap();
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
        let mut adamw = AdamW::new(std::slice::from_ref(&a)).unwrap();
        let gradients = gradients(&[(a.clone(), &[1.0])]);
        let error = adamw.step(std::slice::from_ref(&a), &gradients, &settings(3e38), 1.0);
        assert_eq!(error.unwrap_err().to_string(), "the weight a is not finite");
    }

    #[test]
    fn zero_gradients_and_zero_rates_move_nothing() {
        let a = parameter("a", &[1.5, -2.0]);
        let one = std::slice::from_ref(&a);
        let mut adamw = AdamW::new(one).unwrap();
        let still = gradients(&[(a.clone(), &[0.0, 0.0])]);
        let report = adamw.step(one, &still, &settings(0.1), 1.0).unwrap();
        assert_eq!((report.gradient_norm, report.clip), (0.0, 1.0));
        let moving = gradients(&[(a.clone(), &[5.0, 1.0])]);
        adamw.step(one, &moving, &settings(0.0), 1.0).unwrap();
        assert_eq!(a.1.to_vec1::<f32>().unwrap(), [1.5, -2.0]);
    }
}
