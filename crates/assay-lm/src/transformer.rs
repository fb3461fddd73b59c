//! The decoder-only transformer on packed batches.
//!
//! This module has the order of operations of a layer, the activations that a layer keeps in
//! training, and the trainable tensors. Reading weights is in `weights`, sampling in
//! [`crate::sampling`]; heads are outside of this module (rows of the output matrix go to
//! `token_logprobs`).

mod build;
mod changes;

use std::collections::HashMap;
use std::sync::Arc;

use assay_ops::{
    HeadShape, Matrix, RopeTable, add, embedding, grouped_attention, linear, rms_norm, rope,
    seed_gradient, swiglu,
};
use candle_core::{DType, Tensor};

use crate::adapter::{Adapter, LayerAdapter, Projection};
use crate::family::{Activation, Norm};
use crate::gradients::{Gradients, Graph, Kept, Tape};
use crate::{LmError, ModelConfig, PackedBatch, Placement};

pub(crate) use changes::{Changes, MergedPair, Tie, WholeTensor};

/// A projection's weight `[out, in]` and optional bias `[out]`.
#[derive(Clone)]
struct Dense {
    weight: Matrix,
    bias: Option<Tensor>,
}

#[derive(Clone)]
struct Layer {
    norms: HashMap<Norm, Tensor>,
    projections: HashMap<Projection, Dense>,
    rotation: Rotation,
}

/// How a layer rotates queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rotation {
    /// With the rotary embedding of the model.
    Global,
    /// With that of local layers.
    Local,
    /// No rotation.
    None,
}

/// A decoder-only transformer. Cheap to clone: clones share storage.
#[derive(Clone)]
pub struct Transformer {
    config: ModelConfig,
    embedding: Matrix,
    layers: Vec<Layer>,
    final_norm: Tensor,
    output: Option<Matrix>,
    rope: RopeTable,
    local_rope: Option<RopeTable>,
    fingerprint: Option<Arc<str>>,
}

/// Keys and values of the prompts of a batch, layer by layer: `[T, kv_dim]` each, keys after
/// rotation.
pub struct PromptCache {
    pub(crate) layers: Vec<(Tensor, Tensor)>,
}

impl PromptCache {
    /// Joins the caches of several batches into one, in order.
    pub(crate) fn joined(mut parts: Vec<Self>) -> Result<Self, LmError> {
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        let mut parts: Vec<_> = parts
            .into_iter()
            .map(|part| part.layers.into_iter())
            .collect();
        let mut layers = Vec::new();
        loop {
            let (keys, values): (Vec<_>, Vec<_>) =
                parts.iter_mut().filter_map(Iterator::next).unzip();
            if keys.is_empty() {
                return Ok(Self { layers });
            }
            layers.push((Tensor::cat(&keys, 0)?, Tensor::cat(&values, 0)?));
        }
    }
}

/// Attention of a decoding step: called for each layer with rotated queries, rotated keys and
/// values.
pub(crate) trait Attend {
    fn attend(
        &mut self,
        layer: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Tensor, LmError>;
}

impl Transformer {
    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// [`crate::Weights::fingerprint`] of the weights' files; `None` for a model that was created
    /// or changed in memory.
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    /// The device of the weights, and the type of matrices and activations.
    pub fn placement(&self) -> Placement {
        let (device, dtype) = self.embedding.placement();
        Placement { device, dtype }
    }

    /// The output matrix `[vocab, hidden]`; the embedding when they are tied.
    pub fn output_matrix(&self) -> &Matrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// Whether a decoding step on a device can be recorded and replayed: it runs only operations of
    /// `assay-ops`, and no matrix is stored as blocks that are expanded before each product.
    pub(crate) fn can_be_recorded(&self) -> bool {
        let family = self.config.architecture.family();
        let is_fused = family
            .projections()
            .any(|projection| matches!(projection, Projection::QueryKeyValue | Projection::GateUp));
        let is_composed = is_fused
            || family.scales_embedding
            || family.activation != Activation::Silu
            || self.config.pattern.query_factor.is_some();
        !is_composed && !self.expands_blocks()
    }

