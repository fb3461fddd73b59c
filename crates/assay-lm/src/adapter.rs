//! LoRA adapters. One frozen base may carry several of them.
//!
//! An adapter adds `scale * (x A^T) B^T` to a projection, scale = alpha / rank. Names and files are
//! those of PEFT, so each program loads the adapters of the other.

use std::collections::BTreeMap;
use std::path::Path;

use assay_ops::{LaidOut, Lora, has_kernels};
use assay_tasks::random::StreamKey;
use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::directory::WeightType;
use crate::{LmError, MatrixShape, ModelConfig};

/// The projections of a decoder layer: seven, or fewer where a family fuses some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Projection {
    /// Attention queries.
    #[serde(rename = "q_proj")]
    Query,
    /// Attention keys.
    #[serde(rename = "k_proj")]
    Key,
    /// Attention values.
    #[serde(rename = "v_proj")]
    Value,
    /// Attention output.
    #[serde(rename = "o_proj")]
    Output,
    /// Feed-forward gate.
    #[serde(rename = "gate_proj")]
    Gate,
    /// Feed-forward up.
    #[serde(rename = "up_proj")]
    Up,
    /// Feed-forward down.
    #[serde(rename = "down_proj")]
    Down,
    /// Queries, keys and values in one matrix.
    #[serde(rename = "qkv_proj")]
    QueryKeyValue,
    /// Feed-forward gate and up in one matrix.
    #[serde(rename = "gate_up_proj")]
    GateUp,
}

impl Projection {
    /// The seven that are not fused, in the order of the forward pass. A family that fuses some
    /// uses the fused one.
    pub const ALL: [Self; 7] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Output,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// The module's path inside a layer, as Hugging Face names it.
    pub const fn module(self) -> &'static str {
        match self {
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::Output => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
            Self::QueryKeyValue => "self_attn.qkv_proj",
            Self::GateUp => "mlp.gate_up_proj",
        }
    }

    /// Output and input features of the projection in a model.
    pub fn shape(self, config: &ModelConfig) -> MatrixShape {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (query, key) = (config.query_size(), config.kv_size());
        let (rows, columns) = match self {
            Self::Query => (query, hidden),
            Self::Key | Self::Value => (key, hidden),
            Self::Output => (hidden, query),
            Self::Gate | Self::Up => (inner, hidden),
            Self::Down => (hidden, inner),
            Self::QueryKeyValue => (query + 2 * key, hidden),
            Self::GateUp => (2 * inner, hidden),
        };
        MatrixShape { rows, columns }
    }
}

/// Shape of an adapter: the used fields of PEFT's `LoraConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSettings {
    /// Rank r of A and B.
    pub rank: usize,
    /// Numerator of the scale alpha / rank.
    pub alpha: f64,
    /// Projections with a pair, by PEFT's names.
    pub targets: Vec<Projection>,
}

impl Default for LoraSettings {
    fn default() -> Self {
        Self::with_rank(32)
    }
}

impl LoraSettings {
    /// All seven projections, alpha = 2 rank.
    pub fn with_rank(rank: usize) -> Self {
        Self {
            rank,
            alpha: 2.0 * rank as f64,
            targets: Projection::ALL.to_vec(),
        }
    }

    /// alpha / rank.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

/// The A and B of one projection: `[rank, in]` and `[out, rank]`, f32.
#[derive(Clone, Debug)]
pub struct LoraPair {
    /// Down map.
    pub a: Tensor,
    /// Up map, zero at the start.
    pub b: Tensor,
    scale: f64,
    laid_out: Option<LaidOut>,
}

/// Where a pair is, and its size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PairSpec {
    pub(crate) layer: usize,
    pub(crate) projection: Projection,
    pub(crate) rank: usize,
    pub(crate) scale: f64,
}

impl PairSpec {
    /// The projection's path in the model, as Hugging Face names it.
    pub(crate) fn module(&self) -> String {
        format!("model.layers.{}.{}", self.layer, self.projection.module())
    }

