//! The two players as trainable maps from packed batches to one scalar per completion token.
//!
//! The policy returns log-probabilities, the discriminator logits. Losses depend only on these
//! scalars and return their gradients; [`Player::backward`] turns those into gradients of
//! parameters. A player defines the transformer that computes its hidden states and the head that
//! reads them. The forward and backward passes through both are implemented here.

use assay_lm::adapter::Adapter;
use assay_lm::gradients::{Gradients, Tape};
use assay_lm::packed::PackedBatch;
use assay_lm::transformer::Transformer;
use assay_ops::seed_gradient;
use candle_core::{Device, Tensor, Var};

use crate::CriticError;

/// One scalar per completion token and one list per completion, in the order of the groups.
pub type TokenScalars = Vec<Vec<f32>>;

/// What a forward pass in training keeps for the backward pass.
pub struct Recording {
    /// Inputs of the layers, or all their activations.
    tape: Tape,
    /// Hidden states after the final norm, `[T, hidden]`.
    hidden: Var,
    /// The head's scalars `[N]` f32, with their graph for the backward pass.
    scalars: Tensor,
}

/// A trainable map from a packed batch to one scalar per completion token:
/// head(body(batch)) + offset(batch).
pub trait Player {
    /// Name of a scalar, with its article.
    fn scalar(&self) -> &'static str;

    /// The transformer and adapter that compute the hidden states.
    fn body(&self) -> (&Transformer, Option<&Adapter>);

    /// Scalars `[N]` f32 of completion tokens from hidden states `[T, hidden]`, differentiable in
    /// these and in [`Player::head_tensors`].
    ///
    /// # Errors
    /// The batch does not fit the model.
    fn head(&self, hidden: &Tensor, batch: &PackedBatch) -> Result<Tensor, CriticError>;

    /// Trained tensors that the head reads in addition to the hidden states.
    fn head_tensors(&self) -> Vec<&Tensor>;

    /// Values added to the head's scalars, `[N]` f32 without gradients; `None` for none.
    ///
    /// # Errors
    /// As [`Player::head`].
    fn offset(&self, _batch: &PackedBatch) -> Result<Option<Tensor>, CriticError> {
        Ok(None)
    }

    /// Trainable tensors by name, in a fixed order.
    fn parameters(&self) -> Vec<(String, Var)>;

    /// Scalars without gradients.
    ///
    /// # Errors
    /// As [`Player::head`].
    fn infer(&self, batch: &PackedBatch) -> Result<TokenScalars, CriticError> {
        let (body, adapter) = self.body();
        let hidden = body.hidden(batch, adapter)?;
        self.read(&self.head(&hidden.detach(), batch)?, batch)
    }

    /// Scalars, and the recording for [`Player::backward`]. It keeps the activations of as many
    /// layers as fit into `kept_bytes`.
    ///
    /// # Errors
    /// As [`Player::head`].
    fn forward(
        &self,
        batch: &PackedBatch,
        kept_bytes: u64,
    ) -> Result<(TokenScalars, Recording), CriticError> {
        let (body, adapter) = self.body();
        let (hidden, tape) = body.forward_recorded(batch, adapter, kept_bytes)?;
        let hidden = Var::from_tensor(&hidden)?;
        let scalars = self.head(hidden.as_tensor(), batch)?;
        let values = self.read(&scalars, batch)?;
        let recording = Recording {
            tape,
            hidden,
            scalars,
        };
        Ok((values, recording))
    }

    /// The head's scalars plus the offset, one list per completion.
    ///
    /// # Errors
    /// As [`Player::head`].
    fn read(&self, scalars: &Tensor, batch: &PackedBatch) -> Result<TokenScalars, CriticError> {
        let mut scalars = scalars.detach();
        if let Some(offset) = self.offset(batch)? {
            scalars = (scalars + offset)?;
        }
        Ok(batch.split_by_completion(&scalars.to_vec1::<f32>()?))
    }

    /// Adds the gradients of `sum(grads * scalars)` to `gradients`.
    ///
    /// # Errors
    /// As [`Player::head`].
    fn backward(
        &self,
        batch: &PackedBatch,
        recording: Recording,
        grads: &[Vec<f32>],
        gradients: &mut Gradients,
    ) -> Result<(), CriticError> {
        let Recording {
            tape,
            hidden,
            scalars,
        } = recording;
        let mut store = seed_gradient(&scalars, &flatten(grads, scalars.device())?)?.backward()?;
        drop(scalars);
        gradients.absorb(&mut store, self.head_tensors().into_iter())?;
        let grad_hidden = match store.remove(hidden.as_tensor()) {
            Some(gradient) => gradient,
            None => hidden.as_tensor().zeros_like()?,
        };
        let (body, adapter) = self.body();
        Ok(body.backward(batch, adapter, tape, grad_hidden, gradients)?)
    }
}

/// A flat `[N]` tensor of per-token gradients, on the device of the scalars.
fn flatten(grads: &[Vec<f32>], device: &Device) -> Result<Tensor, CriticError> {
    let flat = grads.concat();
    let n = flat.len();
    Ok(Tensor::from_vec(flat, n, device)?)
}
