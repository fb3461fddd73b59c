//! A reward with a linear head as one token classifier, checked against base, adapter and head.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use assay_critic::player::Player;
use assay_critic::reward_model::{HEAD_FILE, RewardModel, linear_logits};
use assay_evals::calibration::CALIBRATION_FILE;
use assay_lm::directory::{self, SCORE_BIAS, SCORE_WEIGHT, ScoreHead, WeightType};
use assay_lm::{LanguageModel, Placement, Weights, peft};
use serde_json::{Value, json};

use super::adapters::ensure_trained;
use super::check::{ProbeChange, distance, ensure_kept, reread};
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
    let Some(head) = reward.linear_head() else {
        bail!(
            "the head of this reward needs the log-probabilities of the base model as well ({}), which a classifier cannot read: \
             use --format peft",
            reward.formula()
        );
    };
    ensure_trained(reward.adapter(), &dir)?;
    let merged = LanguageModel {
        transformer: Arc::new(reward.backbone().merged(reward.adapter())?),
        tokenizer: base.tokenizer.clone(),
        template: base.template.clone(),
        name: base.name.clone(),
    };
    let head = ScoreHead {
        weight: head.0,
        bias: head.1,
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

/// Reads the written directory back and compares its token rewards with those of base, adapter and
/// head on the probe.
fn compare(
    base: &LanguageModel,
    reward: &RewardModel,
    out: &Path,
    weights: WeightType,
) -> Result<Value> {
    let (written, batch) = reread(base, out)?;
    let hidden = base.transformer.config().hidden_size;
    let read = Weights::open(out)?;
    let weight = read.matrix(SCORE_WEIGHT, [1, hidden])?.to_dense()?;
    let bias = read.vector(SCORE_BIAS, 1)?;
    let adapted = reward.infer(&batch)?.concat();
    let (own_weight, own_bias) = reward.linear_head().unwrap_or((&weight, &bias));
    let bare = linear_logits(&base.transformer, own_weight, own_bias, &batch)?;
    let merged = linear_logits(&written.transformer, &weight, &bias, &batch)?;
    let change = ProbeChange {
        lost: distance(&adapted, &merged),
        moved: distance(&adapted, &bare),
    };
    ensure_kept(change, weights, "logits")
}
