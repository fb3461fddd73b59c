//! The two players as trainable maps from packed batches to one scalar a completion token.
//!
//! The policy gives log-probabilities, the discriminator gives logits. Losses see only these scalars and return their
//! gradients; [`update`] turns those into gradients of parameters, micro-batch after micro-batch, and checks that
//! every trainable parameter received one. A player says only which body computes its hidden states and how its head
//! reads them; the passes through both are here, once.

use assay_lm::adapter::Adapter;
use assay_lm::gradients::{Gradients, Tape};
use assay_lm::packed::{Group, MicroBatch, PackedBatch, micro_batches};
use assay_lm::transformer::Transformer;
use assay_ops::seed_gradient;
use candle_core::{Device, Tensor, Var};

use crate::IrlError;
use crate::parallel::{self, Alone, Collective};
use crate::relief::{Relief, Work};

/// One scalar a completion token, one list a completion, in the order of the groups.
pub type TokenScalars = Vec<Vec<f32>>;

/// What a forward pass in training keeps for the backward pass.
pub struct Recording {
    /// Inputs of the layers, or all they computed.
    pub tape: Tape,
    /// Hidden states after the final norm, `[T, hidden]`.
    pub hidden: Tensor,
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
        self.read(&hidden, batch)
    }

    /// Scalars and what [`Player::backward`] needs, as [`Player::record`].
    ///
    /// # Errors
    /// As [`Player::head`].
    fn forward(
        &self,
        batch: &PackedBatch,
        kept_bytes: u64,
    ) -> Result<(TokenScalars, Recording), IrlError> {
        let recording = self.record(batch, kept_bytes)?;
        Ok((self.read(&recording.hidden, batch)?, recording))
    }

    /// What [`Player::backward`] needs, without the scalars; activations as far as they fit `kept_bytes`.
    ///
    /// # Errors
    /// As [`Player::head`].
    fn record(&self, batch: &PackedBatch, kept_bytes: u64) -> Result<Recording, IrlError> {
        let (body, adapter) = self.body();
        let (hidden, tape) = body.forward_recorded(batch, adapter, kept_bytes)?;
        Ok(Recording { tape, hidden })
    }

    /// Scalars from hidden states, without gradients.
    ///
    /// # Errors
    /// As [`Player::head`].
    fn read(&self, hidden: &Tensor, batch: &PackedBatch) -> Result<TokenScalars, IrlError> {
        let mut scalars = self.head(&hidden.detach(), batch)?.detach();
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
        let hidden = Var::from_tensor(&recording.hidden)?;
        let scalars = self.head(hidden.as_tensor(), batch)?;
        let mut store = seed_gradient(&scalars, &flatten(grads, scalars.device())?)?.backward()?;
        gradients.absorb(&mut store, self.head_tensors().into_iter())?;
        let grad_hidden = match store.remove(hidden.as_tensor()) {
            Some(gradient) => gradient,
            None => hidden.as_tensor().zeros_like()?,
        };
        let (body, adapter) = self.body();
        Ok(body.backward(batch, adapter, recording.tape, grad_hidden, gradients)?)
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
    /// Does `passes` over groups within the memory there is, see [`Relief::attempt`]; half the tokens keep half the activations.
    ///
    /// # Errors
    /// As [`Relief::attempt`].
    pub(crate) fn attempt<T>(
        self,
        groups: &[Group],
        mut passes: impl FnMut(Self) -> Result<T, IrlError>,
    ) -> Result<T, IrlError> {
        let Some(relief) = self.relief else {
            return passes(self);
        };
        let rows: usize = groups.iter().map(Group::rows).sum();
        let most = self.token_budget.min(rows).max(1);
        relief.attempt(Work::Tokens, most, |token_budget| {
            let halved = relief.limit(Work::Tokens).is_some();
            passes(Self {
                token_budget,
                kept_bytes: if halved {
                    self.kept_bytes / 2
                } else {
                    self.kept_bytes
                },
                ..self
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
    passes.attempt(groups, |passes| {
        let parts = micro_batches(groups, passes.token_budget);
        parallel::scalars(passes.ranks, &parts, |part| {
            player.infer(&PackedBatch::new(&part.groups)?)
        })
    })
}

/// One forward and backward pass over an update: `loss` gets the scalars of all completions and returns what it
/// reports and the gradient of each scalar.
///
/// When the update exceeds the token budget it is cut into micro-batches, which the ranks share: a first pass gathers
/// all scalars, so that the loss always sees the whole update and the result depends on neither. A rank with a single
/// micro-batch keeps its recording for the backward pass; with more, each is computed again. Where memory is refused, all
/// of it is done again as [`Passes::relief`] says, `loss` included.
///
/// # Errors
/// Whatever `loss` returns; [`IrlError::EmptyUpdate`] without a completion token; [`IrlError::MissingGradient`] names a trainable parameter that received none.
pub fn update<R>(
    player: &dyn Player,
    groups: &[Group],
    passes: Passes<'_>,
    mut loss: impl FnMut(&[Vec<f32>]) -> Result<(R, TokenScalars), IrlError>,
) -> Result<(R, Gradients), IrlError> {
    if groups
        .iter()
        .flat_map(|g| &g.completions)
        .all(Vec::is_empty)
    {
        return Err(IrlError::EmptyUpdate);
    }
    let (report, gradients) = passes.attempt(groups, |passes| {
        pass_and_pull(player, groups, passes, &mut loss)
    })?;
    check_coverage(player, &gradients)?;
    Ok((report, gradients))
}

/// The passes of [`update`]: what `loss` reports and the gradients.
fn pass_and_pull<R>(
    player: &dyn Player,
    groups: &[Group],
    passes: Passes<'_>,
    loss: &mut impl FnMut(&[Vec<f32>]) -> Result<(R, TokenScalars), IrlError>,
) -> Result<(R, Gradients), IrlError> {
    let (ranks, kept_bytes) = (passes.ranks, passes.kept_bytes);
    let parts = micro_batches(groups, passes.token_budget);
    let mut kept = None;
    let scalars = parallel::scalars(ranks, &parts, |part| {
        let batch = PackedBatch::new(&part.groups)?;
        if parts.len() > ranks.size() {
            return player.infer(&batch);
        }
        let (scalars, recording) = player.forward(&batch, kept_bytes)?;
        kept = Some(recording);
        Ok(scalars)
    })?;
    let (report, grads) = loss(&scalars)?;
    let gradients = backward_parts((player, passes), &parts, &grads, kept)?;
    Ok((report, gradients))
}

/// Gradients summed micro-batch after micro-batch, `size` at a time; `kept` is what the forward pass recorded of this
/// rank's only one.
fn backward_parts(
    (player, passes): (&dyn Player, Passes<'_>),
    parts: &[MicroBatch],
    grads: &[Vec<f32>],
    mut kept: Option<Recording>,
) -> Result<Gradients, IrlError> {
    let ranks = passes.ranks;
    let mut gradients = Gradients::default();
    let mut total = GradientSum::default();
    let mut rest = grads;
    for round in parts.chunks(ranks.size()) {
        let mut own = None;
        for (rank, part) in round.iter().enumerate() {
            let (of_part, later) = rest.split_at(part.origin.len());
            rest = later;
            if rank == ranks.rank() {
                own = Some((part, of_part));
            }
        }
        let passed = own.map_or(Ok(()), |(part, grads)| {
            let batch = PackedBatch::new(&part.groups)?;
            let recording = match kept.take() {
                Some(recording) => recording,
                None => player.record(&batch, passes.kept_bytes)?,
            };
            player.backward(&batch, recording, grads, &mut gradients)
        });
        if ranks.size() == 1 {
            passed?;
        } else {
            let own = std::mem::take(&mut gradients);
            total.add(player, ranks, passed.map(|()| own))?;
        }
    }
    match ranks.size() {
        1 => Ok(gradients),
        _ => total.gradients(player),
    }
}

/// Gradients of all ranks as one list: those of every parameter in order, then how many micro-batches reached each.
#[derive(Default)]
struct GradientSum {
    values: Vec<f32>,
}

impl GradientSum {
    /// Adds what each rank's micro-batch gave, in rank order.
    fn add(
        &mut self,
        player: &dyn Player,
        ranks: &dyn Collective,
        own: Result<Gradients, IrlError>,
    ) -> Result<(), IrlError> {
        let flat = own.and_then(|own| {
            let (mut values, mut reached) = (Vec::new(), Vec::new());
            for (_, var) in player.parameters() {
                let gradient = own.get(&var);
                reached.push(f32::from(u8::from(gradient.is_some())));
                match gradient {
                    Some(gradient) => values.extend(gradient.flatten_all()?.to_vec1::<f32>()?),
                    None => values.resize(values.len() + var.elem_count(), 0.0),
                }
            }
            values.append(&mut reached);
            Ok(values)
        });
        let flat = parallel::agree(ranks, flat)?;
        self.values.resize(flat.len(), 0.0);
        ranks.accumulate(&mut self.values, &flat)
    }

    /// By parameter again; none for one that no micro-batch reached.
    fn gradients(&self, player: &dyn Player) -> Result<Gradients, IrlError> {
        let parameters = player.parameters();
        let count = self.values.len().saturating_sub(parameters.len());
        let (mut rest, reached) = self.values.split_at(count);
        let mut gradients = Gradients::default();
        for ((_, var), &reached) in parameters.iter().zip(reached) {
            let (own, later) = rest.split_at(var.elem_count());
            rest = later;
            if reached > 0.0 {
                let gradient = Tensor::from_slice(own, var.shape(), var.device())?;
                gradients.add(var.as_tensor().id(), gradient)?;
            }
        }
        Ok(gradients)
    }
}

fn check_coverage(player: &dyn Player, gradients: &Gradients) -> Result<(), IrlError> {
    for (name, var) in player.parameters() {
        if gradients.get(&var).is_none() {
            return Err(IrlError::MissingGradient { parameter: name });
        }
    }
    Ok(())
}

/// A flat `[N]` tensor of per-token gradients, where the scalars are.
fn flatten(grads: &[Vec<f32>], device: &Device) -> Result<Tensor, IrlError> {
    let flat = grads.concat();
    let n = flat.len();
    Ok(Tensor::from_vec(flat, n, device)?)
}