    /// Whether some matrices are stored as blocks that are expanded before each product.
    fn expands_blocks(&self) -> bool {
        let projections = self
            .layers
            .iter()
            .flat_map(|layer| layer.projections.values());
        let matrices = projections.map(|dense| &dense.weight).chain(&self.output);
        let quantised = |matrix: &Matrix| matches!(matrix, Matrix::Quantised(_));
        quantised(&self.embedding) || matrices.into_iter().any(quantised)
    }

    /// The same weights without gradient tracking; shares storage with `self`.
    pub fn detached(&self) -> Self {
        let layers = self.layers.iter().map(Layer::detached).collect();
        Self {
            config: self.config.clone(),
            embedding: detach_matrix(&self.embedding),
            layers,
            final_norm: self.final_norm.detach(),
            output: self.output.as_ref().map(detach_matrix),
            rope: self.rope.clone(),
            local_rope: self.local_rope.clone(),
            fingerprint: self.fingerprint.clone(),
        }
    }

    /// Returns the same weights, frozen, in the layout of the matrix product and stored as `dtype`
    /// (F32 or BF16), so that a pass neither expands nor packs them. Matrices are converted one
    /// after another, and those that only `self` holds are freed.
    ///
    /// # Errors
    /// Too little memory.
    pub fn in_panels(self, dtype: DType) -> Result<Self, LmError> {
        self.with_matrices(|matrix| Ok(matrix.in_panels(dtype)?))
    }

    /// Type to which products on the CPU round both factors, F32 or BF16.
    pub fn factors(&self) -> DType {
        self.embedding.factors()
    }

    /// As [`Transformer::in_panels`], but quantised matrices stay as they are.
    ///
    /// # Errors
    /// Too little memory.
    pub(crate) fn for_decoding(self) -> Result<Self, LmError> {
        self.with_matrices(|matrix| match matrix {
            Matrix::Dense(_) => Ok(matrix.in_panels(matrix.factors())?),
            frozen => Ok(frozen.clone()),
        })
    }

    fn with_matrices(
        self,
        change: impl Fn(&Matrix) -> Result<Matrix, LmError>,
    ) -> Result<Self, LmError> {
        let mut model = self.detached();
        drop(self);
        model.embedding = change(&model.embedding)?;
        model.output = model.output.as_ref().map(&change).transpose()?;
        for layer in &mut model.layers {
            for dense in layer.projections.values_mut() {
                dense.weight = change(&dense.weight)?;
            }
        }
        Ok(model)
    }

    /// Hidden states after the final norm, `[T, hidden]` in the type of the model, without
    /// gradients.
    ///
    /// # Errors
    /// A token id outside the vocabulary or a position beyond the rope table.
    pub fn hidden(
        &self,
        batch: &PackedBatch,
        adapter: Option<&Adapter>,
    ) -> Result<Tensor, LmError> {
        let (model, adapter) = (self.detached(), adapter.map(Adapter::detached));
        let mut x = model.embed(&batch.tokens)?;
        for (index, layer) in model.layers.iter().enumerate() {
            x = model.layer_forward(layer, adapter.as_ref().map(|a| a.layer(index)), &x, batch)?;
        }
        Ok(rms_norm(&x, &model.final_norm, model.config.rms_norm_eps)?)
    }

    /// Hidden states of prompts and their keys and values for decoding.
    ///
    /// # Errors
    /// As [`Transformer::hidden`].
    pub fn prefill(
        &self,
        batch: &PackedBatch,
        adapter: Option<&Adapter>,
    ) -> Result<(Tensor, PromptCache), LmError> {
        let mut keep = KeepKeys {
            batch,
            shape: self.head_shape(),
            layers: Vec::new(),
        };
        let hidden = self.run(&batch.tokens, &batch.positions, adapter, &mut keep)?;
        Ok((
            hidden,
            PromptCache {
                layers: keep.layers,
            },
        ))
    }