    /// PEFT's name of one half of the pair: `half` is `A` or `B`.
    pub(crate) fn parameter(&self, half: &str) -> String {
        format!("base_model.model.{}.lora_{half}.weight", self.module())
    }
}

impl LoraPair {
    /// The pair in the form that the fused operation expects.
    pub fn as_lora(&self) -> Lora<'_> {
        Lora {
            a: &self.a,
            b: &self.b,
            scale: self.scale,
            laid_out: self.laid_out.as_ref(),
        }
    }
}

/// The pairs of one layer.
pub type LayerAdapter = BTreeMap<Projection, LoraPair>;

/// A named set of LoRA pairs for one base model.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Rank, alpha, targets.
    pub settings: LoraSettings,
    layers: Vec<LayerAdapter>,
    parameters: Vec<(String, Var)>,
}

impl Adapter {
    /// A new adapter with PEFT's initial values: A uniform in ±1/sqrt(in) (Kaiming with a = sqrt
    /// 5), B zero.
    ///
    /// # Errors
    /// [`LmError::InvalidAdapter`] when the rank is zero or no projection is named.
    pub fn new(config: &ModelConfig, settings: &LoraSettings, seed: u64) -> Result<Self, LmError> {
        if settings.rank == 0 || settings.targets.is_empty() {
            let reason =
                "rank must be at least 1 and at least one projection must be named".to_owned();
            return Err(LmError::InvalidAdapter { reason });
        }
        let targets = config.architecture.family().present(&settings.targets);
        let mut pairs = Vec::new();
        for layer in 0..config.layers {
            let pair = |&projection| PairSpec {
                layer,
                projection,
                rank: settings.rank,
                scale: settings.scale(),
            };
            pairs.extend(targets.iter().map(pair));
        }
        let settings = LoraSettings {
            targets,
            ..settings.clone()
        };
        let mut index = 0;
        Self::build(config, &settings, &pairs, |_, shape| {
            index += 1;
            let (rows, columns) = (shape.rows, shape.columns);
            let is_a = index % 2 == 1;
            let bound = if is_a {
                1.0 / (columns as f32).sqrt()
            } else {
                0.0
            };
            let mut stream = StreamKey::Weights.stream(seed, &[index]);
            let values: Vec<f32> = (0..rows * columns)
                .map(|_| (2.0 * stream.uniform_f32() - 1.0) * bound)
                .collect();
            Ok(Tensor::from_vec(values, (rows, columns), &Device::Cpu)?)
        })
    }

    /// An adapter with these pairs. `source` returns each tensor by PEFT name and shape, A before
    /// B.
    ///
    /// `settings` describe the pairs without another rank or scale.
    pub(crate) fn build(
        config: &ModelConfig,
        settings: &LoraSettings,
        pairs: &[PairSpec],
        mut source: impl FnMut(&str, MatrixShape) -> Result<Tensor, LmError>,
    ) -> Result<Self, LmError> {
        let mut layers = vec![LayerAdapter::new(); config.layers];
        let mut parameters = Vec::new();
        for pair in pairs {
            let shape = pair.projection.shape(config);
            let of_a = MatrixShape {
                rows: pair.rank,
                ..shape
            };
            let of_b = MatrixShape {
                columns: pair.rank,
                ..shape
            };
            let a = Var::from_tensor(&source(&pair.parameter("A"), of_a)?)?;
            let b = Var::from_tensor(&source(&pair.parameter("B"), of_b)?)?;
            let tensors = LoraPair {
                a: a.as_tensor().clone(),
                b: b.as_tensor().clone(),
                scale: pair.scale,
                laid_out: None,
            };
            layers[pair.layer].insert(pair.projection, tensors);
            parameters.push((pair.parameter("A"), a));
            parameters.push((pair.parameter("B"), b));
        }
        Ok(Self {
            settings: settings.clone(),
            layers,
            parameters,
        })
    }

