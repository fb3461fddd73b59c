//! Compares the outputs of a written model on a probe text with those of base and adapter.

use std::path::Path;

use anyhow::{Result, ensure};
use assay_lm::directory::WeightType;
use assay_lm::packed::{Group, PackedBatch};
use assay_lm::{LanguageModel, Placement, Storage};
use assay_tasks::message::Message;
use serde_json::{Value, json};

/// Question and answer of the probe; any text would do.
const QUESTION: &str = "A box holds 12 eggs. How many eggs are in 7 boxes?";
const ANSWER: &str = "Each box holds 12 eggs, so 7 boxes hold 7 * 12 = 84 eggs.\n#### 84";

/// Mean absolute difference of log-probabilities (nats) or token rewards (logits) that writing may
/// make.
fn tolerance(weights: WeightType) -> f64 {
    match weights {
        WeightType::F32 => 1e-4,
        WeightType::Bf16 => 0.05,
    }
}

/// A written directory read back, and the probe as it and `base` both cut it.
pub(super) fn reread(base: &LanguageModel, out: &Path) -> Result<(LanguageModel, PackedBatch)> {
    let written = LanguageModel::open(out, Storage::AsStored, &Placement::cpu())?;
    let batch = probe(base)?;
    ensure!(
        batch.tokens == probe(&written)?.tokens,
        "the written tokenizer or chat template gives other tokens than the base model's on the probe text"
    );
    Ok((written, batch))
}

/// Mean absolute differences of outputs on the probe.
#[derive(Clone, Copy)]
pub(super) struct ProbeChange {
    /// Of the written model to the adapter.
    pub(super) lost: f64,
    /// Of the adapter to its base.
    pub(super) moved: f64,
}

/// Refuses a directory whose outputs differ from the adapter's by more than rounding, or by more
/// than half of what the adapter itself changes.
pub(super) fn ensure_kept(change: ProbeChange, weights: WeightType, unit: &str) -> Result<Value> {
    let ProbeChange { lost, moved } = change;
    let limit = tolerance(weights);
    ensure!(
        lost <= limit,
        "the merged model's outputs on the probe differ from the adapter's by {lost:.2e} {unit} on average, allowed are {limit:.0e}"
    );
    ensure!(
        lost < moved / 2.0,
        "the adapter moves the probe by {moved:.2e} {unit} on average and writing as {} by {lost:.2e}: rounding would \
         drown it; use --dtype float32",
        weights.name()
    );
    let named = |what: &str| format!("{what}_{unit}");
    Ok(
        json!({ named("adapter_moves"): moved, named("writing_moves"): lost, named("tolerance"): limit }),
    )
}

/// A question and an answer as the model's template and tokenizer cut them.
fn probe(model: &LanguageModel) -> Result<PackedBatch> {
    let most = model.transformer.config().max_positions / 2;
    let mut prompt = model.prompt_ids(&[Message::user(QUESTION)])?;
    prompt.drain(..prompt.len().saturating_sub(most));
    let mut completion = model.tokenizer.encode(ANSWER)?;
    completion.truncate(most.max(1));
    Ok(PackedBatch::new(&[Group {
        prompt,
        completions: vec![completion],
    }])?)
}

/// The mean absolute difference.
pub(super) fn distance(left: &[f32], right: &[f32]) -> f64 {
    let pairs = left.iter().zip(right);
    let sum: f64 = pairs.map(|(l, r)| f64::from((l - r).abs())).sum();
    sum / left.len().max(1) as f64
}
