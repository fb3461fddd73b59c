//! Backward passes layer by layer: what a forward pass keeps, how gradients are pulled back and summed.

use std::collections::HashMap;

use assay_ops::seed_gradient;
use candle_core::backprop::GradStore;
use candle_core::{Tensor, TensorId, Var};

use crate::LmError;

/// Inputs of every layer, kept by a forward pass in training so that the backward pass can recompute the rest.
///
/// # Shapes
/// One `[T, hidden]` f32 tensor a layer, and the input of the final norm.
pub struct Tape {
    pub(crate) inputs: Vec<Tensor>,
}

/// Gradients by tensor, summed over micro-batches.
#[derive(Default)]
pub struct Gradients {
    by_id: HashMap<TensorId, Tensor>,
}

impl Gradients {
    /// The gradient of a variable, if any reached it.
    pub fn get(&self, var: &Var) -> Option<&Tensor> {
        self.by_id.get(&var.as_tensor().id())
    }

    /// Adds a gradient to what is there.
    ///
    /// # Errors
    /// Fails when the shapes differ.
    pub fn add(&mut self, id: TensorId, gradient: Tensor) -> Result<(), LmError> {
        let sum = match self.by_id.remove(&id) {
            Some(before) => (before + gradient)?,
            None => gradient,
        };
        self.by_id.insert(id, sum.detach());
        Ok(())
    }

    /// Moves the gradients of `tensors` out of a candle store.
    ///
    /// # Errors
    /// Fails when the shapes differ from an earlier micro-batch's.
    pub fn absorb<'t>(
        &mut self,
        store: &mut GradStore,
        tensors: impl Iterator<Item = &'t Tensor>,
    ) -> Result<(), LmError> {
        for tensor in tensors {
            if let Some(gradient) = store.remove(tensor) {
                self.add(tensor.id(), gradient)?;
            }
        }
        Ok(())
    }
}

/// Gradient at `input` of `forward(input) . grad_output`; gradients of `tensors` are added on the way.
pub(crate) fn pull_back<'t>(
    input: &Tensor,
    grad_output: &Tensor,
    forward: impl FnOnce(&Tensor) -> Result<Tensor, LmError>,
    tensors: impl Iterator<Item = &'t Tensor>,
    gradients: &mut Gradients,
) -> Result<Tensor, LmError> {
    let x = Var::from_tensor(input)?;
    let y = forward(x.as_tensor())?;
    let mut store = seed_gradient(&y, grad_output)?.backward()?;
    gradients.absorb(&mut store, tensors)?;
    match store.remove(x.as_tensor()) {
        Some(gradient) => Ok(gradient.detach()),
        None => Err(LmError::NoGradient {
            what: "a layer's input".to_owned(),
        }),
    }
}
