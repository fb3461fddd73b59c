//! Changes of a base model by an adapter file other than LoRA pairs on projections: whole tensors,
//! pairs on the embedding and the output matrix, DoRA's magnitudes, biases of up maps. They are
//! merged into the weights.

use assay_ops::Matrix;
use candle_core::{DType, Tensor};

use super::{Dense, Layer, Transformer};
use crate::LmError;
use crate::family::{OUTER, Role, TensorSpec};

/// All changes of one adapter.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) whole: Vec<WholeTensor>,
    pub(crate) pairs: Vec<MergedPair>,
}

/// A tensor that replaces the base model's.
#[derive(Debug)]
pub(crate) struct WholeTensor {
    /// Path of the module, as Hugging Face names it.
    pub(crate) module: String,
    /// `weight` or `bias`.
    pub(crate) part: &'static str,
    pub(crate) values: Tensor,
    pub(crate) tie: Tie,
}

/// The effect of a changed embedding on an output matrix that is tied to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tie {
    /// It changes with the embedding.
    Kept,
    /// It keeps its values.
    Cut,
}

/// A pair that is merged into its matrix: W + scale B A, then each row scaled to its magnitude if
/// there is one.
#[derive(Debug)]
pub(crate) struct MergedPair {
    /// Path of the module, as Hugging Face names it.
    pub(crate) module: String,
    /// `[rank, in]`; of an embedding `[rank, vocab]`.
    pub(crate) a: Tensor,
    /// `[out, rank]`; of an embedding `[hidden, rank]`.
    pub(crate) b: Tensor,
    pub(crate) scale: f64,
    /// `[out]`.
    pub(crate) magnitude: Option<Tensor>,
    /// Bias of the up map, `[out]`.
    pub(crate) bias: Option<Tensor>,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.pairs.is_empty()
    }

    /// The name of a changed module, for messages.
    pub(crate) fn example(&self) -> &str {
        let whole = self.whole.first().map(|change| change.module.as_str());
        let pair = self.pairs.first().map(|change| change.module.as_str());
        whole.or(pair).unwrap_or("")
    }
}

impl Transformer {
    /// The model with these changes in its weights, frozen.
    ///
    /// # Errors
    /// [`LmError::InvalidAdapter`] names a module that the model does not have or a shape that does
    /// not fit.
    pub(crate) fn changed(&self, changes: &Changes) -> Result<Self, LmError> {
        let mut model = self.detached();
        model.fingerprint = None;
        for change in &changes.whole {
            model.replace(change)?;
        }
        for pair in &changes.pairs {
            model.merge(pair)?;
        }
        Ok(model)
    }

    fn replace(&mut self, change: &WholeTensor) -> Result<(), LmError> {
        let (spec, layer) = self.find(&change.module)?;
        let module = change.module.as_str();
        let is_bias = change.part == "bias";
        let offset = self.config.architecture.family().norm_offset;
        match spec.role {
            Role::Embedding if !is_bias => {
                let new = replaced_matrix(&self.embedding, &change.values, module)?;
                let old = std::mem::replace(&mut self.embedding, new);
                if change.tie == Tie::Cut {
                    self.untie(old);
                }
                Ok(())
            }
            Role::Output if !is_bias => {
                let new = replaced_matrix(self.output_matrix(), &change.values, module)?;
                self.untie(new.clone());
                self.output = Some(new);
                Ok(())
            }
            Role::FinalNorm if !is_bias => {
                let values = (&change.values + offset)?;
                self.final_norm = replaced(&self.final_norm, &values, module)?;
                Ok(())
            }
            Role::Norm(norm, _) if !is_bias => {
                let Some(weight) = self.layers[layer].norms.get_mut(&norm) else {
                    return Err(unknown(module));
                };
                *weight = replaced(weight, &(&change.values + offset)?, module)?;
                Ok(())
            }
            Role::Projection(..) => {
                let dense = self.layers[layer].dense(&spec, module)?;
                match (&mut dense.bias, is_bias) {
                    (Some(bias), true) => *bias = replaced(bias, &change.values, module)?,
                    (None, true) => return Err(unknown(&format!("{module}.bias"))),
                    (_, false) => {
                        dense.weight = replaced_matrix(&dense.weight, &change.values, module)?;
                    }
                }
                Ok(())
            }
            _ => Err(unknown(&format!("{module}.bias"))),
        }
    }

