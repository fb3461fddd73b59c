//! The policy: a transformer that returns token log-probabilities. Either all its weights or an
//! adapter are trained.

use std::sync::Arc;

use assay_lm::adapter::Adapter;
use assay_lm::packed::PackedBatch;
use assay_lm::transformer::Transformer;
use assay_ops::{Matrix, TokenLogprobs, token_logprobs};
use candle_core::{Tensor, Var};

use crate::CriticError;
use crate::player::{Player, TokenScalars};

/// The trained part of the policy.
pub enum Trainable {
    /// The LoRA pairs of an adapter on a frozen base.
    Adapter(Adapter),
    /// Every weight of the transformer, by name.
    Whole(Vec<(String, Var)>),
}

/// A policy.
pub struct PolicyModel {
    /// The base. Its weights are variables if it is trained whole.
    pub transformer: Arc<Transformer>,
    /// What is trained.
    pub trainable: Trainable,
}

impl PolicyModel {
    /// The adapter, if the policy has one.
    pub fn adapter(&self) -> Option<&Adapter> {
        match &self.trainable {
            Trainable::Adapter(adapter) => Some(adapter),
            Trainable::Whole(_) => None,
        }
    }

    /// Token log-probabilities and entropies (nats) of every completion.
    ///
    /// # Errors
    /// Fails when the batch does not fit the model.
    pub fn logprobs_and_entropies(
        &self,
        batch: &PackedBatch,
    ) -> Result<(TokenScalars, TokenScalars), CriticError> {
        logprobs_and_entropies(&self.transformer, self.adapter(), batch)
    }
}

/// Token log-probabilities and entropies of a transformer with or without an adapter; no gradients.
///
/// # Errors
/// Fails when the batch does not fit the model.
pub fn logprobs_and_entropies(
    transformer: &Transformer,
    adapter: Option<&Adapter>,
    batch: &PackedBatch,
) -> Result<(TokenScalars, TokenScalars), CriticError> {
    let hidden = transformer.hidden(batch, adapter)?;
    let out = completion_logprobs(&transformer.detached(), &hidden, batch)?;
    let split = |t: &Tensor| -> Result<_, CriticError> {
        Ok(batch.split_by_completion(&t.to_vec1::<f32>()?))
    };
    Ok((split(&out.logprobs)?, split(&out.entropies)?))
}

/// log pi(token | tokens before it) of completion tokens from hidden states `[T, hidden]`.
pub(crate) fn completion_logprobs(
    transformer: &Transformer,
    hidden: &Tensor,
    batch: &PackedBatch,
) -> Result<TokenLogprobs, CriticError> {
    let (rows, targets) = batch.predictions();
    let count = rows.len();
    let rows = hidden.index_select(&Tensor::from_vec(rows, count, hidden.device())?, 0)?;
    Ok(token_logprobs(
        &rows,
        transformer.output_matrix(),
        &targets,
    )?)
}

impl Player for PolicyModel {
    fn scalar(&self) -> &'static str {
        "the log-probability"
    }

    fn body(&self) -> (&Transformer, Option<&Adapter>) {
        (&self.transformer, self.adapter())
    }

    fn head(&self, hidden: &Tensor, batch: &PackedBatch) -> Result<Tensor, CriticError> {
        Ok(completion_logprobs(&self.transformer, hidden, batch)?.logprobs)
    }

    fn head_tensors(&self) -> Vec<&Tensor> {
        match self.transformer.output_matrix() {
            Matrix::Dense(output) if output.is_variable() => vec![output],
            _ => Vec::new(),
        }
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        match &self.trainable {
            Trainable::Adapter(adapter) => adapter.parameters().to_vec(),
            Trainable::Whole(parameters) => parameters.clone(),
        }
    }
}