    /// Hidden states `[S, hidden]` of one row per sequence. The caller supplies attention. No
    /// gradients.
    pub(crate) fn run(
        &self,
        tokens: &std::sync::Arc<[u32]>,
        positions: &std::sync::Arc<[u32]>,
        adapter: Option<&Adapter>,
        attention: &mut impl Attend,
    ) -> Result<Tensor, LmError> {
        let mut x = self.embed(tokens)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let lora = adapter.map(|a| a.layer(index));
            let (q, k, v) = self.attention_inputs(layer, lora, &x, positions)?;
            let attended = attention.attend(index, &q, &k, &v)?;
            x = self.after_attention(layer, lora, &x, &attended)?;
        }
        Ok(rms_norm(&x, &self.final_norm, self.config.rms_norm_eps)?)
    }

    /// Forward pass of training: hidden states after the final norm (no graph) and the tape for
    /// [`Self::backward`]. The tape keeps all activations ([`Transformer::layer_bytes`] each) of
    /// the last layers, as many as fit into `kept_bytes`. Of the other layers it keeps the input,
    /// and the backward pass recomputes them. The results have the same bits either way.
    ///
    /// # Errors
    /// As [`Transformer::hidden`].
    pub fn forward_recorded(
        &self,
        batch: &PackedBatch,
        adapter: Option<&Adapter>,
        kept_bytes: u64,
    ) -> Result<(Tensor, Tape), LmError> {
        let (model, detached) = (self.detached(), adapter.map(Adapter::detached));
        let count = kept_bytes / self.layer_bytes(batch.len()).max(1);
        let first_kept = (self.layers.len() as u64).saturating_sub(count) as usize;
        let mut layers = Vec::with_capacity(model.layers.len());
        let mut x = model.embed(&batch.tokens)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let kept = if index < first_kept {
                let (layer, lora) = (&model.layers[index], detached.as_ref());
                let y = model.layer_forward(layer, lora.map(|a| a.layer(index)), &x, batch)?;
                Kept::Input(std::mem::replace(&mut x, y))
            } else {
                let lora = adapter.map(|a| a.layer(index));
                let whole = Graph::new(&x, |x| self.layer_forward(layer, lora, x, batch))?;
                x = whole.output().detach();
                Kept::Whole(whole)
            };
            layers.push(kept);
        }
        let hidden = rms_norm(&x, &model.final_norm, model.config.rms_norm_eps)?;
        Ok((hidden, Tape { layers, last: x }))
    }

    /// Bytes of all activations of one layer for a batch of `rows` rows.
    pub fn layer_bytes(&self, rows: usize) -> u64 {
        self.config.layer_activations() * (rows * self.placement().dtype.size_in_bytes()) as u64
    }

    /// Backward pass from the gradient at the hidden states, layer by layer. Adds the gradients of
    /// variables of the model and the adapter to `gradients`. Gradients of frozen weights are never
    /// computed.
    ///
    /// # Errors
    /// An operation fails.
    pub fn backward(
        &self,
        batch: &PackedBatch,
        adapter: Option<&Adapter>,
        tape: Tape,
        grad_hidden: Tensor,
        gradients: &mut Gradients,
    ) -> Result<(), LmError> {
        let Tape { mut layers, last } = tape;
        let norm = |x: &Tensor| Ok(rms_norm(x, &self.final_norm, self.config.rms_norm_eps)?);
        let norm = Graph::new(&last, norm)?;
        let mut grad =
            norm.pull_back(&grad_hidden, std::iter::once(&self.final_norm), gradients)?;
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let lora = adapter.map(|a| a.layer(index));
            let graph = match layers.pop() {
                Some(Kept::Whole(graph)) => graph,
                Some(Kept::Input(input)) => {
                    Graph::new(&input, |x| self.layer_forward(layer, lora, x, batch))?
                }
                None => break,
            };
            grad = graph.pull_back(&grad, layer_tensors(layer, lora), gradients)?;
        }
        if let Matrix::Dense(table) = &self.embedding
            && table.is_variable()
        {
            let x = self.embed(&batch.tokens)?;
            let mut store = seed_gradient(&x, &grad)?.backward()?;
            gradients.absorb(&mut store, std::iter::once(table))?;
        }
        Ok(())
    }

    pub(crate) fn head_shape(&self) -> HeadShape {
        HeadShape {
            heads: self.config.heads,
            kv_heads: self.config.kv_heads,
            head_dim: self.config.head_dim,
        }
    }

    fn layer_forward(
        &self,
        layer: &Layer,
        lora: Option<&LayerAdapter>,
        x: &Tensor,
        batch: &PackedBatch,
    ) -> Result<Tensor, LmError> {
        let (q, k, v) = self.attention_inputs(layer, lora, x, &batch.positions)?;
        let attended = grouped_attention(&q, &k, &v, &batch.layout, self.head_shape())?;
        self.after_attention(layer, lora, x, &attended)
    }

    /// Rotated queries, rotated keys, values of a layer's input.
    fn attention_inputs(
        &self,
        layer: &Layer,
        lora: Option<&LayerAdapter>,
        x: &Tensor,
        positions: &std::sync::Arc<[u32]>,
    ) -> Result<(Tensor, Tensor, Tensor), LmError> {
        let h = rms_norm(x, &layer.norms[&Norm::Input], self.config.rms_norm_eps)?;
        let (q, k, v) = self.projected(layer, lora, &h)?;
        let q = self.head_norm(layer, Norm::Query, q)?;
        let k = self.head_norm(layer, Norm::Key, k)?;
        let q = match self.config.pattern.query_factor {
            Some(factor) => (q * factor)?,
            None => q,
        };
        let table = match (layer.rotation, &self.local_rope) {
            (Rotation::None, _) => return Ok((q, k, v)),
            (Rotation::Local, Some(local)) => local,
            (Rotation::Local, None) | (Rotation::Global, _) => &self.rope,
        };
        Ok((rope(&q, positions, table)?, rope(&k, positions, table)?, v))
    }

    /// Queries, keys and values of a layer's normed input.
    fn projected(
        &self,
        layer: &Layer,
        lora: Option<&LayerAdapter>,
        h: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor), LmError> {
        if !layer.projections.contains_key(&Projection::QueryKeyValue) {
            let [q, k, v] = [Projection::Query, Projection::Key, Projection::Value]
                .map(|which| layer.project(which, h, lora));
            return Ok((q?, k?, v?));
        }
        let fused = layer.project(Projection::QueryKeyValue, h, lora)?;
        let (query, key) = (self.config.query_size(), self.config.kv_size());
        Ok((
            columns(&fused, 0, query)?,
            columns(&fused, query, key)?,
            columns(&fused, query + key, key)?,
        ))
    }

    /// Embeddings of tokens, `[T, hidden]`.
    fn embed(&self, tokens: &Arc<[u32]>) -> Result<Tensor, LmError> {
        let x = embedding(&self.embedding, tokens)?;
        match self.config.architecture.family().scales_embedding {
            true => Ok((x * (self.config.hidden_size as f64).sqrt())?),
            false => Ok(x),
        }
    }

    /// A norm over rows of `x` `[T, hidden]`, in families that have it.
    fn norm(&self, layer: &Layer, norm: Norm, x: Tensor) -> Result<Tensor, LmError> {
        match layer.norms.get(&norm) {
            Some(weight) => Ok(rms_norm(&x, weight, self.config.rms_norm_eps)?),
            None => Ok(x),
        }
    }

    /// A norm over each head of `x` `[T, heads * head_dim]`, in families that have it.
    fn head_norm(&self, layer: &Layer, norm: Norm, x: Tensor) -> Result<Tensor, LmError> {
        let Some(weight) = layer.norms.get(&norm) else {
            return Ok(x);
        };
        let heads = x.reshape(((), self.config.head_dim))?;
        let normed = rms_norm(&heads, weight, self.config.rms_norm_eps)?;
        Ok(normed.reshape(x.shape())?)
    }

    /// Attention output projection, residual, feed-forward, residual.
    fn after_attention(
        &self,
        layer: &Layer,
        lora: Option<&LayerAdapter>,
        x: &Tensor,
        attended: &Tensor,
    ) -> Result<Tensor, LmError> {
        let attended = layer.project(Projection::Output, attended, lora)?;
        let x = add(x, &self.norm(layer, Norm::AfterAttention, attended)?)?;
        let h = rms_norm(
            &x,
            &layer.norms[&Norm::FeedForward],
            self.config.rms_norm_eps,
        )?;
        let (gate, up) = self.gate_and_up(layer, lora, &h)?;
        let gated = match self.config.architecture.family().activation {
            Activation::Silu => swiglu(&gate, &up)?,
            Activation::GeluTanh => (gate.gelu()? * up)?,
        };
        let down = layer.project(Projection::Down, &gated, lora)?;
        Ok(add(&x, &self.norm(layer, Norm::AfterFeedForward, down)?)?)
    }

    fn gate_and_up(
        &self,
        layer: &Layer,
        lora: Option<&LayerAdapter>,
        h: &Tensor,
    ) -> Result<(Tensor, Tensor), LmError> {
        if !layer.projections.contains_key(&Projection::GateUp) {
            let gate = layer.project(Projection::Gate, h, lora)?;
            return Ok((gate, layer.project(Projection::Up, h, lora)?));
        }
        let fused = layer.project(Projection::GateUp, h, lora)?;
        let inner = self.config.intermediate_size;
        Ok((columns(&fused, 0, inner)?, columns(&fused, inner, inner)?))
    }
}