    /// Place, rank and scale of every pair.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = PairSpec> {
        self.layers.iter().enumerate().flat_map(|(layer, pairs)| {
            pairs.iter().map(move |(&projection, pair)| PairSpec {
                layer,
                projection,
                rank: pair.a.dims().first().copied().unwrap_or(0),
                scale: pair.scale,
            })
        })
    }

    /// The adapter with its variables on a device; returns itself if they are already there.
    ///
    /// # Errors
    /// The device has no memory for it.
    pub fn to_device(self, device: &Device) -> Result<Self, LmError> {
        if self
            .parameters
            .iter()
            .all(|(_, var)| var.device().same_device(device))
        {
            return Ok(self);
        }
        let placed: BTreeMap<String, Tensor> = self
            .parameters
            .iter()
            .map(|(name, var)| Ok((name.clone(), var.as_tensor().to_device(device)?)))
            .collect::<Result<_, LmError>>()?;
        let mut layers = self.layers;
        let mut parameters = Vec::with_capacity(placed.len());
        for (layer, pairs) in layers.iter_mut().enumerate() {
            for (&projection, pair) in pairs.iter_mut() {
                for (half, tensor) in [("A", &mut pair.a), ("B", &mut pair.b)] {
                    let name = format!(
                        "base_model.model.model.layers.{layer}.{}.lora_{half}.weight",
                        projection.module()
                    );
                    if let Some(values) = placed.get(&name) {
                        let var = Var::from_tensor(values)?;
                        *tensor = var.as_tensor().clone();
                        parameters.push((name, var));
                    }
                }
            }
        }
        Ok(Self {
            settings: self.settings,
            layers,
            parameters,
        })
    }

    /// Number of layers of the base model.
    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Pairs of one layer, tracked: gradients flow to A and B.
    pub fn layer(&self, layer: usize) -> &LayerAdapter {
        &self.layers[layer]
    }

    /// Trainable tensors with their PEFT names, in a fixed order.
    pub fn parameters(&self) -> &[(String, Var)] {
        &self.parameters
    }

    /// The same weights without gradient tracking; shares storage with `self`.
    pub fn detached(&self) -> Self {
        let layers = self.layers.iter().map(|pairs| {
            let detach = |pair: &LoraPair| LoraPair {
                a: pair.a.detach(),
                b: pair.b.detach(),
                scale: pair.scale,
                laid_out: pair.laid_out.clone(),
            };
            pairs
                .iter()
                .map(|(&projection, pair)| (projection, detach(pair)))
                .collect()
        });
        Self {
            settings: self.settings.clone(),
            layers: layers.collect(),
            parameters: Vec::new(),
        }
    }

    /// Returns the same weights without gradient tracking. On the CPU it adds a copy in the layout
    /// of products with factors of type `factors`, because packing the weights in each decoding
    /// pass would take a tenth of the time.
    ///
    /// # Errors
    /// Too little memory for the copy.
    pub fn for_decoding(&self, factors: DType) -> Result<Self, LmError> {
        let mut adapter = self.detached();
        for pair in adapter.layers.iter_mut().flat_map(BTreeMap::values_mut) {
            if !has_kernels(pair.a.device()) {
                pair.laid_out = Some(LaidOut::new(&pair.a, &pair.b, factors)?);
            }
        }
        Ok(adapter)
    }

    /// Writes `adapter_model.safetensors` and `adapter_config.json` into an existing directory.
    ///
    /// # Errors
    /// Names the file that could not be written.
    pub fn save(
        &self,
        dir: &Path,
        card: &AdapterCard,
        extra: &[(String, Tensor)],
    ) -> Result<(), LmError> {
        crate::peft::save(self, dir, card, extra)
    }
}

/// The fields of `adapter_config.json` other than rank, alpha and targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterCard {
    /// Name or path of the base model; a revision of a hub name follows `@`.
    pub base_model: String,
    /// `CAUSAL_LM` or `TOKEN_CLS`.
    pub task_type: &'static str,
    /// Modules saved whole in addition to the pairs, for example `score`.
    pub modules_to_save: Vec<String>,
    /// [`crate::transformer::Transformer::fingerprint`] of the frozen weights that the adapter was
    /// trained on.
    pub trained_on: Option<String>,
    /// Element type of the written tensors.
    pub weights: WeightType,
}
