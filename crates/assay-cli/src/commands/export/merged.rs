//! The policy as one model, checked against base and adapter before anyone relies on it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use assay_irl::policy_model::logprobs_and_entropies;
use assay_lm::adapter::Adapter;
use assay_lm::directory::{self, WeightType};
use assay_lm::packed::{Group, PackedBatch};
use assay_lm::{LanguageModel, Placement, Storage, peft};
use assay_tasks::message::Message;
use serde_json::{Value, json};

use super::adapters::ensure_trained;
use super::{Run, card};
use crate::open;

/// What the probe asks and answers; any text serves.
const QUESTION: &str = "A box holds 12 eggs. How many eggs are in 7 boxes?";
const ANSWER: &str = "Each box holds 12 eggs, so 7 boxes hold 7 * 12 = 84 eggs.\n#### 84";

/// Mean absolute difference of log-probabilities (nats) or token rewards (logits) that writing may make.
fn tolerance(weights: WeightType) -> f64 {
    match weights {
        WeightType::F32 => 1e-4,
        WeightType::Bf16 => 0.05,
    }
}

/// Writes the merged policy as a Hugging Face directory.
pub(super) fn write(run: &Run, out: &Path, weights: WeightType) -> Result<Value> {
    let policy = run.checkpoint.join("policy");
    if !policy.join(peft::CONFIG_FILE).exists() {
        let model = LanguageModel::open(&policy, Storage::AsStored, &Placement::cpu())?;
        directory::save(&model, out, weights)?;
        return finish(run, out, weights, json!({}));
    }
    let base = open::model(&run.base(peft::base_model(&policy)?), &Placement::cpu())?;
    let adapter = peft::load(&policy, base.transformer.config())?.adapter;
    ensure_trained(&adapter, &policy)?;
    let merged = LanguageModel {
        transformer: Arc::new(base.transformer.merged(&adapter)?),
        tokenizer: base.tokenizer.clone(),
        template: base.template.clone(),
        name: base.name.clone(),
    };
    directory::save(&merged, out, weights)?;
    drop(merged);
    let probe = compare(&base, &adapter, out, weights)?;
    finish(run, out, weights, probe)
}

/// Reads the written directory back and compares it with base and adapter on the probe.
fn compare(
    base: &LanguageModel,
    adapter: &Adapter,
    out: &Path,
    weights: WeightType,
) -> Result<Value> {
    let written = LanguageModel::open(out, Storage::AsStored, &Placement::cpu())?;
    let batch = probe(base)?;
    let again = probe(&written)?;
    ensure!(
        batch.tokens == again.tokens,
        "the written tokenizer or chat template gives other tokens than the base model's on the probe text"
    );
    let logprobs = |model: &LanguageModel, adapter: Option<&Adapter>| -> Result<Vec<f32>> {
        Ok(logprobs_and_entropies(&model.transformer, adapter, &batch)?
            .0
            .concat())
    };
    let expected = logprobs(base, Some(adapter))?;
    let moved = distance(&expected, &logprobs(base, None)?);
    let lost = distance(&expected, &logprobs(&written, None)?);
    ensure_kept((lost, moved), weights, "nats")
}

/// Refuses a directory whose outputs differ from the adapter's by more than rounding, or by more than half of what the adapter itself
/// changes; both are mean absolute differences on the probe.
pub(super) fn ensure_kept(
    (lost, moved): (f64, f64),
    weights: WeightType,
    unit: &str,
) -> Result<Value> {
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
pub(super) fn probe(model: &LanguageModel) -> Result<PackedBatch> {
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

fn finish(run: &Run, out: &Path, weights: WeightType, probe: Value) -> Result<Value> {
    let base = run.base_name.clone();
    let base = base.unwrap_or_else(|| run.settings.model.path.display().to_string());
    let text = card::of_policy(run, &base, card::Weights::Merged)?;
    card::write(out, &text)?;
    Ok(json!({ "format": "merged", "dtype": weights.name(), "probe": probe }))
}