    fn merge(&mut self, pair: &MergedPair) -> Result<(), LmError> {
        let (spec, layer) = self.find(&pair.module)?;
        match spec.role {
            Role::Embedding if pair.magnitude.is_none() && pair.bias.is_none() => {
                let delta = pair.delta()?.t()?.contiguous()?;
                let new = pair.applied(&self.embedding, &delta)?;
                let old = std::mem::replace(&mut self.embedding, new);
                self.untie(old);
            }
            Role::Output if pair.bias.is_none() => {
                let new = pair.applied(self.output_matrix(), &pair.delta()?)?;
                self.untie(new.clone());
                self.output = Some(new);
            }
            Role::Projection(..) => {
                let dense = self.layers[layer].dense(&spec, &pair.module)?;
                dense.weight = pair.applied(&dense.weight, &pair.delta()?)?;
                if let Some(bias) = &pair.bias {
                    let (device, _) = dense.weight.placement();
                    let added = (bias.to_device(&device)? * pair.scale)?;
                    dense.bias = Some(match &dense.bias {
                        Some(before) => (before + added)?,
                        None => added,
                    });
                }
            }
            _ => {
                let reason = format!(
                    "DoRA or lora_bias on {} is not read; merge the adapter in PEFT and load the merged model",
                    pair.module
                );
                return Err(LmError::InvalidAdapter { reason });
            }
        }
        Ok(())
    }

    /// Gives a tied model a separate output matrix.
    fn untie(&mut self, output: Matrix) {
        if self.output.is_none() {
            self.output = Some(output);
            self.config.tie_word_embeddings = false;
        }
    }

    /// The table's entry for a module path, and its layer.
    fn find(&self, module: &str) -> Result<(TensorSpec, usize), LmError> {
        if let Some(spec) = OUTER.iter().find(|spec| spec.hugging_face == module) {
            return Ok((*spec, 0));
        }
        let inner = || {
            let (layer, path) = module.strip_prefix("model.layers.")?.split_once('.')?;
            let layer = layer
                .parse()
                .ok()
                .filter(|&layer| layer < self.layers.len())?;
            let table = self.config.architecture.family().layer;
            let spec = table.iter().find(|spec| spec.hugging_face == path)?;
            Some((*spec, layer))
        };
        inner().ok_or_else(|| unknown(module))
    }
}

impl Layer {
    fn dense(&mut self, spec: &TensorSpec, module: &str) -> Result<&mut Dense, LmError> {
        let found = match spec.role {
            Role::Projection(projection, _) => self.projections.get_mut(&projection),
            _ => None,
        };
        found.ok_or_else(|| unknown(module))
    }
}

impl MergedPair {
    /// scale B A, `[out, in]`.
    fn delta(&self) -> Result<Tensor, LmError> {
        Ok((self.b.matmul(&self.a)? * self.scale)?)
    }

    fn applied(&self, matrix: &Matrix, delta: &Tensor) -> Result<Matrix, LmError> {
        let before = matrix.to_dense()?;
        if before.dims() != delta.dims() {
            return Err(misfit(&self.module, before.dims(), delta.dims()));
        }
        let weight = before.to_dtype(DType::F32)?;
        let mut sum = (weight + delta.to_device(before.device())?)?;
        if let Some(magnitude) = &self.magnitude {
            let magnitude = magnitude.to_device(before.device())?.flatten_all()?;
            let norms = sum.sqr()?.sum(1)?.sqrt()?;
            if magnitude.dims() != norms.dims() {
                return Err(misfit(&self.module, norms.dims(), magnitude.dims()));
            }
            sum = sum.broadcast_mul(&(magnitude / norms)?.unsqueeze(1)?)?;
        }
        Ok(Matrix::Dense(sum.to_dtype(before.dtype())?).in_panels(matrix.factors())?)
    }
}

fn replaced(before: &Tensor, values: &Tensor, module: &str) -> Result<Tensor, LmError> {
    if before.dims() != values.dims() {
        return Err(misfit(module, before.dims(), values.dims()));
    }
    Ok(values
        .to_device(before.device())?
        .to_dtype(before.dtype())?)
}

fn replaced_matrix(before: &Matrix, values: &Tensor, module: &str) -> Result<Matrix, LmError> {
    let (rows, columns) = before.dims()?;
    if values.dims() != [rows, columns] {
        return Err(misfit(module, &[rows, columns], values.dims()));
    }
    let (device, dtype) = before.placement();
    let values = values.to_device(&device)?.to_dtype(dtype)?;
    Ok(Matrix::Dense(values).in_panels(before.factors())?)
}

fn unknown(module: &str) -> LmError {
    LmError::InvalidAdapter {
        reason: format!("it changes {module}, which the base model does not have"),
    }
}

fn misfit(module: &str, expected: &[usize], found: &[usize]) -> LmError {
    let reason =
        format!("its values for {module} have shape {found:?}, the base model needs {expected:?}");
    LmError::InvalidAdapter { reason }
}
