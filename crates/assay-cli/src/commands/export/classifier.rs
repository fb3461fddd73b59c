//! A reward with a linear head as one token classifier, checked against base, adapter and head before anyone relies on it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use assay_evals::calibration::CALIBRATION_FILE;
use assay_irl::player::Player;
use assay_irl::reward_model::{HEAD_FILE, RewardModel};
use assay_irl::settings::HeadSettings;
use assay_lm::adapter::Adapter;
use assay_lm::directory::{self, SCORE_BIAS, SCORE_WEIGHT, WeightType};
use assay_lm::packed::PackedBatch;
use assay_lm::transformer::Transformer;
use assay_lm::{LanguageModel, Placement, Storage, Weights, peft};
use candle_core::Tensor;
use serde_json::{Value, json};

use super::adapters::ensure_trained;
use super::merged::{distance, ensure_kept, probe};
use super::{Run, card};
use crate::open;

/// Writes the merged reward as a directory that `AutoModelForTokenClassification` loads.
pub(super) fn write(run: &Run, out: &Path, weights: WeightType) -> Result<Value> {
    let dir = run.checkpoint.join("reward");
    ensure!(
        dir.join(peft::CONFIG_FILE).exists(),
        "{} has learned no reward: only `train airl` does",
        run.dir.display()
    );
    let name = peft::base_model(&dir)?;
    let base = open::model(&run.base(name.clone()), &Placement::cpu())?;
    let reward = RewardModel::load(&dir, Arc::clone(&base.transformer))?;
    ensure!(
        reward.head() == HeadSettings::Linear,
        "the head of this reward needs the log-probabilities of the base model beside it ({}), which no classifier has: use --format peft",
        reward.formula()
    );
    ensure_trained(reward.adapter(), &dir)?;
    let head = head(&reward)?;
    let merged = LanguageModel {
        transformer: Arc::new(base.transformer.merged(reward.adapter())?),
        tokenizer: base.tokenizer.clone(),
        template: base.template.clone(),
        name: base.name.clone(),
    };
    directory::save_token_classifier(&merged, head, out, weights)?;
    drop(merged);
    for file in [HEAD_FILE, CALIBRATION_FILE] {
        if dir.join(file).exists() {
            fs::copy(dir.join(file), out.join(file)).with_context(|| format!("copying {file}"))?;
        }
    }
    let probe = compare(&base, &reward, out, weights)?;
    let base_name = run.base_name.clone().unwrap_or(name);
    let text = card::of_reward(run, &base_name, card::Weights::Merged)?;
    card::write(out, &text)?;
    Ok(json!({ "format": "merged-reward", "dtype": weights.name(), "probe": probe }))
}

/// Weight and bias of a linear head.
fn head(reward: &RewardModel) -> Result<(&Tensor, &Tensor)> {
    match reward.head_tensors().as_slice() {
        &[weight, bias] => Ok((weight, bias)),
        others => anyhow::bail!("a linear head has {} tensors, not two", others.len()),
    }
}

/// Reads the written directory back and compares its token rewards with those of base, adapter and head on the probe.
fn compare(
    base: &LanguageModel,
    reward: &RewardModel,
    out: &Path,
    weights: WeightType,
) -> Result<Value> {
    let written = LanguageModel::open(out, Storage::AsStored, &Placement::cpu())?;
    let batch = probe(base)?;
    ensure!(
        batch.tokens == probe(&written)?.tokens,
        "the written tokenizer or chat template gives other tokens than the base model's on the probe text"
    );
    let hidden = base.transformer.config().hidden_size;
    let read = Weights::open(out)?;
    let weight = read.matrix(SCORE_WEIGHT, [1, hidden])?.to_dense()?;
    let bias = read.vector(SCORE_BIAS, 1)?;
    let own = head(reward)?;
    let adapted = logits((&base.transformer, Some(reward.adapter())), own, &batch)?;
    let bare = logits((&base.transformer, None), own, &batch)?;
    let merged = logits((&written.transformer, None), (&weight, &bias), &batch)?;
    let (lost, moved) = (distance(&adapted, &merged), distance(&adapted, &bare));
    ensure_kept((lost, moved), weights, "logits")
}

/// z_t = score . h_t + bias of every completion token.
fn logits(
    (transformer, adapter): (&Transformer, Option<&Adapter>),
    (weight, bias): (&Tensor, &Tensor),
    batch: &PackedBatch,
) -> Result<Vec<f32>> {
    let hidden = transformer.hidden(batch, adapter)?;
    let rows = batch.completion_rows();
    let rows = hidden.index_select(&Tensor::new(rows, hidden.device())?, 0)?;
    let logits = rows.matmul(&weight.reshape(((), 1))?)?.flatten_all()?;
    Ok(logits.broadcast_add(bias)?.to_vec1()?)
}
