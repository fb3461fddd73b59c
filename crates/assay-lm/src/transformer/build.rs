//! Builds transformers from weights, at random, as trainable variables, or merged with an adapter;
//! lists their tensors.

use std::collections::HashMap;
use std::sync::Arc;

use assay_ops::{Matrix, RopeTable, has_kernels};
use assay_tasks::random::StreamKey;
use candle_core::{DType, Device, Tensor, Var};

use super::{Dense, Layer, Rotation, Transformer};
use crate::adapter::Adapter;
use crate::family::{Bias, OUTER, Role, TensorSpec};
use crate::weights::Weights;
use crate::{LmError, ModelConfig, Placement, RopeScaling, RopeSettings};

/// Maximum number of positions in a rotation table, since a configuration may claim any number.
const MAX_TABLE_POSITIONS: usize = 1 << 17;

impl Transformer {
    /// Builds the model from a weight source and puts each tensor on its device.
    ///
    /// As in transformers, an output matrix that differs from the embedding is used even if the
    /// configuration says that the two are tied.
    ///
    /// # Errors
    /// Names the file and tensor that is missing or whose shape does not match the configuration.
    pub fn load(
        config: &ModelConfig,
        weights: &Weights,
        placement: &Placement,
    ) -> Result<Self, LmError> {
        let mut config = config.clone();
        config.tie_word_embeddings &= !weights.has_own_output();
        let mut model = Self::assemble(&config, &mut Frozen { weights, placement })?;
        model.fingerprint = Some(weights.fingerprint().into());
        Ok(model)
    }

    /// The same weights on another device: matrices in its type, vectors in f32. Frees each tensor
    /// that only `self` holds once it is copied.
    ///
    /// # Errors
    /// The device has no memory for them.
    pub fn placed(mut self, placement: &Placement) -> Result<Self, LmError> {
        if !has_kernels(&placement.device) {
            return Ok(self);
        }
        let (device, dtype) = (&placement.device, placement.dtype);
        self.embedding = self.embedding.to_device(device, dtype)?;
        if let Some(output) = &mut self.output {
            *output = output.to_device(device, dtype)?;
        }
        self.final_norm = self.final_norm.to_device(device)?;
        self.rope = rope_table(&self.config, device)?;
        self.local_rope = local_rope_table(&self.config, device)?;
        for layer in &mut self.layers {
            for norm in layer.norms.values_mut() {
                *norm = norm.to_device(device)?;
            }
            for dense in layer.projections.values_mut() {
                dense.weight = dense.weight.to_device(device, dtype)?;
                if let Some(bias) = &mut dense.bias {
                    *bias = bias.to_device(device)?;
                }
            }
        }
        Ok(self)
    }

    /// A randomly initialised, fully trainable model and its parameters by Hugging Face name.
    ///
    /// Normal weights: the embedding with standard deviation 1/2, matrices with 1/sqrt(in), those
    /// that write to the residual stream divided by sqrt(2 layers), an output matrix halved. Norms
    /// are one, biases zero.
    ///
    /// # Errors
    /// Fails when a tensor cannot be allocated.
    pub fn random(config: &ModelConfig, seed: u64) -> Result<(Self, Vec<(String, Var)>), LmError> {
        let mut index = 0;
        Self::filled(config, |request| {
            index += 1;
            let count = request.shape.iter().product();
            let values: Vec<f32> = match request.start {
                Start::Normal(deviation) => {
                    let mut stream = StreamKey::Weights.stream(seed, &[index]);
                    let normal = |_| stream.normal_f32() * deviation;
                    (0..count).map(normal).collect()
                }
                Start::Constant(value) => vec![value - request.offset as f32; count],
            };
            Ok(Tensor::from_vec(values, request.shape, &Device::Cpu)?)
        })
    }

    /// A fully trainable model. `source` returns each tensor by Hugging Face name and shape.
    ///
    /// # Errors
    /// Returns the errors of `source`.
    pub fn trainable(
        config: &ModelConfig,
        mut source: impl FnMut(&str, &[usize]) -> Result<Tensor, LmError>,
    ) -> Result<(Self, Vec<(String, Var)>), LmError> {
        Self::filled(config, |request| source(request.name, request.shape))
    }

