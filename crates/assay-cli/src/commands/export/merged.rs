//! The policy as one model, checked against base and adapter.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use assay_critic::policy_model::logprobs_and_entropies;
use assay_lm::adapter::Adapter;
use assay_lm::directory::{self, WeightType};
use assay_lm::{LanguageModel, Placement, Storage, peft};
use serde_json::{Value, json};

use super::adapters::ensure_trained;
use super::check::{ProbeChange, distance, ensure_kept, reread};
use super::{Run, card};
use crate::open;

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
    let (written, batch) = reread(base, out)?;
    let logprobs = |model: &LanguageModel, adapter: Option<&Adapter>| -> Result<Vec<f32>> {
        Ok(logprobs_and_entropies(&model.transformer, adapter, &batch)?
            .0
            .concat())
    };
    let expected = logprobs(base, Some(adapter))?;
    let moved = distance(&expected, &logprobs(base, None)?);
    let lost = distance(&expected, &logprobs(&written, None)?);
    ensure_kept(ProbeChange { lost, moved }, weights, "nats")
}

fn finish(run: &Run, out: &Path, weights: WeightType, probe: Value) -> Result<Value> {
    let base = run.base_name.clone();
    let base = base.unwrap_or_else(|| run.settings.model.path.display().to_string());
    let text = card::of_policy(run, &base, card::Weights::Merged)?;
    card::write(out, &text)?;
    Ok(json!({ "format": "merged", "dtype": weights.name(), "probe": probe }))
}
