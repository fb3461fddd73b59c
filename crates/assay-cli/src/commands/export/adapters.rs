//! Adapters as PEFT directories.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use assay_critic::reward_model::{HEAD_FILE, HEAD_WEIGHTS_FILE};
use assay_evals::calibration::CALIBRATION_FILE;
use assay_lm::adapter::{Adapter, AdapterCard};
use assay_lm::directory::WeightType;
use assay_lm::peft::{self, LoadedAdapter};
use assay_lm::{ModelConfig, ModelSource};
use serde_json::{Value, json};

use super::{Run, card};
use crate::open;
use crate::progress::message;

/// Writes the policy's adapter and, where there is one, the reward's.
pub(super) fn write(run: &Run, out: &Path, weights: WeightType) -> Result<Value> {
    let policy = run.checkpoint.join("policy");
    ensure!(
        policy.join(peft::CONFIG_FILE).exists(),
        "every weight of this policy was trained, so there is no adapter: use --format merged"
    );
    let reward = run.checkpoint.join("reward");
    let mut written = json!({ "format": "peft" });
    if reward.exists() && !is_trained(&read(run, &policy)?.adapter)? {
        message("the policy was never trained: the reward alone is exported")?;
    } else {
        let name = copy(run, &policy, &out.join("policy"), weights)?;
        let text = card::of_policy(run, &name, card::Weights::Adapter)?;
        card::write(&out.join("policy"), &text)?;
        written["policy"] = json!({ "base_model": name });
    }
    if reward.exists() {
        let target = out.join("reward");
        let name = copy(run, &reward, &target, weights)?;
        for file in [HEAD_FILE, HEAD_WEIGHTS_FILE, CALIBRATION_FILE] {
            if reward.join(file).exists() {
                fs::copy(reward.join(file), target.join(file))
                    .with_context(|| format!("copying {file}"))?;
            }
        }
        card::write(
            &target,
            &card::of_reward(run, &name, card::Weights::Adapter)?,
        )?;
        written["reward"] = json!({ "base_model": name });
    }
    Ok(written)
}

/// Reads an adapter and checks it against its base model's configuration.
fn read(run: &Run, from: &Path) -> Result<LoadedAdapter> {
    let named = peft::base_model(from)?;
    let config = configuration(&run.base(named))?;
    Ok(peft::load(from, &config)?)
}

/// Reads an adapter and writes it again; returns the base model's name.
fn copy(run: &Run, from: &Path, to: &Path, weights: WeightType) -> Result<String> {
    let loaded = read(run, from)?;
    ensure_trained(&loaded.adapter, from)?;
    let base_model = run.base_name.clone().unwrap_or(loaded.base_model.clone());
    fs::create_dir(to).with_context(|| format!("creating {}", to.display()))?;
    save(loaded, to, &base_model, weights)?;
    Ok(base_model)
}

fn save(loaded: LoadedAdapter, to: &Path, base_model: &str, weights: WeightType) -> Result<()> {
    let classifier = loaded.task_type.as_deref() == Some("TOKEN_CLS");
    let card = AdapterCard {
        base_model: base_model.to_owned(),
        task_type: if classifier { "TOKEN_CLS" } else { "CAUSAL_LM" },
        modules_to_save: classifier.then(|| "score".to_owned()).into_iter().collect(),
        trained_on: loaded.trained_on,
        weights,
    };
    let head: Vec<_> = loaded.extra.into_iter().collect();
    Ok(loaded.adapter.save(to, &card, &head)?)
}

fn configuration(base: &Path) -> Result<ModelConfig> {
    let read = || -> Result<ModelConfig> { Ok(ModelSource::open(&open::locate(base)?)?.config()?) };
    read().with_context(|| {
        let base = base.display();
        format!("the base model is {base}; name where it is now with --model")
    })
}

/// Whether an adapter changes anything: at least one B is not zero.
fn is_trained(adapter: &Adapter) -> Result<bool> {
    for (name, var) in adapter.parameters() {
        if name.contains(".lora_B.") && var.as_tensor().abs()?.max_all()?.to_scalar::<f32>()? > 0.0
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Fails for an adapter that changes nothing.
pub(super) fn ensure_trained(adapter: &Adapter, dir: &Path) -> Result<()> {
    ensure!(
        is_trained(adapter)?,
        "the adapter in {} changes nothing: every B is zero, so it was never trained",
        dir.display()
    );
    Ok(())
}
