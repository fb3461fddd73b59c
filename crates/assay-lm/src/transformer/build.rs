//! Making transformers: from weights, at random, trainable, merged with an adapter; and taking their tensors out again.

use std::collections::HashMap;
use std::sync::Arc;

use assay_ops::{Matrix, RopeTable, has_kernels};
use assay_tasks::random::Stream;
use candle_core::{DType, Device, Tensor, Var};

use super::{Dense, Layer, Transformer};
use crate::adapter::{Adapter, Projection};
use crate::weights::Weights;
use crate::{LmError, ModelConfig, Placement};

/// Positions that a rotation table is made for at most: a configuration may claim any number.
const MOST_POSITIONS: usize = 1 << 17;

impl Transformer {
    /// Builds the model from a weight source, tensor after tensor where they belong.
    ///
    /// # Errors
    /// Names the file and tensor that is missing or whose shape does not match the configuration.
    pub fn load(
        config: &ModelConfig,
        weights: &Weights,
        placement: &Placement,
    ) -> Result<Self, LmError> {
        let mut model = Self::assemble(config, &mut Frozen { weights, placement })?;
        model.fingerprint = Some(weights.fingerprint().into());
        Ok(model)
    }

    /// The same weights at another place: matrices in its type, vectors f32. What only `self` held is given back on the way.
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
        for layer in &mut self.layers {
            layer.input_norm = layer.input_norm.to_device(device)?;
            layer.attention_norm = layer.attention_norm.to_device(device)?;
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
    /// Normal weights: the embedding with standard deviation 1/2, matrices with 1/sqrt(in), those that write to the
    /// residual stream divided by sqrt(2 layers), an output matrix halved. Norms are one, biases zero.
    ///
    /// # Errors
    /// Fails when a tensor cannot be allocated.
    pub fn random(config: &ModelConfig, seed: u64) -> Result<(Self, Vec<(String, Var)>), LmError> {
        let mut index = 0;
        Self::trainable(config, |name, dims| {
            index += 1;
            let count = dims.iter().product();
            let residual = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
            let by_width = 1.0 / (dims.last().copied().unwrap_or(1) as f32).sqrt();
            let deviation = match name {
                "model.embed_tokens.weight" => 0.5,
                "lm_head.weight" => 0.5 * by_width,
                _ if residual => by_width / (2.0 * config.layers as f32).sqrt(),
                _ => by_width,
            };
            let mut stream = Stream::new(seed, &[index]);
            let values: Vec<f32> = match dims.len() {
                2 => (0..count)
                    .map(|_| stream.normal_f32() * deviation)
                    .collect(),
                _ if name.ends_with(".bias") => vec![0.0; count],
                _ => vec![1.0; count],
            };
            Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
        })
    }

    /// A fully trainable model whose tensors come from `source`, asked by Hugging Face name and shape.
    ///
    /// # Errors
    /// Whatever `source` returns.
    pub fn trainable(
        config: &ModelConfig,
        mut source: impl FnMut(&str, &[usize]) -> Result<Tensor, LmError>,
    ) -> Result<(Self, Vec<(String, Var)>), LmError> {
        let mut trained = Trained {
            source: &mut source,
            parameters: Vec::new(),
        };
        let model = Self::assemble(config, &mut trained)?;
        Ok((model, trained.parameters))
    }

    /// The one walk over a model's tensors, in the order of [`Transformer::named_tensors`].
    fn assemble(config: &ModelConfig, source: &mut impl TensorSource) -> Result<Self, LmError> {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let embedding = source.matrix("model.embed_tokens.weight", [vocab, hidden])?;
        let layers = (0..config.layers).map(|index| Layer::assemble(config, index, source));
        let layers = layers.collect::<Result<_, _>>()?;
        let final_norm = source.vector("model.norm.weight", hidden)?;
        let output = match config.tie_word_embeddings {
            true => None,
            false => Some(source.matrix("lm_head.weight", [vocab, hidden])?),
        };
        let rope = rope_table(config, final_norm.device())?;
        Ok(Self {
            config: config.clone(),
            embedding,
            layers,
            final_norm,
            output,
            rope,
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

    /// Every tensor by Hugging Face name, f32, as a directory of weights holds them.
    ///
    /// # Errors
    /// Fails when a quantised matrix cannot be expanded.
    pub fn named_tensors(&self) -> Result<Vec<(String, Tensor)>, LmError> {
        let mut named = vec![(
            "model.embed_tokens.weight".to_owned(),
            self.embedding.to_dense()?,
        )];
        for (index, layer) in self.layers.iter().enumerate() {
            let prefix = format!("model.layers.{index}");
            named.push((
                format!("{prefix}.input_layernorm.weight"),
                layer.input_norm.clone(),
            ));
            named.push((
                format!("{prefix}.post_attention_layernorm.weight"),
                layer.attention_norm.clone(),
            ));
            for projection in Projection::ALL {
                let dense = &layer.projections[&projection];
                let name = format!("{prefix}.{}", projection.module());
                named.push((format!("{name}.weight"), dense.weight.to_dense()?));
                if let Some(bias) = &dense.bias {
                    named.push((format!("{name}.bias"), bias.clone()));
                }
            }
        }
        named.push(("model.norm.weight".to_owned(), self.final_norm.clone()));
        if let Some(output) = &self.output {
            named.push(("lm_head.weight".to_owned(), output.to_dense()?));
        }
        Ok(named)
    }
}

/// Where a model's tensors come from, asked by Hugging Face name and shape.
trait TensorSource {
    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Matrix, LmError>;
    fn vector(&mut self, name: &str, length: usize) -> Result<Tensor, LmError>;
}

/// Weights as their file has them, on a device: matrices in its type, blocks as they are, vectors f32.
struct Frozen<'w> {
    weights: &'w Weights,
    placement: &'w Placement,
}

impl TensorSource for Frozen<'_> {
    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Matrix, LmError> {
        let matrix = self.weights.matrix(name, shape)?;
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

    fn vector(&mut self, name: &str, length: usize) -> Result<Tensor, LmError> {
        let vector = self.weights.vector(name, length)?;
        Ok(vector.to_device(&self.placement.device)?)
    }
}

/// Variables filled by a function, collected by name.
struct Trained<'s, F> {
    source: &'s mut F,
    parameters: Vec<(String, Var)>,
}

impl<F: FnMut(&str, &[usize]) -> Result<Tensor, LmError>> Trained<'_, F> {
    fn variable(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, LmError> {
        let var = Var::from_tensor(&(self.source)(name, shape)?)?;
        let tensor = var.as_tensor().clone();
        self.parameters.push((name.to_owned(), var));
        Ok(tensor)
    }
}

impl<F: FnMut(&str, &[usize]) -> Result<Tensor, LmError>> TensorSource for Trained<'_, F> {
    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Matrix, LmError> {
        Ok(Matrix::Dense(self.variable(name, &shape)?))
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Tensor, LmError> {
        self.variable(name, &[length])
    }
}

impl Layer {
    fn assemble(
        config: &ModelConfig,
        index: usize,
        source: &mut impl TensorSource,
    ) -> Result<Self, LmError> {
        let prefix = format!("model.layers.{index}");
        let mut norm = |name: &str| {
            let name = format!("{prefix}.{name}.weight");
            source.vector(&name, config.hidden_size)
        };
        let (input_norm, attention_norm) =
            (norm("input_layernorm")?, norm("post_attention_layernorm")?);
        let mut projections = HashMap::new();
        for projection in Projection::ALL {
            let (out, input) = projection.shape(config);
            let name = format!("{prefix}.{}", projection.module());
            let weight = source.matrix(&format!("{name}.weight"), [out, input])?;
            let of_attention = matches!(
                projection,
                Projection::Query | Projection::Key | Projection::Value
            );
            let bias = match config.qkv_bias && of_attention {
                true => Some(source.vector(&format!("{name}.bias"), out)?),
                false => None,
            };
            projections.insert(projection, Dense { weight, bias });
        }
        Ok(Self {
            input_norm,
            attention_norm,
            projections,
        })
    }
}

fn rope_table(config: &ModelConfig, device: &Device) -> Result<RopeTable, LmError> {
    let frequencies = config.rope.inverse_frequencies(config.head_dim);
    Ok(RopeTable::new(
        &frequencies,
        config.max_positions.min(MOST_POSITIONS),
        device,
    )?)
}