    fn filled(
        config: &ModelConfig,
        mut source: impl FnMut(&Request<'_>) -> Result<Tensor, LmError>,
    ) -> Result<(Self, Vec<(String, Var)>), LmError> {
        let mut trained = Trained {
            source: &mut source,
            parameters: Vec::new(),
        };
        let model = Self::assemble(config, &mut trained)?;
        Ok((model, trained.parameters))
    }

    /// Builds a model from its tensors, in the order of [`Transformer::named_tensors`].
    fn assemble(config: &ModelConfig, source: &mut impl TensorSource) -> Result<Self, LmError> {
        let [embedding, final_norm, output] = OUTER;
        let table = [config.vocab_size, config.hidden_size];
        let embedding = source.matrix(&Request {
            name: &format!("{}.weight", embedding.hugging_face),
            shape: &table,
            start: start(&embedding, config.hidden_size, config),
            offset: 0.0,
        })?;
        let layers = (0..config.layers).map(|index| Layer::assemble(config, index, source));
        let layers = layers.collect::<Result<_, _>>()?;
        let final_norm = source.vector(&Request {
            name: &format!("{}.weight", final_norm.hugging_face),
            shape: &[config.hidden_size],
            start: Start::Constant(1.0),
            offset: config.architecture.family().norm_offset,
        })?;
        let output = match config.tie_word_embeddings {
            true => None,
            false => Some(source.matrix(&Request {
                name: &format!("{}.weight", output.hugging_face),
                shape: &table,
                start: start(&output, config.hidden_size, config),
                offset: 0.0,
            })?),
        };
        let rope = rope_table(config, final_norm.device())?;
        let local_rope = local_rope_table(config, final_norm.device())?;
        Ok(Self {
            config: config.clone(),
            embedding,
            layers,
            final_norm,
            output,
            rope,
            local_rope,
            fingerprint: None,
        })
    }

    /// A model whose projections include an adapter: W + scale * B A.
    ///
    /// # Errors
    /// Fails when a matrix product fails.
    pub fn merged(&self, adapter: &Adapter) -> Result<Self, LmError> {
        let mut copy = self.detached();
        copy.fingerprint = None;
        for (index, layer) in copy.layers.iter_mut().enumerate() {
            for (projection, pair) in adapter.detached().layer(index) {
                let Some(dense) = layer.projections.get_mut(projection) else {
                    continue;
                };
                let lora = pair.as_lora();
                let delta = (lora.b.matmul(lora.a)? * lora.scale)?;
                let weight = dense.weight.to_dense()?;
                let sum = (weight.to_dtype(delta.dtype())? + delta)?;
                dense.weight = Matrix::Dense(sum.to_dtype(weight.dtype())?);
            }
        }
        copy.in_panels(self.factors())
    }

    /// Every tensor by Hugging Face name, f32, with the values of a weight directory.
    ///
    /// # Errors
    /// Fails when a quantised matrix cannot be expanded.
    pub fn named_tensors(&self) -> Result<Vec<(String, Tensor)>, LmError> {
        let [embedding, final_norm, output] =
            OUTER.map(|spec| format!("{}.weight", spec.hugging_face));
        let offset = self.config.architecture.family().norm_offset;
        let mut named = vec![(embedding, self.embedding.to_dense()?)];
        for (index, layer) in self.layers.iter().enumerate() {
            for spec in self.config.architecture.family().layer {
                let name = format!("model.layers.{index}.{}", spec.hugging_face);
                let (weight, bias) = match spec.role {
                    Role::Norm(norm, _) => (plus(layer.norms[&norm].clone(), -offset)?, None),
                    Role::Projection(projection, _) => {
                        let dense = &layer.projections[&projection];
                        (dense.weight.to_dense()?, dense.bias.clone())
                    }
                    Role::Embedding | Role::FinalNorm | Role::Output => continue,
                };
                named.push((format!("{name}.weight"), weight));
                named.extend(bias.map(|bias| (format!("{name}.bias"), bias)));
            }
        }
        named.push((final_norm, plus(self.final_norm.clone(), -offset)?));
        if let Some(matrix) = &self.output {
            named.push((output, matrix.to_dense()?));
        }
        Ok(named)
    }
}

/// A tensor that a model needs.
struct Request<'r> {
    /// Hugging Face name.
    name: &'r str,
    shape: &'r [usize],
    start: Start,
    /// Subtracted from the tensor in Hugging Face files.
    offset: f64,
}

/// The values of a tensor in a randomly initialised model.
#[derive(Clone, Copy)]
enum Start {
    /// Normal with this standard deviation.
    Normal(f32),
    Constant(f32),
}

/// A source of a model's tensors.
trait TensorSource {
    fn matrix(&mut self, request: &Request<'_>) -> Result<Matrix, LmError>;
    fn vector(&mut self, request: &Request<'_>) -> Result<Tensor, LmError>;
}

/// Weights of a file, on a device: matrices in its type, quantised blocks unchanged, vectors in
/// f32.
struct Frozen<'w> {
    weights: &'w Weights,
    placement: &'w Placement,
}

impl TensorSource for Frozen<'_> {
    fn matrix(&mut self, request: &Request<'_>) -> Result<Matrix, LmError> {
        let shape = [request.shape[0], request.shape[1]];
        let matrix = self.weights.matrix(request.name, shape)?;
        match has_kernels(&self.placement.device) {
            true => Ok(matrix.to_device(&self.placement.device, self.placement.dtype)?),
            false => match (&matrix, self.placement.dtype) {
                (Matrix::Dense(_), DType::BF16) => Ok(matrix.in_panels(DType::BF16)?),
                (Matrix::Quantised(blocks), dtype) => {
                    Ok(Matrix::Quantised(Arc::new(blocks.with_factors(dtype))))
                }
                _ => Ok(matrix),
            },
        }
    }

