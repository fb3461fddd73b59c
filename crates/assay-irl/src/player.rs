//! The two players as trainable maps from packed batches to one scalar a completion token.
//!
//! The policy gives log-probabilities, the discriminator gives logits. Losses see only these scalars and return their
//! gradients; [`update()`] turns those into gradients of parameters. A player says only which body computes its hidden states
//! and how its head reads them; the passes through both are here, once.

mod update;

use assay_lm::adapter::Adapter;
use assay_lm::gradients::{Gradients, Tape};
pub(crate) use assay_lm::packed::rows;
use assay_lm::packed::{Group, PackedBatch, micro_batches};
use assay_lm::transformer::Transformer;
use assay_ops::seed_gradient;
use candle_core::{Device, Tensor, Var};

use crate::IrlError;
use crate::memory::{Residence, training_rows};
use crate::parallel::{self, Alone, Collective};
use crate::relief::{Relief, Work};
pub use update::{Reach, update};

/// One scalar a completion token, one list a completion, in the order of the groups.
pub type TokenScalars = Vec<Vec<f32>>;

/// What a forward pass in training keeps for the backward pass.
pub struct Recording {
    /// Inputs of the layers, or all they computed.
    tape: Tape,
    /// Hidden states after the final norm, `[T, hidden]`.
    hidden: Var,
    /// What the head made of them, `[N]` f32, with its way back.
    scalars: Tensor,
}

/// A trainable map from a packed batch to one scalar a completion token: head(body(batch)) + offset(batch).
pub trait Player {
    /// What a scalar is, with its article.
    fn scalar(&self) -> &'static str;

    /// What computes the hidden states.
    fn body(&self) -> (&Transformer, Option<&Adapter>);

    /// Scalars `[N]` f32 of completion tokens from hidden states `[T, hidden]`, differentiable in these and in
    /// [`Player::head_tensors`].
    ///
    /// # Errors
    /// Fails when the batch does not fit the model.
    fn head(&self, hidden: &Tensor, batch: &PackedBatch) -> Result<Tensor, IrlError>;

    /// Trained tensors that the head reads beside the hidden states.
    fn head_tensors(&self) -> Vec<&Tensor>;

    /// What is added to the head's scalars, `[N]` f32 without gradients; `None` for nothing.
    ///
    /// # Errors
    /// As [`Player::head`].
    fn offset(&self, _batch: &PackedBatch) -> Result<Option<Tensor>, IrlError> {
        Ok(None)
    }

    /// Trainable tensors by name, in a fixed order.
    fn parameters(&self) -> Vec<(String, Var)>;

    /// Scalars without gradients.
    ///
    /// # Errors
    /// As [`Player::head`].
    fn infer(&self, batch: &PackedBatch) -> Result<TokenScalars, IrlError> {
        let (body, adapter) = self.body();
        let hidden = body.hidden(batch, adapter)?;
        self.read(&self.head(&hidden.detach(), batch)?, batch)
    }

    /// Scalars and what [`Player::backward`] needs; activations as far as they fit `kept_bytes`.
    ///
    /// # Errors
    /// As [`Player::head`].
    fn forward(
        &self,
        batch: &PackedBatch,
        kept_bytes: u64,
    ) -> Result<(TokenScalars, Recording), IrlError> {
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

    /// The head's scalars, offset included, one list a completion.
    ///
    /// # Errors
    /// As [`Player::head`].
    fn read(&self, scalars: &Tensor, batch: &PackedBatch) -> Result<TokenScalars, IrlError> {
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
    ) -> Result<(), IrlError> {
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

/// How the passes over an update are done: it changes time and memory, not the result.
#[derive(Clone, Copy)]
pub struct Passes<'c> {
    /// Most packed tokens a micro-batch.
    pub token_budget: usize,
    /// Bytes of activations that are kept for the backward pass instead of being computed again.
    pub kept_bytes: u64,
    /// Who shares the micro-batches.
    pub ranks: &'c dyn Collective,
    /// What happens where memory is refused: an error where there is none.
    pub relief: Option<&'c Relief>,
}

impl Passes<'_> {
    /// Rows of a micro-batch of an update, see [`training_rows`].
    pub fn training_rows(&self, body: &Transformer) -> usize {
        let residence = Residence::of(&body.placement());
        training_rows(
            body.config(),
            residence,
            (self.token_budget, self.kept_bytes),
        )
    }

    /// Does `passes` over `rows` rows at a time within the memory there is, see [`Relief::attempt`]; half the tokens keep half
    /// the activations.
    ///
    /// # Errors
    /// As [`Relief::attempt`].
    pub(crate) fn attempt<T>(
        self,
        rows: usize,
        mut passes: impl FnMut(Self) -> Result<T, IrlError>,
    ) -> Result<T, IrlError> {
        let Some(relief) = self.relief else {
            return passes(self);
        };
        relief.attempt(Work::Tokens, rows.max(1), |at_once| {
            passes(match relief.limit(Work::Tokens) {
                None => self,
                Some(_) => Self {
                    token_budget: at_once.min(self.token_budget),
                    kept_bytes: self.kept_bytes / 2,
                    ..self
                },
            })
        })
    }
}

impl Passes<'static> {
    /// All passes in this process, layers computed again in the backward pass.
    pub fn alone(token_budget: usize) -> Self {
        Self {
            token_budget,
            kept_bytes: 0,
            ranks: &Alone,
            relief: None,
        }
    }
}

/// Scalars of every completion of an update, in order, within a token budget.
///
/// # Errors
/// As [`Player::infer`].
pub fn infer_all(
    player: &dyn Player,
    groups: &[Group],
    passes: Passes<'_>,
) -> Result<TokenScalars, IrlError> {
    passes.attempt(rows(groups).min(passes.token_budget), |passes| {
        let parts = micro_batches(groups, passes.token_budget);
        parallel::scalars(passes.ranks, &parts, |part| {
            player.infer(&PackedBatch::new(&part.groups)?)
        })
    })
}

/// A flat `[N]` tensor of per-token gradients, where the scalars are.
fn flatten(grads: &[Vec<f32>], device: &Device) -> Result<Tensor, IrlError> {
    let flat = grads.concat();
    let n = flat.len();
    Ok(Tensor::from_vec(flat, n, device)?)
}