/// Some columns of `x` as a separate tensor.
fn columns(x: &Tensor, start: usize, count: usize) -> Result<Tensor, LmError> {
    Ok(x.narrow(1, start, count)?.contiguous()?)
}

impl Layer {
    fn project(
        &self,
        which: Projection,
        x: &Tensor,
        lora: Option<&LayerAdapter>,
    ) -> Result<Tensor, LmError> {
        let dense = &self.projections[&which];
        let pair = lora
            .and_then(|pairs| pairs.get(&which))
            .map(|pair| pair.as_lora());
        Ok(linear(x, &dense.weight, dense.bias.as_ref(), pair)?)
    }

    fn detached(&self) -> Self {
        let projections = self.projections.iter().map(|(&which, dense)| {
            let bias = dense.bias.as_ref().map(Tensor::detach);
            (
                which,
                Dense {
                    weight: detach_matrix(&dense.weight),
                    bias,
                },
            )
        });
        Self {
            norms: self
                .norms
                .iter()
                .map(|(&norm, weight)| (norm, weight.detach()))
                .collect(),
            projections: projections.collect(),
            rotation: self.rotation,
        }
    }
}

/// Keeps each layer's keys and values while attending within the packed batch.
struct KeepKeys<'b> {
    batch: &'b PackedBatch,
    shape: HeadShape,
    layers: Vec<(Tensor, Tensor)>,
}