    fn vector(&mut self, request: &Request<'_>) -> Result<Tensor, LmError> {
        let vector = self.weights.vector(request.name, request.shape[0])?;
        let vector = match self.weights.stores_offset_norms() {
            true => plus(vector, request.offset)?,
            false => vector,
        };
        Ok(vector.to_device(&self.placement.device)?)
    }
}

/// Variables filled by a function, collected by name.
struct Trained<'s, F> {
    source: &'s mut F,
    parameters: Vec<(String, Var)>,
}

impl<F: FnMut(&Request<'_>) -> Result<Tensor, LmError>> Trained<'_, F> {
    fn variable(&mut self, request: &Request<'_>) -> Result<Tensor, LmError> {
        let var = Var::from_tensor(&plus((self.source)(request)?, request.offset)?)?;
        let tensor = var.as_tensor().clone();
        self.parameters.push((request.name.to_owned(), var));
        Ok(tensor)
    }
}

impl<F: FnMut(&Request<'_>) -> Result<Tensor, LmError>> TensorSource for Trained<'_, F> {
    fn matrix(&mut self, request: &Request<'_>) -> Result<Matrix, LmError> {
        Ok(Matrix::Dense(self.variable(request)?))
    }

    fn vector(&mut self, request: &Request<'_>) -> Result<Tensor, LmError> {
        self.variable(request)
    }
}

impl Layer {
    fn assemble(
        config: &ModelConfig,
        index: usize,
        source: &mut impl TensorSource,
    ) -> Result<Self, LmError> {
        let (mut norms, mut projections) = (HashMap::new(), HashMap::new());
        for spec in config.architecture.family().layer {
            let name = format!("model.layers.{index}.{}", spec.hugging_face);
            match spec.role {
                Role::Norm(norm, width) => {
                    let weight = source.vector(&Request {
                        name: &format!("{name}.weight"),
                        shape: &[width.of(config)],
                        start: Start::Constant(1.0),
                        offset: config.architecture.family().norm_offset,
                    })?;
                    norms.insert(norm, weight);
                }
                Role::Projection(projection, bias) => {
                    let shape = projection.shape(config);
                    let shape = [shape.rows, shape.columns];
                    let weight = source.matrix(&Request {
                        name: &format!("{name}.weight"),
                        shape: &shape,
                        start: start(spec, shape[1], config),
                        offset: 0.0,
                    })?;
                    let bias = match bias {
                        Bias::WhereConfigured if config.qkv_bias => {
                            let name = format!("{name}.bias");
                            let (shape, start) = (&shape[..1], Start::Constant(0.0));
                            let request = Request {
                                name: &name,
                                shape,
                                start,
                                offset: 0.0,
                            };
                            Some(source.vector(&request)?)
                        }
                        Bias::None | Bias::WhereConfigured => None,
                    };
                    projections.insert(projection, Dense { weight, bias });
                }
                Role::Embedding | Role::FinalNorm | Role::Output => {}
            }
        }
        let pattern = &config.pattern;
        let rotation = match index {
            _ if pattern.unrotated.contains(&index) => Rotation::None,
            _ if pattern.local.contains(&index) => Rotation::Local,
            _ => Rotation::Global,
        };
        Ok(Self {
            norms,
            projections,
            rotation,
        })
    }
}

/// The rotation table of local layers, if the model has any.
fn local_rope_table(config: &ModelConfig, device: &Device) -> Result<Option<RopeTable>, LmError> {
    let local = config.pattern.local_theta.map(|theta| ModelConfig {
        rope: RopeSettings {
            theta,
            scaling: RopeScaling::None,
        },
        ..config.clone()
    });
    local.map(|local| rope_table(&local, device)).transpose()
}

/// The values of a matrix with `columns` columns in a randomly initialised model.
fn start(spec: &TensorSpec, columns: usize, config: &ModelConfig) -> Start {
    match spec.initial.deviation(columns, config) {
        Some(deviation) => Start::Normal(deviation),
        None => Start::Constant(1.0),
    }
}

fn plus(vector: Tensor, offset: f64) -> Result<Tensor, LmError> {
    match offset {
        0.0 => Ok(vector),
        _ => Ok((vector + offset)?),
    }
}

fn rope_table(config: &ModelConfig, device: &Device) -> Result<RopeTable, LmError> {
    let frequencies = config.rope.inverse_frequencies(config.head_dim);
    Ok(RopeTable::new(
        &frequencies,
        config.max_positions.min(MAX_TABLE_POSITIONS),
        device,
    )?)
}
