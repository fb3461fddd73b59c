//! Compares the outputs of a written model on a probe text with those of base and adapter.

use std::path::Path;

use anyhow::{Result, ensure};
use assay_lm::directory::WeightType;
use assay_lm::packed::{Group, PackedBatch};
use assay_lm::{LanguageModel, Placement, Storage};
use assay_tasks::message::Message;
use serde_json::{Value, json};

/// Question and answer of the probe. The text is arbitrary.
const QUESTION: &str = "A box holds 12 eggs. How many eggs are in 7 boxes?";
const ANSWER: &str = "Each box holds 12 eggs, so 7 boxes hold 7 * 12 = 84 eggs.\n#### 84";

/// Largest mean absolute difference of log-probabilities (nats) or token rewards (logits) that
/// writing in a number type may cause.
fn tolerance(weights: WeightType) -> f64 {
    match weights {
        WeightType::F32 => 1e-4,
        WeightType::Bf16 => 0.05,
    }
}

/// Reads a written directory back. Returns the model and the probe's batch; fails if its tokens
/// differ from those of `base`.
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
    /// Between the written model and the adapter on its base.
    pub(super) lost: f64,
    /// Between the adapter and its base alone.
    pub(super) moved: f64,
}

/// Fails if the written model's outputs differ from the adapter's by more than rounding, or by more
/// than half of the adapter's own change.
pub(super) fn ensure_kept(change: ProbeChange, weights: WeightType, unit: &str) -> Result<Value> {
    let ProbeChange { lost, moved } = change;
    let limit = tolerance(weights);
    ensure!(
        lost <= limit,
        "the merged model's outputs on the probe differ from the adapter's by {lost:.2e} {unit} on average; at most {limit:.0e} is allowed"
    );
    ensure!(
        lost < moved / 2.0,
        "the adapter changes the outputs on the probe by {moved:.2e} {unit} on average, and rounding to {} changes them \
         by {lost:.2e}, more than half as much; use --dtype float32",
        weights.name()
    );
    let named = |what: &str| format!("{what}_{unit}");
    Ok(
        json!({ named("adapter_moves"): moved, named("writing_moves"): lost, named("tolerance"): limit }),
    )
}

/// The batch of the probe's question and answer, rendered and tokenized by a model.
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