impl Attend for KeepKeys<'_> {
    fn attend(
        &mut self,
        _layer: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Tensor, LmError> {
        self.layers.push((k.clone(), v.clone()));
        Ok(grouped_attention(q, k, v, &self.batch.layout, self.shape)?)
    }
}

fn detach_matrix(matrix: &Matrix) -> Matrix {
    match matrix {
        Matrix::Dense(tensor) => Matrix::Dense(tensor.detach()),
        frozen => frozen.clone(),
    }
}

/// Variables of a layer and its adapter pairs.
fn layer_tensors<'l>(
    layer: &'l Layer,
    lora: Option<&'l LayerAdapter>,
) -> impl Iterator<Item = &'l Tensor> {
    let weights = layer.projections.values().flat_map(|dense| {
        let weight = match &dense.weight {
            Matrix::Dense(tensor) => Some(tensor),
            Matrix::Panels(_) | Matrix::Quantised(_) => None,
        };
        weight.into_iter().chain(dense.bias.as_ref())
    });
    let pairs = lora
        .into_iter()
        .flat_map(|pairs| pairs.values().flat_map(|pair| [&pair.a, &pair.b]));
    layer
        .norms
        .values()
        .chain(weights)
        .chain(pairs)
        .filter(|t| t.is_variable())
}
