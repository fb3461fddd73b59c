//! `assay train sft|grpo|airl`: settings and data to a run directory.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use assay_irl::memory::{BaseShape, MemoryPlan};
use assay_irl::settings::{ModelSettings, Settings};
use assay_irl::trainer::run::{RunMode, TrainInputs, TrainerKind, train};
use assay_lm::{LanguageModel, ModelConfig, Storage};
use assay_tasks::datasets::{DatasetSettings, load_problems};
use assay_tasks::problem::{Problem, assert_disjoint};

use crate::args::{TrainArgs, Trainer};
use crate::progress::{Progress, message};

/// Runs the command.
pub(crate) fn run(args: &TrainArgs) -> Result<()> {
    let settings = Settings::load(std::slice::from_ref(&args.config), &args.set)?;
    if args.dry_run {
        write!(std::io::stdout(), "{}", settings.resolved_toml()?)?;
        return Ok(());
    }
    let Some(out) = &args.out else {
        bail!("--out is missing: the run directory")
    };
    let train_problems = problems(&settings.data.train, "data.train")?;
    let validation = problems(&settings.data.validation, "data.validation")?;
    let test = problems(&settings.data.test, "data.test")?;
    assert_disjoint(&train_problems, &validation, &test)?;
    if train_problems.is_empty() {
        bail!("data.train.path names no problems: there is nothing to learn from");
    }
    let reward_path = settings.reward_model_path();
    let shared = *reward_path == settings.model.path;
    let memory = memory_plan(&settings, shared)?;
    message(&format!("memory: {memory}"))?;
    memory.check()?;
    let model = open(&settings.model, "model.path")?;
    let other = if shared {
        None
    } else {
        Some(open(&settings.reward_model, "reward_model.path")?)
    };
    let inputs = TrainInputs {
        kind: match args.trainer {
            Trainer::Sft => TrainerKind::Sft,
            Trainer::Grpo => TrainerKind::Grpo,
            Trainer::Airl => TrainerKind::Airl,
        },
        settings: &settings,
        model: &model,
        reward_backbone: Arc::clone(
            other
                .as_ref()
                .map_or(&model.transformer, |other| &other.transformer),
        ),
        train: &train_problems,
        validation: &validation,
    };
    let mode = if args.resume {
        RunMode::Resume
    } else {
        RunMode::Fresh
    };
    let mut progress = Progress::new("train", 0);
    let trained = train(&inputs, out, mode, &mut progress)?;
    progress.finish();
    if args.json {
        writeln!(
            std::io::stdout(),
            "{}",
            serde_json::to_string(&trained.metrics)?
        )?;
    } else {
        message(&format!("done: {}", out.display()))?;
    }
    Ok(())
}

/// What the run will hold, from the shapes of its models and the sizes of their files alone.
fn memory_plan(settings: &Settings, shared: bool) -> Result<MemoryPlan> {
    let shape = |model: &ModelSettings, key: &str| -> Result<BaseShape> {
        ensure_named(&model.path, key)?;
        let stored = model.storage == Storage::AsStored && model.path.is_file();
        Ok(BaseShape {
            config: ModelConfig::read(&model.path)?,
            stored_bytes: match stored {
                true => Some(fs::metadata(&model.path)?.len()),
                false => None,
            },
        })
    };
    let policy = shape(&settings.model, "model.path")?;
    let reward = match shared {
        true => None,
        false => Some(shape(&settings.reward_model, "reward_model.path")?),
    };
    Ok(MemoryPlan::of_run(&policy, reward.as_ref(), settings))
}

fn ensure_named(path: &Path, key: &str) -> Result<()> {
    ensure!(
        !path.as_os_str().is_empty(),
        "setting `{key}` is empty: name a Hugging Face directory or a .gguf file"
    );
    Ok(())
}

fn open(model: &ModelSettings, key: &str) -> Result<LanguageModel> {
    ensure_named(&model.path, key)?;
    Ok(LanguageModel::open(&model.path, model.storage)?)
}

/// The problems of a data set; none for an empty path. What is left out is said.
fn problems(settings: &DatasetSettings, key: &str) -> Result<Vec<Problem>> {
    if settings.path.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let (problems, report) = load_problems(settings).with_context(|| format!("reading {key}"))?;
    for (reason, count) in &report.skipped {
        message(&format!("{key}: left out {count}: {reason}"))?;
    }
    Ok(problems)
}
