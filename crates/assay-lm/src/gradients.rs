//! Backward passes layer by layer: the activations that a forward pass keeps, and the propagation
//! and summation of gradients.

use std::collections::HashMap;

use assay_ops::seed_gradient;
use candle_core::backprop::GradStore;
use candle_core::{Tensor, TensorId, Var};

use crate::LmError;

/// The activations that a training forward pass keeps for the backward pass.
///
/// # Shapes
/// `[T, hidden]` in the type of the model: the input of each layer, and of the final norm.
pub struct Tape {
    pub(crate) layers: Vec<Kept>,
    /// Input of the final norm.
    pub(crate) last: Tensor,
}

/// The stored activations of one layer.
pub(crate) enum Kept {
    /// Its input; the backward pass recomputes the rest.
    Input(Tensor),
    /// All activations.
    Whole(Graph),
}

/// A part of the computation with the data for its backward pass.
pub(crate) struct Graph {
    input: Var,
    output: Tensor,
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

    /// Adds a gradient to the sum for a tensor.
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

    /// Adds all gradients of another list.
    ///
    /// # Errors
    /// Fails when the shapes differ.
    pub fn add_all(&mut self, other: Self) -> Result<(), LmError> {
        let mut gradients = other.by_id.into_iter();
        gradients.try_for_each(|(id, gradient)| self.add(id, gradient))
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

impl Graph {
    /// Computes `forward` on a copy of `input` and keeps the graph.
    pub(crate) fn new(
        input: &Tensor,
        forward: impl FnOnce(&Tensor) -> Result<Tensor, LmError>,
    ) -> Result<Self, LmError> {
        let input = Var::from_tensor(input)?;
        let output = forward(input.as_tensor())?;
        Ok(Self { input, output })
    }

    /// The result of the forward computation.
    pub(crate) fn output(&self) -> &Tensor {
        &self.output
    }

    /// Gradient of `output . grad_output` with respect to the input. Also adds the gradients of
    /// `tensors`.
    pub(crate) fn pull_back<'t>(
        self,
        grad_output: &Tensor,
        tensors: impl Iterator<Item = &'t Tensor>,
        gradients: &mut Gradients,
    ) -> Result<Tensor, LmError> {
        let mut store = seed_gradient(&self.output, grad_output)?.backward()?;
        gradients.absorb(&mut store, tensors)?;
        match store.remove(self.input.as_tensor()) {
            Some(gradient) => Ok(gradient.detach()),
            None => Err(LmError::NoGradient {
                what: "a layer's input".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed::{Group, PackedBatch};
    use crate::transformer::Transformer;
    use crate::{Architecture, ModelConfig, RopeScaling, RopeSettings};

    #[test]
    fn a_tape_keeps_the_last_layers_that_fit() {
        let config = ModelConfig {
            architecture: Architecture::Qwen2,
            vocab_size: 11,
            hidden_size: 8,
            intermediate_size: 12,
            layers: 4,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            rms_norm_eps: 1e-6,
            rope: RopeSettings {
                theta: 1e4,
                scaling: RopeScaling::None,
            },
            max_positions: 16,
            pattern: crate::LayerPattern::default(),
            qkv_bias: true,
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_ids: vec![1],
        };
        let (model, _) = Transformer::random(&config, 3).unwrap();
        let group = Group {
            prompt: vec![1, 2],
            completions: vec![vec![3, 4, 5]],
        };
        let batch = PackedBatch::new(&[group]).unwrap();
        let layer = model.layer_bytes(5);
        assert_eq!(layer, 4 * 5 * (7 * 8 + 3 * (8 + 4 + 12)));
        let kept = |bytes| {
            let (_, tape) = model.forward_recorded(&batch, None, bytes).unwrap();
            let whole = |kept: &Kept| matches!(kept, Kept::Whole(_));
            tape.layers.iter().map(whole).collect::<Vec<_>>()
        };
        assert_eq!(kept(0), [false; 4]);
        assert_eq!(kept(2 * layer - 1), [false, false, false, true]);
        assert_eq!(kept(2 * layer), [false, false, true, true]);
        assert_eq!(kept(u64::MAX), [true; 4]);
    }
}
